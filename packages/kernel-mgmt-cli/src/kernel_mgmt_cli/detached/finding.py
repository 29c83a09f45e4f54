"""From what the user typed to a kernel on this machine, and to its manager."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kernel_mgmt import ConnectionInfo, KernelFinder, KernelManager, KernelRecord
from kernel_mgmt.errors import LaunchError
from kernel_mgmt.records import DEAD, ELSEWHERE, find_record, record_state

from ..errors import KERNEL_DIED, KERNEL_MGMT_FAILED, CommandError
from .words import label

__all__ = ["check_that_it_is_here", "find_here", "manager_of", "reach", "reaching"]


def find_here(kernel_id: str) -> KernelRecord:
    """Find a kernel that may be alive, and whose machine is this one.

    Args:
        kernel_id: its id, a beginning that no other id has, or its name.

    Raises:
        NoSuchRunningKernel: there is none, or there are several.
        CommandError: its nanny has ended, or it runs on another machine.
    """
    record = find_record(kernel_id)
    check_that_it_is_here(record)
    if record_state(record) == DEAD:
        raise CommandError(
            f"the kernel {label(record)} is dead, and so is its nanny; 'kernel-mgmt gc' removes "
            "what they left.",
            KERNEL_DIED,
        )
    return record


def check_that_it_is_here(record: KernelRecord) -> None:
    """Make sure that a kernel, dead or alive, is not one of another machine.

    Raises:
        CommandError: it is.
    """
    if record_state(record) == ELSEWHERE:
        where = record.machine.get("host") or "another machine"
        raise CommandError(
            f"the kernel {label(record)} runs on {where}; run the command there.",
            KERNEL_MGMT_FAILED,
        )


async def manager_of(record: KernelRecord) -> KernelManager:
    """Give a kernel's manager; raises as :func:`reach` does."""
    return (await reach(record))[1]


async def reach(record: KernelRecord) -> tuple[ConnectionInfo, KernelManager]:
    """Give where a kernel is reached from here, which its record need not know, and its manager.

    Raises:
        KernelMgmtError: it was not found.
        CommandError: the kernel has no manager.
    """
    with reaching(record):
        connection_info, manager = await KernelFinder.from_entrypoints().attach(record)
    if manager is None:
        raise CommandError(
            f"nothing watches the kernel {label(record)}: it can only be talked to, with "
            f"'kernel-mgmt attach {record.kernel_id}'.",
            KERNEL_MGMT_FAILED,
        )
    return connection_info, manager


@contextlib.contextmanager
def reaching(record: KernelRecord) -> Iterator[None]:
    """Tell that a kernel is not reached, where a provider says that a launch failed.

    Raises:
        CommandError: in place of a :class:`~kernel_mgmt.errors.LaunchError`.
    """
    try:
        yield
    except LaunchError as error:
        why = f"{error.cause} {error.advice}".rstrip()
        raise CommandError(
            f"the kernel {label(record)} is not reached. {why}", KERNEL_MGMT_FAILED
        ) from error
