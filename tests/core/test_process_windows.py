"""A kernel's process on Windows, as far as that can be told without one: see `helpers/windows.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelFinder,
    LaunchError,
    endpoints,
    run_kernel,
)
from kernel_mgmt.process import KernelProcess, kernel_process
from kernel_mgmt.process.watch import ThreadWatch
from waiting import eventually
from windows import FakeWindows

Start = Callable[..., KernelProcess]

#: Starts a child, tells its process id, and waits for it.
WITH_CHILD = ["sh", "-c", "sleep 1000 & echo $!; wait"]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> FakeWindows:
    """The stand-in, upon which processes are made and watched as on Windows."""
    fake = FakeWindows(monkeypatch)
    monkeypatch.setattr(kernel_process, "Group", fake.module.WindowsGroup)
    monkeypatch.setattr(kernel_process, "Watch", ThreadWatch)
    monkeypatch.setattr(endpoints, "_HAVE_IPC", False)
    return fake


@pytest.fixture
async def start(windows: FakeWindows) -> AsyncIterator[Start]:
    """Starts commands; kills what the test leaves, and sees that each handle was closed once."""
    processes = []

    def start(argv: list[str], **env: str) -> KernelProcess:
        processes.append(KernelProcess(argv, cwd=None, env={**os.environ, **env}))
        return processes[-1]

    yield start
    for process in processes:
        await process.kill_group()
    assert windows.handles == {}


async def first_line(process: KernelProcess) -> str:
    """The first line that a process writes."""
    return (await eventually(lambda: process.log_tail(1))).strip()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def interrupts(windows: FakeWindows) -> list[int]:
    """How often each event that there is was set."""
    return [times for kind, times in windows.handles.values() if kind == "event"]


async def test_the_kernel_inherits_its_event_and_its_parent(
    windows: FakeWindows, start: Start
) -> None:
    """Both are named in its environment and are the only handles that it gets; the latter is not kept."""
    code = "import os; print(*(os.environ[n + '_INTERRUPT_EVENT'] for n in ('JPY', 'IPY')), os.environ['JPY_PARENT_PID'])"
    process = start([sys.executable, "-I", "-S", "-c", code], JPY_PARENT_PID="1")
    assert await process.wait() == ExitStatus(code=0)
    event, same, parent = map(int, process.log_tail(1).split())
    assert event == same
    assert windows.started[0]["inherited"] == [event, parent]
    assert windows.handles[event] == ("event", 0)
    assert parent not in windows.handles
    assert not windows.inheritable


async def test_a_kernel_may_outlive_its_parent(windows: FakeWindows, start: Start) -> None:
    """Without JPY_PARENT_PID in the environment there is none of a handle either."""
    process = start(["sh", "-c", "echo ${JPY_PARENT_PID-none}"])
    await process.wait()
    assert process.log_tail(1) == "none\n"
    assert len(windows.started[0]["inherited"]) == 1


async def test_it_is_out_of_reach_of_our_ctrl_c(windows: FakeWindows, start: Start) -> None:
    """It starts suspended, in a process group of its own, without a window."""
    await start(["true"]).wait()
    assert windows.started[0]["creationflags"] == 0x0800_0000 | 0x200 | 0x4


async def test_interrupt_sets_the_event_of_that_kernel(windows: FakeWindows, start: Start) -> None:
    """SIGINT sets the event of the one kernel once, and kills nothing."""
    first, _ = start(["sleep", "1000"]), start(["sleep", "1000"])
    first.signal_group(signal.SIGINT)
    assert interrupts(windows) == [1, 0]
    assert first.exit_status is None
    await first.kill_group()
    first.signal_group(signal.SIGINT)
    assert interrupts(windows) == [0]


async def test_terminate_ends_it_and_its_children(start: Start) -> None:
    """SIGTERM has the meaning that Windows can give it."""
    process = start(WITH_CHILD)
    child = int(await first_line(process))
    process.signal_group(signal.SIGTERM)
    await process.wait()
    await eventually(lambda: not runs(child))


async def test_other_signals_are_refused(start: Start) -> None:
    """A signal that Windows has not is an error that names those it has."""
    process = start(["sleep", "1000"])
    with pytest.raises(ValueError, match="SIGINT interrupts a kernel and SIGTERM ends it"):
        process.signal_group(signal.SIGUSR1)
    assert process.exit_status is None


@pytest.mark.parametrize("leader_dies_first", [False, True])
async def test_kill_ends_the_whole_job(start: Start, leader_dies_first: bool) -> None:
    """When kill returns nothing in the job runs; it may be repeated, and by several at once."""
    process = start(WITH_CHILD)
    child = int(await first_line(process))
    if leader_dies_first:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert runs(child)
    await asyncio.gather(*(process.kill_group() for _ in range(3)))
    await process.kill_group()
    assert not runs(process.pid)
    assert not runs(child)


@pytest.mark.parametrize(
    "function",
    [
        "CreateJobObjectW",
        "SetInformationJobObject",
        "CreateEventW",
        "OpenProcess",
        "AssignProcessToJobObject",
    ],
)
def test_a_start_that_fails_leaves_nothing(windows: FakeWindows, function: str) -> None:
    """Whatever Windows refuses raises its error, with no handle open and no process left suspended."""
    windows.failing[function] = 1450  # ERROR_NO_SYSTEM_RESOURCES
    with pytest.raises(OSError, match="1450"):
        KernelProcess(["sleep", "1000"], cwd=None, env=os.environ)
    assert windows.handles == {}


def test_a_command_that_does_not_exist_leaves_nothing(windows: FakeWindows) -> None:
    """The error is that of other systems, and no handle stays open."""
    with pytest.raises(FileNotFoundError):
        KernelProcess(["no-such-command"], cwd=None, env={"JPY_PARENT_PID": "1"})
    assert windows.handles == {}


async def test_a_crash_is_told_as_people_know_it(windows: FakeWindows, start: Start) -> None:
    """An exit code that is the number of an exception is shown in hexadecimal as well."""
    group = start(["true"])._group
    popen, group.popen = group.popen, SimpleNamespace(poll=lambda: 0xC000_0005)
    assert str(group.exit_status()) == "exit code 3221225477 (0xC0000005)"
    group.popen = popen


async def test_a_kernel_lives_and_dies(windows: FakeWindows, finder: KernelFinder) -> None:
    """A kernel is launched on TCP, answers, is told to shut down, and every handle is closed."""
    async with run_kernel("echo/echo", finder=finder, startup_timeout=20) as client:
        assert client.connection_info.transport == "tcp"
        assert (await client.execute("hello")).content["status"] == "ok"
        assert client.manager is not None
        await client.manager.interrupt()
        assert interrupts(windows) == [1]
    assert windows.handles == {}


async def test_ipc_is_refused_before_anything_runs(
    windows: FakeWindows, finder: KernelFinder, tmp_path: Path
) -> None:
    """Endpoints that a system without Unix sockets cannot have are a clear error."""
    info = ConnectionInfo.for_ipc(tmp_path)
    with pytest.raises(LaunchError, match="this system has no Unix sockets"):
        await finder.launch("echo/echo", connection_info=info)
    assert not windows.started
