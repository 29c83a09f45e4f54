"""Kernels that outlive who started them: started, found, attached to, and removed when dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    KernelDied,
    KernelFinder,
    KernelManager,
    KernelRecord,
    Launched,
    LaunchError,
    LaunchRequest,
    NannyError,
    NoSuchKernel,
    NoSuchRunningKernel,
    RequestTimeout,
    RestartPolicy,
    attach_kernel,
    attach_kernel_blocking,
    hookimpl,
    running_kernels,
    start_detached,
    start_detached_blocking,
)
from kernel_mgmt.detached import collect_dead
from kernel_mgmt.machine import this_machine
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.records import gc, is_dead, read_records, records_dir, write_record
from kernel_mgmt.testing import EchoProvider
from making_records import alive, make_record
from waiting import eventually, eventually_sync

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
PATIENCE = 60

Start = Callable[..., Awaitable[KernelRecord]]


@pytest.fixture
async def start(finder: KernelFinder) -> AsyncIterator[Start]:
    """Starts detached echo kernels; at the end all that run are stopped."""

    async def start(name: str = "", **options: Any) -> KernelRecord:
        return await start_detached(
            "echo/echo", name=name, finder=finder, startup_timeout=PATIENCE, **options
        )

    yield start
    await stop_all()


async def stop_all() -> None:
    """Stop all kernels of the session, and remove what dead ones left."""
    await asyncio.gather(
        *(
            RemoteKernelManager(record.connection_info, patience=PATIENCE).stop(0)
            for record in running_kernels()
            if record.connection_info.nanny_control_port
        )
    )
    gc()


def files() -> list[str]:
    """All that kernels have left."""
    found = [*RUNTIME_DIR.iterdir(), *ROOT.glob("km-*"), *records_dir().glob("kernel-*")]
    return [str(path) for path in found]


async def says(client: Any, code: str) -> str:
    """What a cell prints, or gives as its result."""
    parts = []
    async for message in client.execute(code):
        content = message.content
        parts.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
    return "".join(parts).strip()


# --- start and attach ----------------------------------------------------------------------------


async def test_start_and_attach(start: Start, finder: KernelFinder) -> None:
    """A detached kernel is listed, and is attached to by its id, name, beginning of the id, record."""
    record = await start("analysis of May", env={"WHERE": "there"})
    assert running_kernels() == [record]
    assert record.name == "analysis of May"
    assert record.cwd == os.getcwd()
    pids = set()
    for kernel in (record, record.kernel_id, "analysis of May", record.kernel_id[:6]):
        manager, client = await attach_kernel(kernel, finder=finder)
        assert isinstance(manager, RemoteKernelManager)
        assert manager.kernel_id == record.kernel_id
        assert await says(client, "env WHERE") == "there"
        pids.add(await says(client, "pid"))
        client.close()
    assert len(pids) == 1


async def test_attach_while_it_runs_code(start: Start, finder: KernelFinder) -> None:
    """A kernel that is busy is attached to at once, and its other clients notice nothing."""
    record = await start()
    _, first = await attach_kernel(record, finder=finder)
    running = first.execute("sleep 1000")
    async for message in running:
        if message.msg_type == "execute_input":
            break
    manager, second = await attach_kernel(record, finder=finder, timeout=PATIENCE)
    assert not running.answered
    await second.interrupt()
    await running
    assert manager is not None
    for client in (first, second):
        client.close()


async def test_options(start: Start) -> None:
    """Name, lease, idle timeout and restart policy reach the nanny."""
    record = await start(
        "mine", lease=500, idle_timeout=600, unattended_timeout=700, restart_policy=None
    )
    manager = RemoteKernelManager(record.connection_info)
    info = await manager.info()
    assert info["name"] == "mine"
    assert 400 < info["lease"] <= 500
    assert info["idle_timeout"] == 600
    assert info["unattended_timeout"] == 700
    await manager.signal(signal.SIGKILL)
    await manager.wait()
    await eventually(lambda: _has_state(manager, "dead"))


async def _has_state(manager: RemoteKernelManager, state: str) -> bool:
    return (await manager.info())["state"] == state


ATTACH = """
import sys
from kernel_mgmt import KernelFinder, attach_kernel_blocking
_, client = attach_kernel_blocking(sys.argv[1], finder=KernelFinder({}))
client.execute_interactive("print " + sys.argv[2])
client.close()
"""


async def test_from_another_process(start: Start) -> None:
    """Another process attaches by name, without the provider, and leaves the kernel alone."""
    record = await start("shared")
    for word in ("once", "twice"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ATTACH, "shared", word, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert out.decode().strip() == word
    assert running_kernels() == [record]


def test_without_a_loop(finder: KernelFinder) -> None:
    """The same without an event loop; the blocking client and manager are complete."""
    record = start_detached_blocking("echo/echo", name="plain", finder=finder)
    manager, client = attach_kernel_blocking("plain", finder=finder)
    assert isinstance(client, BlockingKernelClient)
    assert manager is not None
    assert running_kernels() == [record]
    assert client.execute("print there").reply(timeout=PATIENCE).content["status"] == "ok"
    client.shutdown_or_terminate()
    client.close()
    eventually_sync(lambda: running_kernels() == [])


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("native/python3", "with a slash it would look like the id of a kernel type"),
        ("-f", "would look like an option"),
        (" mine", "cannot be seen"),
        ("mine\n", "cannot be seen"),
        ("\x1b[31m", "cannot be seen"),
        (" ", "cannot be seen"),
        ("x" * 101, "longer than 100 characters"),
    ],
)
async def test_name_that_cannot_be_used(name: str, why: str, start: Start) -> None:
    """A name that would be confusing later is refused before anything is started."""
    with pytest.raises(LaunchError, match=why) as caught:
        await start(name)
    assert caught.value.phase == "resolve"
    assert files() == []


async def test_name_that_is_taken(start: Start, finder: KernelFinder) -> None:
    """The name or id of a running kernel is refused, and free again when that has ended."""
    record = await start("mine")
    for name in ("mine", record.kernel_id):
        with pytest.raises(LaunchError, match=f"already: {record.kernel_id}") as caught:
            await start(name)
        assert caught.value.phase == "resolve"
    await RemoteKernelManager(record.connection_info).stop(0)
    again = await start("mine")
    assert again.kernel_id != record.kernel_id


# --- how it fails --------------------------------------------------------------------------------


async def test_no_such_type(start: Start, finder: KernelFinder) -> None:
    """An unknown kernel type is the same error as elsewhere."""
    with pytest.raises(NoSuchKernel, match="did you mean echo/echo"):
        await start_detached("echo/ehco", finder=finder)


async def test_limit_that_is_none(start: Start) -> None:
    """A lease that is no time is refused before anything is started."""
    with pytest.raises(ValueError, match="lease is -1"):
        await start(lease=-1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--never-answer"], "did not answer within"),
        (["--exit", "3", "--message", "no licence"], "exit code 3"),
    ],
)
async def test_kernel_that_does_not_start(
    arguments: list[str], says: str, finder: KernelFinder
) -> None:
    """A kernel that does not come up is a LaunchError, and neither it nor its nanny is left."""
    with pytest.raises(LaunchError, match=says):
        await start_detached(
            "echo/echo",
            finder=finder,
            startup_timeout=2 if "--never-answer" in arguments else PATIENCE,
            launch_params={"arguments": arguments},
        )
    assert files() == []


async def test_attach_to_the_unknown(finder: KernelFinder) -> None:
    """What no kernel is called is told so."""
    with pytest.raises(NoSuchRunningKernel, match="none runs") as caught:
        await attach_kernel("x", finder=finder)
    assert caught.value.state == ""


async def test_attach_elsewhere(finder: KernelFinder) -> None:
    """A kernel of another machine is told apart, with that machine's name."""
    other = {**this_machine(), "host": "desk", "boot_id": "other"}
    write_record(records_dir(), make_record(manager=alive(), machine=other))
    try:
        with pytest.raises(NoSuchRunningKernel, match="runs on desk; attach to it there") as caught:
            await attach_kernel("one", finder=finder)
        assert caught.value.state == "elsewhere"
        assert [record.kernel_id for record in running_kernels()] == ["one"]
        assert await collect_dead(finder=finder) == []
    finally:
        (records_dir() / "kernel-one.json").unlink()


async def test_attach_to_a_number_of_somebody_else(finder: KernelFinder) -> None:
    """A kernel whose nanny's process id is another process's by now is dead, and told so."""
    stolen = {"nanny": {"pid": os.getpid(), "identity": "12345"}}
    write_record(records_dir(), make_record(manager=stolen))
    with pytest.raises(NoSuchRunningKernel, match="has ended, with what kept it") as caught:
        await attach_kernel("one", finder=finder)
    assert caught.value.state == "dead"
    assert running_kernels() == []
    assert [record.kernel_id for record in await collect_dead(finder=finder)] == ["one"]
    assert files() == []


async def test_attach_to_the_dead(start: Start, finder: KernelFinder) -> None:
    """A kernel that has died for good is told apart by how it ended; so is one without a nanny."""
    record = await start(restart_policy=None)
    manager = RemoteKernelManager(record.connection_info)
    await manager.signal(signal.SIGKILL)
    await manager.wait()
    with pytest.raises(KernelDied, match="killed by SIGKILL"):
        await attach_kernel(record, finder=finder, timeout=PATIENCE)


async def test_attach_to_the_silent(start: Start, finder: KernelFinder) -> None:
    """A kernel that is stopped is told apart: it is alive and does not answer; so is its nanny."""
    record = await start()
    manager = RemoteKernelManager(record.connection_info)
    await manager.signal(signal.SIGSTOP)
    with pytest.raises(RequestTimeout, match="its process is alive"):
        await attach_kernel(record, finder=finder, timeout=0.5)
    nanny = psutil.Process(record.manager["nanny"]["pid"])
    nanny.suspend()
    try:
        with pytest.raises(NannyError, match="nanny"):
            await RemoteKernelManager(record.connection_info, patience=0.5).is_alive()
        assert running_kernels() == [record]
    finally:
        nanny.resume()


async def test_startup_that_is_cancelled(finder: KernelFinder) -> None:
    """A start that is cancelled while the kernel does not answer leaves nothing."""
    task = asyncio.create_task(
        start_detached(
            "echo/echo", finder=finder, launch_params={"arguments": ["--answer-delay", "1000"]}
        )
    )
    await eventually(running_kernels, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files() == []


# --- what dead ones leave ------------------------------------------------------------------------


async def test_nanny_that_is_killed(start: Start, finder: KernelFinder) -> None:
    """With its nanny a kernel is gone, its record says that it is dead, and the rest is removed."""
    record, other = await start(), await start()
    os.kill(record.manager["nanny"]["pid"], signal.SIGKILL)
    await eventually(lambda: is_dead(record))
    with pytest.raises(NoSuchRunningKernel):
        await attach_kernel(record, finder=finder)
    assert running_kernels() == [other]
    # By the nanny's watchdog, or else by us.
    await collect_dead(finder=finder)
    await eventually(lambda: read_records() == ([other], []))
    manager, client = await attach_kernel(other, finder=finder)
    client.close()
    assert manager is not None
    assert await manager.is_alive()


async def test_nanny_of_a_dead_kernel(start: Start, finder: KernelFinder) -> None:
    """A nanny that only tells how its kernel died is ended; those of living kernels are not."""
    dead, living = await start(restart_policy=RestartPolicy(limit=0)), await start()
    manager = RemoteKernelManager(dead.connection_info)
    await manager.signal(signal.SIGKILL)
    await manager.wait()
    await eventually(lambda: _has_state(manager, "dead"))
    assert gc() == []  # its nanny lives
    assert await collect_dead(finder=finder) == [dead]
    assert running_kernels() == [living]
    assert await collect_dead(finder=finder) == []


# --- kernels that need no nanny ------------------------------------------------------------------


class Container(KernelManager):
    """Manages a kernel that lives on by itself, as in a container, whatever we do."""

    def __init__(self, kernel_id: str, inner: KernelManager) -> None:
        self.kernel_id = kernel_id
        self.inner = inner

    async def is_alive(self) -> bool:
        """As the process."""
        return await self.inner.is_alive()

    async def wait(self) -> Any:
        """As the process."""
        return await self.inner.wait()

    async def signal(self, signum: int) -> None:
        """As the process."""
        await self.inner.signal(signum)

    async def kill(self) -> None:
        """As the process."""
        await self.inner.kill()

    async def cleanup(self) -> None:
        """As the process."""
        await self.inner.cleanup()

    def record(self) -> dict[str, Any]:
        """Its number."""
        return {"container": self.kernel_id}


class Containers(EchoProvider):
    """A provider whose kernels need no nanny."""

    def __init__(self) -> None:
        super().__init__()
        self.managers: dict[str, Container] = {}

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Launched]:
        """Launch, and remember."""
        return self._launch(replace(request, nanny=None))

    async def _launch(self, request: LaunchRequest) -> Launched:
        info, manager = await super().kernel_mgmt_launch_kernel(request)
        assert manager is not None
        self.managers[request.kernel_id] = Container(request.kernel_id, manager)
        return Launched(info, self.managers[request.kernel_id])

    @hookimpl
    def kernel_mgmt_attach_kernel(self, record: KernelRecord) -> Awaitable[Launched]:
        """Look it up."""
        return self._attach(record)

    async def _attach(self, record: KernelRecord) -> Launched:
        if record.manager["container"] not in self.managers:
            raise LaunchError("there is no such container.", phase="connect")
        return Launched(record.connection_info, self.managers[record.manager["container"]])


async def test_kernel_without_a_nanny() -> None:
    """A provider's own kernel is in the same list, attached to by its hook, and removed when dead."""
    provider = Containers()
    finder = KernelFinder({"box": provider})
    record = await start_detached("box/echo", name="mine", finder=finder)
    assert running_kernels() == [record]
    assert record.type_id == "box/echo"
    assert record.manager == {"container": record.kernel_id}
    manager, client = await attach_kernel("mine", finder=finder)
    assert manager is provider.managers[record.kernel_id]
    assert await says(client, "print there") == "there"
    client.close()
    assert await collect_dead(finder=finder) == []
    await manager.kill()
    assert await collect_dead(finder=KernelFinder({})) == []  # nobody who knows was asked
    assert await collect_dead(finder=finder) == [record]
    assert files() == []


async def test_record_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where its record cannot be written a provider's own kernel is ended again."""
    provider = Containers()
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(LaunchError, match="file/kernel-mgmt"):
        await start_detached("box/echo", finder=KernelFinder({"box": provider}))
    (manager,) = provider.managers.values()
    assert not await manager.is_alive()
    assert files() == []


# --- many ----------------------------------------------------------------------------------------


async def test_fifty(start: Start, finder: KernelFinder) -> None:
    """Fifty kernels start at once, are all listed and told apart, stop at once, and leave nothing."""
    records = await asyncio.gather(*(start(f"kernel {n}") for n in range(50)))
    assert {record.kernel_id for record in running_kernels()} == {r.kernel_id for r in records}
    assert read_records()[1] == []
    assert len({record.manager["nanny"]["pid"] for record in records}) == 50
    _, client = await attach_kernel("kernel 33", finder=finder)
    assert await says(client, "print here") == "here"
    client.close()
    await stop_all()
    assert files() == []


BUSY = """
import asyncio, json, random, sys
from kernel_mgmt import KernelFinder, RestartPolicy, running_kernels, start_detached
from kernel_mgmt.detached import collect_dead
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.testing import EchoProvider

finder = KernelFinder({"echo": EchoProvider()})

async def one(n):
    record = await start_detached("echo/echo", name=f"{sys.argv[1]} {n}", finder=finder)
    assert record in running_kernels()
    removed = await collect_dead(finder=finder)
    assert record not in removed, removed
    manager = RemoteKernelManager(record.connection_info)
    assert await manager.is_alive()
    if n % 2:
        await manager.stop(0)
        assert record not in running_kernels()
        return None
    return record.kernel_id

async def main():
    kept = await asyncio.gather(*(one(n) for n in range(4)))
    print(json.dumps([kernel_id for kernel_id in kept if kernel_id]))

asyncio.run(main())
"""


async def test_two_processes_at_once(start: Start, finder: KernelFinder) -> None:
    """Two processes that start, stop and remove at once do not touch each other's kernels."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", BUSY, name, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in ("left", "right")
    ]
    outputs = [await process.communicate() for process in processes]
    assert [errors for _, errors in outputs] == [b"", b""]
    kept = {kernel_id for output, _ in outputs for kernel_id in json.loads(output)}
    assert len(kept) == 4
    records, problems = read_records()
    assert {record.kernel_id for record in records} == kept
    assert problems == []
    for record in records:
        assert await RemoteKernelManager(record.connection_info).is_alive()
