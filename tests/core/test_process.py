"""A kernel's process: what it inherits, what becomes of its output, how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from kernel_mgmt import ExitStatus
from kernel_mgmt.process import RING_SIZE, KernelProcess
from waiting import eventually

Start = Callable[[list[str]], KernelProcess]

#: Starts a child in the same group, tells its process id, and waits for it.
WITH_CHILD = ["sh", "-c", "sleep 1000 & echo $!; wait"]


def python(code: str) -> list[str]:
    """The command for some Python code that needs nothing installed."""
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts commands, and kills what the test leaves of them."""
    processes = []

    def start(argv: list[str]) -> KernelProcess:
        processes.append(KernelProcess(argv, cwd=None, env=os.environ))
        return processes[-1]

    yield start
    for process in processes:
        await process.kill_group()


@pytest.fixture(params=["told", "looking"])
def watching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to learn of an end: a process descriptor, and none as on macOS."""
    if request.param == "looking":
        monkeypatch.delattr(os, "pidfd_open", raising=False)


async def first_line(process: KernelProcess) -> str:
    """The first line that a process writes."""
    return (await eventually(lambda: process.log_tail(1))).strip()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- what it inherits ----------------------------------------------------------------------------


async def test_it_leads_a_session_and_a_group(start: Start) -> None:
    """The process leads a session and a process group of its own."""
    process = start(python("import os; print(os.getpid(), os.getsid(0), os.getpgid(0))"))
    assert await process.wait() == ExitStatus(code=0)
    assert process.log_tail(1) == f"{process.pid} {process.pid} {process.pid}\n"


if sys.platform == "linux":

    async def test_it_inherits_no_descriptor(start: Start, tmp_path: Path) -> None:
        """Only 0, 1 and 2 are open in the process, whatever this one has open and inheritable."""
        with (tmp_path / "file").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            process = start(python("import os; print(*sorted(os.listdir('/proc/self/fd')))"))
            await process.wait()
        # The fourth is the directory that was listed.
        assert process.log_tail(1) == "0 1 2 3\n"


async def test_its_input_is_empty(start: Start) -> None:
    """Reading from standard input gives its end instead of a wait for ever."""
    process = start(python("import sys; print(repr(sys.stdin.read()))"))
    await process.wait()
    assert process.log_tail(1) == "''\n"


async def test_cwd_and_environment_are_those_given(tmp_path: Path) -> None:
    """The process runs where it is told, and its environment is the given one and no more."""
    code = "import os; print(os.getcwd(), sorted(set(os.environ) - {'LC_CTYPE'}))"
    process = KernelProcess(python(code), cwd=tmp_path, env={"ONLY": "this"})
    await process.wait()
    assert process.log_tail(1) == f"{tmp_path.resolve()} ['ONLY']\n"
    await process.kill_group()


@pytest.fixture(params=["blocked", "ignored"])
def deaf(request: pytest.FixtureRequest) -> Iterator[None]:
    """This thread blocks, or this process ignores, Ctrl-C."""
    if request.param == "blocked":
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        yield
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_signals_reach_it_when_we_are_deaf(deaf: None, start: Start, signum: int) -> None:
    """A signal that this process does not listen to is not lost on the kernel."""
    process = start(["sleep", "1000"])
    process.signal_group(signum)
    assert await process.wait() == ExitStatus(signal=signum)


def test_a_command_that_does_not_exist_leaves_nothing() -> None:
    """What cannot be started raises OSError, and the leak check finds no descriptor."""
    with pytest.raises(FileNotFoundError):
        KernelProcess(["/no/such/command"], cwd=None, env={})


# --- its output ----------------------------------------------------------------------------------


async def test_a_flood_neither_blocks_it_nor_fills_memory(start: Start) -> None:
    """Forty megabytes pass, the last lines are kept, and the rest is forgotten."""
    code = (
        "import sys\n"
        "for n in range(20_000):\n"
        "    for file in (sys.stdout, sys.stderr): file.write(f'{n}'.ljust(999) + '\\n')\n"
    )
    process = start(python(code))
    async with asyncio.timeout(30):
        assert await process.wait() == ExitStatus(code=0)
    assert len(process._ring) == RING_SIZE
    assert {line.strip() for line in process.log_tail(2).splitlines()} <= {"19999", "19998"}


async def test_the_tail_has_the_lines_that_are_wanted(start: Start) -> None:
    """The tail has both streams, the last lines of them, also one without an end."""
    process = start(["sh", "-c", "echo 1; echo 2 >&2; echo 3; printf 4"])
    await process.wait()
    assert sorted(process.log_tail(10)) == ["\n"] * 3 + ["1", "2", "3", "4"]
    process = start(["sh", "-c", "echo 1; echo 2; echo 3; printf 4"])
    await process.wait()
    assert process.log_tail(2) == "3\n4"
    assert process.log_tail(0) == process.log_tail(-1) == ""


async def test_the_tail_survives_what_is_no_text(start: Start) -> None:
    """Bytes that are no UTF-8 are replaced."""
    process = start(python("import os; os.write(1, b'a\\xff\\x00b\\n')"))
    await process.wait()
    assert process.log_tail(1) == "a\N{REPLACEMENT CHARACTER}\0b\n"


async def test_who_learns_of_the_end_finds_the_last_words(watching: None, start: Start) -> None:
    """Whatever a process wrote before it ended is in the tail when the wait for it returns."""
    processes = [start(["sh", "-c", f"echo {n} >&2; exit 3"]) for n in range(20)]
    for n, process in enumerate(processes):
        assert await process.wait() == ExitStatus(code=3)
        assert process.log_tail(1) == f"{n}\n"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: who reads from it waits until something is written to it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


async def test_output_is_forwarded_on_request(start: Start, gate: Path) -> None:
    """A handler gets what is written from then on, with the name of the stream."""
    seen: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def take(name: str, data: bytes) -> None:
        seen[name] += data

    process = start(["sh", "-c", f"echo before; read x < {gate}; echo out; echo err >&2"])
    assert await first_line(process) == "before"
    process.forward_output(take)
    gate.write_text("\n")
    await process.wait()
    assert seen == {"stdout": b"out\n", "stderr": b"err\n"}
    assert process.log_tail(3).startswith("before\n")


async def test_a_handler_that_raises_costs_only_itself(
    start: Start, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next handler still runs, the end is noticed, and the log tells of the first."""
    seen: list[bytes] = []

    def fail(name: str, data: bytes) -> None:
        raise ZeroDivisionError

    process = start(["sh", "-c", f"read x < {gate}; echo out"])
    process.forward_output(fail)
    process.forward_output(lambda _, data: seen.append(data))
    gate.write_text("\n")
    with caplog.at_level(logging.ERROR, "kernel_mgmt"):
        async with asyncio.timeout(10):
            await process.wait()
    assert seen == [b"out\n"]
    assert [str(process.pid) in record.message for record in caplog.records] == [True]


# --- its end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", ExitStatus(code=0)),
        ("exit 3", ExitStatus(code=3)),
        ("exit 255", ExitStatus(code=255)),
        ("kill -TERM $$", ExitStatus(signal=signal.SIGTERM)),
        ("kill -KILL $$", ExitStatus(signal=signal.SIGKILL)),
    ],
)
async def test_the_exit_status_is_told(
    watching: None, start: Start, script: str, status: ExitStatus
) -> None:
    """Whoever waits gets the exit code or the signal, now and later, before and after a kill."""
    process = start(["sh", "-c", script])
    assert await process.wait() == status
    assert process.exit_status == status
    await process.kill_group()
    async with asyncio.timeout(0.5):
        assert await process.wait() == status


async def test_any_number_may_wait(start: Start) -> None:
    """Several tasks wait for one process, one of them gives up, and the others learn the end."""
    process = start(["sleep", "1000"])
    waits = [asyncio.create_task(process.wait()) for _ in range(5)]
    await asyncio.sleep(0)
    waits[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    assert not any(wait.done() for wait in waits[1:])
    process.signal_group(signal.SIGKILL)
    assert await asyncio.gather(*waits[1:]) == [ExitStatus(signal=9)] * 4
    assert not process._exit_waiters


def test_a_process_outlives_the_loop_that_started_it() -> None:
    """Its output is read with no loop of ours running, and a later loop can wait for it and kill it."""

    async def begin() -> KernelProcess:
        code = "import sys, time; sys.stdout.write('x' * 1_000_000 + '\\nend\\n'); time.sleep(1000)"
        process = KernelProcess(["sh", "-c", 'exec "$0" "$@"', *python(code)], cwd=None, env={})
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0)
        del waiting  # cancelled by asyncio.run
        return process

    async def end(process: KernelProcess) -> ExitStatus:
        await eventually(lambda: process.log_tail(1) == "end\n")
        await process.kill_group()
        return await process.wait()

    process = asyncio.run(begin())
    assert process.exit_status is None
    assert asyncio.run(end(process)) == ExitStatus(signal=9)


def test_a_loop_closed_in_the_middle_of_a_wait_is_no_trouble() -> None:
    """The end is noted although the loop of one who waits for it was closed before."""
    process = KernelProcess(["sleep", "1000"], cwd=None, env=os.environ)
    loop = asyncio.new_event_loop()
    task = loop.create_task(process.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()  # with the task pending, as whoever crashes does
    process.signal_group(signal.SIGKILL)
    assert asyncio.run(process.wait()) == ExitStatus(signal=9)
    asyncio.run(process.kill_group())
    task._log_destroy_pending = False
    task.get_coro().close()


async def test_signals_reach_grandchildren(start: Start) -> None:
    """A signal goes to the children of the kernel as well."""
    process = start(WITH_CHILD)
    child = int(await first_line(process))
    process.signal_group(signal.SIGTERM)
    assert await process.wait() == ExitStatus(signal=signal.SIGTERM)
    await eventually(lambda: not runs(child))


@pytest.mark.parametrize("first", [None, signal.SIGKILL, signal.SIGSTOP])
async def test_kill_ends_the_whole_group(
    watching: None, start: Start, first: signal.Signals | None
) -> None:
    """When kill returns nothing of the group runs, also when the leader was dead or stopped before."""
    process = start(WITH_CHILD)
    child = int(await first_line(process))
    if first is not None:
        os.kill(process.pid, first)
    if first == signal.SIGKILL:
        await process.wait()
        assert runs(child)
    await process.kill_group()
    assert not runs(process.pid)
    assert not runs(child)


async def test_a_grandchild_that_holds_the_output_open_holds_up_nothing(start: Start) -> None:
    """Neither the end nor the kill waits for a process that left the session with our pipes."""
    code = (
        "import os, time\n"
        "if os.fork(): os._exit(4)\n"
        "os.setsid()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(1000)\n"
    )
    process = start(python(code))
    escaped = int(await first_line(process))
    async with asyncio.timeout(10):
        assert await process.wait() == ExitStatus(code=4)
        await process.kill_group()
    assert runs(escaped)
    os.kill(escaped, signal.SIGKILL)
    await eventually(lambda: not runs(escaped))


async def test_kill_can_be_repeated_and_cancelled(start: Start) -> None:
    """Kill may be called again, by several at once, and be given up at any step."""
    for steps in range(6):
        process = start(WITH_CHILD)
        child = int(await first_line(process))
        kills = [asyncio.create_task(process.kill_group()) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        kills[0].cancel()
        await asyncio.gather(*kills, return_exceptions=True)
        await process.kill_group()
        assert not runs(child)
        process.signal_group(signal.SIGTERM)


if sys.platform == "linux":

    async def test_the_number_stays_taken_until_the_kill(start: Start) -> None:
        """An ended process keeps its id, so that a signal to its group hits no stranger."""
        process = start(["true"])
        await process.wait()
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        await process.kill_group()
        assert not psutil.pid_exists(process.pid)


async def test_a_second_kill_leaves_a_stranger_alone(start: Start) -> None:
    """When the number of a killed process belongs to another one, that one is not meant any more."""
    process, stranger = start(["sleep", "1000"]), start(["sleep", "1000"])
    await process.kill_group()
    process._popen.pid = stranger.pid  # as if the system had given the number again
    async with asyncio.timeout(5):
        process.signal_group(signal.SIGTERM)
        await process.kill_group()
    assert runs(stranger.pid)


async def test_a_process_that_something_else_reaped_has_ended(watching: None) -> None:
    """When this process reaps its children by itself the end is told, without a status."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = KernelProcess(["sh", "-c", "exit 3"], cwd=None, env=os.environ)
        async with asyncio.timeout(10):
            status = await process.wait()
            await process.kill_group()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert status.code is None
    assert str(status).startswith("exit status unknown (")


async def test_many_at_once_need_no_thread(start: Start) -> None:
    """Fifty processes are watched without a thread for any of them."""
    before = threading.active_count()
    processes = [start(["sh", "-c", f"exit {n}"]) for n in range(50)]
    statuses = await asyncio.gather(*(process.wait() for process in processes))
    assert statuses == [ExitStatus(code=n) for n in range(50)]
    assert threading.active_count() == before
