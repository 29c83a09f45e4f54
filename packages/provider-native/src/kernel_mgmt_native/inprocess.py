"""The kernel type ``native/inprocess``: an IPython kernel inside the calling process.

Nothing of IPython is imported here before a kernel is launched.
"""

from __future__ import annotations

import asyncio
import atexit
import re
import signal
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelManager,
    KernelMgmtError,
    Launched,
    LaunchError,
    LaunchRequest,
)
from kernel_mgmt.background import finish
from kernel_mgmt.endpoints import make_connection, remove_connection

from .kernel_thread import KernelThread

__all__ = ["InProcessKernelManager", "launch_in_process", "why_not_in_process"]

#: ipykernel's threads and sockets, which are put together by hand here, have this form since then.
_OLDEST_IPYKERNEL = (7, 4)
#: How long a thread may take to end when it is killed, in seconds.
_KILL_PATIENCE = 2.0
#: How long it may take when the process ends, in seconds.
_EXIT_PATIENCE = 1.0
#: How often it is told so meanwhile, in seconds: a cell may catch what is raised in it.
_KILL_INTERVAL = 0.05


def why_not_in_process() -> str:
    """Tell why the installed ipykernel will not do, in one sentence; empty when it will."""
    try:
        installed = version("ipykernel")
    except PackageNotFoundError:  # a source tree on sys.path: a developer's own business
        return ""
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= _OLDEST_IPYKERNEL:
        return ""
    oldest = ".".join(map(str, _OLDEST_IPYKERNEL))
    return (
        f"ipykernel {installed} cannot run inside an application: "
        f"pip install 'ipykernel>={oldest}'."
    )


async def launch_in_process(request: LaunchRequest) -> Launched:
    """Start a kernel in a thread of this process; returns when it listens.

    Raises:
        LaunchError: a parameter is wrong (phase ``resolve``), or the kernel could not be started
            (phase ``start``).
    """
    user_ns = _read_params(request.launch_params)
    _check_process_wide(request)
    reason = why_not_in_process()
    if reason:
        raise LaunchError(reason, phase="resolve")
    request.progress("start", "Starting a kernel inside this process")
    info, connection_file = make_connection(request, runtime_dir=Path(jupyter_runtime_dir()))
    thread = KernelThread(info, user_ns, name=f"kernel-{request.kernel_id}")
    manager = InProcessKernelManager(request.kernel_id, thread, connection_file, info)
    try:
        thread.start()
        await asyncio.wrap_future(thread.started)
    except Exception as error:
        await finish(_give_up(manager, thread))
        raise LaunchError(
            f"The kernel's thread could not start: {type(error).__name__}: {error}.",
            phase="start",
            advice="See whether ipykernel works here: python -m ipykernel_launcher --version.",
        ) from error
    except BaseException:
        await finish(_give_up(manager, thread))
        raise
    return Launched(info, manager)


async def _give_up(manager: InProcessKernelManager, thread: KernelThread) -> None:
    """End a launch: its thread may be in the middle of an import, and is waited for."""
    thread.request_stop("its launch was given up")
    await manager.wait()
    await manager.cleanup()


def _read_params(params: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [name for name in params if name != "user_ns"]
    if unknown:
        raise LaunchError(
            f"native/inprocess has no launch parameter {', '.join(map(repr, unknown))}.",
            phase="resolve",
            advice="It knows user_ns.",
        )
    user_ns = params.get("user_ns", {})
    if not isinstance(user_ns, dict):
        raise LaunchError(
            f"The launch parameter 'user_ns' is of type {type(user_ns).__name__}.",
            phase="resolve",
            advice="It must be a dict, such as globals(); the cells see and change that very dict.",
        )
    return user_ns


def _check_process_wide(request: LaunchRequest) -> None:
    """Refuse what a process has once, and the application shares with the kernel."""
    if request.nanny is not None:
        raise LaunchError(
            "The kernel cannot outlive the process that it is part of.",
            phase="resolve",
            advice="Launch it without a nanny, or take native/python3.",
        )
    if request.cwd is not None and request.cwd.resolve() != Path.cwd():
        raise LaunchError(
            f"The kernel cannot have the working directory {str(request.cwd)!r}.",
            phase="resolve",
            advice="A kernel inside this process shares its directory; pass no cwd.",
        )
    if request.env:
        raise LaunchError(
            f"The kernel cannot have the environment variables {', '.join(request.env)}.",
            phase="resolve",
            advice="A kernel inside this process shares its environment; pass no env.",
        )


class InProcessKernelManager(KernelManager):
    """Manages a kernel that is a thread of this process.

    A thread cannot be sent signals, and cannot be ended from outside. It can be asked to end, and
    an exception can be raised in the code of its cell; code that does not return to the
    interpreter, such as ``time.sleep(60)``, hears of neither until it does.

    Args:
        kernel_id: the kernel's id.
        thread: the started thread.
        connection_file: removed by :meth:`cleanup`.
        connection_info: what is in the file; its Unix sockets are removed likewise.
    """

    def __init__(
        self,
        kernel_id: str,
        thread: KernelThread,
        connection_file: Path,
        connection_info: ConnectionInfo,
    ) -> None:
        self.kernel_id = kernel_id
        self.connection_file = connection_file
        self._connection_info = connection_info
        self._thread = thread
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        state = "alive" if self._thread.alive else str(self._thread.ended.result())
        return f"<InProcessKernelManager {self.kernel_id} {state}>"

    async def is_alive(self) -> bool:
        """Tell whether the kernel's thread runs."""
        return self._thread.alive

    async def wait(self) -> ExitStatus:  # noqa: D102 - as in KernelManager
        return await asyncio.wrap_future(self._thread.ended)

    async def signal(self, signum: int) -> None:
        """Do what comes nearest to a signal: SIGINT, SIGTERM or SIGKILL.

        Raises:
            KernelMgmtError: another signal, which would be the whole application's.
        """
        if signum == signal.SIGINT:
            await self.interrupt()
        elif signum == signal.SIGTERM:
            await self.terminate()
        elif signum == getattr(signal, "SIGKILL", None):
            await self.kill()
        elif self._thread.alive:
            raise KernelMgmtError(
                f"A kernel inside this process cannot be sent signal {signum}: it would reach the "
                "whole application; use interrupt(), terminate() or kill()."
            )

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs, if one does."""
        self._thread.interrupt_cell()

    async def terminate(self) -> None:
        """Ask the thread to end, and raise SystemExit in each cell that runs."""
        self._thread.request_stop("it was terminated")
        self._thread.end_cells()

    async def kill(self) -> None:
        """End the thread; returns when it is gone.

        Raises:
            KernelMgmtError: a cell, its own or a subshell's, is in code that does not return to
                the interpreter. Nobody can reach the kernel any more, and its thread ends as soon
                as that code returns.
        """
        self._thread.request_stop("it was killed")
        deadline = time.monotonic() + _KILL_PATIENCE
        while self._thread.alive:
            if time.monotonic() >= deadline:
                self._remove_files()
                raise KernelMgmtError(
                    "The in-process kernel could not be killed: a thread can only be asked to end,"
                    " and a cell is in code that does not listen; it ends when that code returns,"
                    " at the latest with this process."
                )
            self._thread.end_cells()
            try:
                async with asyncio.timeout(_KILL_INTERVAL):
                    await self.wait()
            except TimeoutError:
                pass  # told again

    async def cleanup(self) -> None:
        """Remove the connection file and the sockets; a kernel that still runs is killed first.

        Raises:
            KernelMgmtError: as :meth:`kill` does; the files are gone all the same.
        """
        try:
            await self.kill()
        finally:
            self._remove_files()

    def _at_exit(self) -> None:
        """End with the process, if that is quick: else the thread just stops where it is."""
        self._thread.request_stop("its process ended")
        self._thread.end_cells()
        try:
            self._thread.ended.result(_EXIT_PATIENCE)
        except TimeoutError:
            pass
        self._remove_files()

    def _remove_files(self) -> None:
        if not self._thread.alive:
            atexit.unregister(self._at_exit)
        remove_connection(self.connection_file, self._connection_info)
