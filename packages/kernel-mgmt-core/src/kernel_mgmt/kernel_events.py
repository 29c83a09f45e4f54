"""What happens to a kernel that is watched, and who is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakSet

from .connection import ConnectionInfo
from .handlers import HandlerCalls
from .manager import ExitStatus, KernelManager

__all__ = ["EventCallback", "KernelEvent", "KernelEvents"]


@dataclass(frozen=True)
class KernelEvent:
    """What a :class:`~kernel_mgmt.restarter.KernelRestarter` or a nanny tells.

    ================ ===========================================================================
    ``died``         the kernel ended by itself, or an attempt to start it again failed
    ``restarting``   a new kernel will be launched, after a wait when several have died
    ``ready``        a new kernel answers, and so it does to the clients that follow
    ``failed``       the kernel died too often, or cannot be watched; the restarter has given up
    ``unresponsive`` the kernel is alive and does not answer heartbeats
    ``responsive``   it answers again
    ``started``      a kernel's sockets accept connections (told by nannies only)
    ``output``       the kernel's process wrote to its own standard output or error (likewise)
    ``stopping``     the nanny ends, and the kernel with it (likewise)
    ================ ===========================================================================

    Attributes:
        name: one of the above.
        exit_status: how the kernel ended (``died``, ``failed``), where known.
        log_tail: the last lines of the dead kernel's output (``died``, ``failed``).
        connection_info: where the kernel is (``ready``, ``unresponsive``, ``responsive``).
        manager: watches the kernel (likewise).
        error: why (``died``, ``failed``): ``KernelDied``, or what the launch raised.
        stream: ``stdout`` or ``stderr`` (``output``).
        text: what was written there (``output``), or why (``stopping``).
        kernel: the number of the kernel, which nannies count; 0 where nobody does.
        position: how many bytes that kernel's process has written so far (``output``).
    """

    name: str
    exit_status: ExitStatus | None = None
    log_tail: str = ""
    connection_info: ConnectionInfo | None = None
    manager: KernelManager | None = None
    error: BaseException | None = None
    stream: str = ""
    text: str = ""
    kernel: int = 0
    position: int = 0

    def __str__(self) -> str:
        summary = getattr(self.error, "summary", self.error)
        return f"{self.name}: {summary}" if summary else self.name


#: Is called with each event; may be a coroutine function.
EventCallback = Callable[[KernelEvent], Any]


class KernelEvents:
    """Tells of events: to callbacks, and to iterators from when each was made.

    Args:
        calls: calls the callbacks.
    """

    def __init__(self, calls: HandlerCalls) -> None:
        self._calls = calls
        self._callbacks: list[EventCallback] = []
        self._iterators: WeakSet[_Iteration] = WeakSet()
        self._ended = False

    def add_callback(self, callback: EventCallback) -> None:
        """Call a function with each event."""
        self._callbacks.append(callback)

    def remove_callback(self, callback: EventCallback) -> None:
        """Call a function no more."""
        with contextlib.suppress(ValueError):
            self._callbacks.remove(callback)

    def begin(self) -> None:
        """Let iterators that are made from now on wait for events."""
        self._ended = False

    def iterate(self) -> AsyncIterator[KernelEvent]:
        """Give the events from now on, until the end."""
        iteration = _Iteration()
        if self._ended:
            iteration.put(None)
        else:
            self._iterators.add(iteration)
        return iteration

    def tell(self, event: KernelEvent) -> None:
        """Tell of an event, on the loop."""
        for iteration in tuple(self._iterators):
            iteration.put(event)
        for callback in tuple(self._callbacks):
            self._calls.call(callback, event)

    def end(self) -> None:
        """End all iterators; callbacks stay."""
        self._ended = True
        for iteration in tuple(self._iterators):
            iteration.put(None)
        self._iterators.clear()


class _Iteration:
    """One iteration over the events."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[KernelEvent | None] = asyncio.Queue()

    def put(self, event: KernelEvent | None) -> None:
        """Add an event; None for the end."""
        self._queue.put_nowait(event)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KernelEvent:
        event = await self._queue.get()
        if event is None:
            self.put(None)  # for whoever asks again
            raise StopAsyncIteration
        return event
