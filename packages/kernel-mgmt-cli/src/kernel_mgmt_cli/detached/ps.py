"""``kernel-mgmt ps``: the kernels that run on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kernel_mgmt import KernelRecord
from kernel_mgmt.records import read_records

from ..errors import say
from ..tables import write_json, write_table
from .status import KernelStatus, look_at
from .usage import Usage, measure
from .words import ago, duration, percent, short_ids, size

__all__ = ["details", "list_running", "measure_kernels"]

_HEADER = ("id", "name", "type", "state", "up", "memory", "cpu", "clients", "last activity")


def list_running(*, as_json: bool) -> None:
    """Show the kernels that run on, the oldest first.

    Args:
        as_json: as an array of objects instead of a table.
    """
    records, problems = read_records()
    statuses = look_at(records)
    usages = measure_kernels(statuses)
    if as_json:
        write_json([details(status, usages) for status in statuses])
    elif statuses:
        ids = short_ids([status.record.kernel_id for status in statuses])
        rows = [
            [short_id, *_cells(status, usages)]
            for short_id, status in zip(ids, statuses, strict=True)
        ]
        write_table(_HEADER, rows)
    for problem in [*problems, *(status.problem for status in statuses)]:
        if problem:
            say("warning", problem)
    if not statuses and not problems and not as_json:
        say("hint", "there are none; 'kernel-mgmt start TYPE' starts a kernel that runs on.")


def measure_kernels(statuses: Sequence[KernelStatus]) -> dict[int, Usage]:
    """Measure what kernels use, by the ids of their processes."""
    pids = [status.info.get("kernel_pid") for status in statuses]
    return measure([pid for pid in pids if isinstance(pid, int)])


def details(status: KernelStatus, usages: dict[int, Usage]) -> dict[str, Any]:
    """Give all that is known of a kernel, as JSON; null is what is not known."""
    record, info = status.record, status.info
    usage = usages.get(info.get("kernel_pid", 0))
    return {
        "id": record.kernel_id,
        "name": record.name,
        "type": record.type_id,
        "state": status.state,
        "problem": status.problem,
        "started": record.started,
        "kernel_started": info.get("kernel_started"),
        "uptime": _uptime(status),
        "memory": None if usage is None else usage.memory,
        "cpu": None if usage is None else round(usage.cpu, 1),
        "clients": info.get("clients"),
        "last_activity": info.get("last_activity"),
        "restarts": info.get("restarts"),
        "exit_status": info.get("exit_status"),
        "lease": info.get("lease", _lease(record)),
        "idle_timeout": info.get("idle_timeout"),
        "unattended_timeout": info.get("unattended_timeout"),
        "kernel_pid": info.get("kernel_pid"),
        "nanny_pid": info.get("nanny_pid"),
        "host": status.host or None,
        "cwd": record.cwd,
        "connection_file": record.connection_file,
    }


def _cells(status: KernelStatus, usages: dict[int, Usage]) -> list[str]:
    known = details(status, usages)
    return [
        known["name"],
        known["type"],
        str(status),
        duration(known["uptime"]),
        size(known["memory"]),
        percent(known["cpu"]),
        "" if known["clients"] is None else str(known["clients"]),
        ago(known["last_activity"]),
    ]


def _lease(record: KernelRecord) -> float | None:
    """Give what is left of a lease that its record tells of, in seconds."""
    ends = record.manager.get("lease_ends")
    return round(max(0.0, ends - time.time()), 1) if isinstance(ends, (int, float)) else None


def _uptime(status: KernelStatus) -> float | None:
    """Give for how long the kernel has had what it has in memory, in seconds."""
    if status.state not in _UP:
        return None
    started = status.info.get("kernel_started") or status.record.started
    return None if started is None else round(max(0.0, time.time() - started), 1)


#: States in which there is a kernel.
_UP = frozenset({"starting", "idle", "busy", "running", "no answer", "unknown"})
