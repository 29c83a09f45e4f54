"""``kernel-mgmt stop`` and ``gc``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kernel_mgmt import KernelRecord
from kernel_mgmt.detached import collect_dead, terminate_or_kill
from kernel_mgmt.errors import KernelMgmtError
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.records import ALIVE, read_records, record_state
from kernel_mgmt.records.listing import nanny_pid

from ..errors import KERNEL_MGMT_FAILED, CommandError, report, say
from ..tables import write_line
from .finding import find_here, manager_of
from .words import label

__all__ = ["collect", "stop"]


def stop(kernel_ids: Sequence[str] | None, *, grace: float) -> int:
    """Stop kernels at the same time, and tell what happened to each.

    Args:
        kernel_ids: the kernels; None for all that may be alive on this machine.
        grace: seconds that each may take to end before it is killed.

    Returns:
        The exit code: 0, or that of the first that could not be stopped.
    """
    records, codes = _find(kernel_ids)
    if not records and not codes:
        say("hint", "there is nothing to stop.")
    codes += asyncio.run(_stop_all(records, grace))
    return next(filter(None, codes), 0)


def _find(kernel_ids: Sequence[str] | None) -> tuple[list[KernelRecord], list[int]]:
    """Give the kernels, and the exit codes for those that cannot be found."""
    if kernel_ids is None:
        records, problems = read_records()
        for problem in problems:
            say("warning", problem)
        remote = [record for record in records if not record.machine]
        if remote:
            say("hint", f"left alone is what other machines run: {', '.join(map(label, remote))}.")
        return [r for r in records if r.machine and record_state(r) == ALIVE], []
    found, codes = {}, []
    for kernel_id in kernel_ids:
        try:
            record = find_here(kernel_id)
            found[record.kernel_id] = record
        except (KernelMgmtError, CommandError) as error:
            codes.append(report(error))
    return list(found.values()), codes


async def _stop_all(records: Sequence[KernelRecord], grace: float) -> list[int]:
    return await asyncio.gather(*(_stop(record, grace) for record in records))


async def _stop(record: KernelRecord, grace: float) -> int:
    try:
        manager = await manager_of(record)
        if isinstance(manager, RemoteKernelManager):
            await manager.stop(timeout=grace)
        else:
            await terminate_or_kill(manager, grace)
            await manager.cleanup()
    except KernelMgmtError as error:
        where = f" (its nanny is process {pid})" if (pid := nanny_pid(record)) else ""
        what = f"the kernel {label(record)}{where} was not stopped. {error}"
        return report(CommandError(what, KERNEL_MGMT_FAILED))
    except CommandError as error:
        return report(error)
    write_line(f"stopped {label(record)}")
    return 0


def collect() -> None:
    """Remove what kernels have left that are dead, or whose lease is over, and tell what that was."""
    for record in asyncio.run(collect_dead()):
        write_line(f"removed {label(record)}")
