"""Restarting kernels: by themselves, by hand, and those that are silent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import (
    ConnectionFileError,
    KernelClient,
    KernelDied,
    KernelFinder,
    KernelRestarted,
    KernelRestarter,
    Launched,
    LaunchError,
    LaunchRequest,
    Message,
    Prompt,
    RestartPolicy,
    start_kernel,
)
from messages import texts
from restarting import PATIENCE, Moody, Stage, kill, nothing_is_left, pid
from waiting import eventually

# -- a kernel that dies ----------------------------------------------------------------------


async def test_a_kernel_that_dies_is_started_again(stage: Stage) -> None:
    """The same client talks to a new process, and each event says what it is to say."""
    restarter = stage.watch()
    assert restarter.state == "running"
    await stage.run("outside last words")
    pending = stage.client.execute("sleep 60")
    kill(stage.first)
    with pytest.raises(KernelDied, match=r"(?s)SIGKILL.*last words"):
        await pending
    ready = await stage.told("ready")
    assert stage.names == ["died", "restarting", "ready"]
    died = stage.events[0]
    assert died.exit_status is not None
    assert died.exit_status.signal == signal.SIGKILL
    assert died.log_tail == "last words\n"
    assert isinstance(died.error, KernelDied)
    assert ready.manager is restarter.manager is stage.client.manager
    assert ready.connection_info is restarter.connection_info is stage.client.connection_info
    assert restarter.state == "running"
    new = await stage.run("pid")
    assert new == [str(pid(restarter.manager))]
    assert new != [str(pid(stage.first))]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_the_new_kernel_is_like_the_old(
    provider: Moody, tmp_path: Path, transport: str
) -> None:
    """Type, id, directory, environment, parameters, endpoints and key are the same; so anybody's
    client goes on working, also one that does not follow.
    """
    options: dict[str, Any] = {
        "cwd": tmp_path,
        "env": {"GREETING": "hello"},
        "launch_params": {"transport": transport, "arguments": ["--protocol", "5.4"]},
    }
    finder = KernelFinder({"echo": provider})
    manager, client = await start_kernel("echo/echo", finder=finder, **options)
    assert manager is not None
    bystander = KernelClient(client.connection_info)
    stage = Stage(finder, manager, client)
    restarter = stage.watch(**options)
    kill(manager)
    await stage.told("ready")
    assert restarter.connection_info == provider.launched[0].connection_info
    assert restarter.manager.kernel_id == manager.kernel_id
    old, new = provider.requests
    assert replace(new, connection_info=None, on_progress=None) == replace(old, on_progress=None)
    assert await stage.run("cwd\nenv GREETING") == [str(tmp_path), "hello"]
    assert client.kernel_info_content["protocol_version"] == "5.4"
    assert (await bystander.wait_for_ready(PATIENCE))["status"] == "ok"
    bystander.close()
    await restarter.shutdown()
    client.close()
    nothing_is_left()


async def test_handlers_stay(stage: Stage) -> None:
    """What was added to a client before gets the messages of each further kernel."""
    heard: list[Message] = []
    stage.client.add_handler(heard.append)
    restarter = stage.watch()
    for number in range(3):
        await stage.run(f"print {number}")
        await restarter.restart()
    assert texts(heard) == ["0", "1", "2"]


async def test_nothing_meant_for_the_dead_reaches_its_successor(stage: Stage) -> None:
    """A request that a dead kernel did not take any more is not run by the one at its address."""
    stage.watch()
    kill(stage.first)
    await asyncio.to_thread(os.waitid, os.P_PID, pid(stage.first), os.WEXITED | os.WNOWAIT)
    lost = stage.client.execute("print ghost")
    with pytest.raises(KernelDied):
        await lost
    await stage.told("ready")
    # ZeroMQ connects again after a tenth of a second, and would deliver it then.
    for count in range(1, 6):
        reply = await stage.client.execute("print alive")
        assert reply.content["execution_count"] == count
        await asyncio.sleep(0.1)


async def test_it_dies_again_and_again(stage: Stage) -> None:
    """Each death up to the limit is followed by a kernel that works; one more by `failed`."""
    restarter = stage.watch()
    for time_ in range(1, 4):
        kill(restarter.manager)
        await stage.told("ready", time_)
        assert await stage.run("print here") == ["here"]
    kill(restarter.manager)
    failed = await stage.told("failed")
    assert stage.names == ["died", "restarting", "ready"] * 3 + ["died", "failed"]
    assert failed.exit_status is not None
    assert failed.exit_status.signal == signal.SIGKILL
    assert restarter.state == "failed"
    nothing_is_left()
    with pytest.raises(KernelDied, match="SIGKILL"):
        stage.client.execute("print too late")


async def test_a_kernel_that_dies_on_each_start(stage: Stage, provider: Moody) -> None:
    """At the limit `failed` tells the last exit status and output, and nothing is left, no task."""
    before = asyncio.all_tasks()
    restarter = stage.watch()
    provider.moods = [
        ["--exit", "3", "--message", "no licence"],
        ["--exit", "4", "--message", "no disk"],
    ]
    kill(stage.first)
    failed = await stage.told("failed")
    nothing_is_left()
    assert stage.names == ["died", "restarting"] * 3 + ["died", "failed"]
    assert [event.exit_status.code for event in stage.events if event.exit_status] == [
        *(None, 3, 4, 4),
        4,
    ]
    assert isinstance(failed.error, LaunchError)
    assert failed.log_tail == "no disk\n"
    await eventually(lambda: asyncio.all_tasks() <= before)
    with pytest.raises(KernelDied, match=r"(?s)exit code 4.*no disk"):
        stage.client.execute("")
    assert "failed" in repr(restarter)


async def test_a_kernel_that_dies_between_launch_and_answer(stage: Stage, provider: Moody) -> None:
    """It counts as a death like any other, and the next attempt succeeds."""
    stage.watch()
    provider.moods = [["--never-answer"], []]
    kill(stage.first)
    await eventually(lambda: len(provider.launched) == 2, PATIENCE)
    manager = provider.launched[1].manager
    assert manager is not None
    kill(manager)
    await stage.told("ready")
    assert stage.names == ["died", "restarting"] * 2 + ["ready"]
    assert stage.events[2].exit_status == await manager.wait()
    assert await stage.run("print here") == ["here"]


async def test_a_kernel_that_never_answers(stage: Stage, provider: Moody) -> None:
    """Without an answer in time the attempt has failed; its process does not stay."""
    stage.watch(startup_timeout=0.5, policy=RestartPolicy(limit=1))
    provider.moods = [["--never-answer"]]
    kill(stage.first)
    failed = await stage.told("failed")
    assert isinstance(failed.error, LaunchError)
    assert failed.error.phase in ("start", "ready")
    nothing_is_left()


async def test_without_restarts(stage: Stage) -> None:
    """With limit 0 the restarter only tells."""
    stage.watch(policy=RestartPolicy(limit=0))
    kill(stage.first)
    await stage.told("failed")
    assert stage.names == ["died", "failed"]


async def test_a_kernel_without_manager_cannot_be_watched(stage: Stage, provider: Moody) -> None:
    """Neither the first one nor a new one; the new one is ended again."""
    with pytest.raises(ValueError, match="cannot be watched"):
        KernelRestarter(stage.finder, "echo/echo", None, stage.client.connection_info)
    stage.watch(policy=RestartPolicy(limit=1))
    provider.after = lambda launched: Launched(launched.connection_info, None)
    kill(stage.first)
    failed = await stage.told("failed")
    assert "without a manager" in str(failed.error)
    orphan = provider.launched[-1].manager
    assert orphan is not None
    assert str(await orphan.wait()) == "exit code 0"
    await orphan.cleanup()


async def test_a_connection_without_heartbeat_is_refused(stage: Stage) -> None:
    """Who wants the heartbeat watched learns at once that there is no port for it."""
    info = stage.client.connection_info.replace(hb_port=0)
    with pytest.raises(ConnectionFileError, match="'hb'"):
        KernelRestarter(stage.finder, "echo/echo", stage.first, info)
    KernelRestarter(stage.finder, "echo/echo", stage.first, info, unresponsive_after=None)
    with pytest.raises(ValueError, match="unresponsive_after is 0"):
        KernelRestarter(
            stage.finder,
            "echo/echo",
            stage.first,
            stage.client.connection_info,
            unresponsive_after=0,
        )


# -- endpoints that cannot be used again -----------------------------------------------------


async def test_a_provider_that_refuses_endpoints(stage: Stage, provider: Moody) -> None:
    """Other endpoints and another key do as well, and clients follow there; it counts no death."""
    old = stage.client.connection_info
    restarter = stage.watch(policy=RestartPolicy(limit=1))

    def refuse(request: LaunchRequest) -> None:
        if request.connection_info is not None:
            raise LaunchError("mine are my own.", phase="resolve", endpoints_refused=True)

    provider.before = refuse
    await restarter.restart()
    assert restarter.connection_info.ip != old.ip
    assert restarter.connection_info.key != old.key
    assert await stage.run("print here") == ["here"]
    assert stage.names == ["restarting", "ready"]


@pytest.mark.parametrize("listening", [True, False])
async def test_a_port_that_was_taken_meanwhile(provider: Moody, listening: bool) -> None:
    """When a stranger has the old kernel's port, the new one gets others."""
    params = {"transport": "tcp"}
    finder = KernelFinder({"echo": provider})
    manager, client = await start_kernel("echo/echo", finder=finder, launch_params=params)
    assert manager is not None
    stage = Stage(finder, manager, client)
    restarter = stage.watch(launch_params=params)
    old = client.connection_info
    with socket.socket() as stranger:

        def take(request: LaunchRequest) -> None:
            if request.connection_info is not None:
                stranger.bind((old.ip, old.control_port))
                if listening:
                    stranger.listen()

        provider.before = take
        await restarter.restart()
    assert restarter.connection_info.control_port != old.control_port
    assert await stage.run("print here") == ["here"]
    await restarter.shutdown()
    client.close()


# -- by hand ---------------------------------------------------------------------------------


async def test_restart_by_hand(stage: Stage) -> None:
    """It gives the new kernel, which is ready; nothing has died."""
    restarter = stage.watch()
    info, manager = await restarter.restart()
    assert (info, manager) == (restarter.connection_info, restarter.manager)
    assert manager is not stage.first
    assert not await stage.first.is_alive()
    assert stage.names == ["restarting", "ready"]
    assert await stage.run("pid") == [str(pid(restarter.manager))]


async def test_restart_politely(stage: Stage, provider: Moody) -> None:
    """With a time to end, the old kernel ends by itself; without, or beyond it, it is killed."""
    restarter = stage.watch()
    await restarter.restart(timeout=PATIENCE)
    assert str(await stage.first.wait()) == "exit code 0"
    second = restarter.manager
    provider.moods = [["--ignore-shutdown"]]
    await restarter.restart()
    assert str(await second.wait()) == "killed by SIGKILL"
    stubborn = restarter.manager
    await restarter.restart(timeout=0.1)
    assert str(await stubborn.wait()) == "killed by SIGKILL"


async def test_two_restarts_at_once_are_one(stage: Stage, provider: Moody) -> None:
    """All who call get the same new kernel, also who calls while it is under way already."""
    restarter = stage.watch()
    first = [asyncio.create_task(restarter.restart()) for _ in range(2)]
    await stage.told("restarting")
    later = asyncio.create_task(restarter.restart())
    launched = await asyncio.gather(*first, later)
    assert len({id(each.manager) for each in launched}) == 1
    assert stage.names == ["restarting", "ready"]
    assert len(provider.launched) == 2


async def test_restart_joins_an_automatic_one(stage: Stage, provider: Moody) -> None:
    """A restart by hand ends the wait of the automatic one, and all is forgiven."""
    restarter = stage.watch(policy=RestartPolicy(limit=2, backoff=1000, max_backoff=1000))
    provider.moods = [["--exit", "3"], []]
    kill(stage.first)
    await stage.told("restarting", 2)
    await restarter.restart()
    assert stage.names == ["died", "restarting"] * 2 + ["ready"]
    for time_ in (2, 3):  # two more, as if nothing had been
        kill(restarter.manager)
        await eventually(lambda: restarter.state == "restarting", PATIENCE)
        await restarter.restart()
        await stage.told("ready", time_)


async def test_restart_after_failure(stage: Stage, provider: Moody) -> None:
    """Who waits for a restart that fails gets the reason; a restart later works, by the same path."""
    restarter = stage.watch(policy=RestartPolicy(limit=1))
    provider.moods = [["--exit", "3", "--message", "no licence"]]
    for _ in range(2):
        with pytest.raises(LaunchError, match="no licence"):
            await restarter.restart()
        assert restarter.state == "failed"
        nothing_is_left()
    provider.moods = [[]]
    await restarter.restart()
    assert restarter.state == "running"
    assert await stage.run("print here") == ["here"]


async def test_restart_with_requests_and_a_prompt_pending(stage: Stage) -> None:
    """They end with KernelRestarted and the hook is cancelled; then the client works as before."""
    restarter = stage.watch()
    asked, cancelled = asyncio.Event(), asyncio.Event()
    asked_again, answered_late = asyncio.Event(), asyncio.Event()

    async def stubborn(prompt: Prompt) -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            await asked_again.wait()
            asyncio.get_running_loop().call_later(0.05, answered_late.set)
            return "late"  # must not reach the new kernel, which asks something else by now
        raise AssertionError

    async def answer(prompt: Prompt) -> str:
        asked_again.set()
        await answered_late.wait()
        return "Ada"

    prompting = asyncio.create_task(
        stage.client.execute_interactive("input Name?", stdin_hook=stubborn)
    )
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
        queued = [stage.client.execute(f"print {number}") for number in range(5)]
        completing = stage.client.complete("pri")
        restarting = asyncio.create_task(restarter.restart())
        with pytest.raises(KernelRestarted):
            await prompting
        await cancelled.wait()
        for request in (*queued, completing):
            with pytest.raises(KernelRestarted):
                await request
        assert not restarting.done()
        with pytest.raises(KernelRestarted, match="being restarted"):
            stage.client.execute("print too early")
        await restarting
        shown: list[Message] = []
        reply = await stage.client.execute_interactive(
            "input Name?", stdin_hook=answer, output_hook=shown.append
        )
    assert (reply.content["status"], reply.content["execution_count"]) == ("ok", 1)
    assert texts(shown) == ["Ada"]


async def test_who_waits_for_a_restart_may_give_up(stage: Stage) -> None:
    """The restart itself goes on."""
    restarter = stage.watch()
    caller = asyncio.create_task(restarter.restart())
    await stage.told("restarting")
    caller.cancel()
    await stage.told("ready")
    assert await stage.run("print here") == ["here"]


# -- alive and silent ------------------------------------------------------------------------


async def test_a_silent_kernel_is_told_and_left_alone(stage: Stage) -> None:
    """A stopped process is `unresponsive`, and `responsive` when it goes on; it is not killed."""
    stage.watch(unresponsive_after=0.6)
    await stage.first.signal(signal.SIGSTOP)
    event = await stage.told("unresponsive")
    assert event.manager is stage.first
    assert event.connection_info is stage.client.connection_info
    assert await stage.first.is_alive()
    await stage.first.signal(signal.SIGCONT)
    await stage.told("responsive")
    assert await stage.run("print here") == ["here"]
    assert "died" not in stage.names


async def test_a_silent_kernel_is_killed_if_wanted(stage: Stage) -> None:
    """With kill_unresponsive it is replaced, like one that died."""
    stage.watch(unresponsive_after=0.6, kill_unresponsive=True)
    await stage.first.signal(signal.SIGSTOP)
    await stage.told("ready")
    assert stage.names[:3] == ["unresponsive", "died", "restarting"]
    assert await stage.run("print here") == ["here"]


async def test_a_busy_application_is_not_the_kernels_fault(stage: Stage) -> None:
    """A loop that was blocked for long does not take the kernel for silent."""
    stage.watch(unresponsive_after=0.9)
    time.sleep(1.2)  # noqa: ASYNC251 - blocks the loop on purpose
    await stage.run("print here")
    assert stage.events == []
