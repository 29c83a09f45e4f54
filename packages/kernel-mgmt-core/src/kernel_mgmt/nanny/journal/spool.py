"""The journal's files: segments that are only appended to, the oldest of which are removed.

A segment is called by the number of its first record and is nothing but records.  There is no index on
disk and nothing is ever written twice, so whatever a crash leaves can be read: what is intact is
found by its checksums.  Files are not synced; they are to outlive the nanny, not the machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path

from ...protocol import Buffer
from .pieces import Delivery, Gap, Losses
from .records import LARGE, MAGIC, Head, MalformedRecord, Record, head_at, is_intact, record_at
from .tail import Block

__all__ = ["Segment", "Spool", "read_spool"]

#: A segment is full with so many bytes, or with an eighth of the limit.
_SEGMENT = 16 * 2**20
#: Places in a segment that are known are so many bytes apart.
_STRIDE = 65536
#: Read at once, unless a record is larger: so much can be checked within a few milliseconds.
_CHUNK = 2**20
#: Where readers were last, of so many.
_MOST_PLACES = 256
_HIGHEST = 2**64 - 1
_NAME = re.compile(r"\d{20}\.journal")
#: No other program's file is opened, and on Windows nothing is translated.
_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | os.O_APPEND
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class Segment:
    """One file, and where its records are."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        #: The last record in it, and its size: what readers go by while more is being written.
        self.end = (first - 1, 0)
        #: How many records it has.
        self.messages = 0
        #: (number, time, offset) of some records, the first among them.
        self.places: list[tuple[int, float, int]] = []

    def grow(self, blocks: list[Block]) -> None:
        """Note what was written behind the rest."""
        offset = self.end[1]
        for block in blocks:
            if not self.places or block.size >= LARGE or offset - self.places[-1][2] >= _STRIDE:
                self.places.append((block.first, block.time, offset))
            self.messages += block.last - block.first + 1
            offset += block.size
        self.end = (blocks[-1].last, offset)

    def stretch(self, number: int, limit: int) -> tuple[int, int, int]:
        """Find where a record is.

        Returns:
            an offset before it, an offset at least one place behind it and not much more than
            ``limit`` away, and the last number before that.
        """
        last, size = self.end
        places = self.places
        # A place of the writer's that is beyond `end` is not to be read yet.
        known = bisect_left(places, (last + 1,))
        index = bisect_right(places, (number, float("inf"), 0), 0, known) - 1
        start = places[index][2]
        index += 1
        while index < known and places[index][2] - start < limit:
            index += 1
        if index < known:
            return start, places[index][2], places[index][0] - 1
        return start, size, last


class Spool:
    """Writes and reads the segments in a directory.

    One thread writes, another one reads; they share no lock.

    Args:
        directory: where they are; it is made when something is written, with its parents, and should
            be the journal's own.
        limit: what they may have together, in bytes.
        losses: where that is counted which the limit pushed out.
    """

    def __init__(self, directory: Path, limit: int, losses: Losses) -> None:
        self.limit = limit
        self._directory = directory
        self._losses = losses
        self._segment_size = min(_SEGMENT, max(limit // 8, _STRIDE))
        #: Never changed, but replaced: a reader keeps to the one that it took.
        self._segments: list[Segment] = []
        self._descriptor: int | None = None
        #: Bytes in all segments.
        self.bytes = 0
        #: The offset of a record in a segment, where a reader may go on.
        self._resting: dict[tuple[Path, int], int] = {}

    # --- for the writer ---------------------------------------------------------------------------

    def write(self, blocks: list[Block]) -> None:
        """Append records, which together have no more than the limit.

        Raises:
            OSError: they could not be written; nothing is left of them.
        """
        size = sum(block.size for block in blocks)
        while self._segments and self.bytes + size > self.limit:
            self._remove_oldest()
        if self._descriptor is None or self._segments[-1].end[1] >= self._segment_size:
            self._begin(blocks)
        else:
            segment = self._segments[-1]
            try:
                _write(self._descriptor, blocks)
            except OSError:
                self._cut(segment.end[1])
                raise
            segment.grow(blocks)
        self.bytes += size

    def _begin(self, blocks: list[Block]) -> None:
        """Start a segment, which is known to readers when it has something."""
        self._stop()
        first = blocks[0].first
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        segment = Segment(self._directory / f"{first:020}.journal", first)
        descriptor = os.open(segment.path, _FLAGS, 0o600)
        try:
            _write(descriptor, blocks)
        except OSError:
            os.close(descriptor)
            segment.path.unlink()
            raise
        segment.grow(blocks)
        self._descriptor = descriptor
        self._segments = [*self._segments, segment]

    def _cut(self, size: int) -> None:
        """Take back half a block; where that fails, too, nothing is to follow it."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, size)
        except OSError:
            self._stop()

    def _stop(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _remove_oldest(self) -> None:
        segment = self._segments[0]
        if len(self._segments) == 1:
            self._stop()
        self._segments = self._segments[1:]
        last, size = segment.end
        self.bytes -= size
        self._losses.add(Gap(segment.first, last, size), segment.messages)
        with contextlib.suppress(OSError):
            segment.path.unlink()

    def close(self, *, remove: bool) -> None:
        """Close the last segment; with ``remove``, remove the directory with all that is in it."""
        self._stop()
        if remove:
            self._segments = []
            self.bytes = 0
            shutil.rmtree(self._directory, ignore_errors=True)

    # --- for readers ------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The oldest number on disk; 0: there is none."""
        segments = self._segments
        return segments[0].first if segments else 0

    def next_from(self, number: int) -> int:
        """Give the lowest number on disk that is not below ``number``; 0: there is none."""
        for segment in self._segments:
            if segment.end[0] >= number:
                return max(segment.first, number)
        return 0

    def number_before(self, moment: float) -> int | None:
        """Give the last number on disk from before a moment; None: all are of later."""
        found = None
        for segment in self._segments:
            places = segment.places[:]
            index = bisect_left([time for _, time, _ in places], moment) - 1
            if index < 0:
                break
            number, _, offset = places[index]
            last, end = segment.end
            if index + 1 < len(places):
                last, end = places[index + 1][0] - 1, places[index + 1][2]
            data = _load(segment.path, offset, end)
            early = [h.number for _, h in _intact(data, number, last) if h.time < moment]
            found = early[-1] if early else number
        return found

    def read(self, number: int, limit: int) -> list[Delivery | Gap]:
        """Give records from ``number`` on, which is on disk, or a gap in their place.

        Args:
            number: the first one.
            limit: about how many bytes; of one segment, and at most 1 MiB unless a record has more.
        """
        for segment in self._segments:
            if segment.first <= number <= segment.end[0]:
                return self._read(segment, number, min(limit, _CHUNK))
        return []

    def _read(self, segment: Segment, number: int, limit: int) -> list[Delivery | Gap]:
        start, end, last = segment.stretch(number, limit)
        start = self._resting.pop((segment.path, number), start)
        data = _load(segment.path, start, end)
        if len(self._resting) < _MOST_PLACES:
            self._resting[segment.path, last + 1] = end
        else:
            self._resting.clear()
        return list(self._pieces(data, number, last))

    def _pieces(self, data: bytes, number: int, last: int) -> Iterator[Delivery | Gap]:
        """Cut what was read into what can be sent."""
        view = memoryview(data)
        # What is intact and not given yet: from its first number and offset to those behind it.
        first, begin, behind = number, 0, 0
        for start, head in _intact(data, 1, last):
            if head.number < number:
                begin = behind = head.end
                continue
            large = head.end - start >= LARGE
            if head.number > number or large:
                if number > first:
                    yield _packed(view, first, number - 1, begin, behind)
                if head.number > number:
                    yield self._gap(number, head.number - 1, start - behind)
                first, begin = head.number, start
            behind, number = head.end, head.number + 1
            if large:
                yield _large(view, head, start)
                first, begin = number, behind
        if number > first:
            yield _packed(view, first, number - 1, begin, behind)
        if number <= last:
            yield self._gap(number, last, len(data) - behind)

    def _gap(self, first: int, last: int, damaged: int) -> Gap:
        return Gap(first, last, damaged + self._losses.between(first, last))


def read_spool(directory: Path) -> Iterator[Record | Gap]:
    """Read the journal that a nanny left which is gone.

    Whatever happened to its files: records that are intact are given, in order, and in the place of
    others there is a gap.  Of what follows the last intact record nobody knows the numbers; it is a
    gap of one.

    Args:
        directory: where it is; when there is none, there are no records.

    Returns:
        records and gaps, whose numbers follow each other.
    """
    due = 1
    damaged = 0
    names = _names(directory)
    for name, following in zip(names, [*names[1:], ""]):
        highest = int(following[:20]) - 1 if following else _HIGHEST
        data = _load(directory / name, 0, None)
        view = memoryview(data)
        behind = 0
        for start, head in _intact(data, due, highest):
            damaged += start - behind
            if head.number > due:
                yield Gap(due, head.number - 1, damaged)
            damaged = 0
            yield record_at(view, head)
            due, behind = head.number + 1, head.end
        damaged += len(data) - behind
    if damaged:
        yield Gap(due, due, damaged)


def _names(directory: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if _NAME.fullmatch(name))
    except OSError:
        return []


def _intact(data: bytes, least: int, most: int) -> Iterator[tuple[int, Head]]:
    """Find the intact records with rising numbers from ``least`` to ``most``, and their offsets."""
    view = memoryview(data)
    position = 0
    end = len(view)
    while 0 <= position < end:
        try:
            head = head_at(view, position)
        except MalformedRecord:
            position = data.find(MAGIC, position + 1)
            continue
        if least <= head.number <= most and is_intact(view, head):
            yield position, head
            least = head.number + 1
        # Also a damaged body is not searched: a kernel may have said what looks like a record.
        position = head.end


def _packed(view: memoryview, first: int, last: int, begin: int, end: int) -> Delivery:
    return Delivery(first, last, [view[begin:end]], end - begin)


def _large(view: memoryview, head: Head, start: int) -> Delivery:
    frames: list[Buffer] = [view[start : head.body]]
    position = head.body
    for size in head.sizes:
        frames.append(view[position : position + size])
        position += size
    return Delivery(head.number, head.number, frames, head.end - start)


def _load(path: Path, start: int, end: int | None) -> bytes:
    """Read a part of a file; when it cannot be read, there is less of it, or nothing."""
    parts: list[bytes] = []
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while data := file.read(-1 if end is None else end - start):
                parts.append(data)
                start += len(data)
    except OSError:
        pass
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(descriptor: int, blocks: list[Block]) -> None:
    """Write all of it, in few calls: after each the thread has to wait for its turn again."""
    small: list[bytes] = []
    for block in blocks:
        if block.large is None:
            small += block.packed
        else:
            _write_buffers(descriptor, [b"".join(small), *block.buffers()])
            small = []
    _write_buffers(descriptor, [b"".join(small)])


def _write_buffers(descriptor: int, buffers: list[Buffer]) -> None:
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            view = view[os.write(descriptor, view) :]
