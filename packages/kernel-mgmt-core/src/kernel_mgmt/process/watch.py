"""How the output and the end of a process are noticed: by the background loop, or by threads.

Both hand on what they see on the background loop, all output first and the end last: whoever learns
of the end finds the last words.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import IO, Any, Callable, Protocol

from ..background import background_loop, call_in_background
from ..manager import ExitStatus

__all__ = ["LoopWatch", "ProcessGroup", "ThreadWatch"]

#: How often the end of a process is looked for where the system does not tell of it, in seconds.
_LOOK_INTERVAL = 0.02
#: How much is read at once, in bytes.
_READ_SIZE = 65536
#: How often an ended process's pipe is read at most: a child that outlives it may write for ever.
_LAST_READS = 64
#: How long threads may take to read an ended process's last words, in seconds: a child that
#: outlives it may hold the pipe open.
_LAST_WORDS_PATIENCE = 0.25

_OnOutput = Callable[[str, bytes], object]
_OnExit = Callable[[ExitStatus], object]


class ProcessGroup(Protocol):
    """A process and all its descendants that the system counts as its group."""

    popen: subprocess.Popen[bytes]

    def signal(self, signum: int) -> None:
        """Send a signal to all of them; nothing happens when they are gone."""

    def kill(self) -> None:
        """End all of them by force, without waiting."""

    def runs(self) -> bool:
        """Tell whether any of them still runs that we may kill."""

    def exit_status(self) -> ExitStatus | None:
        """Tell how the leading process ended; None while it runs."""

    def close(self) -> None:
        """Give back what the system kept of the ended process: its number, handles."""


class LoopWatch:
    """Watches a process by the background loop alone, without a thread for each: not on Windows.

    Args:
        group: the process.
        on_output: called with ``"stdout"`` or ``"stderr"`` and what was written there.
        on_exit: called once, with the exit status.
    """

    def __init__(self, group: ProcessGroup, on_output: _OnOutput, on_exit: _OnExit) -> None:
        self._group = group
        self._on_output = on_output
        self._on_exit = on_exit
        self._pipes: dict[str, IO[bytes]] = {}
        self._pidfd: int | None = None
        call_in_background(self._begin)

    def close(self) -> None:
        """Read no more, soon: what escaped from the group may hold the pipes open."""
        call_in_background(self._close_pipes)

    def _begin(self) -> None:
        loop = background_loop()
        for name, pipe in _pipes(self._group.popen):
            if sys.platform != "win32":  # for the type checker
                os.set_blocking(pipe.fileno(), False)
            self._pipes[name] = pipe
            loop.add_reader(pipe.fileno(), self._read, name)
        self._pidfd = _open_pidfd(self._group.popen.pid)
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
            data = os.read(pipe.fileno(), _READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_pipe(name)
            return False
        self._on_output(name, data)
        return True

    def _close_pipe(self, name: str) -> None:
        pipe = self._pipes.pop(name, None)
        if pipe is not None:
            background_loop().remove_reader(pipe.fileno())
            pipe.close()

    def _close_pipes(self) -> None:
        for name in tuple(self._pipes):
            self._close_pipe(name)

    def _look_for_exit(self) -> None:
        status = self._group.exit_status()
        if status is not None:
            self._close_pidfd()
            for name in tuple(self._pipes):
                for _ in range(_LAST_READS):
                    if not self._read(name):
                        break
            self._on_exit(status)
        elif self._pidfd is None:
            background_loop().call_later(_LOOK_INTERVAL, self._look_for_exit)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            background_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


class ThreadWatch:
    """Watches a process by three threads, for Windows: no loop there can watch a pipe or a process.

    Args:
        group: the process.
        on_output: called with ``"stdout"`` or ``"stderr"`` and what was written there.
        on_exit: called once, with the exit status.

    Raises:
        RuntimeError: the system gives no further thread.
    """

    def __init__(self, group: ProcessGroup, on_output: _OnOutput, on_exit: _OnExit) -> None:
        self._group = group
        self._on_output = on_output
        self._on_exit = on_exit
        self._readers = [
            self._start(self._read, name, pipe) for name, pipe in _pipes(self._group.popen)
        ]
        self._start(self._wait)

    def close(self) -> None:
        """Do nothing: each thread ends at the end of what it waits for.

        A pipe must not be closed under the thread that reads from it. With the group gone nobody
        writes to it any more, and the reading ends.
        """

    def _start(self, target: Callable[..., object], *args: Any) -> threading.Thread:
        name = f"kernel-mgmt-process-{self._group.popen.pid}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        return thread

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        taken = threading.Event()

        def hand_on(data: bytes) -> None:
            try:
                self._on_output(name, data)
            finally:
                taken.set()

        with pipe:
            while data := _read_some(pipe):
                call_in_background(hand_on, data)
                # One piece at a time: a process that writes faster than we listen is slowed down
                # by its full pipe, and does not fill our memory.
                taken.wait()
                taken.clear()

    def _wait(self) -> None:
        self._group.popen.wait()
        for reader in self._readers:
            reader.join(_LAST_WORDS_PATIENCE)
        status = self._group.exit_status() or ExitStatus()
        call_in_background(self._on_exit, status)


def _read_some(pipe: IO[bytes]) -> bytes:
    """Wait for what comes next; nothing at the end."""
    try:
        return pipe.read(_READ_SIZE)
    except (OSError, ValueError):  # broken, or closed because no thread was left to watch
        return b""


def _pipes(popen: subprocess.Popen[bytes]) -> list[tuple[str, IO[bytes]]]:
    assert popen.stdout is not None
    assert popen.stderr is not None
    return [("stdout", popen.stdout), ("stderr", popen.stderr)]


def _open_pidfd(pid: int) -> int | None:
    """Give a descriptor that becomes readable when a process ends; None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # an old system, a sandbox that forbids it, too many files
        return None
