"""Kernels on hosts that are real servers of this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import kernel_mgmt_ssh
import psutil
from kernel_mgmt import (
    KernelClient,
    KernelFinder,
    KernelManager,
    KernelRecord,
    KernelType,
    run_kernel,
)
from kernel_mgmt_ssh.config import SshKernel
from kernel_mgmt_ssh.connection import close_idle_connections
from messages import outputs, texts
from sshds import Sshd

__all__ = [
    "ECHO",
    "FINDER",
    "IPYKERNEL",
    "PATIENCE",
    "echo_type",
    "left_on",
    "let_go",
    "listening",
    "pid_by_attaching",
    "printed",
    "processes_of",
    "running",
    "ssh_type",
]

#: How long an answer may take, in seconds.
PATIENCE = 30.0

#: A command of this environment, which the host has, too.
ECHO = (sys.executable, "-m", "kernel_mgmt.testing.echo_kernel", "-f", "{connection_file}")
IPYKERNEL = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")

#: Knows the provider ``ssh`` alone.
FINDER = KernelFinder({"ssh": kernel_mgmt_ssh})


def ssh_type(sshd: Sshd, argv: Sequence[str] = ECHO, **fields: Any) -> KernelType:
    """Give the kernel type of a command on a host.

    Args:
        sshd: the host.
        argv: the command.
        **fields: further ones of its entry in ``ssh_kernels.toml``.
    """
    entry: dict[str, Any] = {
        "name": "remote",
        "host": sshd.name,
        "argv": tuple(argv),
        "ssh_config": str(sshd.config),
        "python": sys.executable,
        **fields,
    }
    return replace(SshKernel(**entry).kernel_type(), provider="ssh")


def echo_type(sshd: Sshd, *options: object) -> KernelType:
    """Give the kernel type of the echo kernel on a host, with some options."""
    return ssh_type(sshd, (*ECHO, *map(str, options)))


@contextlib.asynccontextmanager
async def running(
    kernel_type: KernelType, **options: Any
) -> AsyncIterator[tuple[KernelClient, KernelManager]]:
    """Have a kernel run, and its client; all of it is gone at the end, the connection too.

    Args:
        kernel_type: what to launch.
        **options: for ``run_kernel``.
    """
    try:
        async with run_kernel(kernel_type, finder=FINDER, **options) as client:
            assert client.manager is not None
            yield client, client.manager
    finally:
        await let_go()


async def let_go() -> None:
    """Close all connections that nobody uses any more."""
    gc.collect()  # a manager that nobody has any more gives its part of one back
    await close_idle_connections()


async def printed(client: KernelClient, code: str) -> str:
    """Run code and give what it printed."""
    request = client.execute(code)
    text = "\n".join(texts(await outputs(request)))
    reply = await request
    assert reply.content["status"] == "ok", reply.content
    return text


def left_on(sshd: Sshd) -> list[str]:
    """Give the files of kernels that are on a host, but for the journals of killed nannies."""
    return [
        os.path.join(directory, name)
        for folder in (sshd.tmp, sshd.home / "runtime", sshd.home / "data")
        for directory, _, names in os.walk(folder)
        for name in names
        if "/journal-" not in directory
    ]


def processes_of(sshd: Sshd) -> list[psutil.Process]:
    """Give the processes that sessions of a host have started, wherever they are by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") == str(sshd.home):
                found.append(process)
    return found


def listening(sshd: Sshd) -> list[str]:
    """Give the TCP ports at which processes of a host's sessions, and of this one, listen."""
    found = []
    ours = [p for p in psutil.Process().children(recursive=True) if "sshd" not in p.name()]
    for process in (psutil.Process(), *ours, *processes_of(sshd)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [
                f"{process} {connection.laddr}"
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            ]
    return found


async def pid_by_attaching(record: KernelRecord) -> str:
    """Attach to a kernel, ask it for its process id, and leave it."""
    info, manager = await FINDER.attach(record)
    async with KernelClient(info, manager=manager) as client:
        await client.wait_for_ready(PATIENCE)
        return await printed(client, "pid")
