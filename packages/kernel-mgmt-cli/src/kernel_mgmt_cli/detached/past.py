"""What a kernel has said: from its nanny's journal, or from what a nanny has left that is gone."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernel_mgmt import ConnectionInfo, KernelManager, KernelRecord, Message, Session
from kernel_mgmt.dialect import Dialect
from kernel_mgmt.errors import KernelMgmtError, ProtocolError
from kernel_mgmt.journal.connection import message_of
from kernel_mgmt.journal.reader import Reader
from kernel_mgmt.journal.replay import Replay
from kernel_mgmt.nanny.journal.pieces import Gap
from kernel_mgmt.nanny.journal.spool import read_spool
from kernel_mgmt.nanny_client.manager import manager_for
from kernel_mgmt.records import journal_directory, read_records, records_dir

from ..errors import say

__all__ = [
    "Past",
    "Wanted",
    "find_past",
    "journal_of",
    "left_journal",
    "read_journal",
    "read_left_journal",
]

#: What the directory of a journal is called before the kernel's id.
_PREFIX = journal_directory(Path(), "").name


async def read_journal(
    connection_info: ConnectionInfo,
    manager: KernelManager | None,
    *,
    after: int = 0,
    since: float | None = None,
    until: int | None = None,
    counts_as_read: bool = False,
) -> AsyncIterator[Message]:
    """Read what a kernel has said from its nanny, whatever the kernel does now.

    Args:
        connection_info: where the nanny is.
        manager: knows whether the way there is interrupted.
        after: the number after which to begin.
        since: the moment from which on to read, in seconds since the epoch, in place of ``after``.
        until: the number of the last message; by default the last one that there is now.
        counts_as_read: whether somebody has read then what is given.

    Yields:
        Each message, in the words of protocol 5.

    Raises:
        NannyError: there is no journal.
        ConnectionLost: the nanny cannot be reached.
    """
    replay = Replay(
        connection_info,
        Reader(after if since is None else None, since=since, reads=counts_as_read),
        link=None if manager is None else manager.link,
        until=until,
        on_bad=lambda _channel, _error: None,
    )
    translate = _translator()
    try:
        while (batch := await replay.next_batch()) is not None:
            for message in batch:
                if (translated := translate(message)) is not None:
                    yield translated
    finally:
        replay.close()


@dataclass(frozen=True)
class Wanted:
    """Which part of what a kernel has said is to be shown; by default what nobody has read.

    Attributes:
        everything: all that was kept.
        since: what was said in so many seconds.
    """

    everything: bool = False
    since: float | None = None


class Past:
    """What a kernel has said before now, as far as it is wanted and was kept.

    Args:
        connection_info: where the nanny is.
        manager: knows whether the way there is interrupted.
        heading: tells people what it is.
        after: the number after which it begins.
        since: the moment from which on it is, in seconds since the epoch, in place of ``after``.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        manager: KernelManager | None,
        heading: str,
        *,
        after: int = 0,
        since: float | None = None,
    ) -> None:
        self.heading = heading
        self._info = connection_info
        self._manager = manager
        self._after = after
        self._since = since

    def messages(
        self, until: int | None = None, *, counts_as_read: bool = False
    ) -> AsyncIterator[Message]:
        """Read it; see :func:`read_journal`."""
        return read_journal(
            self._info,
            self._manager,
            after=self._after,
            since=self._since,
            until=until,
            counts_as_read=counts_as_read,
        )


async def find_past(
    connection_info: ConnectionInfo, manager: KernelManager | None, wanted: Wanted
) -> Past | None:
    """Find out where the wanted part of what a kernel has said begins.

    Returns:
        That part, or None when nothing was kept.

    Raises:
        NannyError: the nanny does not answer.
    """
    if not connection_info.nanny_journal_port:
        if wanted != Wanted():
            say("warning", "nothing is kept of what this kernel says; there is nothing to show.")
        return None
    if wanted.everything:
        return Past(connection_info, manager, "all that was kept of what the kernel has said:")
    if wanted.since is not None:
        heading = "what the kernel has said in that time:"
        since = max(0.0, time.time() - wanted.since)
        return Past(connection_info, manager, heading, since=since)
    info = await manager_for(connection_info).info()
    journal = info.get("journal")
    read = journal.get("read") if isinstance(journal, dict) else None
    heading = "what the kernel has said since somebody last read:"
    return Past(connection_info, manager, heading, after=read if type(read) is int else 0)


def _translator() -> Callable[[Message], Message | None]:
    """Give a function that gives messages in the words of protocol 5; None for what is none."""
    dialect = Dialect(lambda _: None)

    def translate(message: Message) -> Message | None:
        try:
            _ = message.content  # raises for what is no JSON object
            if dialect.translate is None or message.channel == "nanny":
                return message
            translated = dialect.translate(message)
        except ProtocolError:
            return None
        translated.journal_number = message.journal_number
        return translated

    return translate


# -- what is left ---------------------------------------------------------------------------


def left_journal(wanted: str) -> Path | None:
    """Find the journal of a kernel whose nanny was killed, and whose record is gone.

    Args:
        wanted: the kernel's id, or a beginning of it that no other such kernel has.
    """
    directory = records_dir()
    records, _ = read_records(directory)
    if not wanted or any(wanted == r.name or r.kernel_id.startswith(wanted) for r in records):
        return None
    try:
        names = [name for name in os.listdir(directory) if name.startswith(_PREFIX + wanted)]
    except OSError:
        return None
    if _PREFIX + wanted in names:
        names = [_PREFIX + wanted]
    return directory / names[0] if len(names) == 1 else None


def journal_of(record: KernelRecord) -> Path:
    """Give where the journal of a kernel of this machine is on disk, if there is any."""
    return journal_directory(records_dir(), record.kernel_id)


def read_left_journal(directory: Path, record: KernelRecord | None) -> Iterator[Message]:
    """Read what a nanny has left that is gone.

    Args:
        directory: its journal's.
        record: the kernel's; without it the signatures are not looked at, whose key is in there.

    Yields:
        Each message that is intact, in the words of protocol 5, and for what is not a ``journal_gap``.
    """
    session = _session_of(record)
    translate = _translator()
    for item in read_spool(directory):
        if isinstance(item, Gap):
            yield _told(item)
            continue
        try:
            message = translate(message_of(item, session))
        except KernelMgmtError:
            continue
        if message is not None:
            yield message


def _session_of(record: KernelRecord | None) -> Session:
    if record is not None:
        return Session(record.connection_info.key, record.connection_info.signature_scheme)
    session = Session("gone")
    session.signed = False
    return session


def _told(gap: Gap) -> Message:
    """Give the message by which a nanny tells of a gap."""
    header = {"msg_id": f"gap-{gap.first}", "msg_type": "journal_gap"}
    return Message(header, {}, {}, gap._asdict(), channel="nanny")
