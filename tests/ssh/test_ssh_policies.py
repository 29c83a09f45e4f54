"""Servers that forbid this or that: kernels work all the same, and nothing opens up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_mgmt import ConnectionInfo, LaunchError
from kernel_mgmt.records import find_record
from messages import outputs
from ssh_kernels import FINDER, PATIENCE, echo_type, left_on, listening, printed, running, ssh_type
from sshds import Sshd
from waiting import eventually

POLICIES = {
    "one session": ({"MaxSessions": "1"}, "streamlocal"),
    "no Unix sockets": ({"AllowStreamLocalForwarding": "no"}, "tcp"),
    "no forwarding": (
        {"AllowStreamLocalForwarding": "no", "AllowTcpForwarding": "no", "MaxSessions": "1"},
        "relay",
    ),
    "DisableForwarding": ({"DisableForwarding": "yes"}, "relay"),
}


@pytest.fixture(scope="module", params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Iterator[tuple[Sshd, str]]:
    """A server with a policy, and how its sockets are to be reached."""
    settings, forwarding = POLICIES[request.param]
    server = Sshd("strict", settings)
    yield server, forwarding
    server.close()


async def test_policy(policy: tuple[Sshd, str]) -> None:
    """Kernels run, output is complete, cuts heal, and nothing is left, whatever the server forbids."""
    sshd, forwarding = policy
    async with running(echo_type(sshd)) as (client, manager):
        assert manager._reach.connection.forwarding == forwarding  # type: ignore[attr-defined]
        pid = await printed(client, "pid")
        flood = [
            m for m in await outputs(client.execute("flood 2000 200")) if m.msg_type == "stream"
        ]
        assert len(flood) == 2000
        payload = bytes(5_000_000)
        echoed = await outputs(client.comm_msg("echo", buffers=[payload]))
        assert [bytes(m.buffers[0]) for m in echoed if m.msg_type == "comm_msg"] == [payload]
        async with running(echo_type(sshd)) as (second, _):
            assert await printed(second, "pid") != pid
        states: list[str] = []
        client.on_connection_change(lambda change: states.append(change.state))
        assert sshd.cut() == 1
        await eventually(lambda: "resumed" in states, PATIENCE)
        assert await printed(client, "pid") == pid
        assert (listening(sshd) == []) is (forwarding != "tcp")
    assert left_on(sshd) == []


async def test_encrypted_where_all_can_connect(policy: tuple[Sshd, str]) -> None:
    """Where a kernel must listen at TCP ports, these are loopback's and encrypted."""
    sshd, forwarding = policy
    async with running(echo_type(sshd)) as (_, manager):
        info: ConnectionInfo = find_record(manager.kernel_id).connection_info
        assert info.transport == ("tcp" if forwarding == "tcp" else "ipc")
        if forwarding == "tcp":
            assert info.ip == "127.0.0.1"
            assert info.curve_publickey


async def test_jump() -> None:
    """A kernel on a host that is reached through another one."""
    jump = Sshd("jump")
    beyond = Sshd("behind")
    try:
        beyond.write_config(ProxyJump="jump")
        beyond.include(jump)
        async with running(echo_type(beyond)) as (client, _):
            assert await printed(client, "print far") == "far"
            assert len(jump.connections()) == 1
            states: list[str] = []
            client.on_connection_change(lambda change: states.append(change.state))
            jump.cut()
            await eventually(lambda: "resumed" in states, PATIENCE)
            assert await printed(client, "print back") == "back"
    finally:
        beyond.close()
        jump.close()


async def test_no_sessions() -> None:
    """A server on which nothing can be run says so."""
    server = Sshd("closed", {"MaxSessions": "0"})
    try:
        with pytest.raises(LaunchError) as raised:
            await FINDER.launch(echo_type(server))
        assert raised.value.phase == "connect"
    finally:
        server.close()


async def test_forced_command() -> None:
    """A server that runs its own command in place of ours says what it printed."""
    server = Sshd("forced", {"ForceCommand": "echo This account runs nothing else."})
    try:
        with pytest.raises(LaunchError, match="This account runs nothing else"):
            await FINDER.launch(ssh_type(server))
    finally:
        server.close()
