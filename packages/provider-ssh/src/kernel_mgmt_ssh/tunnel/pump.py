"""Bytes between a local socket and its far end, in both directions, at once and in order.

What comes from the far end is written to the local socket by the very thread that received it: to wake
another one for that made a round trip about a quarter longer.  Only what the local end does not take at
once waits for a thread, and the far end is told to wait.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["FarEnd", "Pump", "Writers"]

#: How much is read at once, in bytes.
_CHUNK = 262_144
#: The buffers of a local socket, in bytes: what the system holds without a thread of ours.
_SOCKET_BUFFER = 1_048_576


class FarEnd(Protocol):
    """One end of a connection on the host: a channel of SSH, or a stream of the agent's relay."""

    def attach(self, on_data: Callable[[], None]) -> None:
        """Have a function called on whatever thread when there is something to :meth:`read`, or the end."""

    def read(self) -> bytes | None:
        """Give what has come, empty at the end, or None when there is nothing yet; never blocks.

        The other side may send as much again.
        """

    def send(self, data: bytes) -> None:
        """Send all of it; blocks while the other side takes no more.

        Raises:
            OSError: the connection is gone.
        """

    def finish(self) -> None:
        """Say that nothing more will be sent."""

    def close(self) -> None:
        """Drop the connection; whatever blocks in :meth:`send` raises."""


class Writers:
    """One thread that finishes what could not be written to local sockets at once."""

    def __init__(self) -> None:
        self._waiting: dict[int, Pump] = {}
        self._lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        threading.Thread(target=self._run, name="writers", daemon=True).start()

    def add(self, pump: Pump) -> None:
        """Go on with a pump when its local end takes something again."""
        with self._lock:
            self._waiting[pump.local.fileno()] = pump
        with contextlib.suppress(OSError):  # it has been woken often enough
            self._waker.send(b"\0")

    def _run(self) -> None:
        while True:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            with self._lock:
                for descriptor in self._waiting:
                    if descriptor >= 0:
                        poll.register(descriptor, select.POLLOUT)
            for descriptor, _ in poll.poll():
                if descriptor == self._wake.fileno():
                    self._wake.recv(4096)
                    continue
                with self._lock:
                    pump = self._waiting.pop(descriptor, None)
                if pump is not None:
                    pump.pump_down()


class Pump:
    """Carries bytes between a local socket and a far end until both directions have ended.

    Args:
        local: connected, and blocking.
        far: connected.
        writers: finishes what the local socket does not take at once.
    """

    def __init__(self, local: socket.socket, far: FarEnd, writers: Writers) -> None:
        self.local = local
        self._far = far
        self._writers = writers
        #: Taken by whoever writes to the local socket.
        self._lock = threading.Lock()
        #: Whether something has come since somebody looked.
        self._more = False
        #: What the local socket did not take.
        self._rest = memoryview(b"")
        self._down_ended = threading.Event()
        self._closed = False
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                local.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)

    def run(self) -> None:
        """Carry both directions until both have ended; what comes down is carried by other threads."""
        try:
            self._far.attach(self.pump_down)
            while data := self.local.recv(_CHUNK):
                self._far.send(data)
            self._far.finish()
            self._down_ended.wait()
        except OSError:
            pass  # either end is gone
        finally:
            self.close()

    def close(self) -> None:
        """Drop both ends; from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # Without this a thread that reads from it would not notice.
            with contextlib.suppress(OSError):
                self.local.shutdown(socket.SHUT_RDWR)
            self._down_ended.set()
        self._far.close()
        self.local.close()

    def pump_down(self) -> None:
        """Write to the local socket what has come, as much as it takes; never blocks.

        Not even on another thread that does it just now, which may itself wait for the thread that
        calls this, as while keys are exchanged anew: that one goes on in its place.
        """
        self._more = True
        while self._more and self._lock.acquire(blocking=False):
            try:
                self._more = False
                is_blocked = not self._closed and self._move_down()
            finally:
                self._lock.release()
            if is_blocked:
                self._writers.add(self)
                return

    def _move_down(self) -> bool:
        """Write what has come; gives whether the local socket takes no more."""
        try:
            while self._write_rest():
                data = self._far.read()
                if data is None:
                    return False
                if not data:
                    with contextlib.suppress(OSError):
                        self.local.shutdown(socket.SHUT_WR)
                    self._down_ended.set()
                    return False
                self._rest = memoryview(data)
        except OSError:
            # The thread that reads from the local socket meets the same end, and closes.
            with contextlib.suppress(OSError):
                self.local.shutdown(socket.SHUT_RDWR)
            self._down_ended.set()
            return False
        return True

    def _write_rest(self) -> bool:
        """Write what is left; gives whether nothing is."""
        while self._rest:
            try:
                sent = self.local.send(self._rest, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            self._rest = self._rest[sent:]
        return True
