"""Calling functions that users have registered, so that one that raises harms nobody else."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["HandlerCalls"]

logger = logging.getLogger("kernel_mgmt")


class HandlerCalls:
    """Calls handlers, and keeps the coroutines that they begin until they end."""

    def __init__(self) -> None:
        #: What is under way.
        self.tasks: set[asyncio.Task[Any]] = set()

    def call(self, handler: Callable[[Any], object], argument: object) -> None:
        """Call a function, which may be a coroutine function, on the loop; what it raises is logged.

        Args:
            handler: the function.
            argument: what it is called with.
        """
        try:
            result = handler(argument)
        except Exception:
            logger.exception("The handler %r failed on %r", handler, argument)
            return
        if inspect.isawaitable(result):
            task = self.start(_guarded(result, handler, argument))
            if inspect.iscoroutine(result):
                # One that is cancelled before its turn would complain that nobody awaits it.
                task.add_done_callback(lambda _: result.close())

    def start(self, coroutine: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run a coroutine on the loop that nobody waits for."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def cancel(self) -> None:
        """Cancel what is under way."""
        for task in self.tasks:
            task.cancel()


async def _guarded(result: Any, handler: object, argument: object) -> None:
    try:
        await result
    except Exception:
        logger.exception("The handler %r failed on %r", handler, argument)
