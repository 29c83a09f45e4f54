"""The one-call API: start a kernel, talk to it, and leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from .background import call_blocking, finish
from .blocking import BlockingKernelClient, BlockingKernelManager, blocking_manager
from .client import KernelClient
from .finder import KernelFinder
from .launch import KernelType, ProgressHandler, PromptHandler
from .manager import KernelManager
from .starting import discard, launch_and_wait

__all__ = ["run_kernel", "run_kernel_blocking", "start_kernel", "start_kernel_blocking"]


async def start_kernel(
    type_id: str | KernelType,
    *,
    finder: KernelFinder | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    launch_params: Mapping[str, Any] | None = None,
    startup_timeout: float = 60,
    on_progress: ProgressHandler | None = None,
    on_prompt: PromptHandler | None = None,
) -> tuple[KernelManager | None, KernelClient]:
    """Launch a kernel and wait until it answers.

    Args:
        type_id: id of the kernel type, ``provider/name``; a bare name when it is unambiguous.
        finder: knows the providers; by default all that are installed.
        cwd: the kernel's working directory.
        env: environment variables to set for the kernel; a value of None removes one.
        launch_params: parameters that the provider understands.
        startup_timeout: seconds until it must answer.
        on_progress: is told of each step.
        on_prompt: answers a provider's question.

    Returns:
        The manager, and a client that is ready.  End both with
        ``await client.shutdown_or_terminate()`` and ``client.close()``.

    Raises:
        NoSuchKernel: there is no such kernel type.
        ProviderError: its provider cannot be used.
        LaunchError: the kernel did not start or did not answer; nothing of it is left.
    """
    return await launch_and_wait(
        finder or KernelFinder.from_entrypoints(),
        type_id,
        startup_timeout=startup_timeout,
        on_progress=on_progress,
        cwd=cwd,
        env=env,
        launch_params=launch_params,
        on_prompt=on_prompt,
    )


@asynccontextmanager
async def run_kernel(
    type_id: str | KernelType,
    *,
    finder: KernelFinder | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    launch_params: Mapping[str, Any] | None = None,
    startup_timeout: float = 60,
    on_progress: ProgressHandler | None = None,
    on_prompt: PromptHandler | None = None,
) -> AsyncIterator[KernelClient]:
    """Run a kernel for as long as a block lasts, giving a client that is ready.

    Parameters and errors are those of :func:`start_kernel`.
    """
    _, client = await start_kernel(
        type_id,
        finder=finder,
        cwd=cwd,
        env=env,
        launch_params=launch_params,
        startup_timeout=startup_timeout,
        on_progress=on_progress,
        on_prompt=on_prompt,
    )
    try:
        yield client
    finally:
        await finish(_stop(client))


async def _stop(client: KernelClient) -> None:
    try:
        await client.shutdown_or_terminate()
    finally:
        client.close()


def start_kernel_blocking(
    type_id: str | KernelType,
    *,
    finder: KernelFinder | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    launch_params: Mapping[str, Any] | None = None,
    startup_timeout: float = 60,
    on_progress: ProgressHandler | None = None,
    on_prompt: PromptHandler | None = None,
) -> tuple[BlockingKernelManager | None, BlockingKernelClient]:
    """Launch a kernel and wait until it answers, without an event loop.

    Parameters and errors are those of :func:`start_kernel`; ``on_progress`` and ``on_prompt``
    are called on a background thread.
    """
    started: list[tuple[KernelManager | None, KernelClient]] = []
    try:
        call_blocking(
            _start_into(
                started,
                type_id,
                finder=finder,
                cwd=cwd,
                env=env,
                launch_params=launch_params,
                startup_timeout=startup_timeout,
                on_progress=on_progress,
                on_prompt=on_prompt,
            ),
            None,
            "start_kernel_blocking",
        )
    except BaseException:
        for manager, client in started:  # Ctrl-C came just when it was there
            call_blocking(discard(client, manager), None, "start_kernel_blocking")
        raise
    manager, client = started[0]
    return (
        None if manager is None else blocking_manager(manager),
        BlockingKernelClient.wrap(client),
    )


async def _start_into(
    started: list[tuple[KernelManager | None, KernelClient]],
    type_id: str | KernelType,
    **options: Any,
) -> None:
    """Start a kernel and note it where the caller finds it whenever Ctrl-C comes."""
    started.append(await start_kernel(type_id, **options))


@contextmanager
def run_kernel_blocking(
    type_id: str | KernelType,
    *,
    finder: KernelFinder | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    launch_params: Mapping[str, Any] | None = None,
    startup_timeout: float = 60,
    on_progress: ProgressHandler | None = None,
    on_prompt: PromptHandler | None = None,
) -> Iterator[BlockingKernelClient]:
    """Run a kernel for as long as a block lasts, without an event loop.

    Parameters and errors are those of :func:`start_kernel_blocking`.
    """
    started: list[tuple[KernelManager | None, KernelClient]] = []
    try:
        call_blocking(
            _start_into(
                started,
                type_id,
                finder=finder,
                cwd=cwd,
                env=env,
                launch_params=launch_params,
                startup_timeout=startup_timeout,
                on_progress=on_progress,
                on_prompt=on_prompt,
            ),
            None,
            "run_kernel_blocking",
        )
        yield BlockingKernelClient.wrap(started[0][1])
    finally:
        for _, client in started:
            call_blocking(_stop(client), None, "run_kernel_blocking")
