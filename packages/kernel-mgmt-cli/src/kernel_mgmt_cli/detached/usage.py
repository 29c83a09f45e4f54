"""How much memory and CPU kernels use, with the processes that they have started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from typing import NamedTuple

import psutil

__all__ = ["Usage", "measure"]

#: For how long CPU time is measured, in seconds.
_INTERVAL = 0.2


class Usage(NamedTuple):
    """What a process and its descendants use."""

    #: Bytes that they have in memory; what several share counts several times.
    memory: int
    #: Percent of one CPU.
    cpu: float


def measure(pids: Collection[int]) -> dict[int, Usage]:
    """Measure what processes and their descendants use, which takes a moment.

    Returns:
        What each uses; a process that has ended, or that may not be looked at, is left out.
    """
    trees = _trees(pids)
    before = {pid: [_cpu_time(process) for process in tree] for pid, tree in trees.items()}
    started = time.monotonic()
    time.sleep(_INTERVAL if trees else 0)
    seconds = time.monotonic() - started
    used = {}
    for pid, tree in trees.items():
        pairs = zip(before[pid], map(_cpu_time, tree), strict=True)
        spent = sum(now - then for then, now in pairs if then is not None and now is not None)
        memory = sum(map(_memory, tree))
        if memory:
            used[pid] = Usage(memory, 100 * spent / seconds)
    return used


def _trees(pids: Collection[int]) -> dict[int, list[psutil.Process]]:
    """Give each process with its descendants, in one look at all processes."""
    if not pids:
        return {}
    children: dict[int, list[psutil.Process]] = {}
    known: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["ppid"]):
        known[process.pid] = process
        children.setdefault(process.info["ppid"], []).append(process)
    trees = {}
    for pid in pids:
        if pid in known:
            tree = trees[pid] = [known[pid]]
            for process in tree:  # which grows meanwhile
                tree += children.get(process.pid, ())
    return trees


def _cpu_time(process: psutil.Process) -> float | None:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return None


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0
