"""Kernels on a host whose Pythons have no pyzmq: the kernel itself is reached, and supervised plainly."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import venv
from pathlib import Path

import pytest
from kernel_mgmt import KernelDied, KernelType
from kernel_mgmt.records import find_record, read_records
from messages import failure, run_long
from ssh_kernels import (
    FINDER,
    PATIENCE,
    left_on,
    let_go,
    listening,
    pid_by_attaching,
    printed,
    running,
    ssh_type,
)
from sshds import Sshd
from waiting import eventually


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has nothing installed."""
    directory = tmp_path_factory.mktemp("bare")
    venv.create(directory, symlinks=True)
    return directory / "bin" / "python"


@pytest.fixture(scope="module")
def plain_type(sshd: Sshd, bare_python: Path) -> KernelType:
    """The type of a kernel that is no Python, as far as anybody can see."""
    program = bare_python.parent / "kernel"
    words = shlex.join([sys.executable, "-m", "kernel_mgmt.testing.echo_kernel"])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    argv = (str(program), "-f", "{connection_file}")
    return ssh_type(sshd, argv, python=str(bare_python), language="echo")


async def test_use(sshd: Sshd, plain_type: KernelType, caplog: pytest.LogCaptureFixture) -> None:
    """It runs code, opens no port, tells how it ended, leaves nothing; what it lacks is said."""
    async with running(plain_type) as (client, manager):
        assert "PlainSshManager" in repr(manager)
        assert "has no pyzmq" in caplog.text
        assert await printed(client, "print hello") == "hello"
        assert await manager.is_alive()
        assert listening(sshd) == []
        await printed(client, "outside last words")
        request = client.execute("exit 5")
        error = await failure(request)
        assert isinstance(error, KernelDied)
        assert (await manager.wait()).code == 5
        assert "last words" in await manager.log_tail()
        assert not await manager.is_alive()
    assert left_on(sshd) == []
    assert read_records()[0] == []


async def test_interrupt_and_kill(plain_type: KernelType) -> None:
    """What it runs is interrupted; it is killed with its children."""
    async with running(plain_type) as (client, manager):
        await anext(aiter(client.execute("sleep 60", stop_on_error=False)))
        await client.interrupt()
        async with asyncio.timeout(PATIENCE):
            assert await printed(client, "print free") == "free"
        request = await run_long(client)
        await manager.kill()
        assert isinstance(await failure(request), KernelDied)
        assert (await manager.wait()).signal == signal.SIGKILL


async def test_cut(plain_type: KernelType, sshd: Sshd) -> None:
    """A cut heals, for the client and for who waits for the end."""
    async with running(plain_type) as (client, manager):
        pid = await printed(client, "pid")
        waiting = asyncio.create_task(manager.wait())
        states: list[str] = []
        client.on_connection_change(lambda change: states.append(change.state))
        sshd.cut()
        await eventually(lambda: "restored" in states, PATIENCE)
        assert await printed(client, "pid") == pid
        os.kill(int(pid), signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).signal == signal.SIGKILL


async def test_where_unix_sockets_are_not_forwarded(
    bare_python: Path, plain_type: KernelType
) -> None:
    """It opens no port even where the server forwards to nothing but ports."""
    server = Sshd("tcponly", {"AllowStreamLocalForwarding": "no"})
    try:
        argv = plain_type.metadata["ssh"]["argv"]
        there = ssh_type(server, argv, python=str(bare_python), language="echo")
        async with running(there) as (client, manager):
            assert "PlainSshManager" in repr(manager)
            assert await printed(client, "print hello") == "hello"
            assert listening(server) == []
    finally:
        server.close()


async def test_attach(plain_type: KernelType, sshd: Sshd) -> None:
    """It is found again by its record."""
    async with running(plain_type) as (client, manager):
        pid = await printed(client, "pid")
        assert await pid_by_attaching(find_record(manager.kernel_id)) == pid


async def test_supervisor_killed(plain_type: KernelType) -> None:
    """With its supervisor it ends, and everybody here learns of it."""
    async with running(plain_type) as (client, manager):
        request = await run_long(client)
        record = manager.record()
        assert record is not None
        os.kill(record["ssh"]["pid"], signal.SIGKILL)
        assert isinstance(await failure(request), KernelDied)
        assert "supervisor" in str(await manager.wait())


async def test_unattended(plain_type: KernelType, sshd: Sshd) -> None:
    """When nobody asks for it any more it ends after its lease."""
    _, manager = await FINDER.launch(plain_type, launch_params={"lease": 0.5})
    assert manager is not None
    await eventually(lambda: not left_on(sshd), PATIENCE)
    assert not await manager.is_alive()
    await manager.cleanup()
    await let_go()
