"""Launching a kernel under a nanny: what it gets, how it fails, and what is left when it is given up."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from kernel_mgmt import (
    ConnectionInfo,
    KernelClient,
    KernelFinder,
    KernelRecord,
    KernelType,
    Launched,
    LaunchError,
    LaunchRequest,
    NannyOptions,
    hookimpl,
)
from kernel_mgmt.local import launch_local
from kernel_mgmt.nanny_client import starting
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.records import read_records, records_dir
from kernel_mgmt.testing import EchoProvider
from waiting import eventually, eventually_sync

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
PATIENCE = 30


class Runs:
    """A provider whose launch parameter is the command of the kernel."""

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> list[KernelType]:
        """Give one kernel type."""
        return [KernelType("command")]

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Launched]:
        """Run the command."""
        return launch_local(
            request, lambda _: request.launch_params["argv"], runtime_dir=RUNTIME_DIR
        )


@pytest.fixture
def finder() -> KernelFinder:
    """Knows the echo kernel, and kernels that are any command."""
    return KernelFinder({"echo": EchoProvider(), "runs": Runs()})


Launch = Callable[..., Awaitable[Launched]]


@pytest.fixture
async def launch(finder: KernelFinder) -> AsyncIterator[Launch]:
    """Launches echo kernels under nannies, and stops them at the end."""
    managers = []

    async def launch(name: str = "", **options: Any) -> Launched:
        launched = await finder.launch("echo/echo", nanny=NannyOptions(name), **options)
        managers.append(launched.manager)
        return launched

    yield launch
    for manager in managers:
        assert manager is not None
        await manager.cleanup()


async def output(info: ConnectionInfo, code: str) -> str:
    """What a cell prints or gives."""
    client = KernelClient(info)
    try:
        await client.wait_for_ready(PATIENCE)
        parts = []
        request = client.execute(code)
        async for message in request:
            content = message.content
            parts.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
        return "".join(parts).strip()
    finally:
        client.close()


def the_record() -> KernelRecord:
    """The one record that there is."""
    (record,), problems = read_records()
    assert problems == []
    return record


def files() -> list[str]:
    """All that kernels have left."""
    found = [*RUNTIME_DIR.iterdir(), *ROOT.glob("km-*")]
    return [str(path) for path in (*found, *(records_dir().glob("kernel-*")))]


# --- what it gets --------------------------------------------------------------------------------


async def test_launch(launch: Launch) -> None:
    """The kernel runs below a process that is not ours, has a manager and a record, and all goes."""
    info, manager = await launch("mine")
    assert isinstance(manager, RemoteKernelManager)
    assert await manager.is_alive()
    record = the_record()
    assert (record.kernel_id, record.name) == (manager.kernel_id, "mine")
    assert record.type_id == "echo/echo"
    assert record.connection_info == info
    assert record.connection_file is not None
    assert ConnectionInfo.read(record.connection_file) == info
    assert stat.S_IMODE(records_dir().stat().st_mode) == 0o700
    pid = int(await output(info, "pid"))
    nanny = psutil.Process(psutil.Process(pid).ppid())
    assert nanny.pid == record.manager["nanny"]["pid"]
    assert os.getpid() not in [parent.pid for parent in nanny.parents()]
    await manager.cleanup()
    await eventually(lambda: not running([nanny]))
    assert files() == []


async def test_environment(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has the caller's environment and the request's on top, and nothing of the nanny's."""
    monkeypatch.setenv("OURS", "ours")
    monkeypatch.setenv("GONE", "ours")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    info, _ = await launch(env={"THEIRS": "theirs", "GONE": None})
    cell = "env OURS\nenv THEIRS\nenv GONE\nenv GLIBC_TUNABLES"
    assert (await output(info, cell)).split()[:2] == ["ours", "theirs"]
    parent = psutil.Process(int(await output(info, "env JPY_PARENT_PID")))
    kernel = psutil.Process(int(await output(info, "pid")))
    assert kernel.ppid() == parent.pid
    assert kernel.environ().get("GLIBC_TUNABLES") is None
    if sys.platform == "linux":
        assert "hugetlb" in parent.environ()["GLIBC_TUNABLES"]
    assert kernel.environ().get("GONE") is None


async def test_tunables_of_the_user(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tunables that the user has set reach nanny and kernel as they are."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    info, _ = await launch()
    assert await output(info, "env GLIBC_TUNABLES") == "glibc.malloc.check=0"


async def test_working_directory(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the caller's, or what was asked for relative to that; the nanny's pins none."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    here, _ = await launch()
    below, _ = await launch(cwd="below")
    assert await output(here, "cwd") == str(tmp_path)
    assert await output(below, "cwd") == str(tmp_path / "below")
    assert [record.cwd for record in read_records()[0]] == [str(tmp_path), str(tmp_path / "below")]
    for record in read_records()[0]:
        assert psutil.Process(record.manager["nanny"]["pid"]).cwd() == "/"


async def test_code_of_the_callers_directory(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module in the caller's directory that has the name of one of Python's does no harm."""
    (tmp_path / "json.py").write_text("raise SystemExit('taken for json')")
    monkeypatch.chdir(tmp_path)
    info, _ = await launch(cwd=ROOT)
    assert await output(info, "print here") == "here"


async def test_big_request(launch: Launch) -> None:
    """A request that is larger than a pipe takes at once arrives whole."""
    env = {f"BIG_{n}": "x" * 100_000 for n in range(5)}
    info, _ = await launch(env=env)
    assert len(await output(info, "env BIG_4")) == 100_000


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_given_endpoints(transport: str, launch: Launch, finder: KernelFinder) -> None:
    """A given connection info is where the nanny listens; a second one there is refused."""
    given = (
        ConnectionInfo.for_tcp()
        if transport == "tcp"
        else ConnectionInfo.for_ipc(ROOT / "km-given")
    )
    info, _ = await launch(connection_info=given)
    assert (
        info.replace(nanny_control_port=None, nanny_events_port=None, nanny_journal_port=None)
        == given
    )
    assert await output(given, "print there") == "there"
    with pytest.raises(LaunchError, match="accepts connections") as caught:
        await finder.launch("echo/echo", nanny=NannyOptions(), connection_info=given)
    assert caught.value.endpoints_refused


def test_from_other_threads_and_loops(finder: KernelFinder) -> None:
    """It can be launched from any loop in any thread, and managed from another afterwards."""
    launched: list[Launched] = []

    def run() -> None:
        launched.append(asyncio.run(finder.launch("echo/echo", nanny=NannyOptions())))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    ((info, manager),) = launched
    assert manager is not None
    assert asyncio.run(output(info, "print here")) == "here"
    asyncio.run(manager.cleanup())


class WindowsSubprocess(SimpleNamespace):
    """What of ``subprocess`` a start on Windows uses; we are in a job that lets nobody go."""

    def __init__(self) -> None:
        super().__init__(
            PIPE=subprocess.PIPE,
            DETACHED_PROCESS=0x8,
            CREATE_NEW_PROCESS_GROUP=0x200,
            CREATE_BREAKAWAY_FROM_JOB=0x0100_0000,
        )
        self.flags: list[int] = []
        self.pids: list[int] = []

    def Popen(self, argv: list[str], *, creationflags: int, **options: Any) -> Any:  # noqa: N802
        """Start a process."""
        self.flags.append(creationflags)
        if creationflags & self.CREATE_BREAKAWAY_FROM_JOB:
            raise PermissionError(13, "Access is denied")
        process = subprocess.Popen(argv, start_new_session=True, **options)
        self.pids.append(process.pid)
        return process


async def test_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be told without one, Windows hears answers and errors just the same."""
    spec = importlib.util.spec_from_file_location(
        "kernel_mgmt.nanny_client.as_on_windows", starting.__file__
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as context:
        context.setattr(sys, "platform", "win32")
        context.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
    windows = WindowsSubprocess()
    monkeypatch.setattr(module, "subprocess", windows)
    request = LaunchRequest(KernelType("echo"), kernel_id="1", nanny=NannyOptions())

    async def start(*options: str) -> Launched:
        command = [sys.executable, "-m", "kernel_mgmt.testing.echo_kernel", "-f"]
        launched: Launched = await module.start_under_nanny(
            request,
            lambda file: [*command, str(file), *options],
            runtime_dir=RUNTIME_DIR,
            transport="ipc",
        )
        return launched

    info, manager = await start()
    assert await output(info, "print here") == "here"
    assert manager is not None
    await manager.cleanup()
    with pytest.raises(LaunchError, match="exit code 3"):
        await start("--exit", "3")
    assert windows.flags == [0x0100_0208, 0x208] * 2
    for pid in windows.pids:
        await asyncio.to_thread(os.waitpid, pid, 0)


# --- how it fails --------------------------------------------------------------------------------


async def fails(finder: KernelFinder, **options: Any) -> LaunchError:
    """The error of a launch that leaves nothing."""
    with pytest.raises(LaunchError) as caught:
        await finder.launch("runs/command", nanny=NannyOptions(), **options)
    assert files() == []
    return caught.value


async def test_kernel_that_ends_at_once(finder: KernelFinder) -> None:
    """A kernel that ends before it listens is the same error as without a nanny."""
    argv = ["sh", "-c", "echo no licence >&2; exit 7"]
    error = await fails(finder, launch_params={"argv": argv})
    assert error.phase == "start"
    assert "ended before it accepted connections: exit code 7" in error.cause
    assert error.exit_status is not None
    assert error.exit_status.code == 7
    assert error.log_tail == "no licence\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "empty command"),
        (["/no/such/kernel"], "'/no/such/kernel' was not found"),
        (["sh", "a\0b"], "a word of argv holds NUL"),
        (["sh", 5], "a word of argv must be a string"),
        (["sh", b"x"], "has no JSON form"),
    ],
)
async def test_command_that_is_none(argv: list[Any], says: str, finder: KernelFinder) -> None:
    """A command that cannot be run is an error that says why."""
    with pytest.raises(Exception, match=says):
        await finder.launch("runs/command", nanny=NannyOptions(), launch_params={"argv": argv})
    assert files() == []


async def test_directory_that_is_none(finder: KernelFinder, tmp_path: Path) -> None:
    """A working directory that does not exist is told before a nanny is started."""
    argv = ["sleep", "1"]
    error = await fails(finder, cwd=tmp_path / "none", launch_params={"argv": argv})
    assert "does not exist" in error.cause


async def test_own_directory_that_is_gone(finder: KernelFinder, tmp_path: Path) -> None:
    """Where the caller's own directory was removed, the error says so."""
    gone, before = tmp_path / "gone", Path.cwd()
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        error = await fails(finder, launch_params={"argv": ["sleep", "1"]})
    finally:
        os.chdir(before)
    assert "does not exist any more" in error.cause


async def test_python_that_is_none(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that embeds Python, and cannot be run as one, is told so."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    error = await fails(finder, launch_params={"argv": ["sleep", "1"]})
    assert "The nanny cannot be started" in error.cause
    assert "missing" in error.cause


@pytest.mark.parametrize(
    ("script", "how", "wrote"),
    [
        ("echo no module; echo such a pity >&2; exit 3", "exit code 3", "such a pity\n"),
        ("read line; kill -9 $$", "killed by SIGKILL", ""),
        ("exec >&-; echo mute >&2", "", "mute\n"),
    ],
)
async def test_nanny_that_dies(
    script: str,
    how: str,
    wrote: str,
    finder: KernelFinder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A nanny that ends before it answers is an error with what it wrote, and how it ended."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    error = await fails(finder, launch_params={"argv": ["sleep", "1"]})
    assert "The nanny that was to keep the kernel ended before it answered" in error.cause
    assert how in error.cause
    assert error.log_tail == wrote
    assert ("What it wrote" in error.advice) is bool(wrote)


async def test_data_directory_that_is_none(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where no record can be written no kernel is started, and the error names the path."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(LaunchError, match=r"file/kernel-mgmt") as caught:
        await finder.launch("echo/echo", nanny=NannyOptions())
    assert caught.value.phase == "start"
    assert list(RUNTIME_DIR.iterdir()) == []


def test_full_disk() -> None:
    """Where a file may not grow, the launch fails with one sentence, and nothing is left."""
    process = starter("resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))", "echo/echo")
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, out
    assert "kernel_mgmt.errors.LaunchError: Launch failed (phase 'start')" in errors
    assert "cannot be written: File too large" in errors
    assert files() == []


# --- given up ------------------------------------------------------------------------------------


def never_listens() -> dict[str, Any]:
    """Launch parameters of a kernel that runs and never listens."""
    return {"argv": ["sh", "-c", "sleep 1000 & sleep 1000"]}


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of some processes that have not ended; a zombie has."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kernels_below(record: KernelRecord) -> list[psutil.Process]:
    """The processes of a nanny's kernel."""
    nanny = psutil.Process(record.manager["nanny"]["pid"])
    return [child for child in nanny.children(recursive=True) if child.name() in ("sh", "sleep")]


async def test_cancelled(finder: KernelFinder) -> None:
    """A launch that is cancelled while its kernel starts has left nothing when it has ended."""
    task = asyncio.create_task(
        finder.launch("runs/command", nanny=NannyOptions(), launch_params=never_listens())
    )
    record = await eventually(lambda: (read_records()[0] or [None])[0], PATIENCE)
    processes = await eventually(
        lambda: len(kernels_below(record)) == 3 and kernels_below(record), PATIENCE
    )
    processes.append(psutil.Process(record.manager["nanny"]["pid"]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files() == []
    await eventually(lambda: running(processes) == [], PATIENCE)  # the nanny's last moment


async def test_cancelled_at_any_moment(finder: KernelFinder) -> None:
    """Whenever a launch is cancelled, also just as it succeeds, nothing is left."""

    async def launch_for(seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                _, manager = await finder.launch("echo/echo", nanny=NannyOptions())
        except TimeoutError:
            return False
        assert manager is not None
        await manager.cleanup()
        return True

    began = asyncio.get_running_loop().time()
    assert await launch_for(PATIENCE)
    full = asyncio.get_running_loop().time() - began
    for n in range(9):
        await launch_for(full * (0.2 + n / 10))
        assert files() == []


START = """
import asyncio, resource, sys
sys.path[:0] = sys.argv[2:]
from kernel_mgmt import KernelFinder, NannyOptions, LaunchError
from kernel_mgmt.testing import EchoProvider
from test_nanny_start import Runs, never_listens
finder = KernelFinder({"echo": EchoProvider(), "runs": Runs()})
%s
async def main():
    params = never_listens() if sys.argv[1] == "runs/command" else {}
    info, manager = await finder.launch(sys.argv[1], nanny=NannyOptions(), launch_params=params)
    print(manager.kernel_id, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def starter(first: str, type_id: str) -> subprocess.Popen[str]:
    """A process that launches a kernel under a nanny, prints its id, and waits."""
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", START % first, type_id, str(here), str(here.parent / "helpers")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that launches a kernel of a type; it ends with the test."""
    processes = []

    def start(type_id: str) -> subprocess.Popen[str]:
        processes.append(starter("", type_id))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_starter_that_is_killed(start: Callable[[str], subprocess.Popen[str]]) -> None:
    """A process that is killed in the middle of a launch leaves nothing: no nanny, kernel or file."""
    process = start("runs/command")
    record = eventually_sync(lambda: (read_records()[0] or [None])[0], PATIENCE)
    eventually_sync(lambda: len(kernels_below(record)) == 3, PATIENCE)
    nanny = psutil.Process(record.manager["nanny"]["pid"])
    processes = [nanny, *kernels_below(record)]
    os.killpg(process.pid, signal.SIGKILL)
    eventually_sync(lambda: not running(processes), PATIENCE)
    eventually_sync(lambda: files() == [])


async def test_starter_that_is_killed_afterwards(
    start: Callable[[str], subprocess.Popen[str]],
) -> None:
    """A kernel lives on when all of its starter's session is killed, and is found by its record."""
    process = start("echo/echo")
    assert process.stdout is not None
    kernel_id = await asyncio.to_thread(process.stdout.readline)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    record = the_record()
    assert record.kernel_id == kernel_id.strip()
    assert await output(record.connection_info, "print alive") == "alive"
    await RemoteKernelManager(record.connection_info).stop()
