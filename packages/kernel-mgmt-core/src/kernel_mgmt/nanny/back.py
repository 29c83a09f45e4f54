"""The nanny's sockets to one kernel, and whether that kernel answers."""

from __future__ import annotations

import time

import zmq

from ..connection import ConnectionInfo
from ..curve import encrypt_client
from ..protocol import Message, Session
from ..protocol.requests import interrupt_request, kernel_info_request, shutdown_request
from .frames import Envelope, send

__all__ = ["SEND_BUFFER", "Back"]

#: How many bytes the system may hold of what is sent, where it lets us choose: a large message takes
#: fewer turns.
SEND_BUFFER = 4 * 1024 * 1024

#: How soon a kernel that has answered and is not heard on iopub is asked again, in seconds; each time
#: twice as late.
_FIRST_PAUSE = 0.05
#: How soon one that has not answered is asked again, in seconds: more questions make it no quicker.
_LONGEST_PAUSE = 1.0
#: How long a kernel that answers may take to be heard on iopub, in seconds: some say nothing there
#: of what they were asked.
_OUTPUT_PATIENCE = 1.0

_SOCKET_TYPES = {
    "shell": zmq.DEALER,
    "control": zmq.DEALER,
    "stdin": zmq.DEALER,
    "hb": zmq.DEALER,
    "iopub": zmq.SUB,
}


class Back:
    """Connected to one kernel, as all its clients at once.

    The kernel sees one client whose messages have a route of more than one step; the shell and stdin
    sockets share an identity, so that what it asks of a client finds its way.

    Args:
        context: makes the sockets.
        info: where the kernel is.
        session: signs what the nanny itself asks.
        number: which of the nanny's kernels it is.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        info: ConnectionInfo,
        session: Session,
        number: int,
    ) -> None:
        self.number = number
        #: Whether the kernel answers, and is heard on iopub.
        self.ready = False
        #: When to ask it next, on the monotonic clock.
        self.ask_at = 0.0
        self._pause = _FIRST_PAUSE
        self._session = session
        #: The route of the nanny's own requests, beside those of clients.
        self._route = (session.session_id.encode(),)
        self._answered_at: float | None = None
        self._heard = False
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        try:
            for channel in _SOCKET_TYPES:
                self.sockets[channel] = self._connect(context, info, channel)
        except BaseException:
            self.close()
            raise

    def _connect(
        self, context: zmq.Context[zmq.Socket[bytes]], info: ConnectionInfo, channel: str
    ) -> zmq.Socket[bytes]:
        socket = context.socket(_SOCKET_TYPES[channel])
        try:
            socket.set_hwm(0)
            # What a dead kernel has not taken is for nobody else.
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.SNDBUF, SEND_BUFFER)
            if channel != "iopub":
                socket.set(zmq.ROUTING_ID, self._route[0])
            encrypt_client(socket, info)
            if channel == "iopub":
                socket.set(zmq.SUBSCRIBE, b"")
            socket.connect(info.endpoint(channel))
        except BaseException:
            socket.close(0)
            raise
        return socket

    def close(self) -> None:
        """Close the sockets."""
        for socket in self.sockets.values():
            socket.close(0)

    def ask(self) -> None:
        """Ask the kernel who it is, which it answers when it is up."""
        pause = _LONGEST_PAUSE
        if self._answered_at is not None:
            pause = self._pause
            self._pause = min(pause * 2, _LONGEST_PAUSE)
        self.ask_at = time.monotonic() + pause
        self._send("shell", kernel_info_request())
        self._look()

    def ask_to_end(self, *, restart: bool) -> None:
        """Send the kernel a ``shutdown_request``."""
        self._send("control", shutdown_request(restart=restart))

    def interrupt(self) -> None:
        """Send the kernel an ``interrupt_request``."""
        self._send("control", interrupt_request())

    def _send(self, channel: str, message: Message) -> None:
        message.idents = self._route
        send(self.sockets[channel], self._session.serialize(message))

    def is_own(self, reply: Envelope) -> bool:
        """Tell whether the kernel answers the nanny itself, and take notice."""
        if reply.route:
            own = reply.route[0] == self._route[0]
        else:  # the kernel has forgotten it
            own = str(reply.parent_id()).startswith(self._session.session_id)
        if not own:
            return False
        if self._answered_at is None and reply.header().get("msg_type") == "kernel_info_reply":
            self._answered_at = time.monotonic()
            self.ask_at = self._answered_at + _FIRST_PAUSE
            self._look()
        return True

    def heard(self) -> None:
        """Take notice of a message on iopub."""
        self._heard = True
        self._look()

    def _look(self) -> None:
        if self._answered_at is not None:
            waited = time.monotonic() - self._answered_at
            self.ready = self._heard or waited >= _OUTPUT_PATIENCE
