"""What a nanny outlives, and what does not outlive a nanny: signals, killings, closed pipes."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_mgmt import ConnectionInfo, KernelClient, KernelType
from kernel_mgmt.nanny.memory import TUNABLES
from kernel_mgmt.records import gc
from messages import texts
from nannies import (
    MODULE,
    PATIENCE,
    RECORDS,
    RUNTIME_DIR,
    RunningNanny,
    answer_of,
    ask_to_keep,
    echo,
    is_gone,
    request_to_keep,
    running_nanny,
    start_nanny,
)
from waiting import eventually_sync

#: How soon nothing may be left of a kernel whose nanny was killed, in seconds.
NO_ORPHANS = 2.0
ROOT = Path(os.environ["TMPDIR"])


async def run(nanny: RunningNanny, code: str) -> list[str]:
    """Run code in its kernel as an ordinary client; gives what was printed."""
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        request = client.execute(code)
        await request
        return texts([message async for message in request])


def everything() -> list[Path]:
    """Give all files of nannies and kernels that there are, but for the journals of the killed."""
    return [
        *RUNTIME_DIR.iterdir(),
        *RECORDS.glob("kernel-*"),
        *ROOT.glob("km-*"),
    ]


def started_from_here() -> list[psutil.Process]:
    """Give the processes of this test's nannies, wherever they are in the tree by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and str(ROOT) in process.environ().values():
                found.append(process)
    return found


# --- what it outlives ----------------------------------------------------------------------------

CLIENT = """
import asyncio, sys
from kernel_mgmt import ConnectionInfo, KernelClient

async def main():
    async with KernelClient(ConnectionInfo.read(sys.argv[1])) as client:
        await client.wait_for_ready(30)
        client.execute("sleep 0.2\\noutside still here")
        print("asked", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_client_killed() -> None:
    """A kernel outlives SIGKILL of a client in the middle of a cell, and the cell goes on."""
    with running_nanny() as nanny:
        await run(nanny, "")
        events = nanny.events()
        command = [sys.executable, "-c", CLIENT, str(nanny.connection_file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:  # noqa: ASYNC220 - quick
            assert client.stdout is not None
            assert client.stdout.readline() == b"asked\n"
            eventually_sync(lambda: nanny.state == "busy", PATIENCE)
            client.kill()
        eventually_sync(lambda: "still here" in events.output(), PATIENCE)
        assert await run(nanny, "print hello") == ["hello"]
        assert nanny.ask("nanny_info")["kernel"] == 1


STARTER = """
import os, subprocess, sys
nanny = subprocess.run([sys.executable, "-m", "kernel_mgmt.nanny"], stdin=sys.stdin, capture_output=True)
os.write(1, nanny.stdout)
sys.stdout.close()
os.close(1)
import time
time.sleep(60)
"""


@contextlib.contextmanager
def started_in_terminal() -> Iterator[tuple[subprocess.Popen[bytes], int, RunningNanny]]:
    """Give a process that has started a nanny, the master end of its terminal, and the nanny."""
    master, slave = pty.openpty()
    terminal = os.ttyname(slave)
    code = f"import os; os.close(os.open({terminal!r}, os.O_RDWR))" + STARTER
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        answer = answer_of_starter(process)
        nanny = RunningNanny(answer)
        try:
            yield process, master, nanny
            nanny.ask("stop", timeout=1)
            nanny.ended()
        finally:
            nanny.close()
    finally:
        process.kill()
        process.communicate()
        with contextlib.suppress(OSError):
            os.close(master)


def answer_of_starter(process: subprocess.Popen[bytes]) -> dict[str, object]:
    """Hand on a request to a process that starts a nanny, and give the nanny's answer."""
    import json

    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request_to_keep().to_json())
    process.stdin.close()
    process.stdin = None
    answer: dict[str, object] = json.loads(process.stdout.readline())
    assert answer["status"] == "ok", answer
    return answer


async def test_starter_killed() -> None:
    """A kernel outlives SIGKILL of the process that has started its nanny."""
    with started_in_terminal() as (process, _, nanny):
        process.kill()
        process.wait()
        assert await run(nanny, "print hello") == ["hello"]


async def test_terminal_closed() -> None:
    """A kernel outlives the terminal that it was started from, which hangs up its processes."""
    with started_in_terminal() as (process, master, nanny):
        os.close(master)
        assert process.wait(PATIENCE) == -signal.SIGHUP
        assert await run(nanny, "print hello") == ["hello"]


async def test_interrupt_from_terminal() -> None:
    """Ctrl-C in the terminal that a kernel was started from reaches neither it nor its nanny."""
    with started_in_terminal() as (process, master, nanny):
        question = nanny.begin("wait")
        os.write(master, b"\x03")
        assert process.wait(PATIENCE) == -signal.SIGINT
        assert await run(nanny, "print hello") == ["hello"]
        assert not question.is_answered()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
async def test_ignored_signals(number: signal.Signals) -> None:
    """A nanny takes no notice of SIGHUP and SIGINT, to itself or to its whole group."""
    with running_nanny() as nanny:
        await run(nanny, "")
        os.kill(nanny.pid, number)
        os.killpg(nanny.pid, number)
        os.kill(nanny.watchdog_pid, number)
        assert await run(nanny, "print hello") == ["hello"]
        assert nanny.ask("nanny_info")["kernel"] == 1
        assert nanny.watchdog_pid


async def test_kernel_takes_interrupts() -> None:
    """That a nanny takes no notice of signals is nothing that its kernel inherits."""
    with running_nanny() as nanny:
        async with KernelClient(nanny.connection_info) as client:
            await client.wait_for_ready(PATIENCE)
            request = client.execute("print running\nsleep 60")
            await anext(message async for message in request if message.msg_type == "stream")
            nanny.ask("interrupt")
            assert (await request).content["ename"] == "KeyboardInterrupt"
        status = Path(f"/proc/{nanny.kernel_pid}/status")
        if status.exists():
            masks = dict(line.split(":\t") for line in status.read_text().splitlines())
            bits = sum(1 << (number - 1) for number in (signal.SIGHUP, signal.SIGINT))
            assert int(masks["SigIgn"], 16) & bits == 0
            assert int(masks["SigBlk"], 16) == 0


def block_all() -> None:
    """Leave a child no signal that it would see, as some servers do to their threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def test_started_with_signals_blocked() -> None:
    """What whoever started a nanny does with signals is not what the nanny does with them."""
    with running_nanny(process={"preexec_fn": block_all}) as nanny:
        nanny.ask("wait_ready")
        question = nanny.begin("wait")
        nanny.send("execute_request", {"code": "exit 3"})
        assert question.reply()["exit_status"] == {"code": 3, "signal": None, "reason": ""}
        os.kill(nanny.pid, signal.SIGTERM)
        nanny.ended()


# --- SIGTERM -------------------------------------------------------------------------------------


def test_sigterm() -> None:
    """SIGTERM ends a nanny: the kernel is asked to end, nothing is left, and managers are told."""
    with running_nanny() as nanny:
        nanny.ask("wait_ready")
        events, question = nanny.events(), nanny.begin("wait")
        os.kill(nanny.pid, signal.SIGTERM)
        assert question.reply()["exit_status"] == {"code": 0, "signal": None, "reason": ""}
        assert events.told("stopping") == {"reason": "signal"}
        nanny.ended()


def test_sigterm_twice() -> None:
    """A second SIGTERM does nothing that the first did not."""
    with running_nanny(echo("--ignore-shutdown")) as nanny:
        nanny.ask("wait_ready")
        for _ in range(3):
            os.kill(nanny.pid, signal.SIGTERM)
        nanny.ask("kill")
        nanny.ended()


def test_sigterm_during_launch() -> None:
    """SIGTERM ends a nanny also when its kernel does not listen yet; whoever waits is told."""
    process = start_nanny(request_to_keep(echo("--startup-delay", 60)))
    nanny = running_here()
    started = time.monotonic()
    os.kill(nanny.pid, signal.SIGTERM)
    answer = answer_of(process)
    assert time.monotonic() - started < PATIENCE / 2
    assert (answer["status"], answer["ename"]) == ("error", "LaunchError")
    eventually_sync(lambda: not started_from_here())
    assert everything() == []


def running_here() -> psutil.Process:
    """Wait until a nanny has begun to launch its kernel; gives the nanny."""

    def kernel() -> psutil.Process | None:
        for process in started_from_here():
            with contextlib.suppress(psutil.Error):
                if "kernel_mgmt.testing.echo_kernel" in process.cmdline():
                    return process
        return None

    nanny = eventually_sync(kernel, PATIENCE).parent()
    assert nanny is not None
    assert "kernel_mgmt.nanny" in nanny.cmdline()
    return nanny


# --- no orphans ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_killed(transport: str) -> None:
    """Two seconds after a nanny was killed, neither kernel nor grandchildren nor files are left."""
    with running_nanny(transport=transport) as nanny:
        (grandchild,) = map(int, await run(nanny, "spawn"))
        kernel, watchdog = nanny.kernel_pid, nanny.watchdog_pid
        nanny.kill()
        pids = (nanny.pid, kernel, grandchild, watchdog)
        eventually_sync(lambda: all(map(is_gone, pids)) and not everything(), NO_ORPHANS)


async def test_killed_at_given_sockets() -> None:
    """Sockets in a directory of somebody's choice are gone with a killed nanny; what else is there is not."""
    directory = ROOT / "mine"
    directory.mkdir(mode=0o700)
    (directory / "diary").touch()
    info = ConnectionInfo.for_ipc(directory)
    with running_nanny(connection_info=info) as nanny:
        await run(nanny, "")
        assert len(list(directory.iterdir())) == 9
        nanny.kill()
        eventually_sync(lambda: [p.name for p in directory.iterdir()] == ["diary"], NO_ORPHANS)
        eventually_sync(lambda: not everything(), NO_ORPHANS)


async def test_killed_after_restart() -> None:
    """A kernel that was started again dies with its killed nanny like the first."""
    with running_nanny() as nanny:
        await run(nanny, "")
        nanny.ask("restart")
        (grandchild,) = map(int, await run(nanny, "spawn"))
        kernel = nanny.kernel_pid
        nanny.kill()
        eventually_sync(
            lambda: is_gone(kernel) and is_gone(grandchild) and not everything(), NO_ORPHANS
        )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has parent-death signals")
async def test_killed_with_watchdog() -> None:
    """Also when the watchdog was killed, the kernel dies with its nanny, even one that is stuck."""
    with running_nanny() as nanny:
        await run(nanny, "")
        kernel, watchdog = nanny.kernel_pid, nanny.watchdog_pid
        nanny.send("execute_request", {"code": "hang"})
        eventually_sync(lambda: nanny.state == "busy", PATIENCE)
        os.kill(watchdog, signal.SIGKILL)
        nanny.kill()
        eventually_sync(lambda: is_gone(kernel) and is_gone(nanny.pid), NO_ORPHANS)
    # Nobody was left to remove the files; they can be found.
    assert len(gc()) == 1
    assert everything() == []


async def test_watchdog_killed() -> None:
    """A nanny whose watchdog was killed goes on, and ends in order."""
    with running_nanny() as nanny:
        await run(nanny, "")
        os.kill(nanny.watchdog_pid, signal.SIGKILL)
        assert nanny.ask("restart") == {"status": "ok", "kernel": 2}
        assert await run(nanny, "print hello") == ["hello"]
        assert nanny.ask("stop", timeout=1) == {"status": "ok"}
        nanny.ended()


CRASH = """
import kernel_mgmt.nanny.front as front
def crash(self):
    raise SystemExit("no more messages")
front.Front.interrupt = crash
"""

DEFECT = """
import kernel_mgmt.nanny.supervisor as supervisor
def defect(self, end):
    raise TypeError("what comes next?")
supervisor.Supervisor._pause_before_next = defect
"""


def broken(directory: Path, code: str) -> dict[str, Any]:
    """Give the options of a nanny's process that has some code of its own replaced."""
    (directory / "sitecustomize.py").write_text(code)
    return {"env": {**os.environ, "PYTHONPATH": str(directory)}}


async def test_crashed(tmp_path: Path) -> None:
    """Of a nanny that does not end in order nothing is left either."""
    kernel_type = KernelType("echo", provider="echo", interrupt_mode="message")
    process = broken(tmp_path, CRASH)
    with running_nanny(kernel_type=kernel_type, process=process) as nanny:
        (grandchild,) = map(int, await run(nanny, "spawn"))
        kernel = nanny.kernel_pid
        nanny.begin("interrupt")
        pids = (nanny.pid, kernel, grandchild)
        eventually_sync(lambda: all(map(is_gone, pids)) and not everything(), PATIENCE)


def test_defect(tmp_path: Path) -> None:
    """A nanny that fails at its work ends in order, and whoever waits is answered."""
    with running_nanny(process=broken(tmp_path, DEFECT)) as nanny:
        nanny.ask("wait_ready")
        events, ready = nanny.events(), nanny.begin("wait_ready", after=1)
        nanny.send("execute_request", {"code": "exit 3"})
        assert nanny.ask("wait", kernel=1)["exit_status"]["code"] == 3
        assert ready.reply()["ename"] == "KernelFailed"
        assert events.told("stopping") == {"reason": "defect"}
        nanny.ended()


def test_killed_during_launch() -> None:
    """A nanny that is killed while its kernel starts leaves nothing, and whoever waits sees an end."""
    process = start_nanny(request_to_keep(echo("--startup-delay", 60)))
    nanny = running_here()
    nanny.kill()
    output, _ = process.communicate(timeout=PATIENCE)
    assert output == b""
    eventually_sync(lambda: not started_from_here() and not everything(), NO_ORPHANS)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the nanny sees it with its answer")
def test_starter_goes_during_launch() -> None:
    """A nanny whose answer nobody will read undoes everything, though its kernel never listens."""
    process = start_nanny(request_to_keep(echo("--startup-delay", 60)))
    running_here()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    process.wait(PATIENCE)
    eventually_sync(lambda: not started_from_here() and not everything())


@pytest.mark.parametrize("argv", [echo("--startup-delay", 0.3), echo("--exit", 3), ["/nowhere"]])
def test_starter_gone_before_answer(argv: list[str]) -> None:
    """A nanny undoes everything also when nobody is left to read how it went, well or badly."""
    process = start_nanny(request_to_keep(argv))
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    process.wait(PATIENCE)
    eventually_sync(lambda: not started_from_here() and not everything(), PATIENCE)


def test_starter_is_free_after_answer() -> None:
    """After the answer nothing of the nanny's holds the pipes of who started it, or its process."""
    process = start_nanny(request_to_keep())
    answer = answer_of(process)  # reads to the end of both pipes
    assert process.returncode == 0
    nanny = RunningNanny(answer)
    try:
        assert psutil.Process(nanny.pid).cwd() == "/"
        assert nanny.ask("stop") == {"status": "ok"}
        nanny.ended()
    finally:
        nanny.close()


def test_fast_command() -> None:
    """The nanny's own tunables do not reach its kernel, those of the user do."""
    for value, seen in ((TUNABLES, False), ("glibc.malloc.check=0", True)):
        environment = {**os.environ, "GLIBC_TUNABLES": value}
        answer = ask_to_keep(nanny=MODULE, process={"env": environment})
        nanny = RunningNanny(answer)
        try:
            assert ("GLIBC_TUNABLES" in psutil.Process(nanny.kernel_pid).environ()) == seen
            nanny.ask("stop", timeout=1)
        finally:
            nanny.close()
