"""The process of a kernel, in what is the same on every operating system."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

from ..background import background_loop
from ..manager import ExitStatus

if sys.platform == "win32":
    from .watch import ThreadWatch as Watch
    from .windows import WindowsGroup as Group
else:
    from .posix import PosixGroup as Group
    from .watch import LoopWatch as Watch

__all__ = ["RING_SIZE", "KernelProcess", "OutputHandler"]

logger = logging.getLogger("kernel_mgmt")

#: How much of a kernel's own output is kept, in bytes.
RING_SIZE = 256 * 1024

#: Is called with ``"stdout"`` or ``"stderr"`` and what the kernel's process wrote there.
OutputHandler = Callable[[str, bytes], object]


class KernelProcess:
    """A process that leads a group of its own, with its output in a bounded ring.

    Args:
        argv: the command.
        cwd: its working directory.
        env: its whole environment.
        die_with_parent: whether the system shall kill it when this process ends, where it can:
            on Linux, and on Windows in any case.

    Raises:
        OSError: the command cannot be run.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None,
        env: Mapping[str, str],
        die_with_parent: bool = False,
    ) -> None:
        self._lock = threading.Lock()
        self._exit_status: ExitStatus | None = None
        self._exit_waiters: set[asyncio.Future[None]] = set()
        self._given_up = False
        self._ring = bytearray()
        self._handlers: list[OutputHandler] = []
        background_loop()  # before the process, which nothing would watch if this failed
        self._group = Group(argv, cwd=cwd, env=env, die_with_parent=die_with_parent)
        self._popen = self._group.popen
        try:
            self._watch = Watch(self._group, self._take, self._exited)
        except BaseException:  # no thread for it
            self._group.kill()
            self._group.close()
            for pipe in (self._popen.stdout, self._popen.stderr):
                if pipe is not None:
                    pipe.close()
            raise

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group where there are such."""
        return self._popen.pid

    @property
    def exit_status(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        return self._exit_status

    # -- told by the watch, on the background loop -----------------------------------------

    def _take(self, name: str, data: bytes) -> None:
        with self._lock:
            self._ring += data
            if len(self._ring) > RING_SIZE:
                del self._ring[: len(self._ring) - RING_SIZE]
            handlers = list(self._handlers)
        for handler in handlers:
            try:
                handler(name, data)
            except Exception:  # noqa: PERF203 - one that raises costs the others nothing
                logger.exception("An output handler of kernel process %d raised", self.pid)

    def _exited(self, status: ExitStatus) -> None:
        with self._lock:
            self._exit_status = status
            waiters, self._exit_waiters = self._exit_waiters, set()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    # -- for any thread or loop ------------------------------------------------------------

    async def wait(self) -> ExitStatus:
        """Wait for the end of the process; its children may still run."""
        waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._exit_status is not None:
                return self._exit_status
            self._exit_waiters.add(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                self._exit_waiters.discard(waiter)
        assert self._exit_status is not None
        return self._exit_status

    def signal_group(self, signum: int) -> None:
        """Send a signal to the process and all its children that stayed in its group.

        Raises:
            ValueError: this system has no such signal (Windows: see :mod:`.windows`).
        """
        with self._lock:
            if not self._given_up:
                self._group.signal(signum)

    async def kill_group(self) -> None:
        """Kill the process and its group; returns when all of them are gone."""
        with self._lock:
            if self._given_up:
                return
            self._group.kill()
        await self.wait()
        await self._group_gone()
        # Given up last: from now on the number may be given to somebody else's group.
        with self._lock:
            if not self._given_up:
                self._group.close()
                self._given_up = True
        self._watch.close()

    async def _group_gone(self) -> None:
        """Wait until none of the killed group runs that we may kill."""
        interval = 0.001
        while not self._given_up and self._group.runs():
            await asyncio.sleep(interval)
            interval = min(interval * 2, 0.05)

    def log_tail(self, lines: int) -> str:
        """Give the last lines that the process wrote, stdout and stderr as they came."""
        with self._lock:
            text = self._ring.decode("utf-8", "replace")
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def forward_output(self, handler: OutputHandler) -> None:
        """Hand all further output to a function, which is called on the background thread."""
        with self._lock:
            self._handlers.append(handler)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
