"""Managers and clients of a kernel that a real nanny keeps."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    BlockingRemoteKernelManager,
    ExitStatus,
    KernelClient,
    KernelDied,
    KernelEvent,
    KernelRestarted,
    NannyError,
    NannyOptions,
    RestartPolicy,
    manager_for,
)
from messages import failure, outputs, run_long, texts
from nannies import RunningNanny, is_gone, running_nanny
from waiting import eventually, eventually_sync

PATIENCE = 20.0

#: Starts a kernel again at once, and gives up after three.
QUICK = NannyOptions(restart_policy=RestartPolicy(limit=3, backoff=0.01))


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny whose echo kernel is started again when it dies."""
    with running_nanny(options=QUICK) as nanny:
        yield nanny


@pytest.fixture
async def client(nanny: RunningNanny) -> AsyncIterator[KernelClient]:
    """A client with a manager, ready."""
    async with KernelClient(
        nanny.connection_info, manager=manager_for(nanny.connection_info)
    ) as client:
        await client.wait_for_ready(PATIENCE)
        yield client


async def run(client: KernelClient) -> list[str]:
    """Run code; gives what it printed."""
    async with asyncio.timeout(PATIENCE):
        request = client.execute("print x")
        await request.wait_until_finished()
        return texts(await outputs(request))


async def test_restart_behind_clients(nanny: RunningNanny, client: KernelClient) -> None:
    """Requests of all clients end with KernelRestarted, and the same clients use the new kernel."""
    assert client.manager is not None
    blocking = await asyncio.to_thread(
        BlockingKernelClient, nanny.connection_info, manager=client.manager
    )
    try:
        waiting = await run_long(client)
        queued = blocking.execute("print never")
        async with asyncio.timeout(PATIENCE):
            await client.manager.restart()  # type: ignore[attr-defined]
        assert await run(client) == ["x"]
        request = blocking.execute("print x")
        assert texts(await asyncio.to_thread(list, request.outputs(PATIENCE))) == ["x"]
        assert isinstance(await failure(waiting), KernelRestarted)
        with pytest.raises(KernelRestarted):
            await asyncio.to_thread(queued.reply, PATIENCE)
    finally:
        await asyncio.to_thread(blocking.close)


async def test_restart_by_somebody_else(nanny: RunningNanny, client: KernelClient) -> None:
    """A client follows also when another manager, or another client's request, restarts the kernel."""
    waiting = await run_long(client)
    async with asyncio.timeout(PATIENCE):
        await manager_for(nanny.connection_info).restart(timeout=1)
    assert isinstance(await failure(waiting), KernelRestarted)
    await client.wait_for_ready(PATIENCE)
    assert await run(client) == ["x"]
    async with KernelClient(nanny.connection_info) as other:
        await other.wait_for_ready(PATIENCE)
        _ = other.shutdown(restart=True)
        await eventually(lambda: repr(client).startswith("<KernelClient dead"), PATIENCE)
    await client.wait_for_ready(PATIENCE)
    assert await run(client) == ["x"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_death_by_signal(nanny: RunningNanny, client: KernelClient, number: int) -> None:
    """A kernel that a signal ends is started again, and the request knows how it ended."""
    assert client.manager is not None
    waiting = await run_long(client)
    await client.manager.signal(number)
    error = await failure(waiting)
    assert isinstance(error, KernelDied)
    assert error.exit_status == ExitStatus(signal=number)
    await client.wait_for_ready(PATIENCE)
    assert await run(client) == ["x"]
    assert await client.manager.is_alive()


async def test_death_of_the_nanny() -> None:
    """When the nanny is killed the client's requests end, and its manager knows of no kernel."""
    with running_nanny(options=QUICK) as nanny:
        manager = manager_for(nanny.connection_info)
        async with KernelClient(nanny.connection_info, manager=manager) as client:
            await client.wait_for_ready(PATIENCE)
            waiting = await run_long(client)
            nanny.kill()
            killed = time.monotonic()
            error = await failure(waiting)
            assert time.monotonic() - killed < 2
            assert "its nanny ended" in str(error)
            assert not await manager.is_alive()
            await manager.cleanup()
            assert isinstance(await failure(client.wait_for_ready(PATIENCE)), KernelDied)


async def test_given_up_and_started_by_hand() -> None:
    """A kernel that is not to be started again stays dead until restart; then a client can use it."""
    with running_nanny(options=NannyOptions(restart_policy=None)) as nanny:
        manager = manager_for(nanny.connection_info)
        async with KernelClient(nanny.connection_info, manager=manager) as client:
            await client.wait_for_ready(PATIENCE)
            await manager.signal(signal.SIGKILL)
            assert await manager.wait() == ExitStatus(signal=9)
            assert not await manager.next_kernel()
            assert isinstance(await failure(client.wait_for_ready(PATIENCE)), KernelDied)
            async with asyncio.timeout(PATIENCE):
                await manager.restart()
            assert await manager.is_alive()
            await client.reconnect(nanny.connection_info, manager)
            await client.wait_for_ready(PATIENCE)
            assert await run(client) == ["x"]


async def test_a_restart_that_comes_to_nothing() -> None:
    """When no kernel comes up any more restart says so, and the manager has a dead kernel's status."""
    with running_nanny(options=NannyOptions(restart_policy=None)) as nanny:
        manager = manager_for(nanny.connection_info)
        await manager.kill()
        await manager.stop(0)
        with pytest.raises(NannyError, match="has ended"):
            await manager.restart()
        assert await manager.wait() == ExitStatus(signal=9)


async def test_ending_it(nanny: RunningNanny, client: KernelClient) -> None:
    """To shut the kernel down is the end of the nanny, too, with the kernel's own exit status."""
    await client.shutdown_or_terminate(PATIENCE)
    assert client.manager is not None
    assert await client.manager.wait() == ExitStatus(code=0)
    await eventually(lambda: is_gone(nanny.pid), PATIENCE)


async def test_a_block(nanny: RunningNanny) -> None:
    """A manager as a context manager ends kernel and nanny."""
    async with manager_for(nanny.connection_info) as manager:
        assert await manager.is_alive()
    assert await manager.wait() == ExitStatus(signal=9)
    await eventually(lambda: is_gone(nanny.pid), PATIENCE)


async def test_without_a_manager(nanny: RunningNanny) -> None:
    """A client without a manager has its request ended by the nanny, and works on by itself."""
    manager = manager_for(nanny.connection_info)
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        waiting = await run_long(client)
        await manager.signal(signal.SIGKILL)
        assert isinstance(await failure(waiting), KernelDied)
        await client.wait_for_ready(PATIENCE)
        waiting = await run_long(client)
        await manager.wait()
        assert await manager.next_kernel()
        await manager.restart()
        assert isinstance(await failure(waiting), KernelRestarted)
        assert await run(client) == ["x"]


async def test_what_a_nanny_tells(nanny: RunningNanny, client: KernelClient) -> None:
    """Events tell of output, of a death and the next kernel, and of the nanny's end."""
    manager = manager_for(nanny.connection_info)
    events = manager.events()
    told: list[KernelEvent] = []

    async def listen() -> None:
        async for event in events:
            told.append(event)

    listening = asyncio.create_task(listen())
    assert await events.listening()
    await client.execute("outside hello")
    await eventually(lambda: told, PATIENCE)
    await manager.signal(signal.SIGKILL)
    await manager.wait()
    assert await manager.next_kernel()
    await manager.stop(1)
    async with asyncio.timeout(PATIENCE):
        await listening
    output = told[0]
    assert (output.name, output.stream, output.text) == ("output", "stdout", "hello\n")
    told = [event for event in told if event.name != "output"]
    assert [event.name for event in told] == [
        *("died", "restarting", "started", "ready", "stopping", "died"),
    ]
    assert told[0].exit_status == ExitStatus(signal=9)
    assert told[3].manager is manager


async def test_a_log_and_what_is_added_to_it(nanny: RunningNanny, client: KernelClient) -> None:
    """With the log and the events nothing that the process wrote is missed or counted twice."""
    manager = manager_for(nanny.connection_info)
    writing = asyncio.create_task(
        client.execute("\n".join(f"outside {n}" for n in range(300))).wait_until_finished()
    )
    async with asyncio.timeout(PATIENCE):
        await eventually(lambda: manager.log(1), PATIENCE)
        events = manager.events()
        assert await events.listening()
        log = await manager.log(1000)
        text = log.text
        while not text.endswith("299\n"):
            event = await anext(events)
            if event.name == "output" and (event.kernel, event.position) > log[1:]:
                text += event.text
        assert text.split() == [str(n) for n in range(300)]
        await events.aclose()
        await writing


async def test_a_lease(nanny: RunningNanny) -> None:
    """A lease that is not renewed ends kernel and nanny; one that is taken away does not."""
    manager = manager_for(nanny.connection_info)
    await manager.renew_lease(60)
    assert 50 < (await manager.info())["lease"] <= 60
    await manager.renew_lease(None)
    assert (await manager.info())["lease"] is None
    await manager.renew_lease(0.05)
    async with asyncio.timeout(PATIENCE):
        await manager.wait()
    await eventually(lambda: is_gone(nanny.pid), PATIENCE)
    assert not await manager.is_alive()


def test_without_an_event_loop(nanny: RunningNanny) -> None:
    """The blocking manager of a remote one has its methods, and a blocking client gives it."""
    with BlockingKernelClient(
        nanny.connection_info, manager=manager_for(nanny.connection_info)
    ) as client:
        client.wait_for_ready(PATIENCE)
        manager = client.manager
        assert isinstance(manager, BlockingRemoteKernelManager)
        assert manager.info()["kernel"] == 1
        manager.renew_lease(60)
        events = manager.events(PATIENCE)
        manager.restart(timeout=PATIENCE)
        assert texts(list(client.execute("print x").outputs(PATIENCE))) == ["x"]
        assert manager.is_alive()
        manager.signal(signal.SIGKILL)
        assert manager.wait(PATIENCE) == ExitStatus(signal=9)
        assert manager.next_kernel(PATIENCE)
        assert manager.info()["kernel"] == 3
        manager.stop(timeout=PATIENCE)
        assert [event.name for event in events][-2:] == ["stopping", "died"]
    eventually_sync(lambda: is_gone(nanny.pid), PATIENCE)
