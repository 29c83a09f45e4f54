"""What a client has sent and knows no answer of, without sockets: what is sent again after a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..protocol import Buffer
from .reader import Subscribed

__all__ = ["Outbox", "Sent", "Settled"]


@dataclass(eq=False)
class Sent:
    """A message that was sent, or waits to be.

    Attributes:
        msg_id: its id.
        channel: ``shell``, ``control`` or ``stdin``.
        frames: the very frames, so that it is known for the same; empty for what somebody else sent.
        kernel: the number of the kernel that it is for; 0 when that is not known.
        question: for an answer to a question for input: the question's id.
        request: for such an answer: the id of the request that asked.
        connection: the number of the connection on which it was sent; 0 as long as it waits.
        withdrawn: whether the nanny is not to accept it any more.
    """

    msg_id: str
    channel: str
    frames: Sequence[Buffer]
    kernel: int
    question: str = ""
    request: str = ""
    connection: int = 0
    withdrawn: bool = False


@dataclass(frozen=True)
class Settled:
    """What has become of the messages of an outbox.

    Attributes:
        gone: ids of those whose kernel is not there any more: no reply will come.
        answered: ids of those whose reply was said before now.
        withdrawn: ids of those to be asked for again: their kernel is not there any more, but they may
            still be on their way, and would come to the next.
    """

    gone: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()


class Outbox:
    """Keeps messages in order, until it is known that they need not be sent again."""

    def __init__(self) -> None:
        self._messages: dict[str, Sent] = {}
        #: The number of the present kernel, for which new messages are.
        self.kernel = 0
        #: The number of the present connection.
        self._connection = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, msg_id: object) -> bool:
        return msg_id in self._messages

    def add(
        self,
        msg_id: str,
        channel: str,
        frames: Sequence[Buffer],
        *,
        question: str = "",
        request: str = "",
    ) -> None:
        """Keep a message that is to be sent; nothing happens to one that is kept already.

        Args:
            msg_id: its id.
            channel: where it is to be sent.
            frames: what is to be sent; none for a request that somebody else has sent.
            question: see :class:`Sent`.
            request: see :class:`Sent`.
        """
        if msg_id not in self._messages:
            connection = 0 if frames else self._connection
            sent = Sent(msg_id, channel, frames, self.kernel, question, request, connection)
            self._messages[msg_id] = sent

    def forget(self, msg_id: str) -> None:
        """Keep a message no more, which may have been forgotten already."""
        self._messages.pop(msg_id, None)

    def prune(self, is_open: Callable[[str], bool]) -> None:
        """Keep only what belongs to requests that are still open.

        Args:
            is_open: tells so of a request, by its id.
        """
        self._messages = {
            msg_id: sent
            for msg_id, sent in self._messages.items()
            if (is_open(sent.request or msg_id) if not sent.question or sent.request else True)
        }

    def ids(self) -> list[str]:
        """Give the ids of all that is kept, in the order in which it was added."""
        return list(self._messages)

    def withdrawn(self) -> list[str]:
        """Give the ids of those that the nanny is not to accept any more."""
        return [msg_id for msg_id, sent in self._messages.items() if sent.withdrawn]

    def begin(self) -> None:
        """Take notice of a new connection: nothing was sent on it yet."""
        self._connection += 1

    def unsent(self) -> Iterator[Sent]:
        """Give what waits to be sent, in order; each counts as sent when the next is asked for."""
        for sent in list(self._messages.values()):
            if not sent.connection and sent.frames and not sent.withdrawn:
                yield sent
                sent.connection = self._connection

    def settle(self, subscribed: Subscribed) -> Settled:
        """Learn from the nanny what has become of what was sent.

        What it does not know waits to be sent again.  A message for a kernel that is not there
        any more never reaches another, nor an answer to a question that nobody asks now.
        """
        gone: list[str] = []
        answered: list[str] = []
        withdrawn: list[str] = []
        kernel = self.kernel = max(self.kernel, subscribed.kernel)
        for sent in list(self._messages.values()):
            state = subscribed.requests.get(sent.msg_id, "unknown")
            if sent.question:
                self._settle_answer(sent, state, subscribed)
            elif state == "gone":
                gone.append(sent.msg_id)
            elif state == "answered":
                answered.append(sent.msg_id)
            elif state == "accepted":
                sent.connection = self._connection
            elif sent.connection == self._connection:
                pass  # it is on its way
            elif sent.withdrawn or not sent.frames:
                gone.append(sent.msg_id)
            elif 0 < sent.kernel < kernel:
                sent.withdrawn = True
                withdrawn.append(sent.msg_id)
            else:
                sent.connection = 0
        for msg_id in gone:
            del self._messages[msg_id]
        return Settled(tuple(gone), tuple(answered), tuple(withdrawn))

    def _settle_answer(self, sent: Sent, state: str, subscribed: Subscribed) -> None:
        if state == "unknown" and sent.question in subscribed.asking:
            if sent.connection != self._connection:
                sent.connection = 0
        else:
            self.forget(sent.msg_id)
