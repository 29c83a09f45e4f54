"""``kernel-mgmt interrupt`` and ``restart``."""

from __future__ import annotations

import asyncio

from kernel_mgmt import KernelClient, KernelManager, KernelRecord
from kernel_mgmt.nanny_client.manager import RemoteKernelManager

from ..errors import KERNEL_DIED, KERNEL_MGMT_FAILED, CommandError
from .finding import find_here, manager_of, reach
from .words import label

__all__ = ["interrupt", "restart"]


def interrupt(kernel_id: str) -> None:
    """Interrupt what a kernel runs, in the way that its type wants.

    Raises:
        KernelMgmtError: it is not there, or does not react.
        CommandError: it is dead, or on another machine.
    """
    asyncio.run(_interrupt(find_here(kernel_id)))


async def _interrupt(record: KernelRecord) -> None:
    connection_info, manager = await reach(record)
    await _check_that_it_lives(record, manager)
    # The client, and not the manager: some types want a message.
    async with KernelClient(connection_info, manager=manager, counts_as_reader=False) as client:
        await client.interrupt()


def restart(kernel_id: str, *, grace: float) -> None:
    """Start a kernel anew, and wait until it answers.

    Args:
        kernel_id: the kernel.
        grace: seconds that it may take to end before it is killed.

    Raises:
        KernelMgmtError: it is not there, or the new one did not answer.
        CommandError: it is on another machine, or has no nanny to start it.
    """
    asyncio.run(_restart(find_here(kernel_id), grace))


async def _restart(record: KernelRecord, grace: float) -> None:
    manager = await manager_of(record)
    if not isinstance(manager, RemoteKernelManager):
        raise CommandError(
            f"the kernel {label(record)} has no nanny to start it again; stop it and start another.",
            KERNEL_MGMT_FAILED,
        )
    await manager.restart(timeout=grace)


async def _check_that_it_lives(record: KernelRecord, manager: KernelManager) -> None:
    if not await manager.is_alive():
        raise CommandError(f"the kernel {label(record)} is dead.", KERNEL_DIED)
