"""The connection over which a kernel on another machine is reached: it may be lost and come back.

Whoever carries it says so to a :class:`Link`; managers and clients of the kernels that are reached
by it watch that, and live through a loss together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .errors import ConnectionLost

__all__ = ["ConnectionChange", "Link", "connection_lost"]

logger = logging.getLogger("kernel_mgmt")


@dataclass(frozen=True)
class ConnectionChange:
    """What has become of a connection.

    To a kernel whose nanny keeps a journal a client is ``connected`` once, and ``resumed`` after each
    loss: nothing was missed, unless there is a gap.  To one without a journal it is ``restored``.

    Attributes:
        state: ``connected``, ``lost``, ``resumed``, ``restored``, or ``closed``: it will not come back.
        reason: why, one sentence; may be empty.
        since: when it was lost, in seconds since the epoch; None where that is not known.
        caught_up: how many messages came from the journal that had been said meanwhile.
        gap: messages that the journal could not keep: the numbers of the first and the last, and
            how many bytes they had.
    """

    state: str
    reason: str = ""
    since: float | None = None
    caught_up: int = 0
    gap: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" if self.reason else self.state


Tell = Callable[[ConnectionChange], object]


class Link:
    """The connection to another machine, as those see it who depend on it.

    All of it may be used from any thread.  A new one is up.

    Args:
        name: what it leads to, such as ``user@host``; for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: ``up``, ``lost`` or ``closed``.
        self.state = "up"
        #: Why it is not up; empty when it is.
        self.reason = ""
        self._lock = threading.Lock()
        self._watchers: dict[object, Tell] = {}
        #: Changes that were not told yet, with those who watched when they happened.
        self._untold: deque[tuple[ConnectionChange, tuple[object, ...]]] = deque()
        self._telling = False

    def __repr__(self) -> str:
        return f"<Link to {self.name} {self.state}>"

    # -- for whoever carries the connection ------------------------------------------------

    def lose(self, reason: str) -> None:
        """Note that the connection is lost, and is being made again.

        Nothing happens when it is not up.

        Args:
            reason: why, one sentence.
        """
        self._change("lost", reason, ("up",))

    def restore(self) -> None:
        """Note that the connection carries again; nothing happens unless it was lost."""
        self._change("up", "", ("lost",))

    def close(self, reason: str) -> None:
        """Note that the connection will not come back; nothing happens the second time.

        Args:
            reason: why, one sentence.
        """
        self._change("closed", reason, ("up", "lost"))

    def _change(self, state: str, reason: str, before: tuple[str, ...]) -> None:
        with self._lock:
            if self.state not in before:
                return
            self.state, self.reason = state, reason
            change = ConnectionChange("restored" if state == "up" else state, reason)
            self._untold.append((change, tuple(self._watchers)))
            if self._telling:  # another thread, or a caller of ours, which goes on with this one
                return
            self._telling = True
        self._tell()

    def _tell(self) -> None:
        """Tell of all changes, in order; not under the lock, which those who are told may need."""
        while True:
            with self._lock:
                if not self._untold:
                    self._telling = False
                    return
                change, watchers = self._untold.popleft()
            for watcher in watchers:
                tell = self._watchers.get(watcher)
                if tell is None:
                    continue
                try:
                    tell(change)
                except Exception:
                    logger.exception("%r failed on a change of %r", tell, self)

    # -- for those who depend on it --------------------------------------------------------

    def watch(self, tell: Tell) -> Callable[[], None]:
        """Be told of each change from now on, in order.

        Args:
            tell: called on whatever thread makes the change; must be quick.

        Returns:
            A function that ends this; it may be called twice.
        """
        watcher = object()
        with self._lock:
            self._watchers[watcher] = tell

        def end() -> None:
            with self._lock:
                self._watchers.pop(watcher, None)

        return end

    async def wait_until_up(self) -> None:
        """Wait until the connection carries, on any loop; at once when it does.

        Raises:
            ConnectionLost: it is closed.
        """
        if self.state == "up":
            return
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def tell(_: ConnectionChange) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed under who waits
                loop.call_soon_threadsafe(changed.set)

        end = self.watch(tell)
        try:
            while self.state == "lost":
                changed.clear()
                if self.state == "lost":  # else it changed just before
                    await changed.wait()
            if self.state == "closed":
                raise self.error("the question")
        finally:
            end()

    def error(self, what: str) -> ConnectionLost:
        """Give the error for something that was not answered, because of this connection.

        Args:
            what: what was asked for, such as ``execute_request``.
        """
        return connection_lost(self.name, what, self.reason, final=self.state == "closed")


def connection_lost(name: str, what: str, reason: str, *, final: bool) -> ConnectionLost:
    """Give the error for something that was not answered, because a connection was lost.

    Args:
        name: what it leads to.
        what: what was asked for.
        reason: why it was lost, one sentence; may be empty.
        final: whether it does not come back.
    """
    told = " ".join(reason.split()).rstrip(".")
    why = f": {told}" if told else ""
    if final:
        message = (
            f"The connection to {name} was closed before {what} was answered{why}; it does not come "
            "back by itself: attach to the kernel again, which may have lived on."
        )
    else:
        message = (
            f"The connection to {name} was lost before {what} was answered{why}; it may be done all "
            "the same, and the connection comes back by itself: then look, and send it again."
        )
    return ConnectionLost(message, host=name, reason=reason, final=final)
