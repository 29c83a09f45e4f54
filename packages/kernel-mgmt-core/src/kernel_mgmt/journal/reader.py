"""One reader of a journal, without sockets: what it asks for, takes, and acknowledges.

``docs/nanny.md`` describes the other end, in its section about the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import MalformedMessage, NannyError
from ..nanny.journal.records import MAGIC, MalformedRecord, Record, head_at, unpack
from ..protocol import Buffer, JSONObject
from ..protocol.message import load_json

__all__ = ["Gap", "Reader", "Subscribed", "gap_in", "is_delivery"]

#: How many bytes may be on their way, not acknowledged.
_WINDOW = 8 * 1024 * 1024


@dataclass(frozen=True)
class Gap:
    """Records that cannot be read any more.

    Attributes:
        first: the number of the first.
        last: the number of the last.
        bytes: how many bytes they had; 0 when that is not known.
    """

    first: int
    last: int
    bytes: int

    def with_(self, other: Gap | None) -> Gap:
        """Give one gap for two."""
        if other is None:
            return self
        first, last = min(self.first, other.first), max(self.last, other.last)
        return Gap(first, last, self.bytes + other.bytes)

    def as_tuple(self) -> tuple[int, int, int]:
        """Give first, last and bytes."""
        return self.first, self.last, self.bytes


@dataclass(frozen=True)
class Subscribed:
    """What a nanny says when it begins to send: content of a ``subscribe_reply``.

    Attributes:
        after: the number after which it sends.
        next: the number that the next record will get.
        read: the last number that somebody has read.
        kernel: the number of the present kernel, or of the last one.
        requests: what has become of those that were asked for, by id: ``unknown``, ``accepted``,
            ``answered`` or ``gone``.
        asking: ids of the kernel's questions for input that wait for an answer.
    """

    after: int
    next: int
    read: int = 0
    kernel: int = 0
    requests: Mapping[str, str] = field(default_factory=dict)
    asking: frozenset[str] = frozenset()

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Subscribed:
        """Check what was received.

        Raises:
            NannyError: the nanny refuses, and why; or it breaks its protocol.
        """
        if content.get("status") != "ok":
            raise NannyError(str(content.get("evalue") or "The nanny refuses to send its journal."))
        numbers = {name: content.get(name, 0) for name in ("after", "next", "read", "kernel")}
        requests, asking = content.get("requests", {}), content.get("asking", [])
        if (
            any(type(number) is not int for number in numbers.values())
            or not isinstance(requests, dict)
            or not isinstance(asking, list)
        ):
            raise NannyError("The nanny's subscribe_reply breaks its protocol.")
        told = {msg_id: state for msg_id, state in requests.items() if isinstance(state, str)}
        waiting = frozenset(msg_id for msg_id in asking if isinstance(msg_id, str))
        return cls(**numbers, requests=told, asking=waiting)


class Reader:
    """Reads one journal from a place on: each record once, whatever happens to the connection.

    Args:
        after: the number after which to begin; None for what is said from now on.
        since: the moment from which on to read, in seconds since the epoch, in place of ``after``.
        request: the id of a request from whose beginning on to read, in place of ``after``.
        window: how many bytes may be on their way, not acknowledged.
        reads: whether what is acknowledged counts as read by somebody.
    """

    def __init__(
        self,
        after: int | None = None,
        *,
        since: float | None = None,
        request: str | None = None,
        window: int = _WINDOW,
        reads: bool = True,
    ) -> None:
        #: The number of the last record that was given out; None before the first subscription,
        #: when it is not known.
        self.position = after
        #: What is there up to this number was said before the last subscription.
        self.target = 0
        self._since = since
        self._request = request
        self._window = window
        #: Whether what is acknowledged counts as read: from the next subscription on.
        self.reads = reads
        #: How many bytes were handled, and the last number, since that was acknowledged.
        self._unacknowledged = 0
        self._acknowledged = 0

    def subscription(
        self, *, identity: str = "", requests: Iterable[str] = (), withdrawn: Iterable[str] = ()
    ) -> JSONObject:
        """Give the content of a ``subscribe_request`` for what was not read yet.

        Args:
            identity: of the sockets whose messages need not be sent to them as well.
            requests: ids of the requests whose state is wanted.
            withdrawn: ids of those among them that the nanny is not to accept any more.
        """
        begun = self.position is not None
        return {
            "after": self.position,
            "since": None if begun else self._since,
            "request": None if begun else self._request,
            "window": self._window,
            "identity": identity,
            "reads": self.reads,
            "requests": list(requests),
            "withdrawn": list(withdrawn),
        }

    def begin(self, subscribed: Subscribed) -> None:
        """Take notice of what the nanny has answered."""
        if self.position is None:
            self.position = subscribed.after
        self.target = max(self.target, subscribed.next - 1)
        self._acknowledged = max(self._acknowledged, subscribed.after)
        self._unacknowledged = 0

    @property
    def has_caught_up(self) -> bool:
        """Whether all was read that had been said before the last subscription."""
        return self.position is not None and self.position >= self.target

    def take(self, frames: Sequence[Buffer]) -> Iterator[Record | Gap]:
        """Give the records of a delivery that were not given yet, and what is missing before them.

        Each counts as handled when the next is asked for, and the delivery when it is exhausted.

        Raises:
            MalformedRecord: the delivery is none.
        """
        # What came over a connection is not checked again; what is signed is verified later.
        records = unpack(frames[0], check=False) if len(frames) == 1 else [_unpack_large(frames)]
        for record in records:
            number = record.number
            position = self.position or 0
            if number <= position:
                continue
            self.position = number
            if record.channel == "nanny" and (gap := gap_in(record)) is not None:
                yield Gap(max(gap.first, position + 1), number, gap.bytes)
            elif number != position + 1:  # which a nanny would not do
                yield Gap(position + 1, number - 1, 0)
            yield record
        self._unacknowledged += sum(map(_size, frames))

    @property
    def is_due(self) -> bool:
        """Whether so much was handled that it should be acknowledged at once."""
        return self._unacknowledged >= self._window // 4

    def acknowledgement(self) -> int | None:
        """Give the number to be acknowledged now; None when there is nothing new."""
        position = self.position or 0
        if position <= self._acknowledged:
            return None
        self._acknowledged = position
        self._unacknowledged = 0
        return position


def is_delivery(frames: Sequence[Buffer]) -> bool:
    """Tell whether a message of the nanny brings records."""
    return bytes(frames[0][:4]) == MAGIC


def _unpack_large(frames: Sequence[Buffer]) -> Record:
    """Give the record of a delivery that has the message's frames behind the record's head."""
    head = head_at(memoryview(frames[0]), 0)
    if len(head.sizes) != len(frames) - 1:
        raise MalformedRecord(0, "its frames are not those of its head")
    return Record(head.number, head.time, head.channel, list(frames[1:]))


def gap_in(record: Record) -> Gap | None:
    """Give what a record says that is missing; None when it says no such thing."""
    try:
        if load_json(record.frames[1]).get("msg_type") != "journal_gap":
            return None
        content = load_json(record.frames[4])
        return Gap(int(content["first"]), int(content["last"]), int(content["bytes"]))
    except (MalformedMessage, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None


def _size(frame: Buffer) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)
