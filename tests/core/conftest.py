"""What most tests of core need: a running echo kernel and a client that is ready."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from kernel_mgmt import KernelClient, KernelFinder, run_kernel
from kernel_mgmt.testing.provider import EchoProvider


@pytest.fixture
def finder() -> KernelFinder:
    """Knows the echo kernel and nothing else."""
    return KernelFinder({"echo": EchoProvider()})


@pytest.fixture
async def client(finder: KernelFinder) -> AsyncIterator[KernelClient]:
    """A client of an echo kernel of its own; the kernel ends with the test."""
    async with run_kernel("echo/echo", finder=finder, startup_timeout=20) as client:
        yield client
