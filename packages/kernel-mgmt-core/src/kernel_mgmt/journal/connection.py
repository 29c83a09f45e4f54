"""One connection to a nanny's journal: the subscription, what comes, and its acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zmq

from ..channels import Channel
from ..connection import ConnectionInfo
from ..errors import KernelMgmtError, MalformedMessage, NannyError, ProtocolError
from ..nanny.journal.records import MalformedRecord, Record
from ..protocol import DELIMITER, JSONObject, Message, Session
from .reader import Gap, Reader, Subscribed, is_delivery

__all__ = ["JournalConnection", "message_of"]

#: How long what was handled may stay unacknowledged, in seconds.
_ACKNOWLEDGE_AFTER = 0.05


class JournalConnection:
    """Reads a journal on the running loop, over one connection that ends with its first loss.

    Args:
        info: where the nanny is.
        reader: how far the journal was read.
        session: signs what is said, and verifies the nanny's answers.
        on_delivery: called with the frames of each delivery, for :meth:`records`.
        on_subscribed: called with the answer to each subscription.
        on_refused: called with the reason why the nanny sends nothing.
        on_lost: called when the connection is lost.
        on_bad: called with what is wrong about a message that is dropped.
        identity: see :meth:`Reader.subscription`.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        reader: Reader,
        session: Session,
        *,
        on_delivery: Callable[[list[Any]], object],
        on_subscribed: Callable[[Subscribed], object],
        on_refused: Callable[[KernelMgmtError], object],
        on_lost: Callable[[], object],
        on_bad: Callable[[ProtocolError], object],
        identity: str = "",
    ) -> None:
        self._reader = reader
        self._session = session
        self._identity = identity
        self._on_delivery = on_delivery
        self._on_subscribed = on_subscribed
        self._on_refused = on_refused
        self._on_lost = on_lost
        self._on_bad = on_bad
        self._loop = asyncio.get_running_loop()
        #: Acknowledges what was handled, when it was not much.
        self._timer: asyncio.TimerHandle | None = None
        #: The id of the latest subscription; former ones are answered in vain.
        self._asked = ""
        #: Whether that is answered: what comes before was sent for a former one.
        self._is_subscribed = False
        self._channel = Channel(
            info, "nanny_journal", b"", self._on_frames, on_link=self._on_link, heartbeats=True
        )

    def close(self) -> None:
        """Acknowledge what was handled, and read no more."""
        self.acknowledge()
        self._close(unsent=True)

    def drop(self) -> None:
        """Close the connection, which is lost."""
        self._close(unsent=False)

    def _close(self, *, unsent: bool) -> None:
        self._is_subscribed = False
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close(unsent=unsent)

    def subscribe(self, requests: Iterable[str] = (), withdrawn: Iterable[str] = ()) -> None:
        """Ask for all that was not read yet; what a former subscription has brought counts as read.

        Args:
            requests: ids of the requests whose state is wanted.
            withdrawn: see :meth:`Reader.subscription`.
        """
        content = self._reader.subscription(
            identity=self._identity, requests=requests, withdrawn=withdrawn
        )
        self._is_subscribed = False
        self._asked = self._say("subscribe_request", content)

    def _say(self, msg_type: str, content: JSONObject) -> str:
        message = self._session.message(msg_type, content)
        with contextlib.suppress(zmq.Again):  # then the connection is lost, and that is told
            self._channel.send(self._session.serialize(message))
        return message.msg_id

    # -- what comes ------------------------------------------------------------------------

    def records(self, frames: list[Any]) -> Iterator[Record | Gap]:
        """Give the records of a delivery; each counts as handled when the next is asked for."""
        try:
            yield from self._reader.take(frames)
        except MalformedRecord as error:
            self._on_bad(MalformedMessage(f"The nanny sent records that are none: {error}."))
            self._on_lost()
            return
        if self._reader.is_due:
            self.acknowledge()
        elif self._timer is None and self._is_subscribed:
            self._timer = self._loop.call_later(_ACKNOWLEDGE_AFTER, self.acknowledge)

    def acknowledge(self) -> None:
        """Tell the nanny how far this has read."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        number = self._reader.acknowledgement() if self._is_subscribed else None
        if number is not None:
            self._say("acknowledge", {"number": number})

    def _on_frames(self, channel: str, frames: list[Any]) -> None:
        if is_delivery(frames):
            if self._is_subscribed:
                self._on_delivery(frames)
        elif len(frames) > 1:  # else it only tries whether anybody is here
            try:
                self._on_answer(self._session.deserialize(frames, channel))
            except ProtocolError as error:
                self._on_bad(error)

    def _on_answer(self, message: Message) -> None:
        if message.msg_type != "subscribe_reply" or message.parent_id != self._asked:
            return
        try:
            subscribed = Subscribed.from_content(message.content)
        except NannyError as error:
            self._on_refused(error)
            return
        self._is_subscribed = True
        self._reader.begin(subscribed)
        self._on_subscribed(subscribed)

    def _on_link(self, event: str) -> None:
        if event == "lost":
            self._on_lost()


def message_of(record: Record, session: Session) -> Message:
    """Give the message of a record.

    Raises:
        InvalidSignature: it is forged, or another record holds the very same.
        MalformedMessage: it is none.
    """
    message = session.deserialize([DELIMITER, *record.frames], record.channel)
    message.journal_number = record.number
    return message
