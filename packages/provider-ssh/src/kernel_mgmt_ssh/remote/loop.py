"""The agent's one thread for all that is read and written: standard input and output, and sockets.

What takes long is done by threads, who come back with :meth:`Loop.call_soon`. Standard output never
makes it wait: else an agent and a tunnel that write to each other could wait for ever.
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import socket
from typing import Any, Callable

from .frames import frame

__all__ = ["BUSY", "Loop"]

#: How many bytes may be waiting for standard output before relayed sockets are left unread, so that
#: a reply does not have to wait behind much of what they have.
BUSY = 512 * 1024
#: How much is read at once, in bytes.
READ_SIZE = 256 * 1024

#: Called with the events of :mod:`selectors` that are there.
OnReady = Callable[[int], object]


class Loop:
    """Reads one pipe, writes frames to another, and watches sockets.

    Args:
        read_end: the descriptor that is read.
        write_end: the one that is written to.
        on_data: called with what was read; empty at the end.
    """

    def __init__(self, read_end: int, write_end: int, on_data: Callable[[bytes], object]) -> None:
        self._read_end = read_end
        self._write_end = write_end
        self._on_data = on_data
        self._selector = selectors.DefaultSelector()
        self._calls: collections.deque[tuple[Callable[..., object], tuple[Any, ...]]]
        self._calls = collections.deque()
        self._wake_end, self._waker = socket.socketpair()
        for end in (self._wake_end, self._waker):
            end.setblocking(False)
        self._output: collections.deque[memoryview] = collections.deque()
        self._waiting = 0
        self._writes = False
        #: Called whenever standard output has room again.
        self.on_room: Callable[[], object] = lambda: None
        self.stopped = False
        #: Whether nobody reads what is written any more.
        self.is_broken = False
        # What waits in the pipe is looked for only when there is something.
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        self.watch(self._wake_end, selectors.EVENT_READ, self._woken)
        self.watch(read_end, selectors.EVENT_READ, self._read)

    # -- for any thread --------------------------------------------------------------------

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called by the loop."""
        self._calls.append((function, args))
        self.wake()

    def wake(self) -> None:
        """Have the loop look what there is to do; a signal handler may call it too."""
        with contextlib.suppress(OSError):  # it is full, which wakes as well; or closed
            self._waker.send(b"\0")

    # -- for what runs in the loop ---------------------------------------------------------

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Write a frame, as soon as there is room."""
        data = frame(kind, stream, payload)
        self._output.append(memoryview(data))
        self._waiting += len(data)
        self._write()

    @property
    def is_busy(self) -> bool:
        """Whether much is waiting to be written."""
        return self._waiting > BUSY

    def watch(self, end: Any, events: int, on_ready: OnReady) -> None:
        """Have a function called when a socket is ready; no events: not any more."""
        try:
            if events:
                self._selector.modify(end, events, on_ready)
            else:
                self._selector.unregister(end)
        except (KeyError, ValueError):
            if events:
                self._selector.register(end, events, on_ready)

    def stop(self) -> None:
        """End :meth:`run` after what is being done."""
        self.stopped = True

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while not self.stopped:
            for key, events in self._selector.select():
                key.data(events)
            while self._calls:
                function, args = self._calls.popleft()
                function(*args)

    # -- its own ---------------------------------------------------------------------------

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_end.recv(4096):
                pass

    def _read(self, _events: int) -> None:
        try:
            data = os.read(self._read_end, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # the connection is gone
            data = b""
        if not data:
            self._selector.unregister(self._read_end)
        self._on_data(data)

    def _write(self) -> None:
        was_busy = self.is_busy
        try:
            while self._output:
                first = self._output[0]
                count = os.write(self._write_end, first)
                self._waiting -= count
                if count < len(first):
                    self._output[0] = first[count:]
                else:
                    self._output.popleft()
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more: the end of what we read tells it
            self.is_broken = True
            self._output.clear()
            self._waiting = 0
        self._mind_writing()
        if was_busy and not self.is_busy:
            self.on_room()

    def _mind_writing(self) -> None:
        wanted = bool(self._output)
        if wanted == self._writes:
            return
        self._writes = wanted
        events = selectors.EVENT_WRITE if wanted else 0
        self.watch(self._write_end, events, lambda _: self._write())
