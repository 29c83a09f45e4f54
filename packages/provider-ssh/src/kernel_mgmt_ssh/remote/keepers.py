"""Nannies and plain supervisors of this host, as processes: found by their records, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from typing import Any

from kernel_mgmt.process.identity import is_process

__all__ = ["end_keeper", "keeper_of", "living_records"]

#: How long a nanny that is to end may take, in seconds.
_PATIENCE = 10.0
#: More than any record has, in bytes.
_LONGEST = 1_000_000


def living_records(directory: str) -> Iterator[dict[str, Any]]:
    """Give this user's records of kernels whose keeper runs, as they are on the disk.

    Args:
        directory: where the records are.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        if name.startswith("kernel-") and name.endswith(".json"):
            record = _read(os.path.join(directory, name))
            if record is not None and _runs(record):
                yield record


def keeper_of(directory: str, kernel_id: str, since: float) -> tuple[int, str] | None:
    """Give the process id of a kernel's keeper, and its identity.

    Args:
        directory: where the records are.
        kernel_id: the kernel's id.
        since: a record that is older is another kernel's, in seconds since the epoch.
    """
    record = _read(os.path.join(directory, f"kernel-{kernel_id}.json"))
    if record is None or not _runs(record):
        return None
    started = record.get("started")
    if not isinstance(started, (int, float)) or started < since:
        return None
    keeper = _keeper(record)
    return int(keeper["pid"]), str(keeper.get("identity") or "")


def end_keeper(pid: int, identity: str) -> None:
    """End a nanny with its kernel, and see it go; by force when it does not."""
    for signum in (signal.SIGTERM, signal.SIGKILL):  # its watchdog then removes the rest
        if not is_process(pid, identity):
            return
        with contextlib.suppress(OSError):
            os.kill(pid, signum)
        deadline = time.monotonic() + _PATIENCE
        while is_process(pid, identity) and time.monotonic() < deadline:
            time.sleep(0.01)


def _read(path: str) -> dict[str, Any] | None:
    """Read a record; None when there is none of ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                return None
            content = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _keeper(record: dict[str, Any]) -> dict[str, Any]:
    """Give what a record tells of the nanny, or of the plain supervisor; raises for neither."""
    manager = record["manager"]
    keeper: dict[str, Any] = manager["plain"] if "plain" in manager else manager["nanny"]
    return keeper


def _runs(record: dict[str, Any]) -> bool:
    try:
        keeper = _keeper(record)
        return is_process(int(keeper["pid"]), keeper.get("identity"))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
