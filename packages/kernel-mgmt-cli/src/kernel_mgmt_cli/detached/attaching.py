"""``kernel-mgmt attach``: a console at a kernel that runs on, or else what there is to see."""

from __future__ import annotations

import asyncio
import sys

from kernel_mgmt import KernelRecord
from kernel_mgmt.errors import KernelDied, KernelMgmtError

from ..consoles import open_console
from ..errors import CommandError, say
from ..output import write_text
from ..signals import EndedBySignal
from ..tables import printable
from .finding import find_here, reach
from .past import Wanted, find_past
from .plain import PlainWriter
from .ps import details, measure_kernels
from .status import KernelStatus, look_at
from .words import ago, duration, percent, size

__all__ = ["attach"]

#: So many lines of the log are shown where there is no terminal.
_LINES = 50


def attach(
    kernel_id: str, *, wanted: Wanted, others: bool, images: str, startup_timeout: float
) -> int:
    """Show what a kernel has said, and talk to it; without a terminal show its state and its log.

    Args:
        kernel_id: the kernel, which lives on.
        wanted: which part of what it has said.
        others: as for a console.
        images: likewise.
        startup_timeout: seconds until the kernel must answer.

    Returns:
        The exit code.

    Raises:
        KernelMgmtError: it is not there, or does not answer.
        CommandError: it is dead, or on another machine; or it ended meanwhile.
    """
    record = find_here(kernel_id)
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        _show(record, wanted)
        return 0
    options = {
        "wanted": wanted,
        "others": others,
        "images": images,
        "startup_timeout": startup_timeout,
    }
    try:
        code = open_console(kept=record, **options)
    except KernelDied:
        asyncio.run(_show_past(record, wanted))  # its last words
        raise
    except EndedBySignal:
        _say_how_to_return(record)
        raise
    _say_how_to_return(record)
    return code


def _say_how_to_return(record: KernelRecord) -> None:
    known_as = record.name or record.kernel_id
    say(
        "hint",
        f"the kernel lives on; 'kernel-mgmt attach {known_as}' comes back to it, "
        f"'kernel-mgmt stop {known_as}' ends it.",
    )


def _show(record: KernelRecord, wanted: Wanted) -> None:
    (status,) = look_at([record])  # before this reads the journal, and is a client itself
    log, problem = "", None
    try:
        log = asyncio.run(_show_past(record, wanted))
    except (CommandError, KernelMgmtError) as error:
        problem = error  # told when all is shown that there is to see
    for name, value in _lines(status):
        write_text("stdout", f"{name:<16}{printable(value)}\n")
    if status.problem:
        say("warning", status.problem)
    if problem is not None:
        raise problem
    if log:
        write_text("stdout", f"\nThe last of its log:\n{log}")


async def _show_past(record: KernelRecord, wanted: Wanted) -> str:
    """Show what the kernel has said; gives the last of its log."""
    info, manager = await reach(record)
    past = await find_past(info, manager, wanted)
    if past is not None:
        writer = PlainWriter()
        async for message in past.messages(counts_as_read=True):
            writer.write(message)
        writer.end()
    return await manager.log_tail(_LINES)


def _lines(status: KernelStatus) -> list[tuple[str, str]]:
    known = details(status, measure_kernels([status]))
    lines = {
        "id": known["id"],
        "name": known["name"],
        "type": known["type"],
        "state": str(status),
        "up": duration(known["uptime"]),
        "memory": size(known["memory"]),
        "cpu": percent(known["cpu"]),
        "clients": _text(known["clients"]),
        "last activity": ago(known["last_activity"]),
        "restarts": _text(known["restarts"]),
        "ends in": duration(known["lease"]),
        "directory": known["cwd"],
        "connection file": _text(known["connection_file"]),
    }
    return [(name, value) for name, value in lines.items() if value]


def _text(value: object) -> str:
    return "" if value is None else str(value)
