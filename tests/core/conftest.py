"""What most tests of core need: a running echo kernel and a client that is ready."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from kernel_mgmt import KernelClient, KernelFinder, run_kernel, start_kernel
from kernel_mgmt.testing.provider import EchoProvider
from restarting import PATIENCE, Moody, Stage


@pytest.fixture
def finder() -> KernelFinder:
    """Knows the echo kernel and nothing else."""
    return KernelFinder({"echo": EchoProvider()})


@pytest.fixture
async def client(finder: KernelFinder) -> AsyncIterator[KernelClient]:
    """A client of an echo kernel of its own; the kernel ends with the test."""
    async with run_kernel("echo/echo", finder=finder, startup_timeout=20) as client:
        yield client


@pytest.fixture
def provider() -> Moody:
    """The provider of the kernel on the stage."""
    return Moody()


@pytest.fixture
async def stage(provider: Moody) -> AsyncIterator[Stage]:
    """A running kernel, not yet watched; whatever runs at the end of the test is ended."""
    finder = KernelFinder({"echo": provider})
    manager, client = await start_kernel("echo/echo", finder=finder, startup_timeout=PATIENCE)
    assert manager is not None
    stage = Stage(finder, manager, client)
    yield stage
    if hasattr(stage, "restarter"):
        await stage.restarter.shutdown(1)
    else:
        await client.shutdown_or_terminate(1)
    client.close()
