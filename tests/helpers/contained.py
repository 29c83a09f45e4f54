"""Kernels in containers, launched step by step by the parts of the provider that tests look at."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import docker
from dockerds import LABEL
from kernel_mgmt import ConnectionInfo, LaunchRequest
from kernel_mgmt_docker.config import DockerKernel
from kernel_mgmt_docker.connecting import EngineFacts, Reaching, choose_reaching
from kernel_mgmt_docker.profile import container_options
from waiting import eventually

__all__ = ["ECHO", "Contained", "contained", "facts_of"]

#: The command of the small kernel that core's tests use.
ECHO = ("python3", "-m", "kernel_mgmt.testing.echo_kernel", "-f", "{connection_file}")


@dataclass
class Contained:
    """A kernel that listens."""

    container: str
    reaching: Reaching
    info: ConnectionInfo
    api: docker.APIClient

    def run(self, *argv: str, user: str = "") -> str:
        """Give what a command in the container writes."""
        made = self.api.exec_create(self.container, list(argv), user=user)
        return str(self.api.exec_start(made["Id"]).decode())

    def inspect(self) -> dict[str, Any]:
        """Give what the engine tells of the container."""
        return dict(self.api.inspect_container(self.container))


def facts_of(client: docker.DockerClient, host: str) -> EngineFacts:
    """Give what is known of a local engine."""
    return EngineFacts(client.api, host.removeprefix("unix://"), client.info())


@contextlib.asynccontextmanager
async def contained(
    kernel: DockerKernel,
    facts: EngineFacts,
    *,
    given: ConnectionInfo | None = None,
    encrypted: bool = False,
) -> AsyncIterator[Contained]:
    """Launch a kernel, and remove all of it afterwards."""
    request = LaunchRequest(kernel.kernel_type(), secrets.token_hex(8), connection_info=given)
    reaching = choose_reaching(kernel, request, facts, encrypted=encrypted)
    api, container = facts.api, ""
    await reaching.prepare()
    try:
        options = container_options(
            kernel,
            user=reaching.user,
            connection_file=reaching.connection_file,
            mounts=reaching.mounts,
            ports=reaching.ports,
            labels={LABEL: "1"},
            podman=facts.is_podman,
        )
        options["host_config"] = api.create_host_config(**options["host_config"])
        container = (await asyncio.to_thread(lambda: api.create_container(**options)))["Id"]
        await reaching.place(container)
        await asyncio.to_thread(api.start, container)
        info = await reaching.connect(container)

        async def listens() -> bool:
            if not api.inspect_container(container)["State"]["Running"]:
                raise RuntimeError(api.logs(container).decode())
            return await reaching.is_listening()

        await eventually(listens, 30)
        await reaching.seal(container)
        yield Contained(container, reaching, info, api)
    finally:
        await reaching.close()
        if container:
            await asyncio.to_thread(lambda: api.remove_container(container, v=True, force=True))
