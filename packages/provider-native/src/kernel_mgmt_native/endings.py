"""Ending the tasks of an event loop, which ipykernel leaves to the garbage collector.

Python then complains in the application's log, long after the kernel has gone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

__all__ = ["TASKS_PATIENCE", "end_tasks"]

logger = logging.getLogger("kernel_mgmt.native")

#: How long tasks may take to end when they are cancelled, in seconds.
TASKS_PATIENCE = 1.0


async def end_tasks(stream: Any = None, *, patience: float = 0) -> None:
    """End all tasks of the running loop, so that it can be closed.

    Args:
        stream: one of ZeroMQ's, which makes a task of each message: it receives no more.
        patience: seconds that tasks may take before they are cancelled.
    """
    loop = asyncio.get_running_loop()
    # The stream's own callback fails for a task that was cancelled.
    loop.set_exception_handler(_tell_nobody)
    if stream is not None and not stream.closed():
        stream.stop_on_recv()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks and patience:
        _, tasks = await asyncio.wait(tasks, timeout=patience)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=TASKS_PATIENCE)
    # The threads of its executor are not waited for: one may be busy for ever.
    await loop.shutdown_asyncgens()


def _tell_nobody(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.debug("At the end of an event loop: %s", context["message"])
