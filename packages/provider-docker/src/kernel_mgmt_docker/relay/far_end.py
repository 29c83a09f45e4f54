"""The relay's program in the container: connects to the kernel's ports for the other end.

Its text is sent to whatever Python is there, so it needs nothing but a standard library of 3.7.
It reads and writes frames on its standard streams, and ends when its input does or falls silent.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import time

__all__ = [
    "CLOSE",
    "CREDIT",
    "DATA",
    "FRAME",
    "HELLO",
    "LONGEST",
    "OPEN",
    "PING",
    "SILENCE",
    "WINDOW",
]

HELLO, OPEN, DATA, CREDIT, CLOSE, PING = range(1, 7)
FRAME = struct.Struct(">BII")
NUMBER = struct.Struct(">I")
#: How many bytes of a stream may be under way without credit.
WINDOW = 1048576
#: The longest payload of a frame.
LONGEST = 65536
#: After so many seconds without any frame nobody is there any more.
SILENCE = 60.0
#: How long to wait until a port that nobody listens on yet is tried again, in seconds.
PAUSE = 0.02


class Stream:
    """A connection to one of the container's ports; it is held until somebody listens there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection: socket.socket | None = None
        self.unsent = bytearray()
        self.credit = WINDOW
        self.consumed = 0
        self.events = 0

    def connect(self) -> bool:
        """Tell whether it is connected now."""
        connection = socket.socket()
        connection.settimeout(PAUSE)
        try:
            connection.connect(("127.0.0.1", self.port))
            if connection.getsockname() == connection.getpeername():
                raise OSError("met itself")
        except OSError:
            connection.close()
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        return True


class FarEnd:
    """All streams."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.streams: dict[int, Stream] = {}
        self.received = bytearray()
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Relay until the input ends, or has been silent for long."""
        self.selector.register(self.source, selectors.EVENT_READ, None)
        self.send(HELLO, 0)
        heard = tried = time.monotonic()
        while time.monotonic() - heard < SILENCE:
            waiting = [n for n, stream in self.streams.items() if stream.connection is None]
            for key, events in self.selector.select(PAUSE if waiting else SILENCE / 4):
                if key.data is None:
                    heard = time.monotonic()
                    if not self.hear():
                        return
                elif key.data in self.streams:
                    self.attend(key.data, events)
            if waiting and time.monotonic() - tried >= PAUSE:
                tried = time.monotonic()
                for number in waiting:
                    if number in self.streams and self.streams[number].connect():
                        self.flush(number)

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Write a frame; the other end always reads."""
        data = memoryview(FRAME.pack(kind, number, len(payload)) + payload)
        while data:
            data = data[os.write(self.target, data) :]

    def hear(self) -> bool:
        """Take what has come in; False at its end."""
        data = os.read(self.source, 262144)
        self.received += data
        while len(self.received) >= FRAME.size:
            kind, number, length = FRAME.unpack_from(self.received)
            end = FRAME.size + length
            if len(self.received) < end:
                break
            payload = bytes(self.received[FRAME.size : end])
            del self.received[:end]
            self.take(kind, number, payload)
        return bool(data)

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Take a frame; of a stream that is gone it is late, and passed over."""
        stream = self.streams.get(number)
        if kind == OPEN:
            stream = self.streams[number] = Stream(int(payload))
            if stream.connect():
                self.flush(number)
        elif stream is None:
            return
        elif kind == DATA:
            stream.unsent += payload
            self.flush(number)
        elif kind == CREDIT:
            stream.credit += NUMBER.unpack(payload)[0]
            self.watch(number)
        elif kind == CLOSE:
            self.drop(number)

    def attend(self, number: int, events: int) -> None:
        """Read and write what can be."""
        stream = self.streams[number]
        if events & selectors.EVENT_WRITE:
            self.flush(number)
        if events & selectors.EVENT_READ and number in self.streams and stream.connection:
            try:
                data = stream.connection.recv(min(LONGEST, max(stream.credit, 1)))
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.end(number)
                return
            stream.credit -= len(data)
            self.send(DATA, number, data)
            self.watch(number)

    def flush(self, number: int) -> None:
        """Write what the kernel takes, and give credit for it."""
        stream = self.streams[number]
        if stream.connection is None:
            return
        try:
            while stream.unsent:
                with memoryview(stream.unsent) as view:
                    count = stream.connection.send(view[:LONGEST])
                del stream.unsent[:count]
                stream.consumed += count
        except BlockingIOError:
            pass
        except OSError:
            self.end(number)
            return
        if stream.consumed >= WINDOW // 4:
            self.send(CREDIT, number, NUMBER.pack(stream.consumed))
            stream.consumed = 0
        self.watch(number)

    def watch(self, number: int) -> None:
        """Have the selector tell what can be done at present."""
        stream = self.streams[number]
        if stream.connection is None:
            return
        events = selectors.EVENT_READ if stream.credit > 0 else 0
        if stream.unsent:
            events |= selectors.EVENT_WRITE
        if events == stream.events:
            return
        if stream.events and events:
            self.selector.modify(stream.connection, events, number)
        elif events:
            self.selector.register(stream.connection, events, number)
        else:
            self.selector.unregister(stream.connection)
        stream.events = events

    def end(self, number: int) -> None:
        """Drop a stream that the kernel has ended."""
        self.drop(number)
        self.send(CLOSE, number)

    def drop(self, number: int) -> None:
        """Forget a stream."""
        stream = self.streams.pop(number)
        if stream.connection is not None:
            if stream.events:
                self.selector.unregister(stream.connection)
            stream.connection.close()


def main() -> None:
    """Relay on the standard streams."""
    # What interrupts the kernel is not for this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    FarEnd(0, 1).run()


if __name__ == "__main__":
    main()
