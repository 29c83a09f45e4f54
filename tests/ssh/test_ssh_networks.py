"""Living with networks: connections that are cut, frozen, refused, and come back; and applications that go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    ConnectionChange,
    ConnectionLost,
    KernelClient,
    KernelRecord,
    LaunchError,
)
from kernel_mgmt.records import find_record, read_records, records_dir, write_record
from messages import outputs, run_long, texts
from ssh_kernels import (
    FINDER,
    IPYKERNEL,
    PATIENCE,
    echo_type,
    left_on,
    let_go,
    pid_by_attaching,
    printed,
    processes_of,
    running,
)
from sshds import Sshd
from waiting import eventually, eventually_sync

#: How soon a client works again after a cut, in seconds: what is promised.
BACK_WITHIN = 2.0


@pytest.fixture
def own_sshd() -> Iterator[Sshd]:
    """A server of the test's own, to be cut."""
    server = Sshd("own")
    yield server
    server.close()


def changes_of(client: KernelClient) -> list[str]:
    """Give the states of a client's connection from now on, as they come."""
    states: list[str] = []
    client.on_connection_change(lambda change: states.append(change.state))
    return states


async def test_twenty_cuts(own_sshd: Sshd) -> None:
    """Of twenty cuts the same client, manager and kernel recover, each time soon."""
    async with running(echo_type(own_sshd)) as (client, manager):
        pid = await printed(client, "pid")
        states = changes_of(client)
        took = []
        for number in range(20):
            assert own_sshd.cut() == 1
            began = time.monotonic()
            await eventually(lambda n=number: states.count("resumed") == n + 1, PATIENCE)
            assert await printed(client, "pid") == pid
            took.append(time.monotonic() - began)
            assert await manager.is_alive()
        assert states == ["lost", "resumed"] * 20
        # A tenth of that, as a rule; single ones may meet a busy machine.
        assert median(took) < BACK_WITHIN


async def test_request_under_way(own_sshd: Sshd) -> None:
    """What is under way during a cut is answered with all its output, and so is what is asked in it."""
    async with running(echo_type(own_sshd)) as (client, _):
        request = client.execute("print started\nsleep 1\nprint done")
        await anext(aiter(request))
        states = changes_of(client)
        own_sshd.stop()
        own_sshd.cut()
        await eventually(lambda: states == ["lost"], PATIENCE)
        meanwhile = client.execute("print meanwhile")
        own_sshd.start()
        async with asyncio.timeout(PATIENCE):
            assert texts(await outputs(request)) == ["started", "done"]
            assert (await request).content["status"] == "ok"
            assert texts(await outputs(meanwhile)) == ["meanwhile"]
        assert await printed(client, "print after") == "after"
        assert states == ["lost", "resumed"]


async def test_manager_over_a_cut(own_sshd: Sshd) -> None:
    """Who waits for the end of the kernel waits over a cut, and learns of an end in its midst."""
    async with running(echo_type(own_sshd)) as (client, manager):
        pid = int(await printed(client, "pid"))
        waiting = asyncio.create_task(manager.wait())
        own_sshd.stop()
        own_sshd.cut()
        await eventually(lambda: manager.link is not None and manager.link.state == "lost")
        os.kill(pid, signal.SIGKILL)
        own_sshd.start()
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).signal == signal.SIGKILL


async def test_interrupt_right_after_a_cut(own_sshd: Sshd) -> None:
    """What runs on after a cut can be interrupted, and the kernel is free again."""
    async with running(echo_type(own_sshd)) as (client, manager):
        await anext(aiter(client.execute("sleep 60", stop_on_error=False)))
        states = changes_of(client)
        own_sshd.cut()
        await eventually(lambda: "resumed" in states, PATIENCE)
        await manager.interrupt()
        async with asyncio.timeout(PATIENCE):
            assert await printed(client, "print free") == "free"


async def test_cut_during_a_launch(own_sshd: Sshd) -> None:
    """A launch that is cut off fails, at whatever moment that was, and leaves nothing on the host."""
    async with running(echo_type(own_sshd)):
        for pause in (0.0, 0.1, 0.2, 0.3, 0.4):
            launch = asyncio.create_task(FINDER.launch(echo_type(own_sshd)))
            await asyncio.sleep(pause)
            own_sshd.cut()
            with contextlib.suppress(LaunchError):
                _, manager = await launch
                assert manager is not None
                await manager.cleanup()
            await eventually(lambda: len(list(own_sshd.tmp.glob("km-*"))) == 1, PATIENCE)
    assert left_on(own_sshd) == []


async def test_agent_killed(own_sshd: Sshd) -> None:
    """When the program on the host is killed, the connection is made anew with another one."""
    async with running(echo_type(own_sshd)) as (client, _):
        changes: list[ConnectionChange] = []
        client.on_connection_change(changes.append)
        (agent,) = [p for p in processes_of(own_sshd) if "-ESs" in p.cmdline() and not p.children()]
        agent.kill()
        await eventually(lambda: [change.state for change in changes] == ["lost", "resumed"])
        assert "program" in changes[0].reason
        assert await printed(client, "print again") == "again"


async def test_tunnel_killed(own_sshd: Sshd) -> None:
    """When the process that holds the connection is killed, that is told; the kernel lives on."""
    info, manager = await FINDER.launch(echo_type(own_sshd))
    assert manager is not None
    record = find_record(manager.kernel_id)
    async with KernelClient(info, manager=manager) as client:
        await client.wait_for_ready(PATIENCE)
        request = await run_long(client)
        (tunnel,) = [
            p for p in psutil.Process().children() if "kernel_mgmt_ssh.tunnel" in p.cmdline()
        ]
        tunnel.kill()
        with pytest.raises(ConnectionLost, match="ended"):
            await request
    os.kill(record.manager["ssh"]["pid"], 0)
    await end_by_attaching(record)
    await let_go()


async def test_frozen_host(own_sshd: Sshd) -> None:
    """A host that swallows everything and says nothing is given up, and another connection made."""
    own_sshd.write_config(ServerAliveInterval="1")
    async with running(echo_type(own_sshd)) as (client, _):
        states = changes_of(client)
        own_sshd.freeze()
        await eventually(lambda: states == ["lost", "resumed"], PATIENCE)
        assert await printed(client, "print again") == "again"


async def test_other_host_key(own_sshd: Sshd) -> None:
    """When another server answers in the host's place the connection is closed for good."""
    info, manager = await FINDER.launch(echo_type(own_sshd))
    assert manager is not None
    record = find_record(manager.kernel_id)
    async with KernelClient(info, manager=manager) as client:
        await client.wait_for_ready(PATIENCE)
        changes: list[ConnectionChange] = []
        client.on_connection_change(changes.append)
        own_sshd.stop()
        own_sshd.replace_host_key()
        own_sshd.cut()
        own_sshd.start()
        await eventually(lambda: changes and changes[-1].state == "closed", PATIENCE)
        assert "HOST KEY" in changes[-1].reason
        with pytest.raises(ConnectionLost):
            client.execute("print never")
        with pytest.raises(ConnectionLost):
            await manager.interrupt()
    # Once the user has looked into it, the kernel is there as before.
    own_sshd.know()
    await end_by_attaching(record)
    await let_go()


async def end_by_attaching(record: KernelRecord) -> None:
    """Attach to a kernel, whatever it does, and shut it down."""
    info, manager = await FINDER.attach(record)
    assert manager is not None
    async with KernelClient(info, manager=manager) as client:
        await manager.interrupt()
        await client.wait_for_ready(PATIENCE)
        await client.shutdown_or_terminate()


def test_blocking_client(own_sshd: Sshd) -> None:
    """The blocking client lives through a cut like the other."""
    states: list[str] = []

    async def launch() -> KernelRecord:
        _, manager = await FINDER.launch(echo_type(own_sshd))
        assert manager is not None
        return find_record(manager.kernel_id)

    async def attach(record: KernelRecord) -> KernelClient:
        info, manager = await FINDER.attach(record)
        return KernelClient(info, manager=manager)

    from kernel_mgmt.background import call_blocking

    record = call_blocking(launch(), PATIENCE, "launch")
    client = BlockingKernelClient.wrap(call_blocking(attach(record), PATIENCE, "attach"))
    try:
        client.wait_for_ready(PATIENCE)
        client.on_connection_change(lambda change: states.append(change.state))
        own_sshd.cut()
        eventually_sync(lambda: "resumed" in states, PATIENCE)
        assert client.execute("pid").reply(PATIENCE).content["status"] == "ok"
        client.shutdown_or_terminate()
    finally:
        client.close()
        call_blocking(let_go(), PATIENCE, "close")


# --- applications that go ------------------------------------------------------------------------

APPLICATION = """
import asyncio, json, os, signal, sys
sys.path[:0] = json.loads(sys.argv[1])
from ssh_kernels import FINDER, ssh_type, let_go
from kernel_mgmt import KernelClient

class Host:
    name, config = sys.argv[2:4]

async def main():
    info, manager = await FINDER.launch(ssh_type(Host, json.loads(sys.argv[4]), language="python"))
    client = KernelClient(info, manager=manager)
    await client.wait_for_ready(30)
    await client.execute("kept = 'from before'")
    print(manager.kernel_id, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_application_killed(own_sshd: Sshd) -> None:
    """A killed application's kernel is found again by another process, with its variables."""
    helpers = [str(Path(__file__).parent.parent / "helpers")]
    argv = [sys.executable, "-c", APPLICATION, json.dumps(helpers)]
    argv += [own_sshd.name, str(own_sshd.config), json.dumps(IPYKERNEL)]
    process = await asyncio.to_thread(subprocess.Popen, argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        kernel_id = (await asyncio.to_thread(process.stdout.readline)).decode().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    await eventually(lambda: not own_sshd.connections(), PATIENCE)
    info, manager = await FINDER.attach(find_record(kernel_id))
    async with KernelClient(info, manager=manager) as client:
        await client.wait_for_ready(PATIENCE)
        assert await printed(client, "print(kept)") == "from before"
        await client.shutdown_or_terminate()
    await let_go()
    assert left_on(own_sshd) == []
    assert read_records()[0] == []


async def test_attach_from_another_machine(own_sshd: Sshd) -> None:
    """A record that was carried to another machine, as JSON, is enough there."""
    async with running(echo_type(own_sshd)) as (client, manager):
        pid = await printed(client, "pid")
        (file,) = records_dir().glob("kernel-*.json")
        carried = json.loads(file.read_text())
        file.unlink()
        assert read_records()[0] == []
        file.write_text(json.dumps(carried))
        file.chmod(0o600)
        assert await pid_by_attaching(find_record(manager.kernel_id)) == pid


async def test_attach_to_an_ended_kernel(own_sshd: Sshd) -> None:
    """A kernel that has ended meanwhile is told as such, and its record is removed."""
    async with running(echo_type(own_sshd)) as (_, manager):
        record = find_record(manager.kernel_id)
    write_record(records_dir(), record)
    with pytest.raises(LaunchError, match="has ended"):
        await FINDER.attach(record)
    assert read_records()[0] == []
    await let_go()


async def test_attach_without_a_host(own_sshd: Sshd) -> None:
    """When the host is not there, the record stays, and the error says what was tried."""
    own_sshd.write_config(ConnectTimeout="1")
    async with running(echo_type(own_sshd)) as (client, manager):
        record = find_record(manager.kernel_id)
        own_sshd.stop()
        own_sshd.cut()
        await eventually(lambda: manager.link is not None and manager.link.state == "lost")
        client.close()
        with pytest.raises(LaunchError) as raised:
            await FINDER.attach(record)
        assert raised.value.phase == "connect"
        assert find_record(manager.kernel_id) == record
        own_sshd.start()
