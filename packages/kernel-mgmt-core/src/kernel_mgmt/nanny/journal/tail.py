"""The newest part of a journal, in memory: for those who keep up, and until it is on disk."""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_left, bisect_right

from ...protocol import Buffer
from .pieces import Delivery, Gap, Losses
from .records import Record, head_of, time_of

__all__ = ["Block", "Tail"]

#: A block takes small records up to so many bytes: one write, and one delivery at most.
_BLOCK = 131072


class Block:
    """Records that follow each other: some packed ones, or a large one by itself."""

    __slots__ = ("first", "large", "last", "packed", "size", "time")

    def __init__(self, first: int, time: float, large: Record | None = None) -> None:
        self.first = first
        self.last = first - 1
        #: When the first record was said.
        self.time = time
        self.packed: list[bytes] = []
        self.size = 0
        self.large = large

    def buffers(self) -> list[Buffer]:
        """Give a large record's bytes, to be written one after the other, with all checksums."""
        assert self.large is not None
        crc = 0
        for frame in self.large.frames:
            crc = zlib.crc32(frame, crc)
        return [head_of(self.large, body_crc=crc), *self.large.frames]


class Tail:
    """Blocks from the oldest that is still in memory to the newest.

    One thread adds and reads, another one takes what is to be written.  The lock is never held for
    longer than it takes to move some references.

    Args:
        memory: how many bytes are kept although they are on disk, too.
        waiting: how many bytes may wait to be written; None: nobody writes, ``memory`` is the bound.
        refused: how many bytes may wait for a disk that takes nothing.
        losses: where that is counted which had to be dropped.
    """

    def __init__(
        self, memory: int, waiting: int | None, losses: Losses, *, refused: int = 0
    ) -> None:
        self._memory = memory
        self._most_waiting = self._usually_waiting = waiting
        self._most_refused = refused
        self._losses = losses
        self._lock = threading.Lock()
        self._blocks: list[Block] = []
        #: Up to this record nothing waits to be written.
        self._settled = 0
        #: The last record that is being written.
        self._taken = 0
        #: Bytes in memory.
        self.size = 0
        #: Bytes that wait to be written.
        self.waiting = 0

    def add(self, number: int, time: float, data: bytes) -> None:
        """Add a small record, packed."""
        size = len(data)
        with self._lock:
            block = self._blocks[-1] if self._blocks else None
            if block is None or block.large is not None or block.size >= _BLOCK:
                block = Block(number, time)
                self._blocks.append(block)
            block.packed.append(data)
            self._grow(block, number, size)

    def add_large(self, record: Record, size: int) -> None:
        """Add a record whose frames stay where they are."""
        block = Block(record.number, record.time, record)
        with self._lock:
            self._blocks.append(block)
            self._grow(block, record.number, size)

    def _grow(self, block: Block, number: int, size: int) -> None:
        block.last = number
        block.size += size
        self.size += size
        if self._most_waiting is None:
            if self.size > self._memory:
                self._forget_oldest()
            return
        self.waiting += size
        if self.waiting > self._most_waiting:
            self._drop_waiting(self._most_waiting)
        if self.size > self._memory:
            self._trim()

    def _forget_oldest(self) -> None:
        """Keep to the bound where there is no disk; the newest block stays, whatever its size."""
        while self.size > self._memory and len(self._blocks) > 1:
            self._lose(0)

    def _drop_waiting(self, most: int) -> None:
        """Lose the oldest of what waits for a disk that is slow or full; not the newest block."""
        busy = max(self._settled, self._taken)
        index = bisect_right([block.first for block in self._blocks], busy)
        while self.waiting > most and index < len(self._blocks) - 1:
            self.waiting -= self._lose(index)

    def _lose(self, index: int) -> int:
        block = self._blocks.pop(index)
        self.size -= block.size
        gap = Gap(block.first, block.last, block.size)
        self._losses.add(gap, block.last - block.first + 1)
        return block.size

    def _trim(self) -> None:
        """Forget what is on disk and more than is to be kept in memory."""
        count = 0
        for block in self._blocks:
            if self.size <= self._memory or block.last > self._settled:
                break
            self.size -= block.size
            count += 1
        del self._blocks[:count]

    # --- for the writer ---------------------------------------------------------------------------

    def take(self, limit: int) -> list[Block]:
        """Give the oldest records that wait to be written: one block, and more up to a limit in bytes."""
        parts: list[Block] = []
        with self._lock:
            for block in self._blocks[self._index(self._settled + 1) :]:
                limit -= block.size
                if parts and limit < 0:
                    break
                parts.append(_part(block, max(self._settled + 1 - block.first, 0)))
                self._taken = block.last
        return parts

    def settle(self, parts: list[Block]) -> None:
        """Note that what was taken is on disk, or will never be."""
        with self._lock:
            self._settled = parts[-1].last
            self.waiting -= sum(part.size for part in parts)
            self._most_waiting = self._usually_waiting
            self._trim()

    def put_back(self) -> None:
        """Note that what was taken could not be written now; should there be too much, it may go."""
        with self._lock:
            self._taken = 0
            self._most_waiting = self._most_refused
            self._drop_waiting(self._most_refused)

    # --- for readers ------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The oldest number in memory; 0: there is none."""
        with self._lock:
            return self._blocks[0].first if self._blocks else 0

    def next_from(self, number: int) -> int:
        """Give the lowest number in memory that is not below ``number``; 0: there is none."""
        with self._lock:
            index = self._index(number)
            return max(self._blocks[index].first, number) if index < len(self._blocks) else 0

    def read(self, number: int, limit: int) -> list[Delivery]:
        """Give records from ``number`` on, about so many bytes, as far as memory has them."""
        pieces: list[Delivery] = []
        with self._lock:
            for block in self._blocks[self._index(number) :]:
                if block.first > number or limit <= 0:
                    break
                pieces.append(_delivery(block, number, limit))
                number = pieces[-1].last + 1
                limit -= pieces[-1].size
        return pieces

    def number_before(self, moment: float) -> int | None:
        """Give the last number in memory from before a moment; None: all are of later."""
        with self._lock:
            index = bisect_left([block.time for block in self._blocks], moment) - 1
            if index < 0:
                return None
            block = self._blocks[index]
            if block.large is not None:
                return block.first
            return block.first - 1 + bisect_left([*map(time_of, block.packed)], moment)

    def _index(self, number: int) -> int:
        """Give the index of the block that has a number, or of the next one."""
        blocks = self._blocks
        low, high = 0, len(blocks)
        # Those who keep up want the last one.
        if high and blocks[-1].first <= number:
            return high - 1 if number <= blocks[-1].last else high
        while low < high:
            middle = (low + high) // 2
            if blocks[middle].last < number:
                low = middle + 1
            else:
                high = middle
        return low


def _part(block: Block, done: int) -> Block:
    """Give the block as it is now, without so many of its records."""
    part = Block(block.first + done, block.time, block.large)
    part.packed = block.packed[done:]
    part.last = block.last
    part.size = block.size
    if done:
        part.size = sum(map(len, part.packed))
        part.time = time_of(part.packed[0])
    return part


def _delivery(block: Block, number: int, limit: int) -> Delivery:
    if block.large is not None:
        frames = [head_of(block.large, body_crc=0), *block.large.frames]
        return Delivery(number, number, frames, block.size)
    packed = block.packed[number - block.first :]
    if block.size > limit:
        room, count = limit, 0
        for data in packed:
            count += 1
            room -= len(data)
            if room <= 0:
                break
        del packed[count:]
    joined = b"".join(packed) if len(packed) > 1 else packed[0]
    return Delivery(number, number + len(packed) - 1, [joined], len(joined))
