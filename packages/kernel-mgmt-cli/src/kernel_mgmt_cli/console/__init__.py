"""``kernel-mgmt console``: a kernel at a terminal, line by line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from kernel_mgmt import KernelRecord, LaunchProgress, Prompt
from prompt_toolkit.application import in_terminal

from ..errors import CommandError, say
from ..progress import LaunchDisplay
from .console import Console
from .images import PROTOCOLS, Images, detect_protocol
from .kernels import ConsoleKernel, existing_kernel, kept_kernel, own_kernel
from .prompts import ask
from .signals import LoopSignals

__all__ = ["run_console"]


def run_console(
    *,
    type_id: str | None = None,
    existing: str | None = None,
    kept: KernelRecord | None = None,
    others: bool = False,
    images: str = "auto",
    **launch_options: Any,
) -> int:
    """Run a console until its user leaves.

    One of the first three arguments says at which kernel.

    Args:
        type_id: the kernel type to launch.
        existing: the connection file of any kernel that runs.
        kept: a kernel that runs on under a nanny, or that its provider can find again.
        others: whether what other clients of the kernel do is shown.
        images: a key of :data:`~kernel_mgmt_cli.console.images.PROTOCOLS`, ``file`` to save
            them, or ``auto``.
        launch_options: further arguments of :func:`kernel_mgmt.start_kernel`; for a kernel that
            runs already ``startup_timeout`` alone, and for a kept one ``wanted``, which part of
            what it has said before is shown.

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
    source = _Source(type_id, existing, kept, launch_options)
    try:
        asyncio.run(_sit(source, signals, others, images))
    except BaseException:
        # What fails because the terminal was closed is told by the signal that says so.
        if signals.ended is None:
            raise
    if signals.ended is not None:
        if signals.ended.signum == signal.SIGINT:
            what = "the launch was given up." if type_id else "the kernel was left alone."
            say("interrupted", what)
        raise signals.ended
    return 0


class _Source(NamedTuple):
    """Where a console's kernel comes from: one of the first three."""

    type_id: str | None
    existing: str | None
    kept: KernelRecord | None
    options: dict[str, Any]


async def _sit(source: _Source, signals: LoopSignals, others: bool, images: str) -> None:
    protocol = detect_protocol(os.environ) if images == "auto" else images
    shown = Images(PROTOCOLS.get(protocol or ""))
    with signals:
        try:
            async with _kernel(source, signals) as kernel:
                await Console(kernel, signals, shown, others=others).sit()
        finally:
            shown.close()


@asynccontextmanager
async def _kernel(source: _Source, signals: LoopSignals) -> AsyncIterator[ConsoleKernel]:
    """Give the kernel, showing how far it is as long as that takes."""
    with LaunchDisplay() as display:

        async def answer(prompt: Prompt) -> str:
            """Answer a question of a provider, which may have one for each restart, too."""
            async with in_terminal():
                with display.hidden():
                    return await ask(prompt)

        asyncio.get_running_loop().call_later(display.DELAY, display.show)
        kernel: AbstractAsyncContextManager[ConsoleKernel]
        if source.type_id is not None:
            hooks = {"on_progress": display.report, "on_prompt": answer}
            kernel = own_kernel(source.type_id, signals, **(source.options | hooks))
        else:
            display.report(LaunchProgress("ready", "Waiting for the kernel to answer"))
            kernel = _running_kernel(source)
        async with kernel as ready:
            display.end()
            yield ready


def _running_kernel(source: _Source) -> AbstractAsyncContextManager[ConsoleKernel]:
    if source.kept is not None:
        return kept_kernel(source.kept, **source.options)
    assert source.existing is not None
    return existing_kernel(source.existing, **source.options)
