"""All records, one of them by what its user calls it, and what can be told without asking anybody."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import NoSuchRunningKernel
from ..launch import KernelRecord
from ..machine import is_process, same_boot, same_machine
from .files import FILE_NAME, BadRecord, read_record

__all__ = [
    "ALIVE",
    "DEAD",
    "ELSEWHERE",
    "find_record",
    "has_ended",
    "is_dead",
    "nanny_pid",
    "read_records",
    "record_state",
    "records_dir",
]

#: The states of a record.
ALIVE, DEAD, ELSEWHERE = "alive", "dead", "elsewhere"


def records_dir() -> Path:
    """Give the directory of the records: ``kernel-mgmt`` in Jupyter's data directory."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir(), "kernel-mgmt")


def read_records(directory: Path | None = None) -> tuple[list[KernelRecord], list[str]]:
    """Read all records.

    Args:
        directory: where they are; by default where all of this user's are.

    Returns:
        The records, the oldest kernel first, and for each file that cannot be used a sentence
        that says why.
    """
    directory = directory or records_dir()
    try:
        names = sorted(filter(FILE_NAME.fullmatch, os.listdir(directory)))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        problem = f"The records in {str(directory)!r} cannot be read: {error.strerror}."
        return [], [problem]
    records, problems = [], []
    for name in names:
        try:
            records.append(read_record(directory / name))
        except FileNotFoundError:  # noqa: PERF203 - removed just now
            pass
        except BadRecord as error:
            problems.append(str(error))
    return sorted(records, key=lambda record: record.started or 0), problems


# -- what a record tells ----------------------------------------------------------------------


def record_state(record: KernelRecord) -> str:
    """Tell what is certain of a kernel, without asking it.

    Returns:
        :data:`ELSEWHERE`: it runs on another machine, and only there more can be known.
        :data:`DEAD`: it has ended, and left its record behind: its machine has started again
        since, or its nanny's process is gone.
        :data:`ALIVE`: neither; its manager may know more. So it is where no machine is named: such a
        kernel is reached from anywhere, and its provider alone knows whether it lives.
    """
    if not record.machine:
        return ALIVE
    if not same_machine(record.machine):
        return ELSEWHERE
    # Without a nanny it is alive or not: its provider decides when such a kernel ends.
    return DEAD if _is_gone(record, "nanny") else ALIVE


def is_dead(record: KernelRecord) -> bool:
    """Tell whether it is certain that a kernel has ended; see :func:`record_state`."""
    return record_state(record) == DEAD


def has_ended(record: KernelRecord) -> bool:
    """Tell whether a kernel has ended, also one of which its provider alone knows what it left.

    Such a record may name the kernel's process, as ``process`` of its manager with ``pid`` and
    ``identity`` (:func:`kernel_mgmt.machine.process_identity`).  Nobody is asked, so this is quick.
    """
    if not (record.machine and same_machine(record.machine)):
        return False
    return _is_gone(record, "nanny") or _is_gone(record, "process")


def nanny_pid(record: KernelRecord) -> int | None:
    """Give the process id of a kernel's nanny; None when it has none, or a record that is unclear."""
    return _named_pid(record, "nanny")


def _named_pid(record: KernelRecord, role: str) -> int | None:
    """Give the id of a process that a record names; None when it names none, or is unclear."""
    process = record.manager.get(role)
    pid = process.get("pid") if isinstance(process, dict) else None
    return pid if type(pid) is int and pid > 0 else None


def _is_gone(record: KernelRecord, role: str) -> bool:
    """Tell whether a record names a process of this machine, and that runs no more."""
    pid = _named_pid(record, role)
    if pid is None:
        return False
    return not (same_boot(record.machine) and is_process(pid, record.manager[role].get("identity")))


# -- finding one ------------------------------------------------------------------------------


def find_record(wanted: str, directory: Path | None = None) -> KernelRecord:
    """Find a kernel by what its user calls it.

    A dead one is found when it is the only one, so that what happened to it can be told.

    Args:
        wanted: its id, else its name, else the beginning of an id.
        directory: where the records are; by default where all of this user's are.

    Raises:
        NoSuchRunningKernel: none is called so, or several are; those that may be meant are in the
            message.
    """
    records, problems = read_records(directory)
    for called_so in (
        [record for record in records if record.kernel_id == wanted],
        [record for record in records if wanted and record.name == wanted],
        [record for record in records if wanted and record.kernel_id.startswith(wanted)],
    ):
        # Of dead ones the last: a kernel may be called as one that ended before it.
        candidates = [record for record in called_so if not has_ended(record)] or called_so[-1:]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise NoSuchRunningKernel(
                f"Several kernels are called {wanted!r}: {_listed(candidates)}; say which one.",
                type_id=wanted,
                candidates=[record.kernel_id for record in candidates],
            )
    return _not_found(wanted, records, problems)


def _not_found(wanted: str, records: Sequence[KernelRecord], problems: Sequence[str]) -> NoReturn:
    living = [record for record in records if not has_ended(record)]
    by_name = {record.kernel_id: record for record in living}
    by_name.update({record.name: record for record in living if record.name})
    near = [by_name[n] for n in difflib.get_close_matches(wanted, by_name, n=3, cutoff=0.5)]
    concerned = [problem for problem in problems if wanted and f"kernel-{wanted}" in problem]
    if concerned:
        advice = " ".join(concerned)
    elif near:
        advice = f"did you mean {' or '.join(dict.fromkeys(map(_called, near)))}?"
    elif living:
        more = f", and {len(living) - 10} more" if len(living) > 10 else ""
        advice = f"there are {_listed(living[:10])}{more}."
    else:
        advice = "none runs."
    raise NoSuchRunningKernel(
        f"No running kernel is called {wanted!r}; {advice}",
        type_id=wanted,
        candidates=list(dict.fromkeys(record.kernel_id for record in near)),
    )


def _listed(records: Sequence[KernelRecord]) -> str:
    return ", ".join(map(_called, records))


def _called(record: KernelRecord) -> str:
    return f"{record.kernel_id} ({record.name})" if record.name else record.kernel_id
