"""The shared loop survives what runs on it, and Ctrl-C where it is waited for."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref

import pytest
from kernel_mgmt import KernelFinder, KernelType, LaunchError, hookimpl, start_kernel_blocking
from kernel_mgmt.background import background_loop, call_blocking, finish
from waiting import eventually

# Sends itself SIGINT at odd moments of many calls. Whatever was begun has ended, or its result was
# noted, when KeyboardInterrupt comes out.
_CTRL_C_AT_ANY_TIME = """
import asyncio, random, signal, warnings
from kernel_mgmt.background import background_loop, call_blocking

warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # Ctrl-C before the call
background_loop()
running = done = interrupted = 0

async def work():
    global running, done
    running += 1
    try:
        await asyncio.sleep(random.random() / 2000)
        done += 1
    finally:
        running -= 1

signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(2000):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.random() / 1000 + 1e-6)
        call_blocking(work(), None, "work")
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    assert not running
print(done > 0, interrupted > 0)
"""


async def _leave() -> None:
    raise SystemExit(3)


async def _answer() -> int:
    return 42


def test_system_exit_is_the_callers() -> None:
    """A coroutine that raises SystemExit raises it in the calling thread, and the loop goes on."""
    with pytest.raises(SystemExit):
        call_blocking(_leave(), 10, "leaving")
    assert call_blocking(_answer(), 10, "answering") == 42


def test_a_provider_that_exits_is_a_launch_error() -> None:
    """A provider that raises SystemExit in its launch costs that launch only."""

    class Leaver:
        @hookimpl
        def kernel_mgmt_find_kernels(self) -> list[KernelType]:
            return [KernelType("moon")]

        @hookimpl
        def kernel_mgmt_launch_kernel(self, request: object) -> object:
            return _leave()

    with pytest.raises(LaunchError, match="SystemExit"):
        start_kernel_blocking("leaver/moon", finder=KernelFinder({"leaver": Leaver()}))
    assert call_blocking(_answer(), 10, "answering") == 42


def test_ctrl_c_at_any_time_leaves_nothing_running() -> None:
    """Whenever Ctrl-C comes, a blocking call has ended its coroutine before it raises."""
    ended = subprocess.run(
        [sys.executable, "-c", _CTRL_C_AT_ANY_TIME],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Standard error is free: Python reports what it must ignore when Ctrl-C comes in a finalizer.
    assert (ended.stdout, ended.returncode) == ("True True\n", 0), ended.stderr


def test_the_loop_refuses_to_wait_for_itself() -> None:
    """A blocking call on the background thread raises at once instead of hanging."""
    outcome: list[BaseException] = []
    called = threading.Event()

    def call() -> None:
        try:
            call_blocking(_answer(), 10, "answering")
        except RuntimeError as error:
            outcome.append(error)
        called.set()

    background_loop().call_soon_threadsafe(call)
    assert called.wait(10)
    assert "wait for itself" in str(outcome[0])


async def test_finish_survives_the_garbage_collector() -> None:
    """What must be finished is finished, also when nobody holds on to who waits for it."""
    waited_for: list[weakref.ref[asyncio.Future[None]]] = []
    ended = asyncio.Event()

    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        waited_for.append(weakref.ref(future))
        await future
        ended.set()

    task = asyncio.create_task(finish(work()))
    del task
    await eventually(lambda: waited_for)
    gc.collect()
    future = waited_for[0]()
    assert future is not None
    future.set_result(None)
    async with asyncio.timeout(5):
        await ended.wait()


async def test_finish_goes_on_when_cancelled() -> None:
    """What must be finished is finished, however often the caller is cancelled meanwhile."""
    gate, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        ended.set()

    task = asyncio.create_task(finish(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
