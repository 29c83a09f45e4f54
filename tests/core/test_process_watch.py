"""A kernel's process watched and signalled by the means of macOS, and by the threads of Windows."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

import psutil
import pytest
from kernel_mgmt import ExitStatus
from kernel_mgmt.background import call_in_background
from kernel_mgmt.process import RING_SIZE, KernelProcess, kernel_process, posix, watch
from waiting import eventually

Start = Callable[[list[str]], KernelProcess]


@pytest.fixture(params=["macOS", "threads"])
async def start(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Starts commands with nothing that Linux alone has, and kills what the test leaves of them."""
    monkeypatch.setattr(posix, "_exit_status", posix._status_when_reaped)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    if request.param == "threads":
        monkeypatch.setattr(kernel_process, "Watch", watch.ThreadWatch)
    processes = []

    def start(argv: list[str]) -> KernelProcess:
        processes.append(KernelProcess(argv, cwd=None, env=os.environ))
        return processes[-1]

    yield start
    for process in processes:
        await process.kill_group()


async def test_the_exit_status_is_told(start: Start) -> None:
    """Whoever waits gets the exit code or the signal, also after a kill."""
    process, killed = start(["sh", "-c", "exit 3"]), start(["sh", "-c", "kill -TERM $$"])
    assert await process.wait() == ExitStatus(code=3)
    assert await killed.wait() == ExitStatus(signal=signal.SIGTERM)
    await process.kill_group()
    assert await process.wait() == ExitStatus(code=3)


async def test_who_learns_of_the_end_finds_the_last_words(start: Start) -> None:
    """Whatever a process wrote before it ended is in the tail when the wait for it returns."""
    processes = [start(["sh", "-c", f"echo {n} >&2; exit 3"]) for n in range(20)]
    for n, process in enumerate(processes):
        await process.wait()
        assert process.log_tail(1) == f"{n}\n"


async def test_a_flood_neither_blocks_it_nor_fills_memory(start: Start) -> None:
    """Ten megabytes pass, and the last lines of them are kept."""
    code = "for n in range(10_000): print(f'{n}'.ljust(999))"
    process = start([sys.executable, "-I", "-S", "-c", code])
    async with asyncio.timeout(30):
        assert await process.wait() == ExitStatus(code=0)
    assert process.log_tail(1).strip() == "9999"
    assert len(process._ring) == RING_SIZE


async def test_handlers_are_called_on_the_background_thread(start: Start) -> None:
    """Output is handed on by one thread alone, and one handler that raises costs nothing."""
    threads = []

    def take(name: str, data: bytes) -> None:
        threads.append(threading.current_thread())
        raise ZeroDivisionError

    process = start(["sh", "-c", "read x; while sleep 0.01; do echo out; echo err >&2; done"])
    process.forward_output(take)
    await eventually(lambda: len(threads) > 10)
    told: Future[threading.Thread] = Future()
    call_in_background(lambda: told.set_result(threading.current_thread()))
    assert set(threads) == {await asyncio.wrap_future(told)}


async def test_kill_ends_the_whole_group(start: Start) -> None:
    """When kill returns nothing of a large group runs."""
    process = start(["sh", "-c", "for n in $(seq 30); do sleep 1000 & echo $!; done; wait"])
    children = (await eventually(lambda: _lines(process, 30))).split()
    await process.kill_group()
    assert not [child for child in children if _runs(int(child))]


async def test_a_group_takes_signals_until_its_last_process_is_gone(start: Start) -> None:
    """What tells on macOS whether any of a group runs counts a child whose leader was reaped."""
    process = start(["sh", "-c", "sleep 1000 & read x"])
    assert await process.wait() == ExitStatus(code=1)
    assert posix._group_takes_signals(process.pid)
    process.signal_group(signal.SIGKILL)
    await process.kill_group()
    alone = start(["true"])
    await alone.wait()
    assert not posix._group_takes_signals(alone.pid)


async def test_a_grandchild_that_holds_the_output_open_holds_up_nothing(start: Start) -> None:
    """Neither the end nor the kill waits for a process that left the session with our pipes."""
    code = (
        "import os, time\n"
        "if os.fork(): os._exit(4)\n"
        "os.setsid()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(1000)\n"
    )
    process = start([sys.executable, "-I", "-S", "-c", code])
    escaped = int(await eventually(lambda: process.log_tail(1)))
    async with asyncio.timeout(10):
        assert await process.wait() == ExitStatus(code=4)
        await process.kill_group()
    assert _runs(escaped)
    os.kill(escaped, signal.SIGKILL)


async def test_without_a_thread_for_it_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no further thread the process that nobody could watch is gone."""
    started = []

    def refuse(thread: threading.Thread) -> None:
        started.append(thread.name)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(kernel_process, "Watch", watch.ThreadWatch)
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            KernelProcess(["sleep", "1000"], cwd=None, env=os.environ)
    assert not psutil.pid_exists(int(started[0].rpartition("-")[2]))


def _lines(process: KernelProcess, count: int) -> str:
    tail = process.log_tail(count)
    return tail if tail.count("\n") == count else ""


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
