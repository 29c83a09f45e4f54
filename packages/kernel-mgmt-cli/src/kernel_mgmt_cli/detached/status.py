"""What kernels are doing, by their records and by what their nannies say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernel_mgmt import ExitStatus, KernelRecord
from kernel_mgmt.records import ALIVE, DEAD, ELSEWHERE, has_ended, record_state

__all__ = ["KernelStatus", "look_at"]

#: How long all nannies together may take to answer, in seconds.
_PATIENCE = 2.0

#: States that neither a nanny nor a record tells of.
_NO_ANSWER, _REMOTE, _RUNNING, _UNKNOWN = "no answer", "remote", "running", "unknown"


@dataclass(frozen=True)
class KernelStatus:
    """What is known of a kernel at one moment.

    Attributes:
        record: its record.
        state: ``starting``, ``idle``, ``busy``, ``restarting``, ``dead`` or ``stopping``, as its
            nanny says; ``dead`` as well when the nanny has ended, or the process that the record
            names; ``elsewhere`` for one of another machine; ``remote`` for one that its provider
            reaches over a network, and was not asked; ``no answer`` from a nanny that is there;
            ``running`` when only the record tells of the kernel; ``unknown`` when the nanny cannot
            be understood.
        info: what its nanny has said: the content of a ``nanny_info_reply``.
        problem: why there is no more, one sentence.
    """

    record: KernelRecord
    state: str
    info: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def exit_status(self) -> ExitStatus | None:
        """How the kernel ended, where that is known."""
        status = self.info.get("exit_status")
        return None if status is None else ExitStatus.from_dict(status)

    @property
    def host(self) -> str:
        """The machine that the kernel is on; empty where nobody noted it."""
        # Of one that is reached over a network, what its provider calls the machine.
        return str(self.record.machine.get("host") or self.record.manager.get("host") or "")

    def __str__(self) -> str:
        """Give the state with what belongs to it, for people."""
        if self.state in (ELSEWHERE, _REMOTE) and self.host:
            return f"{self.state} ({self.host})"
        if self.state == DEAD and self.exit_status is not None:
            return f"{self.state} ({self.exit_status})"
        return self.state


def look_at(records: Sequence[KernelRecord]) -> list[KernelStatus]:
    """Find out what kernels are doing; each nanny that has to be asked is, all at once."""
    found = {record.kernel_id: _look_at_record(record) for record in records}
    to_ask = [record for record in records if found[record.kernel_id] is None]
    if to_ask:
        found |= asyncio.run(_ask_all(to_ask))
    return [status for status in found.values() if status is not None]


def _look_at_record(record: KernelRecord) -> KernelStatus | None:
    """Tell what a record alone tells of a kernel; None when its nanny is to be asked."""
    state = record_state(record)
    if not record.machine:
        # Only its provider knows the way there, which may be a long one.
        return KernelStatus(record, _REMOTE)
    if state == ALIVE and "nanny" not in record.manager:
        return KernelStatus(record, DEAD if has_ended(record) else _RUNNING)
    if state == ALIVE:
        return None
    return KernelStatus(record, state)


async def _ask_all(records: Sequence[KernelRecord]) -> dict[str, KernelStatus]:
    statuses = await asyncio.gather(*map(_ask, records))
    return {status.record.kernel_id: status for status in statuses}


async def _ask(record: KernelRecord) -> KernelStatus:
    from kernel_mgmt.errors import NannyError
    from kernel_mgmt.nanny_client.manager import manager_for

    try:
        async with asyncio.timeout(_PATIENCE):
            info = await manager_for(record.connection_info).info()
    except TimeoutError:
        return _look_at_record(record) or KernelStatus(record, _NO_ANSWER)
    except NannyError as error:  # it has just ended, or is of another version
        return _look_at_record(record) or KernelStatus(record, _UNKNOWN, problem=str(error))
    return KernelStatus(record, str(info.get("state", _UNKNOWN)), info)
