"""A kernel's process on this machine: its group, its output, its end.

What differs between operating systems is here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Callable

from .background import background_loop, call_in_background
from .manager import ExitStatus

__all__ = ["KernelProcess", "OutputHandler"]

logger = logging.getLogger("kernel_mgmt")

#: How much of a kernel's own output is kept, in bytes.
RING_SIZE = 256 * 1024

#: How often the end of a process is looked for where the system does not tell of it, in seconds.
_LOOK_INTERVAL = 0.02

_POSIX = os.name == "posix"

#: Is called with ``"stdout"`` or ``"stderr"`` and what the kernel's process wrote there.
OutputHandler = Callable[[str, bytes], object]


class KernelProcess:
    """A process that leads its own session and group, with its output in a bounded ring.

    On Linux the exited process stays a zombie until :meth:`kill_group`: that pins its process id,
    so that a signal to its group can never hit strangers.

    Args:
        argv: the command.
        cwd: its working directory.
        env: its whole environment.

    Raises:
        OSError: the command cannot be run.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._exit_status: ExitStatus | None = None
        self._exit_waiters: set[asyncio.Future[None]] = set()
        self._reaped = False
        self._ring = bytearray()
        self._handlers: list[OutputHandler] = []
        background_loop()  # before the process, which nothing would watch if this failed
        self._popen = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            **_own_group(),
        )
        self._pipes: dict[str, IO[bytes]] = {}
        self._pidfd: int | None = None
        call_in_background(self._watch)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self._popen.pid

    @property
    def exit_status(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        return self._exit_status

    # -- watching, on the background loop --------------------------------------------------

    def _watch(self) -> None:
        loop = background_loop()
        for name, pipe in (("stdout", self._popen.stdout), ("stderr", self._popen.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._pipes[name] = pipe
            loop.add_reader(pipe.fileno(), self._read, name)
        self._pidfd = _open_pidfd(self.pid)
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._look_for_exit)
        else:
            self._look_for_exit()

    def _read(self, name: str) -> bool:
        """Take what is in a pipe; tell whether there may be more."""
        pipe = self._pipes.get(name)
        if pipe is None:
            return False
        try:
            data = os.read(pipe.fileno(), 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_pipe(name)
            return False
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
        return True

    def _close_pipe(self, name: str) -> None:
        pipe = self._pipes.pop(name, None)
        if pipe is not None:
            background_loop().remove_reader(pipe.fileno())
            pipe.close()

    def _look_for_exit(self) -> None:
        status = _exit_status(self._popen)
        if status is not None:
            self._close_pidfd()
            self._exited(status)
        elif self._pidfd is None:
            background_loop().call_later(_LOOK_INTERVAL, self._look_for_exit)

    def _close_pipes(self) -> None:
        for name in tuple(self._pipes):
            self._close_pipe(name)

    def _exited(self, status: ExitStatus) -> None:
        # What it wrote last is in the pipes: whoever learns of the end shall find it in the tail.
        # Bounded, because a child that outlives the kernel may write on for ever.
        for name in tuple(self._pipes):
            for _ in range(64):
                if not self._read(name):
                    break
        with self._lock:
            self._exit_status = status
            waiters, self._exit_waiters = self._exit_waiters, set()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            background_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

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
        """Send a signal to the process and all its children that stayed in its group."""
        with self._lock:
            if self._reaped:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if _POSIX:
                    os.killpg(self.pid, signum)
                else:
                    self._popen.send_signal(signum)

    async def kill_group(self) -> None:
        """Kill the process and its group; returns when all of them are gone."""
        if self._reaped:
            return
        if _POSIX:
            self.signal_group(signal.SIGKILL)
        else:
            self._popen.kill()
        await self.wait()
        await _group_gone(self.pid)
        # Reaped last: from now on the number may be given to somebody else's group.
        with self._lock:
            if not self._reaped:
                self._popen.wait()  # at once: it has ended
                self._reaped = True
        call_in_background(self._close_pipes)

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


def _open_pidfd(pid: int) -> int | None:
    """Give a descriptor that becomes readable when a process ends; None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # an old system, a sandbox that forbids it, too many files
        return None


def _exit_status(popen: subprocess.Popen[bytes]) -> ExitStatus | None:
    """Tell how a process ended; None while it runs."""
    if sys.platform != "linux":
        # macOS has waitid since Python 3.13 only. The process is reaped; what is left of its group
        # keeps the number taken.
        returncode = popen.poll()
        return None if returncode is None else ExitStatus.from_returncode(returncode)
    try:
        # WNOWAIT leaves the zombie, see the docstring of KernelProcess.
        result = os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return ExitStatus(reason="something else in this process has reaped it")
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)


def _own_group() -> dict[str, Any]:
    """Give the Popen arguments for a session and group of its own that signals can reach."""
    if not _POSIX:
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined,unused-ignore]
    options: dict[str, Any] = {"start_new_session": True}
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored or signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        # Both are inherited, and the kernel could never be interrupted. Only then: a function
        # between fork and exec makes starting slower.
        options["preexec_fn"] = _let_signals_through
    return options


def _let_signals_through() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


async def _group_gone(pgid: int) -> None:
    """Wait until none of a killed group runs that we may kill; its zombies are not ours to reap."""
    interval = 0.001
    while _group_runs(pgid):
        await asyncio.sleep(interval)
        interval = min(interval * 2, 0.05)


def _group_runs(pgid: int) -> bool:
    if not _POSIX:
        return False
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if sys.platform != "linux":
        return False
    return any(_runs_in_group(entry, pgid) for entry in os.listdir("/proc") if entry.isdigit())


def _runs_in_group(pid: str, pgid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # pid (command) state ppid pgrp …; the command may hold spaces and parentheses.
            state, _, group = file.read().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(group) == pgid and state not in (b"Z", b"X")
