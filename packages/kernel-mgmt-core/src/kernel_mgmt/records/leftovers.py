"""Removing what dead kernels have left behind, and nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..connection import CHANNELS, ConnectionInfo
from ..endpoints import accepts, remove_directory, remove_sockets
from ..errors import ConnectionFileError
from ..launch import KernelRecord
from .files import BadRecord, read_record, record_path, remove_record
from .listing import is_dead, read_records, records_dir

__all__ = ["gc"]

#: What is left when a writer is killed in the middle: see ``connection.write_private``.
_UNFINISHED = re.compile(r"\.kernel-.*\.json\.[0-9a-f]{8}")
#: Nobody writes a record for so long, in seconds, whatever the clocks of two machines say.
_UNFINISHED_AFTER = 3600.0
#: The journals that nannies have left that were killed.
_JOURNAL = re.compile(r"journal-([A-Za-z0-9._-]{1,128})")
#: How long they can be read still, in seconds.
_JOURNAL_KEPT = 86_400.0


def gc(directory: Path | None = None) -> list[KernelRecord]:
    """Remove what kernels that are certainly dead have left: records, connection files, sockets.

    Their journals stay for a day, so that what the kernels have said last can be read.

    Neither what is alive is touched, nor what is on another machine or not understood.  Any number
    of processes may do this at once, and start and stop kernels meanwhile.

    Args:
        directory: where the records are; by default where all of this user's are.

    Returns:
        The records that were removed.
    """
    directory = directory or records_dir()
    records, _ = read_records(directory)
    dead = [record for record in records if is_dead(record)]
    living = [record for record in records if record not in dead]
    _remove_unfinished(directory)
    _remove_old_journals(directory, living)
    return [record for record in dead if _remove(directory, record, living)]


def _remove(directory: Path, record: KernelRecord, living: Sequence[KernelRecord]) -> bool:
    """Remove one kernel's leftovers, its record last: what remains when this is cut short is found."""
    if not any(_share_sockets(record, other) for other in living):
        _remove_files(record)
    try:
        # It may be another's by now, who was given the same id.
        unchanged = read_record(record_path(directory, record.kernel_id)) == record
    except (FileNotFoundError, BadRecord):
        return False
    if unchanged:
        remove_record(directory, record.kernel_id)
    return unchanged


def _share_sockets(record: KernelRecord, other: KernelRecord) -> bool:
    """Tell whether two kernels were given the same address, one after the other."""
    ours, others = record.connection_info, other.connection_info
    return ours.transport == others.transport == "ipc" and ours.ip == others.ip


def _remove_files(record: KernelRecord) -> None:
    info = record.connection_info
    file = record.connection_file
    if file is not None:
        with contextlib.suppress(ConnectionFileError, OSError):
            if ConnectionInfo.read(file).key == info.key:
                file.unlink()
    if info.transport == "ipc" and any(_listens(info, channel) for channel in CHANNELS):
        return  # another kernel, that was given this one's address
    # The two may be one directory.
    _remove_home(record)
    remove_sockets(info)


def _remove_home(record: KernelRecord) -> None:
    """Remove the directory that a nanny had for itself and for the sockets of its kernel."""
    home = record.manager["nanny"].get("directory")
    if not isinstance(home, str) or not os.path.isabs(home):
        return
    with contextlib.suppress(ValueError):  # no path that a directory can have
        remove_directory(Path(home))


def _listens(info: ConnectionInfo, channel: str) -> bool:
    return bool(getattr(info, f"{channel}_port")) and accepts(info, channel)


def _remove_unfinished(directory: Path) -> None:
    with contextlib.suppress(OSError):
        for name in filter(_UNFINISHED.fullmatch, os.listdir(directory)):
            path = directory / name
            if path.lstat().st_mtime < time.time() - _UNFINISHED_AFTER:
                path.unlink()


def _remove_old_journals(directory: Path, living: Sequence[KernelRecord]) -> None:
    """Remove the journals of kernels that are gone, when nothing was written to them for long."""
    kept = {record.kernel_id for record in living}
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            match = _JOURNAL.fullmatch(name)
            if match is not None and match[1] not in kept and _is_old(directory / name):
                shutil.rmtree(directory / name, ignore_errors=True)


def _is_old(journal: Path) -> bool:
    """Tell whether nobody has written to a journal for long; not of what is none."""
    try:
        if journal.is_symlink() or not journal.is_dir():
            return False
        times = [path.lstat().st_mtime for path in (journal, *journal.iterdir())]
    except OSError:  # it is being removed
        return False
    return max(times) < time.time() - _JOURNAL_KEPT
