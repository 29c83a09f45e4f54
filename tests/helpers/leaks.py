"""What a test may leave behind, and how to see it: processes, descriptors, threads, files.

    check = LeakCheck(root)
    before = check.snapshot()
    ...
    assert not check.leftovers(before)

On Linux everything is looked at. Elsewhere a descriptor has no name to be told by (only its number
counts), and processes are found through psutil alone, which may see less of their environment.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["LeakCheck", "Snapshot"]

LINUX = sys.platform == "linux"

ProcessKey = tuple[int, float]  # pid and start time: a pid alone may be used again


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment, each thing by a key and with a line that describes it."""

    processes: Mapping[ProcessKey, str]
    descriptors: Mapping[tuple[int, str], str]
    threads: Mapping[int, str]
    files: Mapping[str, str]

    def added_since(self, before: Snapshot) -> list[str]:
        """One line for each thing that `before` did not have."""
        return [
            *_added("process", self.processes, before.processes),
            *_added("descriptor", self.descriptors, before.descriptors),
            *_added("thread", self.threads, before.threads),
            *_added("file", self.files, before.files),
        ]


class LeakCheck:
    """Compares what there is after a test with what there was before.

    Args:
        root: the session's temporary root. A process that names it in its environment or command
            line is ours, wherever in the process tree it ended up.
        folders: everything in them counts as a file, recursively.
        patterns: glob patterns in `root`; what they match counts as well.
    """

    def __init__(
        self, root: Path, folders: Iterable[Path] = (), patterns: Iterable[str] = ("km-*",)
    ) -> None:
        self.root = root
        self.folders = tuple(folders)
        self.patterns = tuple(patterns)

    def snapshot(self) -> Snapshot:
        """What there is now."""
        return Snapshot(
            processes=self._processes(),
            descriptors=_descriptors(),
            threads={
                thread.ident or 0: f"{thread.name!r}{' (daemon)' if thread.daemon else ''}"
                for thread in threading.enumerate()
            },
            files=self._files(),
        )

    def leftovers(self, before: Snapshot, timeout: float = 0) -> list[str]:
        """What is left over since `before`, one line each.

        What is on its way out gets `timeout` seconds to be gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = self.snapshot().added_since(before)
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(0.01)

    def kill_processes(self, before: Snapshot | None = None) -> None:
        """Kill this session's processes, all or those newer than `before`, and reap our own."""
        known = before.processes if before is not None else {}
        for pid, started in self._processes():
            if (pid, started) not in known:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if process.create_time() == started:
                        process.kill()
                        if process.ppid() == os.getpid():
                            process.wait(timeout=3)

    def _processes(self) -> dict[ProcessKey, str]:
        found: dict[ProcessKey, str] = {}
        children = psutil.Process().children(recursive=True)
        for process in children:
            with contextlib.suppress(psutil.Error):
                found[process.pid, process.create_time()] = _describe(process, "child")
        ours = {pid for pid, _ in found} | {os.getpid()}
        mentions = _mentions_linux if LINUX else _mentions_elsewhere
        for pid in mentions(str(self.root)):
            if pid not in ours:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    found[pid, process.create_time()] = _describe(process, "not a child")
        return found

    def _files(self) -> dict[str, str]:
        paths = [path for folder in self.folders for path in _below(folder)]
        for pattern in self.patterns:
            for path in self.root.glob(pattern):
                paths += [path, *_below(path)]
        # A nanny that was killed leaves its journal, to be read.
        return {str(path): str(path) for path in paths if "/journal-" not in str(path)}


def _below(folder: Path) -> list[Path]:
    """Give what is in a folder, which may be about to be removed."""
    paths = []
    with contextlib.suppress(FileNotFoundError):
        paths += folder.rglob("*")
    return paths


def _added(kind: str, now: Mapping[object, str], before: Mapping[object, str]) -> list[str]:
    return [f"{kind} {text}" for key, text in now.items() if key not in before]


def _describe(process: psutil.Process, relation: str) -> str:
    try:
        command = " ".join(process.cmdline()) or process.name()
    except psutil.ZombieProcess:  # ended, but nobody has waited for it
        command = process.name()
    return f"{process.pid} ({relation}, {process.status()}): {command[:200]}"


def _mentions_linux(text: str) -> list[int]:
    """Pids of this user's processes that name `text`, straight from /proc to be quick."""
    wanted, uid, found = os.fsencode(text), os.getuid(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            # A process may end, or change its user, between any two of these lines.
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid and any(
                    wanted in Path(entry.path, name).read_bytes() for name in ("environ", "cmdline")
                ):
                    found.append(int(entry.name))
    return found


def _mentions_elsewhere(text: str) -> list[int]:
    me, found = psutil.Process().username(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.username() == me and any(
                text in value for value in (*process.cmdline(), *process.environ().values())
            ):
                found.append(process.pid)
    return found


def _descriptors() -> dict[tuple[int, str], str]:
    """This process's open descriptors by number and target.

    With the target in the key, a leaked socket that took the number of a closed one is seen.
    """
    folder = "/proc/self/fd" if LINUX else "/dev/fd"
    target_of: Callable[[str], str] = os.readlink if LINUX else lambda path: ""
    found = {}
    try:
        names = os.listdir(folder)
    except OSError:  # Windows
        return {}
    for name in names:
        # The descriptor that listed the folder is closed by now and drops out here.
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            target = target_of(f"{folder}/{name}").removesuffix(" (deleted)")
            found[int(name), target] = f"{name} -> {target or 'unknown'}"
    return found
