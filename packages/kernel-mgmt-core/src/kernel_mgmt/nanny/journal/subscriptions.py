"""What a reader of the journal asks for, and how far each one is."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ...errors import NannyError, shown
from ..protocol import BadRequest

__all__ = ["JournalPosition", "Reader", "Subscription", "number_in"]

#: How many bytes may be on their way to a reader: when it does not say, at least, at most.
_WINDOW, _SMALLEST_WINDOW, _LARGEST_WINDOW = 8 * 2**20, 64 * 2**10, 256 * 2**20
#: ZeroMQ allows no longer one, in bytes.
_LONGEST_IDENTITY = 255
#: The last number that a record can have.
_LAST_NUMBER = 2**64 - 1
#: Later than any moment, in seconds since the epoch: in the year 5138.
_LATEST = 1e11


class JournalPosition(NannyError):
    """The place that a reader wants to begin at is not known."""


@dataclass(frozen=True)
class Subscription:
    """A ``subscribe_request``'s content.

    Attributes:
        after: the number after which to read; None when it is not said so.
        since: the moment from which on to read, in seconds since the epoch.
        request: the id of the message from whose acceptance on to read.
        window: how many bytes may be on their way, not acknowledged.
        identity: of the reader's shell and stdin sockets; empty when it has none.
        reads: whether what it acknowledges counts as read.
        requests: the ids of what it has sent and knows no reply to.
        withdrawn: the ids of those among them that are not to be accepted if they were not yet.
    """

    after: int | None = None
    since: float | None = None
    request: str | None = None
    window: int = _WINDOW
    identity: bytes = b""
    reads: bool = False
    requests: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Subscription:
        """Check what was received; fields that are not known are left out.

        Raises:
            BadRequest: a field has a value that cannot be used.
        """
        fields = {}
        for name, (accepts, what) in _CHECKS.items():
            value = content.get(name)
            if value is None:
                continue
            if not accepts(value):
                raise BadRequest(
                    f"{name} of subscribe_request is {shown(value)}; it must be {what}."
                )
            fields[name] = value
        if len(fields.keys() & {"after", "since", "request"}) > 1:
            raise BadRequest("A subscribe_request has one of after, since and request.")
        if "identity" in fields:
            fields["identity"] = fields["identity"].encode()
        window = min(max(fields.get("window", _WINDOW), _SMALLEST_WINDOW), _LARGEST_WINDOW)
        fields["window"] = window
        for name in ("requests", "withdrawn"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


def number_in(content: Mapping[str, Any]) -> int:
    """Give the number of an ``acknowledge``.

    Raises:
        BadRequest: there is none.
    """
    number = content.get("number")
    if not _is_number(number):
        raise BadRequest(f"number of acknowledge is {shown(number)}; it must be a record's number.")
    assert isinstance(number, int)
    return number


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LAST_NUMBER


def _is_moment(value: object) -> bool:
    return type(value) in (int, float) and -_LATEST < value < _LATEST  # type: ignore[operator]


def _is_identity(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= _LONGEST_IDENTITY
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "after": (_is_number, "a record's number or null"),
    "since": (_is_moment, "seconds since the epoch or null"),
    "request": (lambda value: isinstance(value, str), "a message's id or null"),
    "window": (lambda value: type(value) is int, "a number of bytes"),
    "identity": (_is_identity, f"a text of at most {_LONGEST_IDENTITY} bytes"),
    "reads": (lambda value: isinstance(value, bool), "true or false"),
    "requests": (_is_ids, "a list of messages' ids"),
    "withdrawn": (_is_ids, "a list of messages' ids"),
}


class Reader:
    """One reader: how far it was sent, and how far it has acknowledged.

    Args:
        subscription: what it has asked for.
        position: the number of the record after which it begins.
    """

    def __init__(self, subscription: Subscription, position: int) -> None:
        self.identity = subscription.identity
        self.reads = subscription.reads
        #: The number of the last record that was sent, and of the last that was acknowledged.
        self.sent = position
        self.acknowledged = position
        self._window = subscription.window
        #: What is on its way: the last number and the size of each delivery.
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._on_the_way = 0

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        return max(0, self._window - self._on_the_way)

    def takes(self, size: int) -> bool:
        """Tell whether so many bytes may be sent now; what is larger than the window goes alone."""
        return size <= self.room or not self._unacknowledged

    def note_sent(self, last: int, size: int) -> None:
        """Take notice of what was sent.

        Args:
            last: the number of its last record.
            size: its size in bytes.
        """
        self.sent = last
        self._unacknowledged.append((last, size))
        self._on_the_way += size

    def acknowledge(self, number: int) -> None:
        """Take notice that the reader is done with all records up to one.

        One that was not sent yet cannot be meant: then it is the last that was.
        """
        self.acknowledged = max(self.acknowledged, min(number, self.sent))
        while self._unacknowledged and self._unacknowledged[0][0] <= number:
            self._on_the_way -= self._unacknowledged.popleft()[1]
