"""Kernels of this machine: what a launch makes, what cleanup removes, and what may go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelFinder,
    KernelType,
    LaunchError,
    LaunchProgress,
    LaunchRequest,
    run_kernel,
)
from kernel_mgmt.connection import CHANNELS
from kernel_mgmt.local import LocalKernelManager, launch_local
from waiting import eventually

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])

each_transport = pytest.mark.parametrize("transport", ["ipc", "tcp"])


def echo_argv(connection_file: Path) -> list[str]:
    """The command of the echo kernel."""
    module = "kernel_mgmt.testing.echo_kernel"
    return [sys.executable, "-m", module, "-f", str(connection_file)]


async def launch(
    make_argv: Callable[[Path], list[str]] = echo_argv,
    *,
    transport: str = "ipc",
    runtime_dir: Path = RUNTIME_DIR,
    type_env: dict[str, str] | None = None,
    **fields: Any,
) -> tuple[ConnectionInfo, LocalKernelManager]:
    """Launch a command as a kernel; further arguments are those of the request."""
    request = LaunchRequest(KernelType("test"), **{"kernel_id": "of-this-test", **fields})
    info, manager = await launch_local(
        request, make_argv, runtime_dir=runtime_dir, transport=transport, env=type_env
    )
    assert isinstance(manager, LocalKernelManager)
    return info, manager


@pytest.fixture
async def manager() -> AsyncIterator[LocalKernelManager]:
    """The manager of a running echo kernel."""
    _, manager = await launch()
    async with manager:
        yield manager


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def sockets(info: ConnectionInfo) -> list[Path]:
    """The paths of a kernel's Unix sockets."""
    return [info.socket_path(channel) for channel in CHANNELS]


# --- what a launch makes -------------------------------------------------------------------------


@each_transport
async def test_the_connection_file_is_private_and_true(transport: str, tmp_path: Path) -> None:
    """The kernel's id names it, nobody else can read it, and it says what launch returned."""
    runtime_dir = tmp_path / "not" / "there" / "yet"
    info, manager = await launch(transport=transport, runtime_dir=runtime_dir)
    async with manager:
        file = runtime_dir / "kernel-of-this-test.json"
        assert manager.connection_file == file
        assert mode(file) == 0o600
        assert mode(runtime_dir) == 0o700
        assert ConnectionInfo.read(file) == info
    assert list(runtime_dir.iterdir()) == []


async def test_sockets_are_in_a_private_directory() -> None:
    """Nobody else can reach a kernel's Unix sockets, and cleanup removes them with their directory."""
    info, manager = await launch()
    directory = Path(info.ip).parent
    async with manager:
        assert mode(directory) == 0o700
        assert all(path.is_socket() and path.parent == directory for path in sockets(info))
    assert not directory.exists()


@each_transport
async def test_launch_returns_when_every_channel_accepts(transport: str) -> None:
    """Whoever connects to any channel after the launch is accepted at once."""
    info, manager = await launch(transport=transport)
    async with manager:
        for channel in CHANNELS:
            if transport == "ipc":
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(info.socket_path(channel)))
            else:
                address = (info.ip, getattr(info, f"{channel}_port"))
                socket.create_connection(address).close()


async def test_the_environment_has_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request's variables win over the type's, and those over this process's."""
    for name in ("A", "B", "C", "D"):
        monkeypatch.setenv(f"KM_{name}", "process")
    code = (
        "import os\n"
        "print(*(os.environ.get('KM_' + n) for n in 'ABCD'), os.environ['JPY_PARENT_PID'])"
    )
    error = await failure(
        lambda _: [sys.executable, "-c", code],
        type_env={"KM_B": "type", "KM_C": "type"},
        env={"KM_C": "request", "KM_D": None, "JPY_PARENT_PID": "1"},
    )
    assert error.log_tail == f"process type request None {os.getpid()}\n"


async def test_progress_is_told_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """A progress handler hears of the start, and one that raises does not stop it."""
    steps: list[LaunchProgress] = []

    def note(progress: LaunchProgress) -> None:
        steps.append(progress)
        raise ZeroDivisionError

    _, manager = await launch(on_progress=note)
    async with manager:
        assert [step.phase for step in steps] == ["start"]
    assert [record.message for record in caplog.records] == ["A progress handler raised"]


async def test_the_key_is_in_the_file_alone(manager: LocalKernelManager) -> None:
    """Neither the arguments nor the environment of a kernel hold its key, nor does a repr."""
    key = ConnectionInfo.read(manager.connection_file).key
    process = psutil.Process(manager.pid)
    assert key
    assert key not in repr([process.cmdline(), process.environ(), manager, manager.record()])


# --- a manager's methods -------------------------------------------------------------------------

METHODS: dict[str, Callable[[LocalKernelManager], Awaitable[object]]] = {
    "is_alive": LocalKernelManager.is_alive,
    "wait": LocalKernelManager.wait,
    "signal": lambda manager: manager.signal(signal.SIGTERM),
    "interrupt": LocalKernelManager.interrupt,
    "terminate": LocalKernelManager.terminate,
    "kill": LocalKernelManager.kill,
    "cleanup": LocalKernelManager.cleanup,
    "log_tail": LocalKernelManager.log_tail,
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize("end", ["ended", "killed", "cleaned up"])
@each_method
async def test_every_method_is_safe_on_a_dead_kernel(
    method: Callable[[LocalKernelManager], Awaitable[object]],
    end: str,
    manager: LocalKernelManager,
) -> None:
    """Each may be called again and again, also by several at once, and gives the same at once."""
    if end == "ended":
        await manager.terminate()
        await manager.wait()
    else:
        await manager.kill()
    if end == "cleaned up":
        await manager.cleanup()
    async with asyncio.timeout(5):
        first = await method(manager)
        assert await method(manager) == first
        assert await asyncio.gather(method(manager), method(manager)) == [first, first]
    assert not await manager.is_alive()


@pytest.mark.parametrize("dead", [False, True])
@each_method
async def test_every_method_is_safe_to_cancel(
    method: Callable[[LocalKernelManager], Awaitable[object]], dead: bool
) -> None:
    """Wherever one is given up, the next ones do their work and nothing is left."""
    _, manager = await launch()
    if dead:
        await manager.terminate()
        await manager.wait()
    for steps in range(4):
        task = asyncio.ensure_future(method(manager))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await manager.kill()
    assert not await manager.is_alive()
    await manager.cleanup()
    assert list(RUNTIME_DIR.iterdir()) == []


async def test_the_repr_tells_the_state(manager: LocalKernelManager) -> None:
    """A manager's repr has id, process id and state."""
    assert repr(manager) == f"<LocalKernelManager of-this-test pid {manager.pid} alive>"
    await manager.kill()
    assert repr(manager).endswith(" killed by SIGKILL>")


def _has_ended(pid: int) -> bool:
    # Init reaps it when it gets to it.
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


async def test_signals_reach_the_kernel_and_its_children(finder: KernelFinder) -> None:
    """Terminate ends a child of the kernel with it."""
    async with run_kernel("echo/echo", finder=finder) as client:
        manager = client.manager
        assert manager is not None
        shown = [m async for m in client.execute("spawn") if m.msg_type == "stream"]
        child = int(shown[0].content["text"])
        await manager.terminate()
        assert await manager.wait() == ExitStatus(signal=signal.SIGTERM)
        await eventually(lambda: _has_ended(child))


async def test_a_kernel_that_ignores_terminate_is_killed(finder: KernelFinder) -> None:
    """Terminate may be ignored, and kill not."""
    params = {"arguments": ["--ignore-sigterm"]}
    _, manager = await finder.launch("echo/echo", launch_params=params)
    assert manager is not None
    async with manager:
        await manager.terminate()
        await manager.interrupt()
        assert await manager.is_alive()
    assert await manager.wait() == ExitStatus(signal=signal.SIGKILL)


async def test_the_kernels_own_output_is_kept_and_forwarded(finder: KernelFinder) -> None:
    """What the process writes past the protocol is in the tail, and goes to whoever asked."""
    seen: list[tuple[str, bytes]] = []
    async with run_kernel("echo/echo", finder=finder) as client:
        manager = client.manager
        assert isinstance(manager, LocalKernelManager)
        await client.execute("outside one")
        await eventually(manager.log_tail)
        manager.forward_output(lambda name, data: seen.append((name, data)))
        await client.execute("outside-stderr two")
        await eventually(lambda: seen)
        assert await manager.log_tail(1) == "two\n"
        assert await manager.log_tail() == "one\ntwo\n"
    assert seen == [("stderr", b"two\n")]


async def test_a_flood_does_not_block_the_kernel(finder: KernelFinder) -> None:
    """A kernel that writes megabytes to its own output goes on to answer."""
    text = "x" * 1_000_000
    async with run_kernel("echo/echo", finder=finder) as client:
        for _ in range(20):
            async with asyncio.timeout(10):
                await client.execute(f"outside {text}")
        assert client.manager is not None
        assert len(await client.manager.log_tail(1000)) < 300_000


# --- cleanup -------------------------------------------------------------------------------------


async def test_cleanup_takes_what_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """What somebody removed before is no trouble, nor is a second cleanup beside the first."""
    info, manager = await launch()
    manager.connection_file.unlink()
    info.socket_path("shell").unlink()
    await asyncio.gather(manager.cleanup(), manager.cleanup())
    await manager.cleanup()
    assert not Path(info.ip).parent.exists()
    assert not await manager.is_alive()
    assert caplog.records == []


async def test_cleanup_tells_what_it_cannot_remove(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One thing that cannot be removed is logged, and the others go."""
    info, manager = await launch(connection_info=ConnectionInfo.for_ipc(tmp_path / "mine"))
    shell = info.socket_path("shell")
    shell.unlink()
    shell.mkdir()
    (shell / "precious").touch()
    await manager.cleanup()
    assert [path for path in tmp_path.rglob("*") if path.is_socket()] == []
    assert (shell / "precious").exists()
    assert not manager.connection_file.exists()
    assert len(caplog.records) == 1
    assert str(shell) in caplog.records[0].message


async def test_cleanup_leaves_a_directory_of_somebody_else(tmp_path: Path) -> None:
    """From a directory that the caller chose only the sockets are removed."""
    tmp_path.chmod(0o700)
    (tmp_path / "precious").touch()
    _, manager = await launch(connection_info=ConnectionInfo.for_ipc(tmp_path))
    await manager.cleanup()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


# --- given endpoints -----------------------------------------------------------------------------


@each_transport
async def test_a_relaunch_has_the_same_endpoints(transport: str) -> None:
    """With given connection info a kernel listens where the one before it did, with its key."""
    given, manager = await launch(transport=transport)
    await manager.cleanup()
    again, manager = await launch(connection_info=given)
    async with manager:
        assert again == given


@each_transport
async def test_endpoints_of_a_living_kernel_are_refused(transport: str) -> None:
    """Its sockets are not taken over, and it lives on."""
    info, manager = await launch(transport=transport)
    async with manager:
        error = await failure(connection_info=info, kernel_id="second")
        assert "shell, iopub, stdin, control, hb already" in error.cause
        assert await manager.is_alive()
        assert manager.connection_file.exists()
        if transport == "ipc":
            assert all(path.is_socket() for path in sockets(info))


@each_transport
async def test_endpoints_without_a_port_are_refused(transport: str, tmp_path: Path) -> None:
    """A port that is 0 is named, instead of waiting for it for ever."""
    make = {
        "ipc": ConnectionInfo.for_ipc,
        "tcp": lambda _, **ports: ConnectionInfo.for_tcp(**ports),
    }
    error = await failure(connection_info=make[transport](tmp_path, hb_port=0))
    assert "no port for channel 'hb'" in error.cause


async def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """Sockets are put only where nobody else can reach them."""
    tmp_path.chmod(0o755)
    error = await failure(connection_info=ConnectionInfo.for_ipc(tmp_path))
    assert "is not private" in error.cause


# --- a port that is taken ------------------------------------------------------------------------


class Thief:
    """Takes a port of each kernel that is launched, before the kernel can.

    Args:
        channel: whose port.
        times: from how many kernels.
    """

    def __init__(self, channel: str, times: int) -> None:
        self.channel = channel
        self.times = times
        self.seen: list[ConnectionInfo] = []
        self.taken: list[socket.socket] = []

    def __call__(self, connection_file: Path) -> list[str]:
        """Give the kernel's command, which is asked for when its connection file is written."""
        self.seen.append(ConnectionInfo.read(connection_file))
        if len(self.taken) < self.times:
            self.taken.append(socket.socket())
            port = getattr(self.seen[-1], f"{self.channel}_port")
            self.taken[-1].bind(("127.0.0.1", port))
        return echo_argv(connection_file)

    def close(self) -> None:
        """Give the ports back."""
        for taken in self.taken:
            taken.close()


@pytest.mark.parametrize("channel", ["shell", "hb"])
async def test_a_taken_port_costs_a_second_try(channel: str) -> None:
    """A kernel that could not bind is launched once more, with other ports and another key."""
    thief = Thief(channel, times=1)
    try:
        info, manager = await launch(thief, transport="tcp")
        async with manager:
            first, second = thief.seen
            assert info == second
            assert ConnectionInfo.read(manager.connection_file) == info
            assert getattr(first, f"{channel}_port") != getattr(second, f"{channel}_port")
            assert first.key != second.key
    finally:
        thief.close()


async def test_a_second_taken_port_is_an_error() -> None:
    """There are two tries and no more, and the error shows what the kernel said."""
    thief = Thief("control", times=5)
    try:
        error = await failure(thief, transport="tcp")
    finally:
        thief.close()
    assert len(thief.seen) == 2
    assert "Address already in use" in error.log_tail


async def test_given_ports_are_not_exchanged() -> None:
    """Who gave the endpoints gets these or an error."""
    thief = Thief("iopub", times=1)
    try:
        error = await failure(thief, connection_info=ConnectionInfo.for_tcp())
    finally:
        thief.close()
    assert len(thief.seen) == 1
    assert "Address already in use" in error.log_tail


# --- failures ------------------------------------------------------------------------------------


async def failure(make_argv: Callable[[Path], list[str]] = echo_argv, **kwargs: Any) -> LaunchError:
    """The error of a launch that cannot be."""
    with pytest.raises(LaunchError) as caught:
        await launch(make_argv, **kwargs)
    assert caught.value.phase == "start"
    return caught.value


@each_transport
async def test_a_launch_can_be_cancelled_at_any_step(transport: str) -> None:
    """Wherever it is given up it ends at once, and nothing is left."""
    for steps in range(25):
        kernel_id = f"number-{steps}"
        task = asyncio.create_task(
            launch(lambda _: ["sleep", "1000"], transport=transport, kernel_id=kernel_id)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert list(RUNTIME_DIR.iterdir()) == []


async def test_what_make_argv_raises_comes_out() -> None:
    """The caller's own error is not dressed up, and nothing is left of the launch."""

    def fail(_: Path) -> list[str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await launch(fail)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "The kernel type has an empty command. Mend its argv."),
        (["/no/such/command"], "'/no/such/command' was not found"),
        (["no-such-command"], "'no-such-command' was not found"),
        (["/"], "The command '/' cannot be run: Permission denied."),
        (["echo", "a\0b"], "embedded null byte. Both hold strings, without NUL."),
        (["echo", 5], "not int. Both hold strings, without NUL."),
    ],
)
async def test_a_command_that_cannot_run_is_named(argv: list[Any], sentence: str) -> None:
    """The error says which command, and what is wrong with it."""
    assert sentence in (await failure(lambda _: argv)).summary


async def test_a_script_without_its_interpreter_is_explained(tmp_path: Path) -> None:
    """A program that is there is not just said to be missing."""
    script = tmp_path / "kernel"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    assert "interpreter that its first line names" in (await failure(lambda _: [str(script)])).cause


@pytest.mark.parametrize(
    "env", [{"A": 1}, {"A": "x\0y"}, {"A=B": "x"}], ids=["number", "NUL", "equals sign"]
)
async def test_an_environment_that_cannot_be_is_refused(env: dict[str, Any]) -> None:
    """The error says that it is about argv and env."""
    assert "cannot be given this argv and env" in (await failure(env=env)).cause


@pytest.mark.parametrize("length", [300, 5000])
async def test_a_working_directory_with_a_long_name(length: int) -> None:
    """A name that no file can have is that of a directory that does not exist."""
    error = await failure(cwd=Path("/", "x" * length))
    assert error.cause.endswith("does not exist.")


async def test_a_working_directory_that_is_a_file(tmp_path: Path) -> None:
    """A file is told from a directory that is missing."""
    (tmp_path / "file").touch()
    assert (await failure(cwd=tmp_path / "file")).cause.endswith("file' is not a directory.")


async def test_a_kernel_id_that_is_taken() -> None:
    """The connection file of a kernel that runs is never overwritten."""
    info, manager = await launch()
    async with manager:
        error = await failure()
        assert "File exists" in error.cause
        assert ConnectionInfo.read(manager.connection_file) == info


async def test_a_runtime_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """The error says what is in the way."""
    (tmp_path / "file").touch()
    error = await failure(runtime_dir=tmp_path / "file" / "runtime")
    assert "Not a directory" in error.cause


async def test_a_long_temporary_directory_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sockets are put where their paths are short enough."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    info, manager = await launch()
    async with manager:
        assert Path(info.ip).parent.parent == Path("/tmp")


async def test_the_users_runtime_directory_is_preferred(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sockets are put into XDG_RUNTIME_DIR where that is short enough and can be written."""
    short = Path(os.environ["TMPDIR"], "xdg")
    short.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    info, manager = await launch()
    async with manager:
        assert Path(info.ip).parent.parent == short
    assert list(short.iterdir()) == []


async def test_without_any_short_directory_there_is_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When no directory will do the error says how long a path may be, and what to set."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    error = await failure()
    assert "their paths may have" in error.cause
    assert "set TMPDIR to a shorter one" in error.cause
