"""The format of the journal's records."""

from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mgmt.nanny.journal.records import (
    CHANNEL_NUMBERS,
    HEAD_SIZE,
    MAGIC,
    MalformedRecord,
    Record,
    head_of,
    pack,
    time_of,
    unpack,
)

some_records = st.lists(
    st.builds(
        Record,
        st.integers(1, 2**64 - 1),
        st.floats(0, 1e12),
        st.sampled_from(sorted(CHANNEL_NUMBERS)),
        st.lists(st.binary(max_size=40), max_size=9),
    ),
    max_size=5,
)


@settings(max_examples=100)
@given(some_records)
def test_records_come_back(records: list[Record]) -> None:
    """What was packed, one record behind the other, is what is unpacked, and of the size it said."""
    data = b"".join(map(pack, records))
    assert unpack(data) == unpack(data, check=False) == records
    assert len(data) == sum(record.size for record in records)


@settings(max_examples=100)
@given(some_records.filter(bool), st.data())
def test_damage_is_seen(records: list[Record], data: st.DataObject) -> None:
    """A bit that flipped anywhere is noticed, and so is an end that is missing."""
    packed = bytearray(b"".join(map(pack, records)))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedRecord):
        unpack(packed)
    packed[bit // 8] ^= 1 << bit % 8
    first = len(pack(records[0]))
    with pytest.raises(MalformedRecord) as caught:
        unpack(packed[: data.draw(st.integers(1, first - 1))])
    assert caught.value.offset == 0


@settings(max_examples=100)
@given(some_records.filter(bool), st.data())
def test_unchecked_bytes_do_no_harm(records: list[Record], data: st.DataObject) -> None:
    """Of bytes that are not checked, and are wrong, records come, or the one error that says so."""
    packed = bytearray(b"".join(map(pack, records)))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at : at + 8] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(MalformedRecord):
        assert all(record.channel in CHANNEL_NUMBERS for record in unpack(packed, check=False))


def test_layout() -> None:
    """A record's bytes are those that the format says."""
    record = Record(258, 1.5, "stdin", [b"sig", b"", b"content"])
    data = pack(record)
    assert data[:4] == MAGIC
    assert int.from_bytes(data[8:12], "little") == zlib.crc32(b"sigcontent")
    assert data[12:24] == b"\x03\0\0\0" + b"\x02\x01" + bytes(6)
    assert data[32:48] == b"\x0a" + bytes(7) + b"\x04" + bytes(7)
    assert data[48:72] == b"\x03" + bytes(15) + b"\x07" + bytes(7)
    assert int.from_bytes(data[4:8], "little") == zlib.crc32(data[8:72])
    assert data[72:] == b"sigcontent"
    assert time_of(data) == 1.5


def test_buffers_are_not_copied() -> None:
    """Buffers of an unpacked record are views of its bytes, and the other frames are bytes."""
    record = Record(1, 0.0, "iopub", [b"1", b"2", b"3", b"4", b"5", b"buffer", b"another"])
    [again] = unpack(pack(record))
    assert [type(frame) for frame in again.frames] == [bytes] * 5 + [memoryview] * 2
    assert again == record


def test_a_body_without_a_checksum() -> None:
    """A body whose checksum was not computed is taken as it is, and its head is checked all the same."""
    record = Record(1, 0.0, "iopub", [b"body"])
    data = bytearray(head_of(record, body_crc=0) + b"b0dy")
    assert unpack(data)[0].frames == [b"b0dy"]
    data[HEAD_SIZE] ^= 1
    with pytest.raises(MalformedRecord):
        unpack(data, check=False)


def test_bodies_can_go_unchecked() -> None:
    """Who trusts where the bytes come from need not have the bodies checked."""
    data = bytearray(pack(Record(1, 0.0, "iopub", [b"body"])))
    data[-1] ^= 1
    assert unpack(data, check=False)[0].frames == [b"bodx"]
