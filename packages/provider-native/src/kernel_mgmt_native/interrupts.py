"""Raising an exception in a thread that runs cells: inside a cell's own code, and nowhere else.

A signal reaches only the main thread. For any other, Python has ``PyThreadState_SetAsyncExc``: the
exception comes between two bytecodes of that thread, whatever it does just then. :class:`CellGate`
makes that safe for a kernel: an exception that was meant for a cell never comes in the event loop,
in the kernel's own code, or in a later cell.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
import types
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["CellGate"]


class CellGate:
    """Stands around the code of cells; make it in the thread that runs them.

    What other threads :meth:`throw` is raised at once where a cell's code runs, wakes a cell that
    awaits something, and waits for the code when its request is being prepared. Without a request
    it is dropped, as a kernel ignores SIGINT when it is idle.

    Code that does not return to Python's interpreter, such as ``time.sleep(60)``, cannot be
    reached before it does.

    Args:
        loop: the event loop that runs in this thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        #: Whether a request is being served, so that there is something to interrupt.
        self._serving = False
        #: Whether the code of a cell runs at this moment.
        self._open = False
        #: What to raise as soon as the cell's code runs (again).
        self._pending: type[BaseException] | None = None
        #: The task of a cell that awaits something.
        self._waiting: asyncio.Task[Any] | None = None
        #: One thread at a time throws; the cells' thread sees by the flag that one is at it.
        self._throwers = threading.Lock()
        self._throwing = False

    # -- for any thread --------------------------------------------------------------------

    def throw(self, exception: type[BaseException]) -> None:
        """Raise an exception in the code of the cell that runs, if one does.

        Nothing happens when none does, nor when the thread has ended.
        """
        with self._throwers:
            # First the flag, then the look; the other side first closes, then looks at the flag.
            # So the gate cannot close between this look and what follows from it.
            self._throwing = True
            try:
                if self._open:
                    _raise_in(self._thread, exception)
                elif self._serving:
                    self._pending = exception
                    with suppress(RuntimeError):  # the loop is closed
                        self._loop.call_soon_threadsafe(self._wake)
            finally:
                self._throwing = False

    # -- in the thread of the cells --------------------------------------------------------

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Take exceptions for the request that is served meanwhile."""
        self._serving = True
        try:
            yield
        finally:
            self._serving = False
            self._close()
            self._pending = None

    @types.coroutine
    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run the code of a cell; while it awaits something the gate is closed."""
        step: Any = coroutine.send
        value: Any = None
        try:
            while True:
                nested = self._open  # a cell that runs a cell
                try:
                    self._open = True
                    if self._pending is not None:
                        step, value = coroutine.throw, self._take_pending()
                    wanted = step(value)
                except StopIteration as end:
                    return end.value
                finally:
                    if not nested:
                        self._close()
                if self._pending is not None:
                    continue
                try:
                    self._waiting = _current_task()
                    value = yield wanted
                    step = coroutine.send
                except BaseException as error:  # noqa: BLE001 - handed on to the cell
                    step, value = coroutine.throw, error
                    if isinstance(error, asyncio.CancelledError) and self._pending is not None:
                        if self._waiting is not None:
                            self._waiting.uncancel()
                        value = self._take_pending()
                finally:
                    self._waiting = None
        finally:
            coroutine.close()

    def _take_pending(self) -> BaseException:
        pending, self._pending = self._pending, None
        assert pending is not None
        return pending()

    def _wake(self) -> None:
        if self._pending is not None and self._waiting is not None:
            self._waiting.cancel()

    def _close(self) -> None:
        """Close the gate, behind which nothing that was thrown may come through any more."""
        while True:
            try:
                self._open = False
                while self._throwing:
                    time.sleep(0)
                _raise_in(self._thread, None)
                return
            except (KeyboardInterrupt, SystemExit) as late:
                self._pending = type(late)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    """Have an exception raised in a thread soon; None takes back one that was not raised yet."""
    argument = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), argument)
