"""The life of a restarter: its end and the kernel's, who is told, who follows, loops that end."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import shutil
import subprocess
import sys

import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    KernelClient,
    KernelDied,
    KernelEvent,
    KernelFinder,
    KernelRestarted,
    KernelRestarter,
    LaunchError,
    RestartPolicy,
    start_kernel,
)
from leaks import LeakCheck
from restarting import PATIENCE, ROOT, RUNTIME_DIR, Moody, Stage, kill, nothing_is_left
from waiting import eventually, eventually_sync

# -- never during or after a shutdown --------------------------------------------------------


async def test_a_shutdown_is_no_death(stage: Stage) -> None:
    """A client that follows ends the kernel for good, with nothing told; iterations end."""
    restarter = stage.watch()
    events = restarter.events()
    await stage.client.shutdown_or_terminate()
    assert [event async for event in events] == []
    assert restarter.state == "stopped"
    assert stage.events == []
    nothing_is_left()


async def test_a_shutdown_request_is_no_death(stage: Stage) -> None:
    """A bare message that asks the kernel to end is respected too; `restart=True` asks for more."""
    restarter = stage.watch()
    await stage.client.shutdown(restart=True)
    await stage.told("ready")
    await stage.client.shutdown()
    await eventually(lambda: restarter.state == "stopped", PATIENCE)
    assert stage.names == ["died", "restarting", "ready", "died"]
    await restarter.restart()  # is what the application wants now
    assert await stage.run("print here") == ["here"]


@pytest.mark.parametrize("mood", [["--startup-delay", "1000"], ["--exit", "3"]])
async def test_a_shutdown_in_the_middle_of_a_restart(
    stage: Stage, provider: Moody, mood: list[str]
) -> None:
    """It cancels the launch or the wait for the next one, and leaves nothing."""
    stage.watch(policy=RestartPolicy(limit=9, backoff=1000, max_backoff=1000))
    provider.moods = [mood]
    kill(stage.first)
    await stage.told("restarting", 1 if mood[0] == "--startup-delay" else 2)
    await eventually(lambda: len(provider.requests) == 2, PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await stage.client.shutdown_or_terminate()
    assert stage.restarter.state == "stopped"
    nothing_is_left()


async def test_the_restarter_shuts_down(stage: Stage) -> None:
    """Its shutdown is polite, and the last thing."""
    restarter = stage.watch()
    await restarter.shutdown()
    assert str(await stage.first.wait()) == "exit code 0"
    assert stage.events == []
    assert restarter.state == "stopped"
    nothing_is_left()
    await restarter.shutdown()


async def test_stop_leaves_the_kernel_alone(stage: Stage) -> None:
    """Stopped, it watches no more; started again, it does."""
    async with stage.watch() as restarter:
        restarter.start()
    assert restarter.state == "stopped"
    await restarter.stop()
    assert await stage.run("print here") == ["here"]
    kill(stage.first)
    await stage.first.wait()
    with pytest.raises(KernelDied):
        await stage.client.execute("").wait_until_finished()
    assert stage.events == []
    restarter.start()  # and finds it dead
    await stage.told("ready")
    assert await stage.run("print here") == ["here"]


async def test_stopped_before_it_began(stage: Stage) -> None:
    """Stopped in the very moment of its start it is stopped, and iterations end."""
    restarter = stage.watch()
    events = restarter.events()
    restart = asyncio.create_task(restarter.restart())
    await asyncio.sleep(0)
    await restarter.stop()
    assert [event async for event in events] == []
    assert [event async for event in restarter.events()] == []
    with pytest.raises(LaunchError, match="was stopped"):
        await restart


@pytest.mark.parametrize(
    "mood", [["--startup-delay", "1000"], ["--answer-delay", "1000"], ["--exit", "3"]]
)
async def test_stop_cancels_a_restart(stage: Stage, provider: Moody, mood: list[str]) -> None:
    """At any stage of it nothing stays, neither old nor new; who waits is told, and clients too."""
    restarter = stage.watch(policy=RestartPolicy(limit=9, backoff=1000, max_backoff=1000))
    provider.moods = [mood]
    waiting = asyncio.create_task(restarter.restart())
    await eventually(lambda: len(provider.requests) == 2, PATIENCE)
    if mood[0] == "--answer-delay":
        await eventually(lambda: len(provider.launched) == 2, PATIENCE)
    elif mood[0] == "--exit":
        await stage.told("restarting", 2)
    async with asyncio.timeout(PATIENCE):
        await restarter.stop()
    nothing_is_left()
    with pytest.raises(LaunchError, match="was stopped"):
        await waiting
    with pytest.raises(KernelDied, match="SIGKILL"):
        stage.client.execute("")


# -- who is told -----------------------------------------------------------------------------


async def test_callbacks(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Plain and coroutine functions are called; one that raises is logged; one removed is not."""
    restarter = stage.watch()
    heard: list[str] = []

    def fail(event: KernelEvent) -> None:
        raise ZeroDivisionError(event.name)

    async def fail_later(event: KernelEvent) -> None:
        raise OverflowError(event.name)

    async def hear(event: KernelEvent) -> None:
        await asyncio.sleep(0)
        heard.append(event.name)

    for callback in (fail, fail_later, hear, heard.append):
        restarter.add_callback(callback)
    restarter.remove_callback(heard.append)
    restarter.remove_callback(heard.append)
    await restarter.restart()
    await eventually(lambda: heard == ["restarting", "ready"])
    raised = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert sorted(map(str, raised)) == sorted(
        map(str, [ZeroDivisionError, OverflowError, ZeroDivisionError, OverflowError])
    )


async def test_a_callback_may_stop_or_restart(stage: Stage) -> None:
    """A coroutine function may call whatever the restarter has."""
    restarter = stage.watch()

    async def once_more(event: KernelEvent) -> None:
        if event.name == "ready" and stage.names.count("ready") == 1:
            await restarter.restart()
            await restarter.stop()

    restarter.add_callback(once_more)
    kill(stage.first)
    await stage.told("ready", 2)
    await eventually(lambda: restarter.state == "stopped")
    assert await stage.run("print here") == ["here"]


async def test_several_iterators(stage: Stage) -> None:
    """Each gets all events from its own beginning, and ends when the restarter is stopped."""
    restarter = stage.watch()
    first = restarter.events()
    await restarter.restart()
    second = restarter.events()
    await restarter.restart()
    await restarter.stop()
    names = ["restarting", "ready"]
    assert [event.name async for event in first] == names * 2
    assert [event.name async for event in second] == names
    assert [event async for event in second] == []


async def test_an_iterator_that_nobody_holds_costs_nothing(stage: Stage) -> None:
    """Events are not kept for an iteration that was given up."""
    restarter = stage.watch()
    iterator = restarter.events()
    assert len(restarter._events._iterators) == 1
    del iterator
    gc.collect()
    assert len(restarter._events._iterators) == 0


def test_an_event_is_frozen() -> None:
    """An event can be shared; what does not belong to it has its default."""
    event = KernelEvent("restarting")
    assert event == KernelEvent("restarting", None, "", None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.name = "ready"  # type: ignore[misc]


# -- clients ---------------------------------------------------------------------------------


async def test_who_follows(stage: Stage) -> None:
    """Any number of clients follow; a closed one is forgotten, one that unfollows is left alone."""
    restarter = stage.watch()
    info = stage.client.connection_info
    others = [KernelClient(info) for _ in range(3)]
    for other in others:
        restarter.follow(other)
        restarter.follow(other)
    restarter.unfollow(others[1])
    restarter.unfollow(others[1])
    others[2].close()
    pending, session = others[0].execute("sleep 60"), others[1].session
    await restarter.restart()
    with pytest.raises(KernelRestarted):
        await pending
    assert others[1].session is session
    assert (await others[0].execute("")).content["status"] == "ok"
    assert restarter._clients == [stage.client, others[0]]
    assert others[0].manager is restarter.manager
    for other in others:
        other.close()


async def test_a_blocking_client_follows(stage: Stage) -> None:
    """It is reconnected on its own loop, while a thread of the application waits in it."""
    restarter = stage.watch()
    blocking = await asyncio.to_thread(BlockingKernelClient, stage.client.connection_info)
    restarter.follow(blocking)
    request = blocking.execute("sleep 60")
    reply = asyncio.create_task(asyncio.to_thread(request.reply, PATIENCE))
    await restarter.restart()
    with pytest.raises(KernelRestarted):
        await reply
    assert blocking.execute("").reply(PATIENCE).content["status"] == "ok"
    kill(restarter.manager)
    await stage.told("ready", 2)
    assert blocking.execute("").reply(PATIENCE).content["status"] == "ok"
    restarter.unfollow(blocking)
    blocking.close()


async def test_a_blocking_client_shuts_down(stage: Stage) -> None:
    """Also on the thread of the restarter's own loop, which it blocks: the kernel stays ended."""
    restarter = stage.watch()
    with BlockingKernelClient(stage.client.connection_info, manager=stage.first) as blocking:
        restarter.follow(blocking)
        blocking.shutdown_or_terminate()
        await eventually(lambda: restarter.state == "stopped", PATIENCE)
    assert stage.events == []
    nothing_is_left()


# -- loops that end --------------------------------------------------------------------------


def test_one_loop_after_another(provider: Moody) -> None:
    """A restarter whose loop has ended goes on with the next, and with a client of that one."""
    finder = KernelFinder({"echo": provider})

    async def begin() -> KernelRestarter:
        manager, client = await start_kernel("echo/echo", finder=finder)
        restarter = KernelRestarter(finder, "echo/echo", manager, client.connection_info)
        restarter.follow(client)
        await restarter.restart()
        client.close()
        return restarter

    async def go_on(restarter: KernelRestarter) -> None:
        async with KernelClient(restarter.connection_info) as client:
            restarter.follow(client)
            await restarter.restart()
            assert (await client.execute("")).content["status"] == "ok"
            assert restarter._clients == [client]
            await client.shutdown_or_terminate()

    restarter = asyncio.run(begin())
    assert restarter.state == "stopped"
    asyncio.run(go_on(restarter))
    nothing_is_left()


CLOSED = """
import asyncio, gc, logging, os, signal, sys
from kernel_mgmt import KernelFinder, KernelRestarter, start_kernel
from kernel_mgmt.testing import EchoProvider

logging.basicConfig()
ending, into_restart = sys.argv[1], float(sys.argv[2])

async def main():
    finder = KernelFinder({"echo": EchoProvider()})
    manager, client = await start_kernel("echo/echo", finder=finder)
    params = {"arguments": ["--never-answer"]}
    info = client.connection_info
    restarter = KernelRestarter(finder, "echo/echo", manager, info, launch_params=params)
    restarter.follow(client)
    restarter.start()
    events = restarter.events()
    await asyncio.sleep(0)
    if into_restart >= 0:
        os.kill(manager.pid, signal.SIGKILL)
        async for event in events:
            if event.name == "restarting":
                break
        await asyncio.sleep(into_restart)
    return restarter, client, events

if ending == "cancelled":
    kept = asyncio.run(main())
else:
    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(main())
    loop.close()
if ending == "forgotten":
    del kept
    gc.collect()
"""


@pytest.mark.parametrize("into_restart", [-1, 0.03])
@pytest.mark.parametrize("ending", ["cancelled", "closed", "forgotten"])
def test_a_loop_closed_under_a_restarter(
    into_restart: float, ending: str, leak_check: LeakCheck
) -> None:
    """The process ends well and says nothing, whether the loop cancels its tasks or forgets them,
    also in the middle of a restart; no kernel outlives the process.
    """
    before = leak_check.snapshot()
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-c", CLOSED, ending, str(into_restart)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    eventually_sync(lambda: not leak_check.snapshot().processes.keys() - before.processes, PATIENCE)
    # A process that ends without ending its kernel leaves its files.
    for path in (*RUNTIME_DIR.iterdir(), *ROOT.glob("km-*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
