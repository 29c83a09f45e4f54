"""The socket that readers of the journal are connected to, and what is written down for them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import zmq

from ...errors import ProtocolError
from ...protocol import Buffer, Message, Session
from ..frames import Envelope, send
from ..protocol import BadRequest
from .desk import JournalDesk

__all__ = ["JournalPort"]

logger = logging.getLogger("kernel_mgmt")

_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

#: How often a reader is sent something that tells whether it is there, in seconds.
_PROBE_EVERY = 10.0
#: How soon after a connection was lost, in seconds: ZeroMQ tells of it a moment before it knows.
_PROBE_SOON = 0.02
#: Dropped messages are logged up to this many, then each thousandth.
_LOGGED_DROPS = 10
#: What kernels say to each subscriber and not to all clients: the nanny's own is one.
_WELCOME = b'"iopub_welcome"'
_NO_PARENT = b"{}"
#: The events of the nanny that belong among the kernel's messages.
_EVENTS_KEPT = frozenset({b"started", b"ready", b"died", b"restarting", b"failed"})


class JournalPort:
    """Serves the journal's readers over a socket; belongs to the thread of the front.

    Args:
        socket: where they are connected.
        session: verifies what they say, and signs what they are told.
        desk: knows what each is to be told.
    """

    def __init__(self, socket: zmq.Socket[bytes], session: Session, desk: JournalDesk) -> None:
        self.socket = socket
        self.desk = desk
        #: Tells of connections that are lost.
        self.monitor: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        #: When readers are to be probed next, on the monotonic clock.
        self.probe_at = math.inf
        self._session = session
        self._dropped = 0

    def close(self, *, remove: bool) -> None:
        """Send what is still to be sent, and close the journal; its socket is closed by its owner.

        Args:
            remove: whether nobody shall read it any more.
        """
        while self.desk.is_due:
            self.deliver()
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.desk.journal.close(remove=remove)

    # -- what is written down --------------------------------------------------------------

    def note(self, channel: str, message: Envelope) -> None:
        """Write down what a kernel says to its clients.

        Args:
            channel: where it says so.
            message: what; frames that are no message are left out, and so is a welcome.
        """
        frames = message.message()
        # A welcome answers no request.
        if frames and (frames[2] != _NO_PARENT or _WELCOME not in bytes(frames[1])):
            self.desk.append(channel, frames)

    def note_own(self, channel: str, frames: Sequence[Buffer], route: Sequence[bytes]) -> None:
        """Write down what the nanny says in the kernel's place.

        Args:
            channel: where.
            frames: the message.
            route: the frames that it begins with.
        """
        self.desk.append(channel, frames[len(route) + 1 :])

    def note_event(self, frames: Sequence[Buffer]) -> None:
        """Write down an event of the nanny, if it is one that is kept."""
        if frames[0] in _EVENTS_KEPT:
            self.note_own("nanny", frames, frames[:1])  # type: ignore[arg-type]

    def has_reader(self, route: Sequence[bytes]) -> bool:
        """Tell whether who is at the end of a route gets its messages from the journal."""
        return bool(route) and route[0] in self.desk.identities

    # -- what readers say ------------------------------------------------------------------

    def take(self) -> None:
        """Take one message of a reader; what is malformed, unsigned, forged or replayed ends here."""
        frames = self.socket.recv_multipart(zmq.NOBLOCK)
        try:
            message = self._session.deserialize(frames)
            if len(message.idents) != 1:
                raise BadRequest("A reader is at the end of one step.")
            self._serve(message.idents[0], message)
        except (ProtocolError, BadRequest) as error:
            self._dropped += 1
            if self._dropped <= _LOGGED_DROPS or self._dropped % 1000 == 0:
                logger.warning("Dropped journal message number %d: %s", self._dropped, error)

    def _serve(self, route: bytes, message: Message) -> None:
        desk = self.desk
        if message.msg_type == "acknowledge":
            desk.acknowledge(route, message.content)
        elif message.msg_type == "subscribe_request":
            self._reply(message, desk.subscribe(route, message.content))
            self.probe_at = min(self.probe_at, time.monotonic() + _PROBE_EVERY)
        elif message.msg_type == "unsubscribe":
            desk.unsubscribe(route)

    def _reply(self, request: Message, content: dict[str, Any]) -> None:
        reply = self._session.message(
            "subscribe_reply", content, parent=request, idents=request.idents
        )
        self._send(request.idents[0], self._session.serialize(reply)[1:])

    def take_loss(self) -> None:
        """Take notice that a connection was lost: soon it can be found out whose."""
        self.monitor.recv_multipart(zmq.NOBLOCK)
        if self.desk.readers:
            self.probe_at = min(self.probe_at, time.monotonic() + _PROBE_SOON)

    # -- what readers get ------------------------------------------------------------------

    def deliver(self) -> bool:
        """Send readers their next share; gives whether the socket is to be looked at.

        To send takes notice of what has come, of which the socket's descriptor does not tell any more.
        """
        for route, frames in self.desk.take():
            self._send(route, frames)
        return bool(self.socket.getsockopt(_EVENTS) & _POLLIN)  # type: ignore[operator]

    def probe_if_due(self) -> bool:
        """Find out which readers are gone; gives whether the socket is to be looked at."""
        now = time.monotonic()
        if now < self.probe_at:
            return False
        for route in self.desk.routes:
            self._send(route, [b""])
        self.probe_at = now + _PROBE_EVERY if self.desk.readers else math.inf
        return True

    def _send(self, route: bytes, frames: Sequence[Buffer]) -> None:
        try:
            send(self.socket, [route, *frames])
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.desk.lose(route)
