"""``python -m kernel_mgmt_docker.stand_in``: what a nanny takes for the kernel when that is in a container.

The nanny starts it as it starts any kernel, with a connection file that says where to listen.  It launches
the container there, hands on what the container writes, passes signals on to the kernel, and ends as the
container ended.  When it is killed a second process removes the container: see :mod:`.reaper`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker.errors import APIError
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelMgmtError,
    KernelType,
    LaunchError,
    LaunchRequest,
)
from kernel_mgmt.background import finish, in_thread, result_of
from kernel_mgmt.errors import one_line

from .config import DockerKernel
from .containers import explanation, of_kernel, remove
from .engine import Engine
from .errors import DockerProblem
from .launching import ContainerLaunch
from .log_following import LogFollower
from .manager import DockerKernelManager
from .order import VARIABLE, Order, told
from .orphans import LABEL_KEEPER, keeper
from .reaper import Reaper

__all__ = ["main"]

logger = logging.getLogger("kernel_mgmt.docker")

#: Signals that tell of this process itself, and are not meant for the kernel.
_OWN = frozenset(
    getattr(signal, name, None)
    for name in ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL",
                 "SIGABRT", "SIGTRAP", "SIGSYS")
)  # fmt: skip
#: Those that end a launch which is under way.
_ENDING = frozenset({signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)})


def main(connection_file: str) -> int:
    """Launch a container and stay until it has ended.

    Args:
        connection_file: says where its kernel shall listen.

    Returns:
        The exit code; a container that a signal has ended ends this process likewise.
    """
    order = Order.from_text(os.environ.pop(VARIABLE))
    reaper = Reaper(order.engine)  # forked off while this process has one thread
    status = asyncio.run(_stand_in(order, Path(connection_file), reaper))
    reaper.close()
    return _end_as(status)


async def _stand_in(order: Order, connection_file: Path, reaper: Reaper) -> ExitStatus:
    """Launch it and see it end; gives how it did."""
    signals = _Signals()
    launch = asyncio.ensure_future(_launch(order, connection_file, reaper))
    signals.cancel = launch
    try:
        manager, engine = await launch
    except asyncio.CancelledError:
        return ExitStatus(signal=signal.SIGTERM)
    except (KernelMgmtError, OSError) as error:
        _say(told(_as_launch_error(error)))
        return ExitStatus(code=1)
    log = LogFollower(engine.api, manager.container_id)
    signals.manager = manager
    status = await manager.wait()
    if status.reason:
        _say(f"The container of this kernel has ended: {status}.")
    await result_of(in_thread("docker-log", log.finish))
    try:
        await manager.cleanup()
        reaper.forget()
    except KernelMgmtError as problem:
        _say(f"Its container is removed later: {one_line(problem)}.")
    return status


async def _launch(
    order: Order, connection_file: Path, reaper: Reaper
) -> tuple[DockerKernelManager, Engine]:
    kernel = DockerKernel.from_dict(order.kernel)
    provider, _, name = order.type_id.partition("/")
    request = LaunchRequest(
        KernelType(name, provider=provider, interrupt_mode=kernel.interrupt_mode),
        order.kernel_id,
        cwd=Path(order.cwd) if order.cwd else None,
        env=order.env,
        connection_info=ConnectionInfo.read(connection_file),
    )
    engine = await Engine.connect(order.engine)
    launch = _KeptLaunch(request, kernel, engine, order, reaper)
    try:
        _, manager = await launch.run()
    except BaseException:
        await finish(launch.undo())
        raise
    assert isinstance(manager, DockerKernelManager)
    return manager, engine


class _KeptLaunch(ContainerLaunch):
    """A launch of a kernel that a nanny keeps: record and files are the nanny's."""

    _keeps_files = True

    def __init__(
        self,
        request: LaunchRequest,
        kernel: DockerKernel,
        engine: Engine,
        order: Order,
        reaper: Reaper,
    ) -> None:
        super().__init__(request, kernel, engine, whose=order.whose, called=order.name)
        self._reaper = reaper
        self._labels = {LABEL_KEEPER: keeper()}

    async def _check_id(self) -> None:
        """Remove what is left of the kernel before this one, which was killed just now."""
        api = self._engine.api
        try:
            for container in await self._engine.call(
                of_kernel, api, self._request.kernel_id, self._whose
            ):
                await self._engine.call(remove, api, container)
        except APIError as error:
            raise DockerProblem(
                f"The container of the kernel before this one is not removed: {explanation(error)}.",
                kind="refused",
                phase="start",
            ) from error

    def _note(self, info: ConnectionInfo) -> None:
        self._reaper.expect(self._name)

    def _forget(self) -> None:
        self._reaper.forget()


class _Signals:
    """Passes signals on to the kernel, one after the other; made on the running loop."""

    def __init__(self) -> None:
        #: What a signal that ends processes ends as long as there is no kernel.
        self.cancel: asyncio.Future[Any] | None = None
        #: The kernel's, once there is one.
        self.manager: DockerKernelManager | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        for signum in signal.valid_signals() - _OWN:
            with suppress(OSError, ValueError, RuntimeError):
                loop.add_signal_handler(signum, self._take, signum)

    def _take(self, signum: int) -> None:
        if self.manager is not None:
            task = asyncio.ensure_future(self._pass_on(self.manager, signum))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif signum in _ENDING and self.cancel is not None:
            self.cancel.cancel()

    async def _pass_on(self, manager: DockerKernelManager, signum: int) -> None:
        async with self._turn:
            try:
                await manager.signal(signum)
            except KernelMgmtError as error:
                _say(f"Signal {signum} was not passed on: {one_line(error)}.")


def _as_launch_error(error: BaseException) -> LaunchError:
    if isinstance(error, DockerProblem):
        return error.to_launch_error()
    if isinstance(error, LaunchError):
        return error
    return LaunchError(f"{one_line(error)}.", phase="start")


def _say(line: str) -> None:
    with suppress(OSError):  # nobody listens any more
        os.write(2, line.encode("utf-8", "replace") + b"\n")


def _end_as(status: ExitStatus) -> int:
    """End as the container did, so that whoever started this sees that."""
    if status.signal is not None and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):
            if status.signal not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(status.signal, signal.SIG_DFL)
            os.kill(os.getpid(), status.signal)
        return 128 + status.signal
    return 1 if status.code is None else status.code


if __name__ == "__main__":
    # Threads that read what the engine sends need not be waited for.
    os._exit(main(sys.argv[1]))
