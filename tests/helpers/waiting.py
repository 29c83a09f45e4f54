"""Wait for an event with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["eventually", "eventually_sync"]


async def eventually(
    predicate: Callable[[], Any | Awaitable[Any]], timeout: float = 5, interval: float = 0.01
) -> Any:
    """Return the predicate's first true value; it may be sync or async.

    Raises:
        AssertionError: it was still false after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_message(predicate, timeout))
        await asyncio.sleep(interval)


def eventually_sync(
    predicate: Callable[[], Any], timeout: float = 5, interval: float = 0.01
) -> Any:
    """Return the predicate's first true value.

    Raises:
        AssertionError: it was still false after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_message(predicate, timeout))
        time.sleep(interval)


def _message(predicate: Callable[[], Any], timeout: float) -> str:
    name = getattr(predicate, "__qualname__", repr(predicate))
    return f"{name} was still false after {timeout:g} s"
