"""Kernels that are found again: after their application was killed, or their engine restarted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import docker
import pytest
from contained import ECHO
from container_code import run
from docker.errors import NotFound
from dockerds import Dockerd, alone, cache, provide_image
from kernel_mgmt import ExitStatus, KernelClient, KernelFinder, KernelRecord, LaunchError
from kernel_mgmt.detached import attach_kernel, collect_dead, running_kernels, start_detached
from kernel_mgmt.records import ALIVE, has_ended, read_records, record_state, records_dir
from kernel_mgmt_docker.errors import DockerProblem
from kernel_mgmt_docker.manager import DockerKernelManager
from waiting import eventually

Config = Callable[..., None]
Start = Callable[..., Any]

#: Tells that it runs; what comes after it is not to be aborted when it is interrupted.
_SLEEP = "import time\nprint('on')\ntime.sleep(100)"

#: An application that starts a kernel, sets a variable in it, tells so and waits.
_APPLICATION = """
import asyncio, sys
from kernel_mgmt import KernelClient, KernelFinder
import kernel_mgmt_docker

async def main():
    finder = KernelFinder({"docker": kernel_mgmt_docker})
    info, manager = await finder.launch(sys.argv[1])
    client = KernelClient(info, manager=manager)
    await client.wait_for_ready(60)
    await client.execute("x = 42")
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def _attached(
    finder: KernelFinder, record: KernelRecord
) -> AsyncIterator[tuple[DockerKernelManager, KernelClient]]:
    info, manager = await finder.attach(record)
    assert isinstance(manager, DockerKernelManager)
    async with manager:
        client = KernelClient(info, manager=manager)
        with contextlib.closing(client):
            await client.wait_for_ready(30)
            yield manager, client


@pytest.mark.parametrize("connect", ["ipc", "relay"])
async def test_a_kernel_outlives_its_application_and_is_found_again(
    config: Config,
    finder: KernelFinder,
    image: str,
    docker_client: docker.DockerClient,
    connect: str,
) -> None:
    """After SIGKILL of the application its record leads to the kernel, variables and all."""
    config("k", image=image, connect=connect)
    application = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _APPLICATION, "docker/k", stdout=subprocess.PIPE
    )
    try:
        assert application.stdout is not None
        assert await application.stdout.readline() == b"started\n"
    finally:
        application.kill()
        await application.wait()
    (record,), _ = read_records()
    async with _attached(finder, record) as (manager, client):
        assert (await run(client, "x")).data[0]["text/plain"] == "42"
        assert await manager.is_alive()
        await _interrupts(manager, client)
    assert not list(records_dir().glob("kernel-*"))
    filters = {"label": f"kernel-mgmt.id={record.kernel_id}"}
    assert not docker_client.api.containers(all=True, filters=filters)


async def test_a_kernel_is_found_by_its_labels(start: Start, finder: KernelFinder) -> None:
    """A record that was written before the engine told the container's id is enough."""
    manager, _ = await start(argv=ECHO)
    (record,), _ = read_records()
    details = {**record.manager["docker"], "container": "", "name": ""}
    info, again = await finder.attach(replace(record, manager={"docker": details}))
    assert isinstance(again, DockerKernelManager)
    assert again.container_id == manager.container_id
    assert info == record.connection_info
    await again.cleanup()
    assert not await manager.is_alive() or (await manager.wait())


async def test_a_kernel_that_has_ended_is_found_with_how_it_did(
    start: Start, finder: KernelFinder
) -> None:
    """Its exit code and its log are there until it is cleaned up."""
    manager, client = await start(argv=ECHO)
    (record,), _ = read_records()
    client.close()
    await manager.signal(signal.SIGKILL)
    await manager.wait()
    _, again = await finder.attach(record)
    assert again is not None
    assert await again.wait() == ExitStatus(signal=signal.SIGKILL)
    await again.cleanup()


async def test_a_container_that_was_removed_is_an_error(start: Start, finder: KernelFinder) -> None:
    """So is a record that is none of a container."""
    manager, client = await start(argv=ECHO)
    (record,), _ = read_records()
    client.close()
    await manager.cleanup()
    with pytest.raises(LaunchError, match="has no container of kernel"):
        await finder.attach(record)
    with pytest.raises(LaunchError, match="does not say in which container"):
        await finder.attach(replace(record, manager={"docker": "x"}))


async def test_a_launch_whose_application_is_killed_can_be_found(
    config: Config, finder: KernelFinder, image: str, docker_client: docker.DockerClient
) -> None:
    """There was a record before there was a container, and it leads to all that is left."""
    config("slow", image=image, argv=[*ECHO, "--startup-delay", "60"])
    application = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _APPLICATION, "docker/slow"
    )
    try:
        (record,) = await eventually(lambda: read_records()[0], 20)
        filters = {"label": f"kernel-mgmt.id={record.kernel_id}"}
        await eventually(lambda: docker_client.api.containers(filters=filters), 20)
    finally:
        application.kill()
        await application.wait()
    (record,), _ = read_records()
    _, manager = await finder.attach(record)
    assert manager is not None
    assert await manager.is_alive()
    await manager.cleanup()
    assert not docker_client.api.containers(all=True, filters=filters)
    assert not list(records_dir().glob("kernel-*"))
    assert not os.path.exists(os.path.dirname(record.connection_info.ip))


async def test_what_is_left_of_dead_kernels_is_collected(
    start: Start, finder: KernelFinder, docker_client: docker.DockerClient
) -> None:
    """One that has ended, and one whose container somebody removed, go; one that lives stays."""
    living, _ = await start(argv=ECHO)
    ended, _ = await start(argv=ECHO)
    gone, _ = await start(argv=ECHO)
    await ended.kill()
    docker_client.api.remove_container(gone.container_id, force=True)
    removed = await collect_dead(finder=finder)
    assert [record.kernel_id for record in removed] == [ended.kernel_id]
    assert [record.kernel_id for record in read_records()[0]] == [living.kernel_id]
    with pytest.raises(NotFound):
        docker_client.api.inspect_container(ended.container_id)
    assert await living.is_alive()


async def test_a_dead_kernel_is_collected_also_where_a_relay_led_to_it(
    start: Start, finder: KernelFinder, nothing_left: Callable[[], list[str]]
) -> None:
    """No relay is started to what has ended; and one to what lives goes when nobody looks any more."""
    ended, _ = await start(argv=ECHO, connect="relay")
    living, _ = await start(argv=ECHO, connect="relay")
    await ended._reaching._relay.close()  # as if its process had ended
    await living._reaching._relay.close()
    await ended.kill()
    removed = await collect_dead(finder=finder)
    assert [record.kernel_id for record in removed] == [ended.kernel_id]
    gc.collect()
    (record,) = read_records()[0]
    info = record.connection_info
    await eventually(lambda: not info.socket_path("shell").exists())
    assert await living.is_alive()


async def test_a_dead_container_is_seen_by_its_record(start: Start) -> None:
    """It names the container's process, so that no engine is asked, which may be down."""
    manager, _ = await start(argv=ECHO)
    (record,) = read_records()[0]
    assert not has_ended(record)
    assert running_kernels() == [record]
    await manager.kill()
    await eventually(lambda: has_ended(record))
    assert running_kernels() == []
    assert record_state(record) == ALIVE  # what it left is its provider's to remove


async def test_a_kernel_whose_lease_is_over_is_ended_by_who_clears_up(
    start: Start, finder: KernelFinder, docker_client: docker.DockerClient
) -> None:
    """A lease that was renewed counts from then on, in other processes, too."""
    over, _ = await start(argv=ECHO, lease=0.01)
    renewed, _ = await start(argv=ECHO, lease=0.01)
    for_ever, _ = await start(argv=ECHO, lease=0.01)
    without, _ = await start(argv=ECHO)
    assert without.lease_ends is None
    await renewed.renew_lease(60)
    await for_ever.renew_lease(None)
    with pytest.raises(ValueError, match="no number of seconds"):
        await renewed.renew_lease(0)
    assert [record.kernel_id for record in await collect_dead(finder=finder)] == [over.kernel_id]
    with pytest.raises(NotFound):
        docker_client.api.inspect_container(over.container_id)
    for manager in (renewed, for_ever, without):
        assert await manager.is_alive()
        (record,) = [r for r in read_records()[0] if r.kernel_id == manager.kernel_id]
        _, attached = await finder.attach(record)
        assert attached is not None
        assert attached.lease_ends == manager.lease_ends


async def test_a_kernel_can_be_started_detached_and_found_by_its_name(
    config: Config, finder: KernelFinder, image: str, nothing_left: object
) -> None:
    """It needs no nanny to live on; what a nanny alone can do is refused where there is none."""
    config("k", image=image, argv=ECHO, journal=False)
    record = await start_detached("docker/k", name="mine", finder=finder)
    assert record in running_kernels()
    assert record.name == "mine"
    manager, client = await attach_kernel("mine", finder=finder)
    with contextlib.closing(client):
        assert (await client.execute("x")).content["status"] == "ok"
    assert manager is not None
    await manager.cleanup()
    assert not running_kernels()
    with pytest.raises(LaunchError, match="no nanny that would end it by 'idle_timeout'"):
        await start_detached("docker/k", idle_timeout=5, finder=finder)
    with pytest.raises(LaunchError, match="no nanny that would end it by 'unattended_timeout'"):
        await start_detached("docker/k", unattended_timeout=5, finder=finder)
    config("short", image=image, lease=5, journal=False)
    with pytest.raises(LaunchError, match="may not set lease"):
        await start_detached("docker/short", lease=6, finder=finder)
    # The manager that start_detached has dropped lets go of the engine when it is collected.
    gc.collect()


# -- an engine that stops and starts -------------------------------------------------------------


@pytest.fixture
def live_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """An engine of its own, which lets containers live while it does not run; it is DOCKER_HOST."""
    with alone("live-engine"):
        # Its images stay from run to run.
        engine = Dockerd(cache() / "live-engine", "--live-restore", apart=True)
        engine.stop()
        engine.start()
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        yield engine
        if not engine.answers():
            engine.start()
        with contextlib.closing(docker.APIClient(base_url=engine.host)) as api:
            for container in api.containers(all=True):
                api.remove_container(container["Id"], force=True, v=True)
        engine.stop()


async def test_kernels_live_on_while_their_engine_restarts(
    live_engine: Dockerd, config: Config, finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the engine is down code runs, and a death is noticed; then its word counts again."""
    monkeypatch.setattr("kernel_mgmt_docker.watching._WITHOUT_WORD", 0.3)
    image = await asyncio.to_thread(provide_image, live_engine.host)
    config("k", image=image)
    config("echo", image=image, argv=ECHO)
    async with _launched(finder, "docker/k") as (manager, client):
        await run(client, "x = 42")
        async with (
            _launched(finder, "docker/echo") as (doomed, _),
            _launched(finder, "docker/echo") as (killed, _),
        ):
            await asyncio.to_thread(live_engine.stop)
            assert await manager.is_alive()
            os.kill(doomed._pid, signal.SIGKILL)
            assert (await run(client, "x")).data[0]["text/plain"] == "42"
            await _interrupts(manager, client)
            async with asyncio.timeout(10):
                assert "does not answer" in (await doomed.wait()).reason
            with pytest.raises(DockerProblem, match="No container engine answers"):
                await manager.usage()
            assert await manager.log_tail() == ""
            await killed.kill()
            await asyncio.to_thread(live_engine.start)
        assert (await run(client, "x + 1")).data[0]["text/plain"] == "43"
        assert (await manager.usage())["memory"]
        (record,), _ = read_records()
        async with _attached(finder, record) as (_, other):
            assert (await run(other, "x + 2")).data[0]["text/plain"] == "44"
        async with asyncio.timeout(20):
            assert await manager.wait() == ExitStatus(signal=signal.SIGKILL)


@contextlib.asynccontextmanager
async def _launched(
    finder: KernelFinder, type_id: str
) -> AsyncIterator[tuple[DockerKernelManager, KernelClient]]:
    info, manager = await finder.launch(type_id)
    assert isinstance(manager, DockerKernelManager)
    async with manager:
        client = KernelClient(info, manager=manager)
        with contextlib.closing(client):
            await client.wait_for_ready(30)
            yield manager, client


async def _interrupts(manager: DockerKernelManager, client: KernelClient) -> None:
    request = client.execute(_SLEEP, stop_on_error=False)
    async for message in request:
        if message.msg_type == "stream":
            break
    await manager.interrupt()
    assert (await request).content["ename"] == "KeyboardInterrupt"
