r"""A message as the journal keeps and sends it: one format in memory, on the wire and on disk.

A record is a head, a table with the length of each frame, and the frames, one after the other; all
numbers are little endian::

    offset  0  magic, b"\x93KMJ"
            4  u32  CRC-32 of all that follows in the head, and of the table
            8  u32  CRC-32 of the body; 0: it was not computed
           12  u32  number of frames
           16  u64  number of the record: the first is 1, and there are no holes
           24  f64  when it was said, in seconds since the epoch
           32  u64  bytes of the body
           40  u8   channel (:data:`CHANNEL_NUMBERS`), and seven bytes of zero
           48  u64  length of the first frame, and so on
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...protocol import Buffer

__all__ = [
    "CHANNEL_NAMES",
    "CHANNEL_NUMBERS",
    "HEAD_SIZE",
    "LARGE",
    "MAGIC",
    "Head",
    "MalformedRecord",
    "Record",
    "head_at",
    "head_of",
    "is_intact",
    "make_head",
    "pack",
    "record_at",
    "time_of",
    "unpack",
]

#: What every record begins with, and no message of Jupyter's.
MAGIC = b"\x93KMJ"
#: The channels by the number that stands for each.
CHANNEL_NUMBERS = {"iopub": 1, "shell": 2, "control": 3, "stdin": 4, "nanny": 5}
CHANNEL_NAMES = {number: name for name, number in CHANNEL_NUMBERS.items()}

#: A record of this many bytes goes by itself, its frames uncopied, and its body unchecked in memory.
LARGE = 65536

_HEAD = struct.Struct("<4sIIIQdQB7x")
#: What the first CRC is of: the head from the CRC of the body on.
_REST = struct.Struct("<IIQdQB7x")
_TIME = struct.Struct("<d")
_TIME_AT = 24
_REST_AT = 8
#: Bytes of the fixed part of the head.
HEAD_SIZE = _HEAD.size

#: More frames than any message has.  A damaged count must not lead far astray.
_MOST_FRAMES = 1 << 20
#: Frames that are no buffers: signature, header, parent header, metadata, content.
_PLAIN_FRAMES = 5
#: Tables of the lengths of so many frames; others are made when they are needed.
_TABLES = [struct.Struct(f"<{count}Q") for count in range(64)]


class MalformedRecord(ValueError):
    """Bytes that should be a record are none, or not as they were written.

    Attributes:
        offset: where the record begins, in bytes.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"no intact record at byte {offset}: {reason}")
        self.offset = offset


class Head(NamedTuple):
    """What the head of a record says, and where the record is."""

    number: int
    time: float
    channel: str
    sizes: tuple[int, ...]
    #: CRC-32 of the body; 0: it was not computed.
    body_crc: int
    #: Offsets where the body begins and ends.  The end may be beyond what is there.
    body: int
    end: int


@dataclass
class Record:
    """A numbered message of a kernel, or of its nanny in the kernel's place.

    Attributes:
        number: its place in the journal; the first is 1.
        time: when it was said, in seconds since the epoch; it never goes back.
        channel: one of :data:`CHANNEL_NUMBERS`.
        frames: the message from its signature on.  Each is bytes, or has bytes as its items.
    """

    # dataclass(slots=True) needs Python 3.10.
    __slots__ = ("channel", "frames", "number", "time")

    number: int
    time: float
    channel: str
    frames: list[Buffer]

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return HEAD_SIZE + 8 * len(self.frames) + sum(map(len, self.frames))


def head_of(record: Record, *, body_crc: int) -> bytes:
    """Give the head of a record, with its table.

    Args:
        record: the record.
        body_crc: the CRC-32 of its frames; 0 when it is not computed.

    Raises:
        KeyError: there is no such channel.
    """
    return make_head(
        record.number,
        record.time,
        CHANNEL_NUMBERS[record.channel],
        [*map(len, record.frames)],
        body_crc,
    )


def make_head(number: int, time: float, channel: int, sizes: Sequence[int], body_crc: int) -> bytes:
    """Do what :func:`head_of` does, without a record."""
    count = len(sizes)
    body = sum(sizes)
    table = _table(count).pack(*sizes)
    rest = _REST.pack(body_crc, count, number, time, body, channel)
    crc = zlib.crc32(table, zlib.crc32(rest))
    return b"".join((MAGIC, crc.to_bytes(4, "little"), rest, table))


def pack(record: Record) -> bytes:
    """Give a record as one piece, both checksums computed.

    Raises:
        KeyError: there is no such channel.
    """
    body = b"".join(record.frames)
    return head_of(record, body_crc=zlib.crc32(body)) + body


def unpack(data: Buffer, *, check: bool = True) -> list[Record]:
    """Take packed records apart.

    Args:
        data: whole records, one after the other.
        check: whether to look at the checksums; not of what came from memory or over a connection.

    Returns:
        the records.  The first five frames of each are bytes, its buffers may be views of ``data``.

    Raises:
        MalformedRecord: something in there is no intact record.
    """
    if not check:
        return _unpack_trusted(bytes(data))
    view = memoryview(data)
    records = []
    position, end = 0, len(view)
    while position < end:
        head = head_at(view, position)
        if head.end > end:
            raise MalformedRecord(position, "it is not whole")
        if not is_intact(view, head):
            raise MalformedRecord(position, "its body is damaged")
        records.append(record_at(view, head))
        position = head.end
    return records


def _unpack_trusted(data: bytes) -> list[Record]:
    """Take packed records apart whose bytes nothing can have changed; each counts."""
    records = []
    position, end = 0, len(data)
    try:
        while position < end:
            magic, _, _, count, number, time, size, channel = _HEAD.unpack_from(data, position)
            if magic != MAGIC or count > _MOST_FRAMES:
                raise MalformedRecord(position, "it has no head")
            at = position + HEAD_SIZE + 8 * count
            after = at + size
            frames: list[Buffer] = []
            for length in _table(count).unpack_from(data, position + HEAD_SIZE):
                frames.append(data[at : at + length])
                at += length
            if at != after or at > end:
                raise MalformedRecord(position, "it is not whole")
            records.append(Record(number, time, CHANNEL_NAMES[channel], frames))
            position = at
    except (struct.error, KeyError):
        raise MalformedRecord(position, "its head makes no sense") from None
    return records


def head_at(view: memoryview, position: int) -> Head:
    """Read the head of the record that begins at an offset.

    Raises:
        MalformedRecord: there is none, it is damaged, or not whole.  Whether the body is, is to be
            seen by :attr:`Head.end` and :func:`is_intact`.
    """
    if len(view) - position < HEAD_SIZE:
        raise MalformedRecord(position, "its head is not whole")
    magic, crc, body_crc, count, number, time, size, channel = _HEAD.unpack_from(view, position)
    if magic != MAGIC or count > _MOST_FRAMES:
        raise MalformedRecord(position, "it has no head")
    body = position + HEAD_SIZE + 8 * count
    if body > len(view):
        raise MalformedRecord(position, "its table is not whole")
    if zlib.crc32(view[position + _REST_AT : body]) != crc:
        raise MalformedRecord(position, "its head is damaged")
    sizes = _table(count).unpack_from(view, position + HEAD_SIZE)
    name = CHANNEL_NAMES.get(channel)
    if sum(sizes) != size or name is None or not number:
        raise MalformedRecord(position, "its head makes no sense")
    return Head(number, time, name, sizes, body_crc, body, body + size)


def is_intact(view: memoryview, head: Head) -> bool:
    """Tell whether the body of a record is there, and as it was when its checksum was computed."""
    if head.end > len(view):
        return False
    return not head.body_crc or zlib.crc32(view[head.body : head.end]) == head.body_crc


def record_at(view: memoryview, head: Head) -> Record:
    """Give the record with a head, its buffers as views."""
    frames: list[Buffer] = []
    position = head.body
    for size in head.sizes:
        frame = view[position : position + size]
        frames.append(frame if len(frames) >= _PLAIN_FRAMES else bytes(frame))
        position += size
    return Record(head.number, head.time, head.channel, frames)


def time_of(data: Buffer) -> float:
    """Give the time of the record at the beginning of ``data``, which is known to be one."""
    time: float = _TIME.unpack_from(data, _TIME_AT)[0]
    return time


def _table(count: int) -> struct.Struct:
    return _TABLES[count] if count < len(_TABLES) else struct.Struct(f"<{count}Q")
