"""``kernel-mgmt export``: what ran in a kernel, and what it put out, as a notebook."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kernel_mgmt import KernelFinder, KernelRecord, Message
from kernel_mgmt.errors import NoSuchRunningKernel
from kernel_mgmt.records import DEAD, find_record, record_state

from ..errors import KERNEL_MGMT_FAILED, CommandError, say
from ..happenings import is_gap, sentence_of
from ..notebook import Transcript
from .finding import check_that_it_is_here, reaching
from .notebook_file import NotebookFile
from .past import journal_of, left_journal, read_journal, read_left_journal
from .words import label

__all__ = ["export"]


def export(kernel_id: str, output: str, *, force: bool) -> None:
    """Write a notebook of all that a kernel's journal has kept; that does not count as reading.

    Args:
        kernel_id: the kernel, which may be busy, or dead.
        output: the notebook's path; ``-`` for standard output.
        force: whether a file that is there is replaced.

    Raises:
        KernelMgmtError: the kernel is not there, or its nanny does not answer.
        CommandError: it has no journal; or the notebook cannot be written.
        BrokenPipeError: nobody reads standard output any more.
    """
    file = NotebookFile(output, replace=force)
    file.write(_transcript(kernel_id).to_dict())


def _transcript(kernel_id: str) -> Transcript:
    try:
        record = find_record(kernel_id)
    except NoSuchRunningKernel:
        directory = left_journal(kernel_id)
        if directory is None:
            raise
        return _of_what_is_left(directory, None)
    check_that_it_is_here(record)
    if record_state(record) == DEAD:
        return _of_what_is_left(journal_of(record), record)
    return asyncio.run(_of_living(record))


def _of_what_is_left(directory: Path, record: KernelRecord | None) -> Transcript:
    if not directory.is_dir():
        assert record is not None
        raise CommandError(
            f"the kernel {label(record)} is dead, and has left no journal.", KERNEL_MGMT_FAILED
        )
    transcript = Transcript("" if record is None else record.type_id)
    for message in read_left_journal(directory, record):
        _add(transcript, message)
    return transcript


async def _of_living(record: KernelRecord) -> Transcript:
    with reaching(record):
        info, manager = await KernelFinder.from_entrypoints().attach(record)
    if not info.nanny_journal_port:
        raise CommandError(
            f"nothing has kept what the kernel {label(record)} has said: it has no nanny with a "
            "journal.",
            KERNEL_MGMT_FAILED,
        )
    transcript = Transcript(record.type_id)
    async for message in read_journal(info, manager):
        _add(transcript, message)
    return transcript


def _add(transcript: Transcript, message: Message) -> None:
    if is_gap(message):
        say("warning", sentence_of(message))
    transcript.add(message)
