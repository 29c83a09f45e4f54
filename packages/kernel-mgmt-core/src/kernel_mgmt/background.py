"""One event loop in one daemon thread, shared by all that must go on without the caller's loop.

The output and the exit of every local kernel are watched here, so that a busy or closed
application loop never blocks a kernel on a full pipe; and every blocking client runs here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any, Callable, TypeVar

from .errors import RequestTimeout

__all__ = [
    "acquire",
    "background_loop",
    "call_blocking",
    "call_in_background",
    "finish",
    "in_background",
    "in_thread",
    "refuse_to_block",
    "result_of",
    "take",
]

logger = logging.getLogger("kernel_mgmt")

T = TypeVar("T")

_THREAD_NAME = "kernel-mgmt-background"
#: How long a blocking call that is given up waits for its coroutine to clean up, in seconds.
_CANCEL_PATIENCE = 10.0
#: A long wait is many of so many seconds, lest Ctrl-C has to wait as well: on Windows no signal
#: handler runs while the main thread waits for a lock; elsewhere none does when the signal came just
#: before the wait, or to another thread.
_LONGEST_WAIT = 0.1 if sys.platform == "win32" else 1.0

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
#: The process that the loop's thread lives in: a forked child needs a thread of its own.
_loop_pid = 0
#: What must run to its end.  A loop itself holds on to no task, and one that nobody else holds on to is
#: garbage, whatever it waits for.
_unfinished: set[asyncio.Task[Any]] = set()


def background_loop() -> asyncio.AbstractEventLoop:
    """Give the shared loop, running; it starts with the first call and stays until exit."""
    global _loop, _loop_pid
    loop = _loop
    if loop is not None and _loop_pid == os.getpid():
        return loop
    with _lock:
        if _loop is None or _loop_pid != os.getpid():
            # Not the platform's default loop: only a selector loop can watch ZeroMQ's sockets.
            _loop = asyncio.SelectorEventLoop()
            _loop_pid = os.getpid()
            threading.Thread(target=_run, args=(_loop,), name=_THREAD_NAME, daemon=True).start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # noqa: PERF203 - raised by a task, which keeps it for its caller
            logger.debug("A task on the background loop raised", exc_info=True)


def call_blocking(coroutine: Coroutine[Any, Any, T], timeout: float | None, what: str) -> T:
    """Run a coroutine on the shared loop and wait for its result.

    When the wait ends early, by its timeout or by Ctrl-C, the coroutine is cancelled, and has
    cleaned up before this raises.  It may also have just succeeded: who must know keeps its result
    where both can see it.

    Args:
        coroutine: what to run.
        timeout: seconds to wait at most; None for no limit.
        what: names it in the error.

    Raises:
        RequestTimeout: it took longer than ``timeout``.
        RuntimeError: called on the shared loop itself, which would wait for itself.
    """
    loop = background_loop()
    try:
        refuse_to_block(what)
    except RuntimeError:
        coroutine.close()
        raise
    tasks: list[asyncio.Task[T]] = []
    # Not a threading.Event: Ctrl-C inside its wait can leave the lock in it taken, and the loop
    # would block for ever when it sets it.
    ended = threading.Lock()
    ended.acquire()

    def start() -> None:
        tasks.append(loop.create_task(coroutine))
        tasks[0].add_done_callback(lambda _: ended.release())

    def give_up() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # Ctrl-C came before start() was scheduled
            coroutine.close()
            ended.release()

    try:
        loop.call_soon_threadsafe(start)
        if not acquire(ended, timeout):
            raise RequestTimeout(
                f"{what} took longer than {timeout:g} s.", phase=what, seconds=timeout or 0
            )
    except BaseException:
        loop.call_soon_threadsafe(give_up)
        if not (tasks and tasks[0].done()):  # else Ctrl-C came when the lock had just been taken
            ended.acquire(timeout=_CANCEL_PATIENCE)
        raise
    return tasks[0].result()


def refuse_to_block(what: str) -> None:
    """Raise where a wait for the shared loop would stop that very loop.

    Raises:
        RuntimeError: called on the shared loop's own thread.
    """
    if threading.current_thread().name == _THREAD_NAME:
        raise RuntimeError(
            f"{what} would wait for itself: blocking calls cannot be made from a handler; "
            "use the asynchronous client there, or another thread."
        )


def acquire(lock: threading.Lock, timeout: float | None) -> bool:
    """Acquire a lock as its own method does, in a way that Ctrl-C can end everywhere.

    Args:
        lock: the lock.
        timeout: seconds to wait at most; None for no limit.

    Returns:
        Whether it was acquired.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        patience = max(0.0, deadline - time.monotonic())
        if lock.acquire(timeout=min(patience, _LONGEST_WAIT)):
            return True
        if patience <= _LONGEST_WAIT:
            return False


def take(source: queue.SimpleQueue[T]) -> T:
    """Take the next from a queue, waiting for it in a way that Ctrl-C can end everywhere."""
    while True:
        try:
            return source.get(timeout=_LONGEST_WAIT)
        except queue.Empty:  # noqa: PERF203 - only where waits are short
            continue


def call_in_background(function: Callable[..., object], *args: Any) -> None:
    """Call a function on the shared loop soon."""
    background_loop().call_soon_threadsafe(function, *args)


async def in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the shared loop, from any loop.

    It is cancelled with its caller.
    """
    loop = background_loop()
    if asyncio.get_running_loop() is loop:
        return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


async def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that must run to its end even when the caller is cancelled meanwhile.

    Raises:
        asyncio.CancelledError: the caller was cancelled; the coroutine has ended all the same.
        GeneratorExit: the caller's loop was closed under it; the coroutine goes on here.
    """
    try:
        task = asyncio.get_running_loop().create_task(coroutine)
    except RuntimeError:
        asyncio.run_coroutine_threadsafe(coroutine, background_loop())
        raise GeneratorExit from None
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            # Unlike awaiting the task, this leaves it alone when the caller is cancelled.
            await asyncio.wait({task})
        except asyncio.CancelledError as error:  # noqa: PERF203 - each pass is a cancellation
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def in_thread(name: str, function: Callable[[], T]) -> concurrent.futures.Future[T]:
    """Call a function in a thread of its own, which keeps nobody from exiting."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - for whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name=f"kernel-mgmt-{name}", daemon=True).start()
    return future


async def result_of(future: concurrent.futures.Future[T]) -> T:
    """Wait for a future without blocking the loop, which may be closed before it is done."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(tell)
    await done.wait()
    return future.result()
