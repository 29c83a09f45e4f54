"""The journal's counter: what is written down, who reads it, and what each is to be sent next.

No sockets and no loop: whoever has them hands in what has come, and sends what :meth:`take` gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

from ...errors import MalformedMessage, one_line
from ...protocol import Buffer, Session
from ...protocol.message import load_json
from ..protocol import BadRequest
from .accepted import Accepted
from .questions import Questions
from .records import Record, pack
from .store import Delivery, Gap, Journal
from .subscriptions import JournalPosition, Reader, Subscription, number_in

__all__ = ["JournalDesk"]

#: How many bytes a reader gets before the others have their turn.
_SHARE = 2**20

# Where the two headers are among the frames of a message.
_HEADER, _PARENT = 1, 2


class JournalDesk:
    """Serves all readers of one journal.

    Args:
        journal: what was written down.
        session: signs what the nanny itself tells readers.
        accepted: remembers what clients have sent.
        clock: gives seconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        session: Session,
        *,
        accepted: Accepted | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.journal = journal
        #: The highest number that somebody has read.
        self.read = 0
        #: The number of the present kernel, or of the last.
        self.kernel = 0
        #: The identities of sockets whose messages go to the journal alone.
        self.identities: frozenset[bytes] = frozenset()
        #: Whether :meth:`take` may have something to give.
        self.is_due = False
        self._session = session
        self._clock = clock
        self._accepted = Accepted() if accepted is None else accepted
        self._questions = Questions()
        self._readers: dict[bytes, Reader] = {}

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return len(self._readers)

    @property
    def state(self) -> dict[str, Any]:
        """What people are told of the journal."""
        journal = self.journal
        messages, size = journal.lost
        return {
            "first": journal.first,
            "next": journal.next,
            "read": self.read,
            "bytes": journal.bytes,
            "lost": {"messages": messages, "bytes": size},
        }

    @property
    def routes(self) -> list[bytes]:
        """The routes to all readers."""
        return list(self._readers)

    # -- what is written down --------------------------------------------------------------

    def append(self, channel: str, frames: Sequence[Buffer]) -> None:
        """Write down a message to clients.

        Args:
            channel: where it was said: ``iopub``, ``shell``, ``control``, ``stdin``, or ``nanny``.
            frames: its signature and all that follows.
        """
        self.journal.append(channel, frames)
        self.is_due = bool(self._readers)
        if channel in ("shell", "control"):
            request_id = _id_in(frames[_PARENT])
            self._accepted.answer(request_id)
            self._questions.end(request_id)
        elif channel == "stdin":
            self._questions.ask(_id_in(frames[_HEADER]), _id_in(frames[_PARENT]))

    def accept(self, msg_id: str, signature: bytes) -> bool:
        """Take notice of a verified message of a client; gives False when it was seen before."""
        return self._accepted.accept(msg_id, signature, self.journal.next)

    def answer_question(self, parent_id: str) -> None:
        """Take notice of an ``input_reply``; it has the parent, when it has one, that it answers."""
        self._questions.answer(parent_id)

    def meet(self, kernel: int) -> None:
        """Take notice of a new kernel.

        Args:
            kernel: its number.
        """
        self.kernel = kernel

    def part(self) -> None:
        """Take notice that the kernel is gone."""
        self._accepted.lose_kernel()
        self._questions.end_all()

    # -- what readers say ------------------------------------------------------------------

    def subscribe(self, route: bytes, content: Mapping[str, Any]) -> dict[str, Any]:
        """Let somebody read; what it has asked for before is forgotten.

        Args:
            route: leads to the reader.
            content: of its ``subscribe_request``.

        Returns:
            The content of the reply, to be sent before all that is read.
        """
        try:
            subscription = Subscription.from_content(content)
            position = self._position(subscription)
        except (BadRequest, JournalPosition) as error:
            evalue = one_line(error) + "."
            return {"status": "error", "ename": type(error).__name__, "evalue": evalue}
        for msg_id in subscription.withdrawn:
            self._accepted.withdraw(msg_id, self.journal.next)
        self._readers[route] = Reader(subscription, position)
        self._note_readers()
        self.is_due = True
        return {
            "status": "ok",
            "after": position,
            "first": self.journal.first,
            "next": self.journal.next,
            "read": self.read,
            "kernel": self.kernel,
            "requests": {
                msg_id: self._accepted.state_of(msg_id) for msg_id in subscription.requests
            },
            "asking": self._questions.waiting(),
        }

    def _position(self, subscription: Subscription) -> int:
        """Give the number of the record after which a reader is to begin."""
        following = self.journal.next
        if subscription.after is not None:
            if subscription.after >= following:
                raise JournalPosition(
                    f"There is no record {subscription.after}: the next one is {following}."
                )
            return subscription.after
        if subscription.request is not None:
            position = self._accepted.position_of(subscription.request)
            if position is None:
                raise JournalPosition("No message with that id was accepted, or too long ago.")
            return position - 1
        if subscription.since is not None:
            return self.journal.number_before(subscription.since)
        return following - 1

    def acknowledge(self, route: bytes, content: Mapping[str, Any]) -> None:
        """Take notice that a reader is done with all records up to one.

        Raises:
            BadRequest: the number is none.
        """
        reader = self._readers.get(route)
        number = number_in(content)
        if reader is None:
            return
        reader.acknowledge(number)
        self.is_due = True
        if reader.reads:
            self.read = max(self.read, reader.acknowledged)

    def unsubscribe(self, route: bytes) -> None:
        """Send a reader nothing any more."""
        if self._readers.pop(route, None) is not None:
            self._note_readers()

    def lose(self, route: bytes) -> None:
        """Take notice that a reader cannot be reached any more."""
        self.unsubscribe(route)

    def _note_readers(self) -> None:
        identities = (reader.identity for reader in self._readers.values())
        self.identities = frozenset(filter(None, identities))

    # -- what readers get ------------------------------------------------------------------

    def take(self) -> Iterator[tuple[bytes, list[Buffer]]]:
        """Give what is to be sent now: a share for each reader that has room for it.

        Whoever cannot be reached is to be lost (:meth:`lose`) before the next is asked for.

        Yields:
            The route to a reader, and the frames for it.
        """
        self.is_due = False
        for route, reader in list(self._readers.items()):
            if reader.sent + 1 < self.journal.next and reader.room:
                yield from self._share_of(route, reader)

    def _share_of(self, route: bytes, reader: Reader) -> Iterator[tuple[bytes, list[Buffer]]]:
        for piece in self.journal.read(reader.sent, min(reader.room, _SHARE)):
            frames, size = self._to_send(piece)
            if not reader.takes(size):
                return
            reader.note_sent(piece.last, size)
            yield route, frames
            if self._readers.get(route) is not reader:  # lost, or it has begun anew
                return
        if reader.sent + 1 < self.journal.next and reader.room:
            self.is_due = True

    def _to_send(self, piece: Delivery | Gap) -> tuple[list[Buffer], int]:
        """Give the frames of one piece, and their size in bytes."""
        if isinstance(piece, Delivery):
            return list(piece.frames), piece.size
        message = self._session.message("journal_gap", piece._asdict())
        frames = self._session.serialize(message)[1:]
        packed = pack(Record(piece.last, self._clock(), "nanny", frames))
        return [packed], len(packed)


def _id_in(header: Buffer) -> str:
    """Give the id in a header; empty when there is none."""
    try:
        content = load_json(header)
    except MalformedMessage:
        return ""
    msg_id = content.get("msg_id") if isinstance(content, dict) else None
    return msg_id if isinstance(msg_id, str) else ""
