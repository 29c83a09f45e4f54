"""Kernels that nannies keep, as users have them, each for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from kernel_mgmt import (
    BlockingRemoteKernelManager,
    KernelClient,
    KernelFinder,
    KernelRecord,
    RemoteKernelManager,
    attach_kernel,
    start_detached,
    start_detached_blocking,
)

__all__ = ["kept_kernel", "kept_kernel_blocking"]


@asynccontextmanager
async def kept_kernel(
    type_id: str, finder: KernelFinder | None = None, **options: Any
) -> AsyncIterator[tuple[RemoteKernelManager, KernelClient]]:
    """Have a detached kernel; gives its manager and a client. It is stopped at the end.

    Args:
        type_id: its type.
        finder: knows the type; by default the one that knows all providers.
        **options: those of :func:`kernel_mgmt.start_detached`.
    """
    record = await start_detached(type_id, finder=finder, **options)
    try:
        manager, client = await attach_kernel(record, finder=finder)
        assert isinstance(manager, RemoteKernelManager)
        async with client:
            yield manager, client
    finally:
        await RemoteKernelManager(record.connection_info).cleanup()


@contextmanager
def kept_kernel_blocking(
    type_id: str, **options: Any
) -> Iterator[tuple[BlockingRemoteKernelManager, KernelRecord]]:
    """Have a detached kernel; gives its manager and its record. It is stopped at the end.

    Args:
        type_id: its type.
        **options: those of :func:`kernel_mgmt.start_detached_blocking`.
    """
    record = start_detached_blocking(type_id, **options)
    manager = BlockingRemoteKernelManager(RemoteKernelManager(record.connection_info))
    try:
        yield manager, record
    finally:
        manager.stop()
