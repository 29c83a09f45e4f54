"""The manager at a distance, against a nanny that says what a test wants."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from fake_nanny import KILLED, FakeNanny, nanny_connection
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelDied,
    KernelRestarted,
    NannyError,
    RemoteKernelManager,
    Session,
    manager_for,
)
from kernel_mgmt.background import background_loop
from kernel_mgmt.nanny.protocol import REQUESTS
from leaks import LeakCheck
from waiting import eventually

PATIENCE = 20.0


@pytest.fixture(params=["ipc", "tcp"])
def info(request: pytest.FixtureRequest) -> Iterator[ConnectionInfo]:
    """Addresses of a kernel and a nanny."""
    with nanny_connection(request.param) as info:
        yield info


@pytest.fixture
def ipc_info() -> Iterator[ConnectionInfo]:
    """Addresses where the transport makes no difference."""
    with nanny_connection() as info:
        yield info


@pytest.fixture
def nanny(ipc_info: ConnectionInfo) -> Iterator[FakeNanny]:
    """A nanny whose kernel runs."""
    with FakeNanny(ipc_info) as nanny:
        yield nanny


@pytest.fixture
def manager(ipc_info: ConnectionInfo) -> RemoteKernelManager:
    """Its manager."""
    return manager_for(ipc_info)


def descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


async def bounded(awaitable: Awaitable[Any]) -> Any:
    """Await what must come to an end."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


# -- what is asked -------------------------------------------------------------------------


async def test_each_method_asks_the_nanny(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """Each method sends its request with its fields, after the nanny was asked once what it is."""
    assert await manager.is_alive()
    await manager.signal(signal.SIGUSR1)
    await manager.interrupt()
    await manager.terminate()
    assert await manager.log_tail(2) == "one\ntwo\nthree\n"
    await manager.renew_lease(60)
    await manager.renew_lease(None)
    assert (await manager.info())["kernel"] == 1
    await manager.kill()
    assert nanny.asked == [
        ("nanny_info", {}),
        ("is_alive", {}),
        ("signal", {"signum": int(signal.SIGUSR1)}),
        ("interrupt", {}),
        ("terminate", {}),
        ("log_tail", {"lines": 2}),
        ("lease", {"seconds": 60}),
        ("lease", {"seconds": None}),
        ("nanny_info", {}),
        ("kill", {}),
    ]
    assert not await manager.is_alive()
    assert manager.kernel_id == "fake-kernel"
    assert manager.record() == {"nanny": {"pid": 4711}}


async def test_the_end_is_told(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """The wait ends when the kernel has ended, with its status; the log tail is its last output."""
    waiting = asyncio.create_task(manager.wait())
    await eventually(lambda: "wait" in nanny.names())
    nanny.end("last\nwords\n", status={"code": 3, "signal": None, "reason": ""})
    assert await bounded(waiting) == ExitStatus(code=3)
    assert await manager.log_tail() == "last\nwords\n"
    assert await manager.log_tail(1) == "words\n"
    assert await manager.log_tail(0) == ""
    assert not manager.restarting
    assert await manager.wait() == ExitStatus(code=3)
    assert nanny.names().count("wait") == 1


async def test_next_kernel_goes_on(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """After the end next_kernel waits for the successor, which the manager is about from then on."""
    nanny.end("old words")
    await manager.wait()
    following = asyncio.create_task(manager.next_kernel())
    await eventually(lambda: ("wait_ready", {"after": 1}) in nanny.asked)
    assert await manager.log_tail() == "old words"
    nanny.start()
    assert await bounded(following)
    assert await manager.is_alive()
    assert await manager.log_tail() == "one\ntwo\nthree\n"
    nanny.end(restarting=True)
    await manager.wait()
    assert nanny.asked[-1] == ("wait", {"kernel": 2})
    assert manager.restarting


async def test_two_who_follow_share_a_manager(
    nanny: FakeNanny, manager: RemoteKernelManager
) -> None:
    """Who asks for the next kernel when another has gone on to it already has it at once."""
    nanny.end()
    await manager.wait()
    nanny.start()
    assert await bounded(manager.next_kernel())
    assert await bounded(manager.next_kernel())
    assert nanny.names().count("wait_ready") == 1


async def test_no_next_kernel(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """next_kernel is false when the nanny says that none will come."""
    nanny.end()
    await manager.wait()
    following = asyncio.create_task(manager.next_kernel())
    await eventually(lambda: "wait_ready" in nanny.names())
    nanny.give_up()
    assert not await bounded(following)


async def test_restart(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """A restart replaces the kernel; the manager is about the new one, and waits for its end."""
    waiting = asyncio.create_task(manager.wait())
    await eventually(lambda: "wait" in nanny.names())
    await bounded(manager.restart(timeout=2))
    assert ("restart", {"timeout": 2}) in nanny.asked
    assert await bounded(waiting) == ExitStatus(signal=9)
    assert manager.restarting
    assert await manager.is_alive()


async def test_a_restart_that_fails_says_why(
    nanny: FakeNanny, manager: RemoteKernelManager
) -> None:
    """A restart after which no kernel came up is a NannyError with the nanny's own sentence."""
    nanny.errors["restart"] = ("KernelFailed", "It ended at once: exit code 1.")
    with pytest.raises(NannyError, match=r"restart.*KernelFailed.*exit code 1"):
        await manager.restart()


async def test_a_restart_may_take_longer_than_an_answer(
    nanny: FakeNanny, ipc_info: ConnectionInfo
) -> None:
    """A restart has no limit as long as the nanny answers other questions, and ends when not."""
    manager = RemoteKernelManager(ipc_info, patience=0.2)
    nanny.silent.add("restart")
    restarting = asyncio.create_task(manager.restart())
    await eventually(lambda: nanny.names().count("is_alive") == 3)
    assert not restarting.done()
    nanny.silent.add("is_alive")
    with pytest.raises(NannyError, match="did not answer is_alive within"):
        await bounded(restarting)


async def test_stop_keeps_the_exit_status(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """After stop the manager knows how the kernel ended, and asks a nanny no more."""
    await bounded(manager.stop(1))
    assert ("stop", {"timeout": 1}) in nanny.asked
    asked = len(nanny.asked)
    assert await manager.wait() == ExitStatus(signal=9)
    assert not await manager.is_alive()
    assert not await manager.next_kernel()
    await manager.stop()
    await manager.kill()
    assert len(nanny.asked) == asked


async def test_a_block_ends_kernel_and_nanny(
    nanny: FakeNanny, manager: RemoteKernelManager
) -> None:
    """As a context manager it kills the kernel and has the nanny end."""
    async with manager:
        assert await manager.is_alive()
    assert ("stop", {"timeout": 0}) in nanny.asked
    assert "kill" in nanny.names()


# -- nannies of another kind ---------------------------------------------------------------


def test_without_a_nanny() -> None:
    """A connection info without nanny ports makes no manager."""
    with pytest.raises(NannyError, match="no ports of a nanny"):
        manager_for(ConnectionInfo.for_tcp())


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("2.0", "update kernel-mgmt-core on this side"),
        ("0.9", "update kernel-mgmt-core where the kernel runs"),
        (None, "is it a nanny of kernel-mgmt"),
    ],
)
async def test_another_major_version(ipc_info: ConnectionInfo, version: Any, advice: str) -> None:
    """A nanny of another major version is refused, naming both versions and which side to update."""
    with FakeNanny(ipc_info, protocol_version=version) as nanny:
        for method in (manager_for(ipc_info).is_alive, manager_for(ipc_info).wait):
            with pytest.raises(NannyError, match=rf"{version!r}.*'1\.\d+'.*{advice}"):
                await method()
        assert set(nanny.names()) == {"nanny_info"}


async def test_an_older_minor_version(ipc_info: ConnectionInfo) -> None:
    """What an older nanny does not know is refused without asking it; all else works."""
    known = [name for name in REQUESTS if name != "lease"]
    with FakeNanny(ipc_info, protocol_version="1.0", capabilities=known) as nanny:
        manager = manager_for(ipc_info)
        with pytest.raises(NannyError, match=r"does not know lease.*older"):
            await manager.renew_lease(1)
        assert await manager.is_alive()
        assert "lease" not in nanny.names()


async def test_a_newer_minor_version(ipc_info: ConnectionInfo) -> None:
    """A nanny that can more is a nanny like any other."""
    capabilities = [*REQUESTS, "brew_coffee"]
    with FakeNanny(ipc_info, protocol_version="1.7", capabilities=capabilities):
        assert await manager_for(ipc_info).is_alive()


@pytest.mark.parametrize("details", [{"capabilities": None}, {"kernel": "first"}])
async def test_an_information_without_sense(
    nanny: FakeNanny, manager: RemoteKernelManager, details: dict[str, Any]
) -> None:
    """A nanny_info reply that lacks what it must have is a NannyError."""
    nanny.info |= details
    with pytest.raises(NannyError, match="breaks its protocol"):
        await manager.is_alive()


async def test_a_reply_without_status(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """A reply that does not say ok or error is a NannyError."""
    nanny.answers["interrupt"] = {"status": "maybe"}
    with pytest.raises(NannyError, match="no status"):
        await manager.interrupt()


# -- silence, noise and cuts ---------------------------------------------------------------


async def test_a_silent_nanny(nanny: FakeNanny, ipc_info: ConnectionInfo) -> None:
    """A nanny that does not answer is a NannyError within the patience, also at first contact."""
    manager = RemoteKernelManager(ipc_info, patience=0.2)
    nanny.silent |= {"kill"}
    with pytest.raises(NannyError, match=r"did not answer kill within 0\.2 s"):
        await bounded(manager.kill())
    nanny.silent |= {"nanny_info"}
    with pytest.raises(NannyError, match=r"did not answer nanny_info within 0\.2 s"):
        await bounded(RemoteKernelManager(ipc_info, patience=0.2).wait())


def _noise(info: ConnectionInfo) -> Callable[[list[Any]], list[list[Any]]]:
    forger = Session("wrong key")

    def make(frames: list[Any]) -> list[list[Any]]:
        delimiter, _, header, parent, metadata, content = frames
        forged = [delimiter, forger.sign([header, parent, metadata, content])]
        signer = Session(info.key)
        strange = [header, parent, metadata, b'["no", "object"]']
        wrong_type = signer.message("spam_reply", {"status": "error"})
        return [
            [],
            [b"spam"],
            [delimiter, b"", header, parent, metadata, content],
            [*forged, header, parent, metadata, content],
            frames[:4],
            [delimiter, signer.sign(strange), *strange],
            signer.serialize(wrong_type),
        ]

    return make


async def test_what_is_no_reply_is_dropped(
    nanny: FakeNanny, manager: RemoteKernelManager, ipc_info: ConnectionInfo
) -> None:
    """Unsigned, forged, truncated and malformed frames before each reply change nothing."""
    nanny.noise = _noise(ipc_info)
    for _ in range(3):
        assert await bounded(manager.is_alive())
    nanny.noise = lambda frames: [frames]  # the second is a replay
    assert await bounded(manager.is_alive())


async def test_a_cut_connection(info: ConnectionInfo) -> None:
    """When the connection is cut a wait is asked again; what must not be done twice is not."""
    with FakeNanny(info) as nanny:
        manager = manager_for(info)
        nanny.silent |= {"signal", "log_tail"}
        waiting = asyncio.create_task(manager.wait())
        reading = asyncio.create_task(manager.log_tail())
        signalling = asyncio.create_task(manager.signal(1))
        await eventually(lambda: {"wait", "signal", "log_tail"} <= set(nanny.names()))
        nanny.silent.clear()
        nanny.cut()
        with pytest.raises(NannyError, match="cut before it answered signal"):
            await bounded(signalling)
        assert await bounded(reading) == "one\ntwo\nthree\n"
        await eventually(lambda: nanny.names().count("wait") == 2)
        nanny.end()
        assert await bounded(waiting) == ExitStatus(signal=9)
        assert nanny.names().count("signal") == 1


async def test_another_nanny_at_the_address(info: ConnectionInfo) -> None:
    """A nanny that takes the place of one that is gone is not taken for it: its kernel is safe."""
    manager = manager_for(info)
    with FakeNanny(info) as nanny:
        waiting = asyncio.create_task(manager.wait())
        await eventually(lambda: "wait" in nanny.names())
        nanny.info["nanny_pid"] = 4712
        nanny.cut()
        assert "its nanny ended" in str(await bounded(waiting))
        await manager.kill()
        await manager.cleanup()
        assert not {"kill", "stop"} & set(nanny.names())


async def test_the_nanny_goes(info: ConnectionInfo) -> None:
    """When the nanny goes every wait ends within a second, and everything else finds it gone."""
    with FakeNanny(info) as nanny:
        manager = manager_for(info)
        waiting = [asyncio.create_task(manager.wait()) for _ in range(3)]
        events = manager.events()
        await eventually(lambda: nanny.names().count("wait") == 3 and nanny.listeners == 1)
        nanny.close()
        gone = time.monotonic()
        for task in waiting:
            assert await bounded(task) == ExitStatus(
                reason="its nanny ended, and the kernel with it"
            )
        assert [event async for event in events] == []
        assert time.monotonic() - gone < 2
    assert not await manager.is_alive()
    assert not await manager.next_kernel()
    assert await manager.log_tail() == ""
    await manager.signal(signal.SIGINT)
    await manager.interrupt()
    await manager.terminate()
    await manager.kill()
    await manager.cleanup()
    for request in (manager.info, manager.restart, lambda: manager.renew_lease(1)):
        with pytest.raises(NannyError, match=r"has ended.*start a new kernel"):
            await request()


async def test_a_nanny_that_never_was(info: ConnectionInfo) -> None:
    """Where nothing listens there is no kernel, and next to no wait to find out."""
    manager = manager_for(info)
    assert not await bounded(manager.is_alive())
    assert "its nanny ended" in str(await bounded(manager.wait()))
    assert not await bounded(manager.next_kernel())
    await bounded(manager.kill())


async def test_who_accepts_and_says_nothing(ipc_info: ConnectionInfo) -> None:
    """A stopped nanny, whose sockets accept connections without an end, is not taken for gone."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ipc_info.socket_path("nanny_control")))
        listener.listen(1)
        for _ in range(4):  # more than it has room for
            manager = RemoteKernelManager(ipc_info, patience=0.3)
            with pytest.raises(NannyError, match="did not answer"):
                await bounded(manager.is_alive())


# -- loops, threads, cancelling ------------------------------------------------------------


async def test_nothing_is_open_when_nothing_is_asked(
    nanny: FakeNanny, manager: RemoteKernelManager
) -> None:
    """The sockets are closed when the last request is answered or given up."""
    before = descriptors()
    waiting = asyncio.create_task(manager.wait())
    await eventually(lambda: "wait" in nanny.names())
    await manager.is_alive()
    assert descriptors() > before
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(lambda: descriptors() == before)
    nanny.silent.add("interrupt")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await manager.interrupt()
    await eventually(lambda: descriptors() == before)
    assert await manager.is_alive()


def test_any_loop_and_thread(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """One manager serves several loops in several threads, and after each of them is closed."""
    results: list[bool] = []

    def ask() -> None:
        results.extend(asyncio.run(manager.is_alive()) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    on_background = asyncio.run_coroutine_threadsafe(manager.is_alive(), background_loop())
    assert on_background.result(PATIENCE)
    assert results == [True] * 80


# -- events --------------------------------------------------------------------------------


@pytest.fixture
async def events(nanny: FakeNanny, manager: RemoteKernelManager) -> AsyncIterator[Any]:
    """An iteration over the nanny's events that has begun to listen."""
    events = manager.events()
    await eventually(lambda: nanny.listeners == 1)
    yield events
    del events


async def test_events(nanny: FakeNanny, manager: RemoteKernelManager, events: Any) -> None:
    """Each event comes in order, with what belongs to it."""
    ended = {"kernel": 1, "exit_status": KILLED, "log_tail": "last words"}
    nanny.tell("started", {"kernel": 1, "pid": 5})
    nanny.tell("ready", {"kernel": 1})
    nanny.tell("output", {"kernel": 1, "stream": "stderr", "text": "oh", "position": 9})
    nanny.tell("died", {**ended, "restarting": False})
    nanny.tell("died", {**ended, "restarting": True})
    nanny.tell("restarting", {"kernel": 1, "wait": 0.1})
    nanny.tell("failed", {**ended, "reason": "too often"})
    nanny.tell("stopping", {"reason": "lease"})
    got = [await bounded(anext(events)) for _ in range(8)]
    assert [event.name for event in got] == [
        *("started", "ready", "output", "died", "died", "restarting", "failed", "stopping"),
    ]
    ready, output, died, restarted, failed, stopping = (got[i] for i in (1, 2, 3, 4, 6, 7))
    assert ready.manager is manager
    assert ready.connection_info is manager.connection_info
    assert (output.stream, output.text) == ("stderr", "oh")
    assert (output.kernel, output.position) == (1, 9)
    assert (died.exit_status, died.log_tail) == (ExitStatus(signal=9), "last words")
    assert isinstance(died.error, KernelDied)
    assert isinstance(restarted.error, KernelRestarted)
    assert "too often" in str(failed)
    assert stopping.text == "lease"


async def test_events_that_make_no_sense(nanny: FakeNanny, events: Any) -> None:
    """Forged, malformed, replayed and unknown events are left out, and strange fields harm nobody."""
    session, forger = Session(nanny._info.key), Session("wrong key")
    ready = session.serialize(session.message("ready", {"kernel": 1}))
    nanny.send_event([b"ready", *forger.serialize(forger.message("ready", {}))])
    nanny.send_event([b"ready"])
    nanny.send_event([b"ready", *session.serialize(session.message("ready", ["no"]))])  # type: ignore[arg-type]
    nanny.tell("festival", {})
    nanny.send_event([b"ready", *ready])
    nanny.send_event([b"ready", *ready])
    nanny.tell("died", {"exit_status": [], "log_tail": 7})
    nanny.tell("failed", {})
    got = [await bounded(anext(events)) for _ in range(3)]
    assert [event.name for event in got] == ["ready", "died", "failed"]
    assert (got[1].exit_status, got[1].log_tail) == (ExitStatus(), "")
    assert got[2].exit_status is None


async def test_two_who_listen(nanny: FakeNanny, manager: RemoteKernelManager) -> None:
    """Each iteration has all events, and one that is dropped or closed stops to listen."""
    first, second, third = manager.events(), manager.events(), manager.events()
    await eventually(lambda: nanny.listeners == 3)
    nanny.tell("ready", {"kernel": 1})
    for iteration in (first, second):
        async for event in iteration:
            assert event.name == "ready"
            break
    del first, iteration
    await eventually(lambda: nanny.listeners == 2)
    await second.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: nanny.listeners == 1)
    with pytest.raises(StopAsyncIteration):
        await bounded(anext(second))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            _ = [event async for event in third if event.name != "ready"]
    nanny.tell("stopping", {"reason": "asked"})
    assert (await bounded(anext(third))).name == "stopping"


async def test_events_after_a_cut(info: ConnectionInfo, leak_check: LeakCheck) -> None:
    """A closed iteration leaves nothing, however it was ended."""
    before = leak_check.snapshot()
    with FakeNanny(info) as nanny:
        events = manager_for(info).events()
        await eventually(lambda: nanny.listeners == 1)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        del waiting, events
        await eventually(lambda: nanny.listeners == 0)
    assert leak_check.leftovers(before, timeout=3) == []
