"""The journal of one kernel: everything it said, by number, from memory or from disk."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from ...protocol import Buffer
from .pieces import Delivery, Gap, Losses
from .records import CHANNEL_NUMBERS, HEAD_SIZE, LARGE, Record, make_head
from .spool import Spool, read_spool
from .tail import Tail
from .writer import Writer

__all__ = ["Delivery", "Gap", "Journal", "read_spool"]

#: Bytes that may wait for a disk that is slower than the kernel, and for one that takes nothing.
_WAITING, _REFUSED = 256 * 2**20, 32 * 2**20
#: Seconds that closing may take to write the rest.
_CLOSING = 2.0


class Journal:
    """Numbers messages and keeps them, within bounds.

    One thread uses it; its own thread writes.  Nothing here waits for a disk but :meth:`read`, of what
    is no longer in memory, and :meth:`close`.

    Args:
        directory: where to keep it, the journal's own; made with its first record.  None: in memory
            only.
        limit: bytes on disk; 0: in memory only.
        memory: bytes in memory, which is the bound when nothing is on disk.
        clock: seconds since the epoch.

    Attributes:
        next: the number that the next record gets.
    """

    def __init__(
        self,
        directory: Path | None,
        limit: int,
        *,
        memory: int = 8 * 2**20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.next = 1
        self._clock = clock
        self._latest = 0.0
        self._losses = Losses()
        self._spool: Spool | None = None
        self._writer: Writer | None = None
        if directory is None or not limit:
            self._tail = Tail(memory, None, self._losses)
        else:
            self._tail = Tail(memory, _WAITING, self._losses, refused=_REFUSED)
            self._spool = Spool(directory, limit, self._losses)
            self._writer = Writer(self._tail, self._spool, self._losses)

    @property
    def first(self) -> int:
        """The oldest number that can still be read; :attr:`next` when there is none."""
        return self._next_from(1) or self.next

    @property
    def bytes(self) -> int:
        """Bytes that are kept."""
        if self._spool is None:
            return self._tail.size
        return self._spool.bytes + self._tail.waiting

    @property
    def waiting(self) -> int:
        """Bytes that are not on disk yet."""
        return self._tail.waiting

    @property
    def lost(self) -> tuple[int, int]:
        """How many messages, and bytes, were pushed out by a bound or could not be written."""
        return self._losses.messages, self._losses.bytes

    def append(self, channel: str, frames: Sequence[Buffer]) -> Record:
        """Keep a message; never waits, and never fails because of the disk.

        Args:
            channel: one of :data:`.records.CHANNEL_NUMBERS`.
            frames: the message from its signature on.  They are not to be changed any more.

        Raises:
            KeyError: there is no such channel.
        """
        channel_number = CHANNEL_NUMBERS[channel]
        number = self.next
        # A clock that is set back must not make a search for a moment go wrong.
        moment = self._latest = max(self._clock(), self._latest)
        record = Record(number, moment, channel, list(frames))
        sizes = [*map(len, frames)]
        size = HEAD_SIZE + 8 * len(sizes) + sum(sizes)
        if size < LARGE:
            body = b"".join(frames)
            head = make_head(number, moment, channel_number, sizes, zlib.crc32(body))
            self._tail.add(number, moment, head + body)
        else:
            self._tail.add_large(record, size)
        self.next = number + 1
        if self._writer is not None:
            self._writer.stir()
        return record

    def read(self, after: int, limit: int) -> list[Delivery | Gap]:
        """Give what follows a number, in order and without holes: what is not there is a gap.

        Args:
            after: the number.
            limit: about how many bytes.

        Returns:
            at least one thing; nothing at the end.
        """
        pieces: list[Delivery | Gap] = []
        number = after + 1
        limit = max(limit, 1)
        while number < self.next and limit > 0:
            found = self._read(number, limit)
            for piece in found:
                _join(pieces, piece)
                if isinstance(piece, Delivery):
                    limit -= piece.size
            number = pieces[-1].last + 1
            if self._spool is not None and limit < LARGE:
                # A little more from disk would be a whole stretch of it.
                break
        return pieces

    def _read(self, number: int, limit: int) -> Sequence[Delivery | Gap]:
        in_memory = self._tail.read(number, limit)
        if in_memory:
            return in_memory
        if self._spool is not None:
            on_disk = self._spool.read(number, limit)
            if on_disk:
                return on_disk
        last = (self._next_from(number) or self.next) - 1
        return [Gap(number, last, self._losses.between(number, last))]

    def _next_from(self, number: int) -> int:
        found = self._tail.next_from(number)
        on_disk = self._spool.next_from(number) if self._spool is not None else 0
        # What left memory meanwhile was on disk before.
        return min(found, on_disk) if found and on_disk else found or on_disk

    def number_before(self, moment: float) -> int:
        """Give the number after which all records are of a moment or later.

        Args:
            moment: in seconds since the epoch.
        """
        found = self._tail.number_before(moment)
        if found is None and self._spool is not None:
            found = self._spool.number_before(moment)
        return self.first - 1 if found is None else found

    def close(self, *, remove: bool) -> None:
        """Write the rest, within two seconds, and be done.

        Args:
            remove: whether to remove it instead, with its directory.
        """
        if self._writer is None or self._spool is None:
            return
        if self._writer.close(_CLOSING, discard=remove):
            self._spool.close(remove=remove)


def _join(pieces: list[Delivery | Gap], piece: Delivery | Gap) -> None:
    """Add a piece; two gaps that meet are one."""
    before = pieces[-1] if pieces else None
    if isinstance(before, Gap) and isinstance(piece, Gap):
        pieces[-1] = Gap(before.first, piece.last, before.bytes + piece.bytes)
    else:
        pieces.append(piece)
