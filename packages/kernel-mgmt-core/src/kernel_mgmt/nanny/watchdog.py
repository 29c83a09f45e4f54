"""A second process that ends the kernel when the nanny was killed before it could.

It is forked off before the nanny has threads, waits at a pipe, and acts when the pipe is closed and
nobody has said that all is well: the system closes it whatever the nanny died of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Watchdog"]

#: How long it waits for killed processes to be gone before it removes their files, in seconds.
_PATIENCE = 1.0


class Watchdog:
    """The nanny's end of the pipe; on Windows, which has job objects for this, there is none."""

    def __init__(self) -> None:
        self._pipe = -1
        if sys.platform != "win32":
            self._pipe = _fork()

    def watch_group(self, pgid: int) -> None:
        """Have a process group killed when the nanny dies."""
        self._say(f"group {pgid}")

    def leave_group(self, pgid: int) -> None:
        """Leave a process group alone: it is gone, and its number may be given away."""
        self._say(f"gone {pgid}")

    def watch_path(self, path: Path) -> None:
        """Have a file, or a directory with all that is in it, removed when the nanny dies."""
        self._say(f"path {path}")

    def close(self) -> None:
        """Send it away: everything is in order."""
        self._say("done")
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _say(self, line: str) -> None:
        if self._pipe >= 0 and "\n" not in line:
            try:
                os.write(self._pipe, os.fsencode(line) + b"\n")
            except OSError:
                pass  # somebody has killed it; the kernel still has its parent-death signal


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    except OSError:
        pass  # gone already


if sys.platform != "win32":

    def _fork() -> int:
        """Make the watchdog; gives the write end of its pipe."""
        read_end, write_end = os.pipe()  # neither is inherited by what the nanny runs
        if os.fork():
            os.close(read_end)
            return write_end
        try:
            os.close(write_end)
            # Not among those that a signal to the nanny's session or terminal reaches.
            os.setsid()
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            _let_go_of_streams()
            _watch(read_end)
        finally:
            os._exit(0)

    def _let_go_of_streams() -> None:
        # Who waits for the end of the nanny's output must not wait for us.
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)

    def _watch(pipe: int) -> None:
        groups: set[int] = set()
        paths: list[Path] = []
        with open(pipe, "rb") as lines:
            for line in lines:
                word, _, value = os.fsdecode(line.rstrip(b"\n")).partition(" ")
                if word == "group":
                    groups.add(int(value))
                elif word == "gone":
                    groups.discard(int(value))
                elif word == "path":
                    paths.append(Path(value))
                elif word == "done":
                    return
        _kill(groups)
        for path in paths:
            _remove(path)

    def _kill(groups: Iterable[int]) -> None:
        """Kill process groups, and see them go."""
        from ..process.posix import group_runs  # which the nanny had loaded before the fork

        for pgid in groups:
            with contextlib.suppress(OSError):  # gone already
                os.killpg(pgid, signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE
        while any(map(group_runs, groups)) and time.monotonic() < deadline:
            time.sleep(0.01)
