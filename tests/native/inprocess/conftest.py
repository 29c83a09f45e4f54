"""A kernel inside this process, and its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import kernel_mgmt_native
import pytest
from inprocess import (
    TYPE,
)
from kernel_mgmt import (
    KernelClient,
    KernelFinder,
    run_kernel,
)


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `native` alone."""
    return KernelFinder({"native": kernel_mgmt_native})


@pytest.fixture
def user_ns() -> dict[str, Any]:
    """The namespace of the client's cells."""
    return {"x": 6}


@pytest.fixture
async def client(finder: KernelFinder, user_ns: dict[str, Any]) -> AsyncIterator[KernelClient]:
    """A client of a kernel in this process, with `user_ns`."""
    params = {"user_ns": user_ns}
    async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
        yield client
