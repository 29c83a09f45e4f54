"""When a nanny ends by itself: a client has shut the kernel down, a lease is over, nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import zmq
from kernel_mgmt import KernelClient, RestartPolicy, Session
from kernel_mgmt.launch import NannyOptions
from nannies import PATIENCE, RunningNanny, running_nanny
from waiting import eventually, eventually_sync

OK = {"status": "ok"}
QUICK = RestartPolicy(backoff=0.01)


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny whose kernel is ready."""
    with running_nanny(options=NannyOptions(restart_policy=QUICK)) as nanny:
        nanny.ask("wait_ready")
        yield nanny


# --- shutdown_request ----------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["control", "shell"])
def test_shutdown(nanny: RunningNanny, channel: str) -> None:
    """A kernel that a client has shut down is not started again, and two seconds later all is gone."""
    events, question = nanny.events(), nanny.begin("wait")
    nanny.send("shutdown_request", {"restart": False}, channel)
    reply = question.reply()
    assert (reply["exit_status"]["code"], reply["restarting"]) == (0, False)
    began = time.monotonic()
    assert nanny.state == "dead"
    assert "a client has shut" in nanny.ask("wait_ready", after=1)["evalue"]
    assert events.told("stopping") == {"reason": "shutdown_request"}
    # Others had the time to ask how it ended.
    assert time.monotonic() - began > 1
    assert events.names == ["died", "stopping"]
    nanny.ended()


async def test_shutdown_by_client(nanny: RunningNanny) -> None:
    """A client that shuts a kernel down gets the kernel's own reply."""
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        reply = await client.shutdown()
        assert reply.content == {**OK, "restart": False}
        assert "nanny" not in reply.header
    nanny.ask("stop")


def test_shutdown_for_restart(nanny: RunningNanny) -> None:
    """A kernel that a client has shut down for a restart is started again, however often."""
    events = nanny.events()
    for number in range(1, 8):  # more than the policy would allow
        nanny.send("shutdown_request", {"restart": True}, "control")
        reply = nanny.ask("wait", kernel=number)
        assert (reply["exit_status"]["code"], reply["restarting"]) == (0, True)
        assert nanny.ask("wait_ready", after=number) == {**OK, "kernel": number + 1}
    assert "failed" not in events.names


def test_restart_after_shutdown(nanny: RunningNanny) -> None:
    """Within the two seconds the kernel can still be had again, and the nanny then stays."""
    nanny.send("shutdown_request", {"restart": False}, "control")
    nanny.ask("wait")
    assert nanny.ask("restart") == {**OK, "kernel": 2}
    nanny.send("execute_request", {"code": "exit 1"})
    assert nanny.ask("wait_ready", after=2) == {**OK, "kernel": 3}


def test_shutdown_of_dead_kernel(nanny: RunningNanny) -> None:
    """A shutdown_request ends the nanny of a dead kernel; one for a restart starts it again."""
    nanny.ask("kill")
    nanny.send("shutdown_request", {"restart": True}, "control")
    eventually_sync(lambda: nanny.ask("wait_ready", after=1) == {**OK, "kernel": 2}, PATIENCE)
    nanny.ask("kill")
    nanny.send("shutdown_request", {"restart": False}, "control")
    nanny.ended()


def test_shutdown_between_kernels() -> None:
    """A shutdown_request between two kernels, which neither can take, is fulfilled."""
    policy = RestartPolicy(backoff=1000, max_backoff=1000)
    with running_nanny(options=NannyOptions(restart_policy=policy)) as nanny:
        for number in (1, 2):
            nanny.ask("wait_ready", after=number - 1)
            nanny.send("execute_request", {"code": "exit 1"})
            nanny.ask("wait", kernel=number)
        assert nanny.state == "restarting"
        nanny.send("shutdown_request", {"restart": False}, "control")
        nanny.ended()


def test_forged_shutdown(nanny: RunningNanny) -> None:
    """A shutdown_request that is not signed, or wrongly, or seen before, changes nothing."""
    info = nanny.connection_info
    session = nanny.new_session()
    honest = session.serialize(session.message("shutdown_request", {"restart": True}))
    with_wrong_key = Session("wrong")
    forged = with_wrong_key.serialize(with_wrong_key.message("shutdown_request"))
    unsigned = [*honest[:1], b"", *honest[2:]]
    changed = [*honest[:-1], b'{"restart": false}']
    control = nanny.open("control", zmq.DEALER)
    control.send_multipart(honest)
    assert nanny.ask("wait_ready", after=1)["kernel"] == 2
    for channel in ("control", "shell"):
        socket = nanny.open(channel, zmq.DEALER)
        for frames in (forged, unsigned, changed, honest):
            socket.send_multipart(frames)
        # Behind them, so that they have arrived.
        request = session.serialize(session.message("kernel_info_request"))
        socket.send_multipart(request)
        assert socket.poll(PATIENCE * 1000)
        assert session.deserialize(socket.recv_multipart()).msg_type == "kernel_info_reply"
    assert nanny.ask("nanny_info")["kernel"] == 2
    # A death now is a death, and no shutdown.
    nanny.send("execute_request", {"code": "exit 1"})
    assert nanny.ask("wait", kernel=2)["restarting"] is False
    assert nanny.ask("wait_ready", after=2)["kernel"] == 3
    # Nor do they end the nanny of a dead kernel, or start that again.
    nanny.ask("kill")
    dead = nanny.open("control", zmq.DEALER)
    for frames in (forged, unsigned, changed, honest):
        dead.send_multipart(frames)
    dead.send_multipart(session.serialize(session.message("comm_info_request")))
    assert dead.poll(PATIENCE * 1000)
    assert session.deserialize(dead.recv_multipart()).content["ename"] == "KernelDied"
    assert nanny.state == "dead"
    assert info.key


# --- leases --------------------------------------------------------------------------------------


def test_lease() -> None:
    """A kernel whose lease is over is shut down properly."""
    with running_nanny(options=NannyOptions(lease=1000)) as nanny:
        nanny.ask("wait_ready")
        assert 0 < nanny.ask("nanny_info")["lease"] <= 1000
        events, question = nanny.events(), nanny.begin("wait")
        assert nanny.ask("lease", seconds=0.1) == {**OK, "seconds": 0.1}
        assert question.reply()["exit_status"]["code"] == 0
        assert events.told("stopping") == {"reason": "lease"}
        nanny.ended()


def test_lease_renewed(nanny: RunningNanny) -> None:
    """A lease that was renewed is over when the new one is."""
    nanny.ask("lease", seconds=1.5)
    nanny.ask("lease", seconds=1000)
    began = time.monotonic()
    while time.monotonic() < began + 1.6:
        assert nanny.ask("nanny_info")["lease"] > 900


def test_lease_given_up() -> None:
    """The lease of the request can be taken back."""
    with running_nanny(options=NannyOptions(lease=1.5)) as nanny:
        assert nanny.ask("lease", seconds=None) == {**OK, "seconds": None}
        began = time.monotonic()
        while time.monotonic() < began + 1.6:
            assert nanny.ask("nanny_info")["lease"] is None


def test_lease_outlives_restart(nanny: RunningNanny) -> None:
    """A restart neither ends nor renews a lease."""
    nanny.ask("lease", seconds=1000)
    nanny.ask("restart")
    assert 0 < nanny.ask("nanny_info")["lease"] < 1000
    nanny.ask("lease", seconds=0.05)
    nanny.ended()


@pytest.mark.parametrize("seconds", [0, -1, "1", True, float("nan"), float("inf"), 10**30])
def test_bad_lease(nanny: RunningNanny, seconds: object) -> None:
    """A lease that is no positive number of seconds is refused, and the one before stays."""
    nanny.ask("lease", seconds=1000)
    reply = nanny.ask("lease", seconds=seconds)
    assert (reply["status"], reply["ename"]) == ("error", "BadRequest")
    assert nanny.ask("nanny_info")["lease"] > 900


# --- idleness ------------------------------------------------------------------------------------


def test_idle() -> None:
    """A kernel that nobody uses is shut down after its time; what managers ask is no use of it."""
    with running_nanny(options=NannyOptions(idle_timeout=0.8)) as nanny:
        question = nanny.begin("wait")
        assert nanny.ask("nanny_info")["idle_timeout"] == 0.8
        began = time.monotonic()
        while time.monotonic() < began + 0.2:
            nanny.ask("is_alive")
        assert question.reply()["exit_status"]["code"] == 0
        nanny.ended()


async def test_running_code_is_not_idle() -> None:
    """A kernel that runs code is used, and so it is for its time after that."""
    with running_nanny(options=NannyOptions(idle_timeout=1.0)) as nanny:
        async with KernelClient(nanny.connection_info) as client:
            await client.wait_for_ready(PATIENCE)
            began = time.monotonic()
            reply = await client.execute("sleep 2")
            assert reply.content["status"] == "ok"
            ended = time.monotonic()
            assert ended - began >= 2
            assert nanny.ask("is_alive")["alive"] is True
        await eventually(nanny.is_all_gone, PATIENCE)
        assert time.monotonic() - ended > 0.8


async def test_cells_without_end() -> None:
    """A kernel that loses a reply, or an idle, or dies, is not taken for busy for ever."""
    options = NannyOptions(restart_policy=QUICK, idle_timeout=1000)
    with running_nanny(options=options) as nanny:
        nanny.ask("wait_ready")
        events = nanny.events()
        for code in ("noreply", "noidle", "exit 1"):
            nanny.send("execute_request", {"code": f"outside {code}\n{code}"})
            await eventually(lambda: code in events.output(), PATIENCE)  # noqa: B023
            await eventually(lambda: nanny.state == "idle", PATIENCE)


def test_idle_dead_kernel() -> None:
    """The nanny of a dead kernel does not stay longer than that of one that nobody uses."""
    options = NannyOptions(restart_policy=None, idle_timeout=0.5)
    with running_nanny(options=options) as nanny:
        nanny.ask("kill")
        nanny.ended()


# --- nobody there --------------------------------------------------------------------------------


def test_unattended() -> None:
    """A kernel whose clients have all gone is shut down after its time, also when it runs code."""
    with running_nanny(options=NannyOptions(unattended_timeout=1.0)) as nanny:
        events = nanny.events()
        assert nanny.ask("nanny_info")["unattended_timeout"] == 1.0
        nanny.send("execute_request", {"code": "sleep 60"})
        question = nanny.begin("wait")
        with pytest.raises(AssertionError):
            eventually_sync(question.is_answered, 2)
        assert nanny.ask("is_alive")["alive"] is True
        events.close()
        left = time.monotonic()
        question.reply()
        assert 0.9 < time.monotonic() - left < 5
        nanny.ended()


async def test_attended_by_a_client() -> None:
    """A client that only listens is one, as long as it is there; one of two may go."""
    with running_nanny(options=NannyOptions(unattended_timeout=0.8)) as nanny:
        async with KernelClient(nanny.connection_info) as client:
            await client.wait_for_ready(PATIENCE)
            async with KernelClient(nanny.connection_info) as other:
                await other.wait_for_ready(PATIENCE)
            await asyncio.sleep(1.6)
            assert (await client.execute("print x")).content["status"] == "ok"
        left = time.monotonic()
        await eventually(nanny.is_all_gone, PATIENCE)
        assert time.monotonic() - left > 0.7


def test_attended_by_messages() -> None:
    """Who comes and goes, and asks something each time, is there, too."""
    with running_nanny(options=NannyOptions(unattended_timeout=0.6)) as nanny:
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            assert nanny.ask("is_alive")["alive"] is True
            time.sleep(0.1)
        nanny.ended()
