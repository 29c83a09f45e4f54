"""Connections to sockets of the host, carried in frames: for servers that forbid forwarding."""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Mapping
from typing import Any

from .frames import CLOSE, CREDIT, CREDIT_SIZE, DATA, EOF, OPEN, OPENED, REFUSED, WINDOW
from .loop import READ_SIZE, Loop

__all__ = ["Relay"]

#: How long a connection within the host may take, in seconds.
_CONNECT_PATIENCE = 10.0
#: Credit is given in pieces of at least so many bytes, which the sender does not have to wait for.
_CREDIT_STEP = WINDOW // 4


class Relay:
    """All streams of one tunnel.

    Args:
        loop: reads and writes for them.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._streams: dict[int, _Stream | None] = {}  # None: it is being connected
        loop.on_room = self._mind_all

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Take a frame of a stream; of one that is gone it is late, and passed over."""
        if kind == OPEN:
            self._open(number, payload)
            return
        stream = self._streams.get(number)
        if kind == CLOSE:
            self._streams.pop(number, None)
            if stream is not None:
                stream.close()
        elif stream is not None:
            stream.take(kind, payload)

    def close(self) -> None:
        """Drop them all."""
        for stream in self._streams.values():
            if stream is not None:
                stream.close()
        self._streams.clear()

    # -- opening ---------------------------------------------------------------------------

    def _open(self, number: int, payload: bytes) -> None:
        if number == 0 or number in self._streams:
            self._loop.send(REFUSED, number, b"The number of the stream is taken.")
            return
        try:
            address = _address(json.loads(payload))
        except (ValueError, RecursionError):
            self._loop.send(REFUSED, number, b"It names neither a path nor a port.")
            return
        self._streams[number] = None
        # In a thread: the connection to a Unix socket waits when many others do.
        thread = threading.Thread(
            target=self._connect, args=(number, address), name=f"stream-{number}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # there are too many
            self._refuse(number, str(error))

    def _connect(self, number: int, address: str | tuple[str, int]) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # there are too many
            self._loop.call_soon(self._refuse, number, str(error))
            return
        try:
            connection.settimeout(_CONNECT_PATIENCE)
            connection.connect(address)
            connection.setblocking(False)
            if family == socket.AF_INET:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            connection.close()
            self._loop.call_soon(self._refuse, number, str(error))
        else:
            self._loop.call_soon(self._connected, number, connection)

    def _refuse(self, number: int, reason: str) -> None:
        if number in self._streams:  # else it was closed meanwhile
            del self._streams[number]
            self._loop.send(REFUSED, number, reason.encode())

    def _connected(self, number: int, connection: socket.socket) -> None:
        if self._streams.get(number, connection) is not None:  # it was closed meanwhile
            connection.close()
            return
        self._loop.send(OPENED, number)
        self._streams[number] = _Stream(self._loop, number, connection, self._forget)

    def _forget(self, number: int) -> None:
        self._streams.pop(number, None)

    def _mind_all(self) -> None:
        for stream in list(self._streams.values()):
            if stream is not None:
                stream.mind()


class _Stream:
    """One connection to a socket of the host.

    Args:
        loop: reads and writes for it.
        number: its number in frames.
        connection: the socket, connected.
        on_end: called when it has ended by itself.
    """

    def __init__(self, loop: Loop, number: int, connection: socket.socket, on_end: Any) -> None:
        self._loop = loop
        self._number = number
        self._connection = connection
        self._on_end = on_end
        #: How much the tunnel takes at present.
        self._credit = WINDOW
        #: What the tunnel sent and the socket did not take yet.
        self._unsent = bytearray()
        #: How much the socket has taken and the tunnel was not told of.
        self._consumed = 0
        self._reads = True
        #: Whether the tunnel sends no more, and whether the socket knows.
        self._ends = self._ended = False
        self._events = 0
        self.mind()

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame of the tunnel."""
        if kind == DATA:
            if self._ends or len(self._unsent) + len(payload) > WINDOW:
                self._fail()
                return
            self._unsent += payload
            self._send()
        elif kind == EOF:
            self._ends = True
            self._send()
        elif kind == CREDIT and len(payload) == CREDIT_SIZE.size:
            self._credit += CREDIT_SIZE.unpack(payload)[0]
            self.mind()
        else:
            self._fail()

    def mind(self) -> None:
        """Have the loop watch for what can be done at present."""
        events = 0
        if self._reads and self._credit > 0 and not self._loop.is_busy:
            events |= selectors.EVENT_READ
        if self._unsent:
            events |= selectors.EVENT_WRITE
        if events != self._events and self._connection.fileno() >= 0:
            self._events = events
            self._loop.watch(self._connection, events, self._ready)

    def close(self) -> None:
        """Drop it."""
        self._loop.watch(self._connection, 0, self._ready)
        self._connection.close()

    # -- its own ---------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and self._connection.fileno() >= 0:
            self._send()
        if events & selectors.EVENT_READ and self._connection.fileno() >= 0:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._connection.recv(min(READ_SIZE, self._credit))
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        if data:
            self._credit -= len(data)
            self._loop.send(DATA, self._number, data)
            self.mind()
        else:
            self._reads = False
            self._loop.send(EOF, self._number)
            self._finish()

    def _send(self) -> None:
        try:
            while self._unsent:
                count = self._connection.send(self._unsent)
                del self._unsent[:count]
                self._consumed += count
        except BlockingIOError:
            pass
        except OSError:
            self._fail()
            return
        if self._consumed >= _CREDIT_STEP:
            self._loop.send(CREDIT, self._number, CREDIT_SIZE.pack(self._consumed))
            self._consumed = 0
        self._finish()

    def _finish(self) -> None:
        """Pass the tunnel's end on once all is sent; forget the stream when both have ended."""
        if self._ends and not self._unsent and not self._ended:
            self._ended = True
            try:
                self._connection.shutdown(socket.SHUT_WR)
            except OSError:  # the other end is gone
                self._fail()
                return
        if self._ended and not self._reads:
            self.close()
            self._on_end(self._number)
        else:
            self.mind()

    def _fail(self) -> None:
        self.close()
        self._loop.send(CLOSE, self._number)
        self._on_end(self._number)


def _address(wanted: Mapping[str, Any]) -> str | tuple[str, int]:
    """Give what is to be connected to; raises ValueError for anything else."""
    if isinstance(wanted, dict):
        path, port = wanted.get("path"), wanted.get("port")
        if isinstance(path, str) and path.startswith("/") and "\0" not in path:
            return path
        if type(port) is int and 0 < port < 65536:
            return ("127.0.0.1", port)
    raise ValueError("no address")
