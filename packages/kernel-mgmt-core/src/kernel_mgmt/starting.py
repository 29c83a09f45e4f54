"""From a launch to a kernel that answers: what every start and every restart goes through."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from .background import finish
from .client import KernelClient
from .errors import ConnectionLost, KernelDied, LaunchError, RequestTimeout, one_line
from .finder import KernelFinder
from .launch import KernelType, LaunchProgress, ProgressHandler
from .manager import KernelManager

__all__ = ["discard", "launch_and_wait"]

logger = logging.getLogger("kernel_mgmt")


async def launch_and_wait(
    finder: KernelFinder,
    type_id: str | KernelType,
    *,
    startup_timeout: float,
    on_progress: ProgressHandler | None = None,
    **options: Any,
) -> tuple[KernelManager | None, KernelClient]:
    """Launch a kernel and wait until it answers.

    Args:
        finder: knows the providers.
        type_id: what to launch.
        startup_timeout: seconds until it must answer.
        on_progress: is told of each step.
        **options: as for ``KernelFinder.launch``.

    Returns:
        The manager, and a client that is ready.

    Raises:
        NoSuchKernel: there is no such kernel type.
        ProviderError: its provider cannot be used.
        LaunchError: the kernel did not start or did not answer; nothing of it is left.
    """
    deadline = time.monotonic() + startup_timeout
    phase = "resolve"

    def note_phase(progress: LaunchProgress) -> None:
        nonlocal phase
        phase = progress.phase
        if on_progress is not None:
            on_progress(progress)

    try:
        async with asyncio.timeout(startup_timeout):
            info, manager = await finder.launch(type_id, on_progress=note_phase, **options)
    except TimeoutError:
        raise LaunchError(
            f"the kernel did not accept connections within {startup_timeout:g} s.",
            phase=phase,
            advice="Give it more time with startup_timeout, or see whether its type is right.",
        ) from None
    note_phase(LaunchProgress("ready", "Waiting for the kernel to answer"))
    client = None
    try:
        client = KernelClient(info, manager=manager)
        await client.wait_for_ready(max(0.0, deadline - time.monotonic()))
    except BaseException as error:
        failure = await _why_not_ready(error, manager, startup_timeout)
        try:
            await finish(discard(client, manager))
        except ConnectionLost as loss:  # whatever keeps the kernel ends it when nobody comes
            logger.warning("A kernel whose start was given up may be left: %s", loss)
        if failure is None:
            raise
        raise failure from None
    return manager, client


async def _why_not_ready(
    error: BaseException, manager: KernelManager | None, seconds: float
) -> LaunchError | None:
    if isinstance(error, KernelDied):
        return LaunchError(
            f"the kernel ended before it answered: {error.exit_status}.",
            phase="ready",
            exit_status=error.exit_status,
            log_tail=error.log_tail,
        )
    if isinstance(error, ConnectionLost):
        return LaunchError(f"{one_line(error)}.", phase="ready")
    if isinstance(error, RequestTimeout):
        return LaunchError(
            f"the kernel accepted connections but did not answer within {seconds:g} s.",
            phase="ready",
            advice="Give it more time with startup_timeout, or see whether its type is right.",
            log_tail=await _log_tail(manager),
        )
    return None


async def _log_tail(manager: KernelManager | None) -> str:
    if manager is None or (manager.link is not None and manager.link.state != "up"):
        return ""
    try:
        return await manager.log_tail()
    except ConnectionLost:
        return ""


async def discard(client: KernelClient | None, manager: KernelManager | None) -> None:
    """Close a client, end its kernel by force, and remove what its launch made."""
    if client is not None:
        client.close()
    if manager is not None:
        await manager.kill()
        await manager.cleanup()
