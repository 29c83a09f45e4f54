"""paramiko's transport, with what our tunnels need on top."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from typing import Any

import paramiko
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_OPEN_SUCCESS,
)

from .arrivals import ArrivalTransport

__all__ = ["ChannelSocket", "Transport", "tune"]

#: Encrypts and authenticates in one step of the processor: twice as fast as paramiko's own choice.
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")

_LOG_CHANNEL = "kernel_mgmt_ssh.paramiko"


class _Quietly(logging.Filter):
    """Turns all that paramiko logs into details for whoever looks for them.

    It logs each refused key and each broken connection as an error, with a traceback, from a thread
    of its own; and the last resort of logging prints errors to the terminal of an application that
    has set up no handler. All of these reach the application as our exceptions.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def _quieten() -> None:
    logging.getLogger(_LOG_CHANNEL).addFilter(_Quietly())
    for name in (_LOG_CHANNEL, "paramiko"):
        logging.getLogger(name).addHandler(logging.NullHandler())


_quieten()


def tune(sock: socket.socket, patience: float) -> None:
    """Set what a socket of SSH needs, as far as it and the platform have it.

    Args:
        sock: of whatever family.
        patience: seconds after which a peer that acknowledges nothing counts as dead.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # Small messages are not to wait for the answer to the one before (Nagle's algorithm).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))


class ChannelSocket:
    """A channel of one connection, as the socket of another that goes through it.

    A channel says goodbye when it is closed, and fails when its connection is gone by then; paramiko
    closes its socket on a thread that nobody looks after, and does not expect that.

    Args:
        channel: to the other server's port.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.settimeout = channel.settimeout
        self.send = channel.send
        self.recv = channel.recv

    @property
    def _closed(self) -> bool:
        # paramiko asks its sockets for this private name of Python's.
        return bool(self._channel.closed)

    def close(self) -> None:
        """Close it; never fails."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.close()


class _Packetizer(paramiko.packet.Packetizer):
    """Remembers how the other side greets, for when it turns out to be no SSH server."""

    #: The first line that came, if any.
    greeting = ""

    def readline(self, timeout: float) -> str:
        line: str = super().readline(timeout)
        self.greeting = self.greeting or line
        return line


class Transport(ArrivalTransport):
    """One SSH connection: to a socket, or to a channel of another connection.

    Args:
        sock: connected, or a :class:`ChannelSocket`; the transport owns it from now on.
    """

    def __init__(self, sock: Any) -> None:
        # What a thread that opens a channel has to say and to learn; see _send_user_message.
        self._opening = threading.local()
        # Why channels were not opened, by their number.
        self._refusals: dict[int, paramiko.ChannelException] = {}
        # The server's numbers of channels that were closed, until it gives them to others.
        self._closed_numbers: set[bytes] = set()
        #: What the server said when it ended the connection.
        self.farewell = ""
        super().__init__(sock, packetizer_class=_Packetizer)
        self.set_log_channel(_LOG_CHANNEL)
        # paramiko has this table for subclasses.
        handlers = self._handler_table  # type: ignore[attr-defined]
        self._hear_refusal = handlers[MSG_CHANNEL_OPEN_FAILURE]
        handlers[MSG_CHANNEL_OPEN_FAILURE] = self._note_refusal
        self._hear_opened = handlers[MSG_CHANNEL_OPEN_SUCCESS]
        handlers[MSG_CHANNEL_OPEN_SUCCESS] = self._note_opened
        options = self.get_security_options()
        first = [name for name in _FIRST_CIPHERS if name in options.ciphers]
        options.ciphers = (*first, *(name for name in options.ciphers if name not in first))

    @property
    def greeting(self) -> str:
        """The first line that the other side has sent, if any."""
        return str(getattr(self.packetizer, "greeting", ""))

    def open_streamlocal(self, path: str, timeout: float | None = None) -> paramiko.Channel:
        """Open a channel to a Unix socket on the host.

        PROTOCOL of OpenSSH, 2.4: ``direct-streamlocal@openssh.com``.

        Args:
            path: of the socket.
            timeout: seconds to wait for the server's answer.

        Raises:
            paramiko.ChannelException: the server refuses.
            paramiko.SSHException: no answer in time, or the connection is gone.
        """
        self._opening.path = path
        try:
            return self.open_channel("direct-streamlocal@openssh.com", timeout=timeout)
        finally:
            self._opening.path = None

    def open_channel(
        self,
        kind: str,
        dest_addr: tuple[str, int] | None = None,
        src_addr: tuple[str, int] | None = None,
        window_size: int | None = None,
        max_packet_size: int | None = None,
        timeout: float | None = None,
    ) -> paramiko.Channel:
        """Open a channel, as paramiko does, and when it is refused tell exactly why.

        Raises:
            paramiko.ChannelException: the server refuses; with its code and its text.
            paramiko.SSHException: no answer in time, or the connection is gone.
        """
        # paramiko keeps one exception for all threads: of several whose channels are refused at
        # the same time, some would get another's, and some none that says anything.
        self._opening.number, self._opening.active = -1, True
        try:
            return super().open_channel(
                kind, dest_addr, src_addr, window_size, max_packet_size, timeout
            )
        except paramiko.SSHException:
            refusal = self._refusals.pop(self._opening.number, None)
            if refusal is None:
                raise
            raise refusal from None
        finally:
            self._opening.active = False

    def _send_user_message(self, data: paramiko.Message) -> None:
        # The one message which open_channel sends, on the thread that has called it.
        if getattr(self._opening, "active", False):
            self._opening.active = False
            sent = paramiko.Message(data.asbytes())
            _type, _kind = sent.get_byte(), sent.get_binary()
            self._opening.number = sent.get_int()
            # paramiko knows of no body for this kind of channel. (A request without its body makes
            # OpenSSH drop the whole connection.)
            path = getattr(self._opening, "path", None)
            if path is not None:
                data.add_string(path)
                data.add_string("")
                data.add_int(0)
        super()._send_user_message(data)  # type: ignore[misc]

    def _send_message(self, data: paramiko.Message) -> None:
        # paramiko puts the end of what we send into words on one thread, and the answer to the server's
        # close on another; whichever is sent last, the server ends the whole connection for an end
        # that comes after a close. All but key exchanges is sent under one lock.
        message = data.asbytes()
        if message[0] == MSG_CHANNEL_CLOSE:
            self._closed_numbers.add(message[1:5])
        elif message[0] == MSG_CHANNEL_EOF and message[1:5] in self._closed_numbers:
            return
        super()._send_message(data)  # type: ignore[misc]

    def _note_opened(self, m: paramiko.Message) -> None:
        # RFC 4254, 5.1: the recipient's number, then the sender's.
        m.get_int()
        self._closed_numbers.discard(m.get_bytes(4))
        m.rewind()
        self._hear_opened(m)

    def _note_refusal(self, m: paramiko.Message) -> None:
        # RFC 4254, 5.1.
        number, code = m.get_int(), m.get_int()
        text = bytes(m.get_binary()).decode(errors="replace")
        self._refusals[number] = paramiko.ChannelException(code, text)
        m.rewind()
        self._hear_refusal(m)

    def _parse_disconnect(self, m: paramiko.Message) -> None:
        # RFC 4253, 11.1; paramiko only logs it.
        m.get_int()
        text = bytes(m.get_binary()).decode(errors="replace")
        # It becomes a part of a sentence of ours.
        self.farewell = "".join(filter(str.isprintable, " ".join(text.split())))[:200]

    def end(self, patience: float = 2.0) -> None:
        """Close it, and wait until its thread is gone; idempotent, from any thread.

        Args:
            patience: seconds to wait for the thread.
        """
        self.close()
        # An unfinished one is not closed by close().
        self.packetizer.close()
        with contextlib.suppress(OSError, EOFError):
            self.sock.close()
        deadline = time.monotonic() + patience
        if self.ident is not None and self is not threading.current_thread():
            self.join(max(0.0, deadline - time.monotonic()))
        # The timer of a handshake that never ended is a thread, too.
        self.packetizer.complete_handshake()
