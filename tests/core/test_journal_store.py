"""The journal: what was appended is read, by number, from memory and from disk."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mgmt.nanny.journal.records import LARGE, Record, unpack
from kernel_mgmt.nanny.journal.store import Delivery, Gap, Journal, read_spool
from waiting import eventually_sync

MIB = 2**20


def message(number: int, size: int = 200) -> list[bytes]:
    """The frames of a message that can be told from others."""
    return [b"signature", b"{}", b"{}", b"{}", b'"%d"' % number, bytes(size)]


def records_of(pieces: Iterable[Delivery | Gap]) -> list[Record | Gap]:
    """Take deliveries apart, and see that they are what they say."""
    found: list[Record | Gap] = []
    for piece in pieces:
        if isinstance(piece, Gap):
            found.append(piece)
            continue
        records = unpack(b"".join(piece.frames))
        assert [r.number for r in records] == list(range(piece.first, piece.last + 1))
        assert sum(r.size for r in records) == piece.size
        assert len(piece.frames) == 1 or (len(records) == 1 and piece.size >= LARGE)
        found += records
    return found


def everything(journal: Journal, after: int = 0, limit: int = 256 * 1024) -> list[Record | Gap]:
    """Read to the end, and see that there are no holes."""
    found: list[Record | Gap] = []
    while pieces := journal.read(after, limit):
        assert pieces[0].first == after + 1
        for one, other in itertools.pairwise(pieces):
            assert other.first == one.last + 1
        after = pieces[-1].last
        found += records_of(pieces)
    assert after == journal.next - 1
    return found


def written(journal: Journal) -> None:
    """Wait until everything is on disk."""
    eventually_sync(lambda: not journal.waiting, timeout=30)


def contents(records: Iterable[Record | Gap]) -> list[object]:
    """What tells one message from another, and the gaps."""
    return [r if isinstance(r, Gap) else int(bytes(r.frames[4]).strip(b'"')) for r in records]


def test_memory_keeps_what_is_newest() -> None:
    """Without a disk the newest is in memory, within the bound, and the rest is a gap that counts."""
    journal = Journal(None, 0, memory=MIB)
    sizes = [journal.append("iopub", message(n)).size for n in range(1, 10_001)]
    first = journal.first
    assert 1 < first < 10_000
    assert journal.next == 10_001
    assert MIB * 3 // 4 < journal.bytes <= MIB
    gone = sum(sizes[: first - 1])
    assert journal.lost == (first - 1, gone)
    assert contents(everything(journal)) == [Gap(1, first - 1, gone), *range(first, 10_001)]
    assert contents(everything(journal, 9_998, 1)) == [9_999, 10_000]
    assert journal.read(10_000, MIB) == []
    journal.close(remove=True)


def test_large_records_go_by_themselves() -> None:
    """A large message is delivered in its own frames, uncopied, and one of more than the bound, too."""
    journal = Journal(None, 0, memory=MIB)
    big = bytes(2 * MIB)
    journal.append("shell", message(1))
    journal.append("iopub", [b"s", b"h", b"p", b"m", b"c", big])
    [gap, delivery] = journal.read(0, 100)
    assert isinstance(gap, Gap)
    assert isinstance(delivery, Delivery)
    assert delivery.frames[-1] is big
    assert records_of([delivery])[0].channel == "iopub"  # type: ignore[union-attr]


@pytest.mark.parametrize("memory", [MIB // 8, 64 * MIB], ids=["disk", "memory"])
def test_disk_and_memory_say_the_same(tmp_path: Path, memory: int) -> None:
    """What is read from disk is what was appended: small and large ones, from any number on."""
    journal = Journal(tmp_path / "journal", 256 * MIB, memory=memory)
    appended: list[Record | Gap] = []
    for n in range(1, 3001):
        size = 300_000 if n % 50 == 0 else n % 700
        appended.append(journal.append("iopub", message(n, size)))
    written(journal)
    assert everything(journal) == appended
    assert everything(journal, limit=1000) == appended
    assert everything(journal, after=1777) == appended[1777:]
    assert journal.lost == (0, 0)
    journal.close(remove=False)
    assert list(read_spool(tmp_path / "journal")) == appended


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else can look into the directory or a file, and both go when the kernel does."""
    place = tmp_path / "journals" / "id"
    journal = Journal(place, MIB)
    assert not place.exists()
    journal.append("iopub", message(1))
    written(journal)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    [path] = place.iterdir()
    assert path.name == "00000000000000000001.journal"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    journal.close(remove=True)
    assert not place.exists()


def test_the_bound(tmp_path: Path) -> None:
    """The disk never has more than the limit; what it pushed out is a gap that says how much."""
    limit = 4 * MIB
    journal = Journal(tmp_path / "j", limit, memory=MIB)
    sizes = [journal.append("iopub", message(n, 2000)).size for n in range(1, 8001)]
    written(journal)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "j").iterdir())
    assert on_disk == journal.bytes
    assert limit * 5 // 8 < on_disk <= limit
    first = journal.first
    gone = sum(sizes[: first - 1])
    assert journal.lost == (first - 1, gone)
    assert contents(everything(journal)) == [Gap(1, first - 1, gone), *range(first, 8001)]
    journal.append("iopub", message(8001, 5 * MIB))
    written(journal)
    journal.append("iopub", message(8002))
    lost = contents(everything(journal))[-2:]
    assert lost in ([8001, 8002], [Gap(8001, 8001, journal.lost[1] - gone), 8002])
    journal.close(remove=False)
    assert contents(read_spool(tmp_path / "j"))[:2] == [Gap(1, first - 1, 0), first]


def test_an_hour_of_output(tmp_path: Path) -> None:
    """Of an hour at 100 messages a second the newest are kept, and any moment among them is found."""
    now = 1_000_000.0
    journal = Journal(tmp_path / "j", 16 * MIB, memory=MIB, clock=lambda: now)
    frames = message(0, 20)
    for n in range(360_000):
        now = 1_000_000.0 + n / 100
        journal.append("iopub", frames)
        if n % 20_000 == 0:
            written(journal)  # so that waiting for the disk is no part of this
    written(journal)
    assert journal.lost[0] == journal.first - 1
    assert 80_000 < journal.next - journal.first < 160_000
    for number in (journal.first + 1, journal.first + 50_000, 359_000, 360_000):
        moment = 1_000_000.0 + (number - 1) / 100
        assert journal.number_before(moment) == number - 1
        assert journal.number_before(moment + 0.001) == number
        [first, *_] = records_of(journal.read(number - 1, 1000))
        assert isinstance(first, Record)
        assert (first.number, first.time) == (number, moment)
    assert journal.number_before(0) == journal.first - 1
    assert journal.number_before(now + 1) == journal.next - 1
    journal.close(remove=True)


def test_time_never_goes_back() -> None:
    """A clock that is set back does not make records older than those before them."""
    times = iter([5.0, 3.0, 6.0])
    journal = Journal(None, 0, clock=lambda: next(times))
    assert [journal.append("iopub", message(n)).time for n in range(3)] == [5.0, 5.0, 6.0]
    assert journal.number_before(5.5) == 2


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([10, 1000, 30_000, 100_000]), max_size=60),
    st.integers(0, 60),
    st.sampled_from([1, 70_000, MIB]),
)
def test_reading_from_anywhere(sizes: list[int], after: int, limit: int) -> None:
    """From any number on, in portions of any size, each record comes once and in order."""
    journal = Journal(None, 0, memory=500_000)
    for n, size in enumerate(sizes, 1):
        journal.append("iopub", message(n, size))
    after = min(after, len(sizes))
    found = contents(everything(journal, after, limit))
    first = max(journal.first, after + 1)
    assert [n for n in found if not isinstance(n, Gap)] == list(range(first, len(sizes) + 1))
    journal.close(remove=True)
