"""Local Unix sockets that stand for sockets on the host.

Who connects is held until the far end listens, and dropped when the connection to the host is lost: a
ZeroMQ socket then connects again, and is held until there is a new one.  Were it let go at once
instead, it would believe to be connected, and lose what it subscribes to.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .pump import FarEnd, Pump, Writers

__all__ = ["Forward", "Forwarder", "NotListening", "Target"]

logger = logging.getLogger("kernel_mgmt.ssh")

#: A socket on the host: ``{"path": "/…"}``, or ``{"port": 1234}`` of its loopback interface.
Target = Mapping[str, Any]

#: How long to wait before trying again to reach what does not listen, in seconds: first and most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
#: Of a held connection only its end is of interest; what it has sent can wait.
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP


class NotListening(Exception):
    """Nothing takes connections at a target at this moment."""


@dataclass
class Forward:
    """The sockets that belong to one kernel.

    Attributes:
        name: of the forward.
        is_gone: tells whether nothing will ever listen at the targets again.
        listeners: the listening sockets and their targets, by descriptor.
        pumps: the connections that are carried.
    """

    name: str
    is_gone: Callable[[], bool]
    listeners: dict[int, tuple[socket.socket, Target]] = field(default_factory=dict)
    pumps: set[Pump] = field(default_factory=set)
    closed: bool = False


@dataclass
class _Held:
    """A local connection that waits for its far end.

    Attributes:
        local: the connection.
        forward: what it belongs to.
        target: where it is to lead.
        due: when to try next, on the monotonic clock.
        pause: how long to wait after that.
    """

    local: socket.socket
    forward: Forward
    target: Target
    due: float = 0.0
    pause: float = _FIRST_PAUSE


class Forwarder:
    """All forwards of one connection to a host.

    Args:
        open_far: connects to a target; called on threads of its own.  Raises :class:`NotListening`, or
            OSError when the connection to the host is gone.
    """

    def __init__(self, open_far: Callable[[Target], FarEnd]) -> None:
        self._open_far = open_far
        self._writers = Writers()
        self._lock = threading.Lock()
        self._forwards: dict[str, Forward] = {}
        self._held: dict[int, _Held] = {}
        #: Whether the connection to the host is there.
        self._is_up = False
        #: Counts the connections to the host: who began under a former one is dropped.
        self._era = 0
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        threading.Thread(target=self._run, name="forwarder", daemon=True).start()

    # -- by whoever carries the connection ----------------------------------------------------

    def restore(self) -> None:
        """The connection to the host is there (again): try what is held."""
        with self._lock:
            self._is_up = True
            self._era += 1
            for held in self._held.values():
                held.due, held.pause = 0.0, _FIRST_PAUSE
        self._look()

    def lose(self) -> None:
        """The connection to the host is gone: drop what was carried, hold what comes."""
        with self._lock:
            self._is_up = False
            self._era += 1
            pumps = [pump for forward in self._forwards.values() for pump in forward.pumps]
        for pump in pumps:
            pump.close()

    def add(
        self,
        name: str,
        sockets: Mapping[str, Target],
        is_gone: Callable[[], bool],
    ) -> None:
        """Listen at local sockets in the name of sockets on the host.

        Args:
            name: of the forward, not in use.
            sockets: the targets, by the paths of the local sockets.
            is_gone: tells whether nothing will ever listen at the targets again; asked, on any thread,
                when one refuses. The local sockets are then removed.

        Raises:
            OSError: a local socket cannot be made; none is left.
        """
        forward = Forward(name, is_gone)
        try:
            for path, target in sockets.items():
                listener = socket.socket(socket.AF_UNIX)
                forward.listeners[listener.fileno()] = listener, target
                listener.bind(path)
                os.chmod(path, 0o600)
                listener.listen(128)
                listener.setblocking(False)
        except OSError:
            _close_listeners(forward)
            raise
        with self._lock:
            self._forwards[name] = forward
        self._look()

    def remove(self, name: str) -> None:
        """Remove the local sockets of a forward, and drop its connections."""
        with self._lock:
            forward = self._forwards.pop(name, None)
        if forward is not None:
            self._end(forward)

    def close(self) -> None:
        """Remove all forwards."""
        for name in list(self._forwards):
            self.remove(name)

    def _end(self, forward: Forward) -> None:
        with self._lock:
            forward.closed = True
            pumps = list(forward.pumps)
            dropped = [held for held in self._held.values() if held.forward is forward]
            for held in dropped:
                del self._held[held.local.fileno()]
            _close_listeners(forward)
        for held in dropped:
            held.local.close()
        for pump in pumps:
            pump.close()
        self._look()

    # -- on the forwarder's thread ------------------------------------------------------------

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # it has been woken often enough
            self._waker.send(b"\0")

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:
                logger.exception("A turn of the forwarder failed")
                time.sleep(_FIRST_PAUSE)

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        with self._lock:
            listening = {
                descriptor: (forward, *listener)
                for forward in self._forwards.values()
                for descriptor, listener in forward.listeners.items()
            }
            for descriptor in listening:
                poll.register(descriptor, select.POLLIN)
            for descriptor in self._held:
                poll.register(descriptor, _HANGUP)
            patience = self._patience()
        for descriptor, _ in poll.poll(patience):
            if descriptor == self._wake.fileno():
                self._wake.recv(4096)
            elif descriptor in listening:
                self._accept(*listening[descriptor])
            else:
                self._drop_held(descriptor)
        for held in self._take_due():
            threading.Thread(target=self._carry, args=(held,), name="carry", daemon=True).start()

    def _patience(self) -> float | None:
        """Give the milliseconds until something is due; None for no limit."""
        if not self._is_up or not self._held:
            return None
        due = min(held.due for held in self._held.values())
        return max(0.0, due - time.monotonic()) * 1000 + 1

    def _accept(self, forward: Forward, listener: socket.socket, target: Target) -> None:
        try:
            local, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # It still waits, and there will be room when others have gone.
                time.sleep(_FIRST_PAUSE)
            return  # else who wanted to connect has given up, or the forward has ended
        local.setblocking(True)
        with self._lock:
            if not forward.closed:
                self._held[local.fileno()] = _Held(local, forward, target)
                return
        local.close()

    def _drop_held(self, descriptor: int) -> None:
        with self._lock:
            held = self._held.pop(descriptor, None)
        if held is not None:
            held.local.close()

    def _take_due(self) -> list[_Held]:
        now = time.monotonic()
        with self._lock:
            if not self._is_up:
                return []
            due = [held for held in self._held.values() if held.due <= now]
            for held in due:
                del self._held[held.local.fileno()]
        return due

    # -- on a thread per connection -----------------------------------------------------------

    def _carry(self, held: _Held) -> None:
        """Connect to the far end and carry bytes; or hold on until that can be tried again."""
        era, forward = self._era, held.forward
        try:
            far = self._open_far(held.target)
        except NotListening:
            if forward.is_gone():
                self._forget(forward)
                held.local.close()
            else:
                self._hold(held)
            return
        except OSError:  # the connection to the host is being lost
            self._hold(held)
            return
        pump = Pump(held.local, far, self._writers)
        with self._lock:
            welcome = not forward.closed and era == self._era
            if welcome:
                forward.pumps.add(pump)
        if welcome:
            pump.run()
        pump.close()
        with self._lock:
            forward.pumps.discard(pump)

    def _hold(self, held: _Held) -> None:
        held.due = time.monotonic() + held.pause
        held.pause = min(held.pause * 2, _LONGEST_PAUSE)
        with self._lock:
            if not held.forward.closed:
                self._held[held.local.fileno()] = held
                self._look()
                return
        held.local.close()

    def _forget(self, forward: Forward) -> None:
        """End a forward whose far end is gone for good."""
        with self._lock:
            known = self._forwards.pop(forward.name, None) is forward
        if known:
            self._end(forward)


def _close_listeners(forward: Forward) -> None:
    for listener, _ in forward.listeners.values():
        path = listener.getsockname()
        listener.close()
        if path:
            with contextlib.suppress(OSError):
                os.unlink(path)
    forward.listeners.clear()
