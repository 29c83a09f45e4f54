"""Channels of SSH that lead to sockets on the host: what carries forwards where the server allows it.

Sources: RFC 4254, section 7.2 (``direct-tcpip``); OpenSSH's PROTOCOL, section 2.4
(``direct-streamlocal@openssh.com``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import paramiko

from .forwarding import NotListening, Target
from .transport import Transport

__all__ = ["ChannelEnd", "streams_are_forwarded", "tcp_is_forwarded"]

#: How much is read at once, in bytes.
_CHUNK = 262_144
#: RFC 4254, section 5.1: the codes of SSH_MSG_CHANNEL_OPEN_FAILURE.
_PROHIBITED, _CONNECT_FAILED = 1, 2
#: A port of loopback that hardly anything listens on (tcpmux).
_UNLIKELY_PORT = 1


class ChannelEnd:
    """A channel to a socket on the host; a far end of a pump.

    Args:
        channel: the channel.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    @classmethod
    def open(cls, transport: Transport, target: Target, timeout: float) -> ChannelEnd:
        """Connect to a socket on the host.

        Args:
            transport: the connection.
            target: the socket.
            timeout: seconds that it may take.

        Raises:
            NotListening: it refuses.
            OSError: the connection is gone, or does not answer.
        """
        try:
            return cls(_open(transport, target, timeout))
        except paramiko.ChannelException as error:
            raise NotListening from error
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionResetError from error

    def attach(self, on_data: Callable[[], None]) -> None:
        """See :class:`.pump.FarEnd`."""
        transport: Any = self._channel.get_transport()
        transport.watch(self._channel, on_data)

    def read(self) -> bytes | None:
        """See :class:`.pump.FarEnd`."""
        channel = self._channel
        if channel.recv_ready():
            # Which tells the server that it may send as much again.
            return channel.recv(_CHUNK)
        if channel.eof_received or channel.closed:
            # What came between the two questions comes before the end.
            return channel.recv(_CHUNK) if channel.recv_ready() else b""
        return None

    def send(self, data: bytes) -> None:
        """See :class:`.pump.FarEnd`."""
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionResetError from error

    def finish(self) -> None:
        """See :class:`.pump.FarEnd`."""
        with contextlib.suppress(paramiko.SSHException, EOFError):
            self._channel.shutdown_write()

    def close(self) -> None:
        """See :class:`.pump.FarEnd`."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()


def _open(transport: Transport, target: Target, timeout: float) -> paramiko.Channel:
    if "path" in target:
        return transport.open_streamlocal(target["path"], timeout=timeout)
    address = ("127.0.0.1", int(target["port"]))
    return transport.open_channel("direct-tcpip", address, ("127.0.0.1", 0), timeout=timeout)


def streams_are_forwarded(transport: Transport, path: str, timeout: float) -> bool:
    """Tell whether the server forwards to Unix sockets.

    OpenSSH gives the same answer to who may not and to who finds nobody there.

    Args:
        transport: the connection.
        path: a socket on the host that accepts connections.
        timeout: seconds that it may take.
    """
    return _opens(transport, {"path": path}, timeout) == 0


def tcp_is_forwarded(transport: Transport, timeout: float) -> bool:
    """Tell whether the server forwards to TCP ports of its loopback interface."""
    return _opens(transport, {"port": _UNLIKELY_PORT}, timeout) in (0, _CONNECT_FAILED)


def _opens(transport: Transport, target: Target, timeout: float) -> int:
    """Try a channel; gives 0 when it opens, or the server's reason why not."""
    try:
        _open(transport, target, timeout).close()
    except paramiko.ChannelException as error:
        return error.code
    except (paramiko.SSHException, OSError, EOFError):
        return _PROHIBITED
    return 0
