"""Kernels in containers of a real Podman, by its service for Docker's API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from container_code import run
from docker.errors import APIError
from kernel_mgmt import (
    ExitStatus,
    KernelClient,
    KernelFinder,
    KernelRestarter,
    RemoteKernelManager,
)
from kernel_mgmt.detached import attach_kernel, start_detached
from kernel_mgmt.records import read_records, records_dir
from kernel_mgmt_docker.manager import _has_ended
from podmans import podman_service
from waiting import eventually

Start = Callable[..., Any]

#: What a kernel sees of its container, as JSON.
_SEEN = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
open("mine", "w").close(); open("/tmp/mine", "w").close()
home = os.stat(".")
try:
    open("/root-is-writable", "w")
except OSError as error:
    refused = error.strerror
print(json.dumps({
    "uid": os.getuid(), "home": [os.getcwd(), home.st_uid, home.st_mode & 0o777],
    "network": os.listdir("/sys/class/net"), "refused": refused,
    "rights": [status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs")],
}))
"""


@pytest.fixture(scope="module")
def podman() -> Iterator[tuple[str, str]]:
    """The address of a running service, and the name of its image."""
    with podman_service() as service:
        yield service


@pytest.fixture(scope="module")
def engine_host(podman: tuple[str, str]) -> Iterator[str]:
    """The address of the service, which is DOCKER_HOST, too; in place of Docker's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", podman[0])
        yield podman[0]


@pytest.fixture(scope="module")
def image(podman: tuple[str, str]) -> str:
    """The name of an image with Python and ipykernel, in Podman."""
    return podman[1]


@pytest.fixture(autouse=True)
def _no_trace(nothing_left: Callable[[], list[str]]) -> Iterator[None]:
    """Whatever a kernel came to: no container, record or directory is left of it."""
    yield
    assert not list(records_dir().glob("kernel-*"))
    assert not list(Path(tempfile.gettempdir()).glob("km-*"))


async def _interrupt(client: KernelClient, interrupt: Callable[[], Any]) -> None:
    """Interrupt a kernel that waits for a child, and see that both were."""
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print('on'); p.wait()"
    request = client.execute(code, stop_on_error=False)
    async for message in request:
        if message.msg_type == "stream":
            break
    await interrupt()
    async with asyncio.timeout(20):
        assert (await request).content["ename"] == "KeyboardInterrupt"
    # Not its code: who is interrupted while waiting may have reaped it, and lost that.
    assert (await run(client, "p.wait(20); print('has ended')")).text == "has ended\n"


async def test_a_kernel_in_podman_is_closed_and_lives_its_whole_life(
    start: Start, finder: KernelFinder, docker_client: docker.DockerClient
) -> None:
    """What Docker's kernels are and can do, these are and can do, from launch to stop."""
    manager, client = await start()
    assert json.loads((await run(client, _SEEN)).text) == {
        "uid": 10001,
        "home": ["/home/kernel", 10001, 0o700],
        "network": ["lo"],
        "refused": "Read-only file system",
        "rights": ["0" * 16, "0" * 16, "1"],
    }
    await _interrupt(client, manager.interrupt)
    usage = await manager.usage()
    assert usage["memory_limit"] == 2 * 2**30
    assert usage["cpu_seconds"] > 0
    inspected = docker_client.api.inspect_container(manager.container_id)
    assert inspected["HostConfig"]["PidsLimit"] == 512
    assert client.connection_info.key not in json.dumps(inspected)
    await run(client, "n = 41; os.write(1, b'written to the log')")
    await eventually(lambda: _has(manager, "written to the log"), 10)
    (record,), _ = read_records()
    info, again = await finder.attach(record)
    assert again is not None
    other = KernelClient(info, manager=again)
    try:
        await other.wait_for_ready(30)
        assert (await run(other, "print(n + 1)")).text == "42\n"
        await client.shutdown_or_terminate(timeout=20)
        async with asyncio.timeout(20):
            assert await again.wait() == await manager.wait() == ExitStatus(code=0)
    finally:
        other.close()
    await again.cleanup()


async def _has(manager: Any, text: str) -> bool:
    return text in await manager.log_tail()


async def test_a_kernel_in_podman_is_started_again_where_it_was(
    config: Callable[..., None], finder: KernelFinder, image: str
) -> None:
    """Its end is noticed, with the exit code, and its client goes on with the next one."""
    config("k", image=image)
    info, manager = await finder.launch("docker/k")
    assert manager is not None
    async with KernelRestarter(finder, "docker/k", manager, info) as restarter:
        client = KernelClient(info, manager=manager)
        restarter.follow(client)
        await client.wait_for_ready(30)
        restarted = await restarter.restart()
        assert restarted.connection_info == info
        client.execute("import os; os._exit(7)")
        async with asyncio.timeout(20):
            assert await restarted.manager.wait() == ExitStatus(code=7)
        await restarter.shutdown()
        client.close()


async def test_a_kernel_in_podman_is_kept_by_a_nanny(
    config: Callable[..., None],
    finder: KernelFinder,
    image: str,
    nothing_left: Callable[[], list[str]],
) -> None:
    """It is interrupted, started again, and its log is there; a killed nanny leaves no container."""
    config("k", image=image)
    record = await start_detached("docker/k", finder=finder)
    manager, client = await attach_kernel(record, finder=finder)
    assert isinstance(manager, RemoteKernelManager)
    await _interrupt(client, manager.interrupt)
    await manager.restart()
    await run(client, "import os; os.write(1, b'written to the log')")
    await eventually(lambda: _has(manager, "written to the log"), 10)
    client.execute("import os; os._exit(7)")
    async with asyncio.timeout(20):
        assert await manager.wait() == ExitStatus(code=7)
        assert await manager.next_kernel()
    client.close()
    os.kill((await manager.info())["nanny_pid"], signal.SIGKILL)
    await eventually(lambda: not nothing_left(), 20)
    await eventually(lambda: not read_records()[0])


async def test_podman_takes_programs_that_run_beside_the_kernel(
    start: Start, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One relays its connections, and one sends signals where its processes are not this machine's."""
    manager, client = await start(connect="relay")
    assert (await run(client, "print(6 * 7)")).text == "42\n"
    monkeypatch.setattr(manager, "_signal_from_here", lambda signum: False)
    await _interrupt(client, manager.interrupt)
    await manager.kill()
    assert await manager.wait() == ExitStatus(signal=9)
    with pytest.raises(APIError) as refused:
        docker_client.api.kill(manager.container_id)
    assert _has_ended(refused.value)
