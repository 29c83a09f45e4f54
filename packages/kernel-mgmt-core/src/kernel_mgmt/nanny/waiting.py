"""Ways to wait that asyncio lacks, or has only in later Pythons than the nanny's oldest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

__all__ = ["cancelled_at_end", "ended", "first", "within"]


async def first(*awaitables: Awaitable[Any]) -> None:
    """Wait until the first of several ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def within(awaitable: Awaitable[Any], seconds: float) -> bool:
    """Wait for something, for so many seconds at most; tells whether it came."""
    try:
        await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        return False
    return True


async def ended(task: asyncio.Future[Any]) -> None:
    """Wait until a task has ended, however; it is left alone when this is cancelled."""
    await asyncio.wait({task})


@contextlib.asynccontextmanager
async def cancelled_at_end(task: asyncio.Future[Any]) -> AsyncIterator[None]:
    """Cancel a task that a block has not waited for to its end, and see it end."""
    try:
        yield
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
