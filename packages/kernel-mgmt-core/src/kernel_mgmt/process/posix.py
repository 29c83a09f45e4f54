"""The process of a kernel and its descendants on Linux and macOS: a session and process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from ..manager import ExitStatus
from .identity import has_ended

assert sys.platform != "win32"  # for the type checker: what follows is not there

__all__ = ["PosixGroup", "group_runs"]


class PosixGroup:
    """A process that leads its own session and process group.

    On Linux the exited process stays a zombie until :meth:`close`: that pins its process id, so
    that a signal to its group can never hit strangers.

    Args:
        argv: the command.
        cwd: its working directory.
        env: its whole environment.
        die_with_parent: whether the system shall kill it when this process ends, where it can.

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
        self.popen = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            **_preparation(die_with_parent=die_with_parent),
        )

    def signal(self, signum: int) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL to the whole group."""
        self.signal(signal.SIGKILL)

    def runs(self) -> bool:
        """Tell whether any of the group runs that we may kill; zombies are not ours to reap."""
        return group_runs(self.popen.pid)

    def exit_status(self) -> ExitStatus | None:
        """Tell how the leading process ended; None while it runs."""
        return _exit_status(self.popen)

    def close(self) -> None:
        """Reap the leading process, which has ended."""
        self.popen.wait()


def _preparation(*, die_with_parent: bool) -> dict[str, Any]:
    """Give the Popen arguments for what the new process is to do before it becomes the command."""
    steps: list[Callable[[], object]] = []
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored or signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        # Both are inherited, and the kernel could never be interrupted.
        steps.append(_let_signals_through)
    if die_with_parent:
        steps += _parent_death_signal()
    if not steps:  # a function between fork and exec makes starting slower
        return {}
    return {"preexec_fn": lambda: [step() for step in steps]}


def _let_signals_through() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _status_when_reaped(popen: subprocess.Popen[bytes]) -> ExitStatus | None:
    returncode = popen.poll()
    return None if returncode is None else ExitStatus.from_returncode(returncode)


def _group_takes_signals(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if sys.platform == "linux":
    import ctypes

    #: prctl(2): the signal that a process gets when the thread that made it ends.
    _PR_SET_PDEATHSIG = 1

    def _parent_death_signal() -> list[Callable[[], object]]:
        # Looked up before the fork: afterwards nothing may be imported.
        prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

        def die_with_parent() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it has ended already
                os._exit(1)

        return [die_with_parent]

    def _exit_status(popen: subprocess.Popen[bytes]) -> ExitStatus | None:
        try:
            # WNOWAIT leaves the zombie, see the docstring of PosixGroup.
            result = os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return ExitStatus(reason="something else in this process has reaped it")
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return ExitStatus(code=result.si_status)
        return ExitStatus(signal=result.si_status)

    def group_runs(pgid: int) -> bool:
        """Tell whether any of a process group runs that we may signal; zombies do not."""
        # Zombies take signals, and the leader is one.
        return _group_takes_signals(pgid) and any(
            _runs_in_group(entry, pgid) for entry in os.listdir("/proc") if entry.isdigit()
        )

    def _runs_in_group(pid: str, pgid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # pid (command) state ppid pgrp …; the command may hold spaces and parentheses.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return False
        return int(fields[2]) == pgid and not has_ended(fields)

else:

    def _parent_death_signal() -> list[Callable[[], object]]:
        return []

    # macOS has waitid since Python 3.13 only. So the leader is reaped at once; what is left of its
    # group keeps the number taken. Zombies take no signals there: they count as gone.
    _exit_status = _status_when_reaped
    group_runs = _group_takes_signals
