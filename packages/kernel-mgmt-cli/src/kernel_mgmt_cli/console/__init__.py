"""``kernel-mgmt console``: a kernel at a terminal, line by line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from kernel_mgmt import LaunchProgress, Prompt
from prompt_toolkit.application import in_terminal

from ..errors import CommandError, say
from ..progress import LaunchDisplay
from .console import Console
from .images import PROTOCOLS, Images, detect_protocol
from .kernels import ConsoleKernel, existing_kernel, own_kernel
from .prompts import ask
from .signals import LoopSignals

__all__ = ["run_console"]


def run_console(
    type_id: str | None,
    existing: str | None,
    *,
    others: bool = False,
    images: str = "auto",
    **launch_options: Any,
) -> int:
    """Run a console until its user leaves.

    Args:
        type_id: the kernel type to launch.
        existing: a connection file, in place of a kernel type.
        others: whether what other clients of the kernel do is shown.
        images: a key of :data:`~kernel_mgmt_cli.console.images.PROTOCOLS`, ``file`` to save
            them, or ``auto``.
        launch_options: further arguments of :func:`kernel_mgmt.start_kernel`; for an existing
            kernel ``startup_timeout`` alone.

    Returns:
        The exit code.

    Raises:
        CommandError: there is no terminal; or the kernel is gone for good.
        KernelMgmtError: the kernel could not be launched, or does not answer.
        EndedBySignal: a signal ended it.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise CommandError(
            "a console needs a terminal for its input and output; "
            "'kernel-mgmt run TYPE -' runs what comes from standard input."
        )
    signals = LoopSignals()
    try:
        asyncio.run(_sit(type_id, existing, signals, others, images, launch_options))
    except BaseException:
        # What fails because the terminal was closed is told by the signal that says so.
        if signals.ended is None:
            raise
    if signals.ended is not None:
        if signals.ended.signum == signal.SIGINT:
            say("interrupted", "the launch was given up.")
        raise signals.ended
    return 0


async def _sit(
    type_id: str | None,
    existing: str | None,
    signals: LoopSignals,
    others: bool,
    images: str,
    launch_options: dict[str, Any],
) -> None:
    protocol = detect_protocol(os.environ) if images == "auto" else images
    shown = Images(PROTOCOLS.get(protocol or ""))
    with signals:
        try:
            async with _kernel(type_id, existing, signals, launch_options) as kernel:
                await Console(kernel, signals, shown, others=others).sit()
        finally:
            shown.close()


@asynccontextmanager
async def _kernel(
    type_id: str | None, existing: str | None, signals: LoopSignals, launch_options: dict[str, Any]
) -> AsyncIterator[ConsoleKernel]:
    """Give the kernel, showing how far it is as long as that takes."""
    with LaunchDisplay() as display:

        async def answer(prompt: Prompt) -> str:
            """Answer a question of a provider, which may have one for each restart, too."""
            async with in_terminal():
                with display.hidden():
                    return await ask(prompt)

        asyncio.get_running_loop().call_later(display.DELAY, display.show)
        kernel: AbstractAsyncContextManager[ConsoleKernel]
        if existing is not None:
            display.report(LaunchProgress("ready", "Waiting for the kernel to answer"))
            kernel = existing_kernel(existing, **launch_options)
        else:
            assert type_id is not None
            kernel = own_kernel(
                type_id, signals, on_progress=display.report, on_prompt=answer, **launch_options
            )
        async with kernel as ready:
            display.end()
            yield ready
