"""Clients of a kernel that a nanny starts again behind unchanged addresses."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from fake_nanny import FakeNanny, nanny_connection
from kernel_mgmt import (
    BlockingKernelClient,
    ClientClosed,
    ConnectionInfo,
    ExitStatus,
    KernelClient,
    KernelDied,
    KernelFinder,
    KernelManager,
    KernelRestarted,
    RemoteKernelManager,
    RequestTimeout,
    Session,
)
from kernel_mgmt.background import call_blocking
from messages import failure, outputs, run_long, texts
from waiting import eventually, eventually_sync

PATIENCE = 20.0


class Stage:
    """A fake nanny, and real kernels one after the other at its addresses."""

    def __init__(self, finder: KernelFinder, info: ConnectionInfo) -> None:
        self._finder = finder
        self.info = info
        self.kernels: list[KernelManager] = []
        self.launch()
        self.nanny = FakeNanny(info, restart=self._replace)
        self.manager = RemoteKernelManager(info)

    def launch(self) -> None:
        """Launch a kernel at the addresses, whichever loop runs here."""
        # Without the nanny's ports: those are none of what goes with the kernel.
        info = self.info.replace(nanny_control_port=None, nanny_events_port=None)
        launching = self._finder.launch("echo/echo", connection_info=info)
        manager = call_blocking(launching, PATIENCE, "launch")[1]
        assert manager is not None
        self.kernels.append(manager)

    def end(self) -> None:
        """End the present kernel, of which nothing is left."""
        call_blocking(self.kernels[-1].cleanup(), PATIENCE, "cleanup")

    def _replace(self) -> None:
        self.end()
        self.launch()

    async def die(self, log_tail: str = "last words\n") -> None:
        """Let the kernel die, and the nanny tell of it."""
        await asyncio.to_thread(self.end)
        self.nanny.end(log_tail)

    async def come_back(self) -> None:
        """Let the next kernel come."""
        await asyncio.to_thread(self.launch)
        self.nanny.start()


@pytest.fixture
def stage(finder: KernelFinder) -> Iterator[Stage]:
    """A kernel that runs, and its nanny."""
    with nanny_connection() as info:
        stage = Stage(finder, info)
        try:
            with stage.nanny:
                yield stage
        finally:
            stage.end()


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[KernelClient]:
    """A client that is ready, and whose manager knows the kernel."""
    async with KernelClient(stage.info, manager=stage.manager) as client:
        await client.wait_for_ready(PATIENCE)
        await eventually(lambda: "wait" in stage.nanny.names())
        yield client


async def run(client: KernelClient, code: str = "print x") -> list[str]:
    """Run code; gives what it printed."""
    async with asyncio.timeout(PATIENCE):
        request = client.execute(code)
        await request.wait_until_finished()
        return texts(await outputs(request))


# -- death and return ----------------------------------------------------------------------


async def test_a_client_follows(stage: Stage, client: KernelClient) -> None:
    """When the kernel dies requests end with status and output; then the client uses the next one."""
    heard: list[str] = []
    client.add_handler(lambda message: heard.append(message.msg_type))
    request = await run_long(client)
    await stage.die()
    error = await failure(request)
    assert isinstance(error, KernelDied)
    assert error.exit_status == ExitStatus(signal=9)
    assert error.log_tail == "last words\n"
    with pytest.raises(KernelDied, match="SIGKILL"):
        client.execute("print x")
    await stage.come_back()
    assert (await client.wait_for_ready(PATIENCE))["implementation"] == "echo"
    heard.clear()
    assert await run(client) == ["x"]
    assert "stream" in heard
    assert client.manager is stage.manager
    await eventually(lambda: stage.nanny.asked[-1] == ("wait", {"kernel": 2}))


async def test_waiting_for_the_next_kernel(stage: Stage, client: KernelClient) -> None:
    """While a kernel is on its way wait_for_ready waits for it, no longer than it may."""
    await stage.die()
    await eventually(lambda: "wait_ready" in stage.nanny.names())
    with pytest.raises(RequestTimeout, match="none has come in its place"):
        await client.wait_for_ready(0.1)
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await stage.come_back()
    assert (await waiting)["implementation"] == "echo"


async def test_no_next_kernel(stage: Stage, client: KernelClient) -> None:
    """When no kernel will come, who waits for one gets KernelDied, and so does every request."""
    await stage.die()
    await eventually(lambda: "wait_ready" in stage.nanny.names())
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await asyncio.sleep(0)
    stage.nanny.give_up()
    assert isinstance(await failure(waiting), KernelDied)
    with pytest.raises(KernelDied):
        client.execute("print x")


async def test_many_kernels(stage: Stage, client: KernelClient) -> None:
    """A client follows again and again, and leaves no socket open behind it."""
    await stage.die()
    await stage.come_back()
    assert await run_when_back(client, stage) == ["x"]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await stage.die()
        await stage.come_back()
        assert await run_when_back(client, stage) == ["x"]
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def run_when_back(client: KernelClient, stage: Stage) -> list[str]:
    """Run code in the present kernel, once the client waits for its end."""
    await eventually(
        lambda: ("wait", {"kernel": stage.nanny.kernel}) in stage.nanny.asked, PATIENCE
    )
    await client.wait_for_ready(PATIENCE)  # that was asked before its output could be heard
    return await run(client)


async def test_two_clients_of_one_manager(stage: Stage, client: KernelClient) -> None:
    """Clients that share a manager follow side by side."""
    async with KernelClient(stage.info, manager=stage.manager) as other:
        await other.wait_for_ready(PATIENCE)
        requests = [await run_long(client), other.execute("print never")]
        await stage.die()
        for request in requests:
            assert isinstance(await failure(request), KernelDied)
        await stage.come_back()
        for follower in (client, other):
            await follower.wait_for_ready(PATIENCE)
            assert await run(follower) == ["x"]


async def test_a_kernel_that_dies_before_it_answers(stage: Stage, client: KernelClient) -> None:
    """A next kernel that dies before the client is ready is given up for the one after."""
    await stage.die()
    stage.nanny.start()  # nothing listens at its addresses
    await eventually(lambda: ("wait", {"kernel": 2}) in stage.nanny.asked)
    request = client.execute("print lost")
    stage.nanny.end()
    assert isinstance(await failure(request), KernelDied)
    await stage.come_back()
    await client.wait_for_ready(PATIENCE)
    assert await run(client) == ["x"]


# -- restarts ------------------------------------------------------------------------------


async def test_restart(stage: Stage, client: KernelClient) -> None:
    """When restart returns every client of the manager is connected to the new kernel."""
    blocking = await asyncio.to_thread(BlockingKernelClient, stage.info, manager=stage.manager)
    request = await run_long(client)
    await asyncio.to_thread(blocking.wait_for_ready)
    for _ in range(2):
        waiting = blocking.execute("sleep 60")
        async with asyncio.timeout(PATIENCE):
            await stage.manager.restart()
        assert await run(client) == ["x"]
        reply = blocking.execute("print x")
        assert await asyncio.to_thread(reply.reply, PATIENCE)
        assert texts(await asyncio.to_thread(list, reply.outputs(PATIENCE))) == ["x"]
        with pytest.raises(KernelRestarted, match="send the request again"):
            await asyncio.to_thread(waiting.reply, PATIENCE)
    assert isinstance(await failure(request), KernelRestarted)
    await asyncio.to_thread(blocking.close)


async def test_restart_does_not_wait_for_who_is_gone(stage: Stage, client: KernelClient) -> None:
    """Clients that were closed, or went to another kernel, hold up no restart."""
    async with KernelClient(stage.info, manager=stage.manager) as other:
        await other.reconnect(stage.info, None)
        client.close()
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            await stage.manager.restart()
        assert time.monotonic() - started < 8  # the manager's patience is 10 s


# -- ends ----------------------------------------------------------------------------------


async def test_closed_while_none_is_there(stage: Stage, client: KernelClient) -> None:
    """A client that is closed while the next kernel is on its way leaves nothing, and who waits ends."""
    await stage.die()
    await eventually(lambda: "wait_ready" in stage.nanny.names())
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await asyncio.sleep(0)
    client.close()
    assert isinstance(await failure(waiting), ClientClosed)


async def test_shut_down_for_good(stage: Stage, client: KernelClient) -> None:
    """A client that has asked its kernel to end does not wait for another."""
    _ = client.shutdown()
    await stage.die()
    await eventually(lambda: client._watch is not None and client._watch.done())
    assert "wait_ready" not in stage.nanny.names()


async def test_shutdown_or_terminate(stage: Stage, client: KernelClient) -> None:
    """To end the kernel ends the nanny, too, and the manager knows how it went."""
    ending = asyncio.create_task(client.shutdown_or_terminate(0.1))
    await stage.kernels[-1].wait()
    await ending
    assert {"terminate", "kill", "stop"} <= set(stage.nanny.names())
    assert await stage.manager.wait() == ExitStatus(signal=9)
    assert isinstance(await failure(_ask(client)), KernelDied)


async def _ask(client: KernelClient) -> None:
    await eventually(lambda: repr(client).startswith("<KernelClient dead"))
    client.kernel_info()


async def test_the_nanny_ends(stage: Stage, client: KernelClient) -> None:
    """When the nanny ends the client's requests end with it, and none waits for a next kernel."""
    request = client.execute("print started\nsleep 60")
    started = time.monotonic()
    stage.nanny.close()
    error = await failure(request)
    assert isinstance(error, KernelDied)
    assert "its nanny ended" in str(error)
    assert time.monotonic() - started < 2
    assert isinstance(await failure(client.wait_for_ready(PATIENCE)), KernelDied)


async def test_a_nanny_that_cannot_be_understood(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a nanny of another version a warning tells, once; messages work all the same."""
    stage.nanny.info["protocol_version"] = "2.0"
    async with KernelClient(stage.info, manager=stage.manager) as client:
        await client.wait_for_ready(PATIENCE)
        assert await run(client) == ["x"]
        await eventually(lambda: client._watch is not None and client._watch.done())
    (record,) = caplog.records
    assert "update kernel-mgmt-core on this side" in record.getMessage()


# -- what the nanny says in place of the kernel --------------------------------------------


class Front:
    """Answers in place of a kernel that is gone, as a nanny does, at a client's own sockets."""

    def __init__(self, client: KernelClient) -> None:
        self._client = client
        self._session = Session(client.connection_info.key)

    def say(self, msg_type: str, request: object, channel: str, **content: object) -> None:
        """Have the client receive a message that is marked as the nanny's."""
        message = self._session.message(msg_type, content, parent=request.message)  # type: ignore[attr-defined]
        message.header["nanny"] = True
        self._client._on_frames(channel, list(self._session.serialize(message)))


async def test_with_a_manager_the_nannys_word_waits(stage: Stage, client: KernelClient) -> None:
    """A client with a manager hears of the end by that alone: with status and output."""
    replies: list[str] = []
    client.add_handler(lambda message: replies.append(message.msg_type), {"shell"})
    request = await run_long(client)
    Front(client).say("execute_reply", request, "shell", status="error", ename="KernelDied")
    assert not request.answered  # type: ignore[attr-defined]
    await stage.die()
    error = await failure(request)
    assert isinstance(error, KernelDied)
    assert error.log_tail == "last words\n"
    assert replies == []


@pytest.mark.parametrize(
    ("ename", "expected"), [("KernelDied", KernelDied), ("KernelRestarted", KernelRestarted)]
)
async def test_without_a_manager_the_nannys_word_counts(
    stage: Stage, ename: str, expected: type[Exception]
) -> None:
    """A client without a manager has its request ended by what the nanny answers."""
    async with KernelClient(stage.info) as client:
        await client.wait_for_ready(PATIENCE)
        request = await run_long(client)
        front = Front(client)
        front.say("status", request, "iopub", execution_state="idle")
        assert not request.finished  # type: ignore[attr-defined]
        front.say("execute_reply", request, "shell", status="error", ename=ename)
        assert isinstance(await failure(request), expected)
        front.say("execute_reply", request, "shell", status="error", ename=ename)
        async with asyncio.timeout(PATIENCE):
            await client.kernel_info(channel="control")


# -- without an event loop -----------------------------------------------------------------


def test_blocking_clients_follow(stage: Stage) -> None:
    """A blocking client follows as well."""
    with BlockingKernelClient(stage.info, manager=stage.manager) as client:
        client.wait_for_ready(PATIENCE)
        eventually_sync(lambda: "wait" in stage.nanny.names())
        request = client.execute("sleep 60")
        stage.end()
        stage.nanny.end("last words\n")
        with pytest.raises(KernelDied, match="last words"):
            request.reply(PATIENCE)
        stage.launch()
        stage.nanny.start()
        client.wait_for_ready(PATIENCE)
        assert texts(list(client.execute("print x").outputs(PATIENCE))) == ["x"]


async def test_signals_go_by_the_nanny(stage: Stage, client: KernelClient) -> None:
    """A kernel that is interrupted by a signal gets it from its nanny."""
    await client.interrupt()
    await stage.manager.signal(signal.SIGUSR1)
    assert stage.nanny.names()[-2:] == ["interrupt", "signal"]
