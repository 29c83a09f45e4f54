"""The journal's files: damaged, cut short by a crash, on a disk that is full or slow."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mgmt.nanny.journal import spool as spool_module
from kernel_mgmt.nanny.journal.pieces import Delivery, Gap, Losses
from kernel_mgmt.nanny.journal.records import Record, unpack
from kernel_mgmt.nanny.journal.store import Journal, read_spool
from waiting import eventually_sync

MIB = 2**20


def message(number: int, size: int = 200) -> list[bytes]:
    """The frames of a message whose content says its number."""
    return [b"signature", b"{}", b"{}", b"{}", b"%d" % number, b"%d" % number * size]


def see_no_holes(found: Iterable[Record | Gap], after: int = 0) -> list[int]:
    """See that numbers follow each other and that every record is the one written; give those there."""
    there = []
    for piece in found:
        if isinstance(piece, Gap):
            assert piece.first == after + 1
            assert piece.last >= piece.first
            assert piece.bytes >= 0
            after = piece.last
        else:
            assert piece.number == after + 1
            assert bytes(piece.frames[4]) == b"%d" % piece.number
            assert not bytes(piece.frames[5]).strip(piece.frames[4])
            after = piece.number
            there.append(after)
    return there


def read_all(journal: Journal) -> list[Record | Gap]:
    """Read from the beginning to what is the end now."""
    found: list[Record | Gap] = []
    after = 0
    while pieces := journal.read(after, MIB):
        for piece in pieces:
            found += unpack(b"".join(piece.frames)) if isinstance(piece, Delivery) else [piece]
        after = pieces[-1].last
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Journal]]:
    """A directory and its journal: 40 records, all on disk in several files, none in memory."""
    directory = tmp_path_factory.mktemp("spool") / "j"
    journal = Journal(directory, MIB, memory=1)
    for n, size in enumerate([10, 400, 20_000, 5, 33_000, 8, 9, 10] * 5, 1):
        journal.append("iopub", message(n, size))
        if n % 10 == 0:
            written(journal)
    yield directory, journal
    journal.close(remove=True)


def written(journal: Journal) -> None:
    """Wait until everything is on disk."""
    eventually_sync(lambda: not journal.waiting, timeout=30, interval=0.001)


def segments(directory: Path) -> list[Path]:
    """The journal's files."""
    return sorted(directory.glob("*.journal"))


def spoil(path: Path, kind: str, at: int, data: st.DataObject) -> range:
    """Damage a file; give the bytes that are not as they were."""
    content = bytearray(path.read_bytes())
    at %= len(content)
    if kind == "cut":
        os.truncate(path, at)
        return range(at, len(content))
    length = 1
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        length = min(data.draw(st.integers(1, 400)), len(content) - at)
        content[at : at + length] = data.draw(st.binary(min_size=length, max_size=length))
    path.write_bytes(content)
    return range(at, at + length)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 20), st.sampled_from(["cut", "flip", "junk"]), st.integers(0, 2**30)
        ),
        max_size=3,
    ),
    st.data(),
)
def test_damaged_files(
    filled: tuple[Path, Journal], damages: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    """Whatever is done to the files, what is intact is read, the rest is a gap, and nothing is made up,
    by the nanny itself and by who finds the files.
    """
    directory, journal = filled
    before = {path: path.read_bytes() for path in segments(directory)}
    assert len(before) > 2
    try:
        spoilt = []
        for file, kind, at in damages:
            path = [*before][file % len(before)]
            if path.stat().st_size:
                spoilt.append((path, spoil(path, kind, at, data)))
        intact = []
        for path, content in before.items():
            position = 0
            for record in unpack(content):
                end = position + record.size
                if not any(p == path and r.start < end and position < r.stop for p, r in spoilt):
                    intact.append(record.number)
                position = end
        for found in (see_no_holes(read_spool(directory)), see_no_holes(read_all(journal))):
            assert set(intact) <= set(found)
        if not damages:
            assert intact == list(range(1, 41))
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_what_a_kernel_said_is_no_record(tmp_path: Path) -> None:
    """A message whose body looks like records is not taken for them when it is damaged."""
    journal = Journal(tmp_path / "inner", MIB)
    for n in range(1, 6):
        journal.append("iopub", message(n))
    written(journal)
    journal.close(remove=False)
    [inner] = segments(tmp_path / "inner")
    journal = Journal(tmp_path / "outer", MIB)
    journal.append("iopub", message(1))
    journal.append("iopub", [b"s", b"h", b"p", b"m", b"2", inner.read_bytes(), b"end"])
    journal.append("iopub", message(3))
    written(journal)
    journal.close(remove=False)
    [outer] = segments(tmp_path / "outer")
    outer.write_bytes(outer.read_bytes().replace(b"end", b"END"))
    size = len(inner.read_bytes())
    [first, gap, last] = read_spool(tmp_path / "outer")
    assert isinstance(gap, Gap)
    assert see_no_holes([first, gap, last]) == [1, 3]
    assert gap.bytes > size


def test_no_journal(tmp_path: Path) -> None:
    """Where there is no journal there are no records, and other files are none."""
    assert list(read_spool(tmp_path / "nothing")) == []
    (tmp_path / "notes.journal").write_text("other")
    (tmp_path / f"{1:020}.journal").mkdir()
    assert list(read_spool(tmp_path)) == []


WRITES = """
import sys
from pathlib import Path
from kernel_mgmt.nanny.journal.store import Journal
journal = Journal(Path(sys.argv[1]), 64 * 2**20)
print(flush=True)
for n in range(1, 10**9):
    size = 50_000 if n % 100 == 0 else 20
    journal.append("iopub", [b"signature", b"{}", b"{}", b"{}", b"%d" % n, b"%d" % n * size])
"""


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.3])
def test_a_crash_at_any_moment(tmp_path: Path, delay: float) -> None:
    """What a process that is killed while it writes has written can be read, in order."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, tmp_path / "j"], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        eventually_sync(lambda: segments(tmp_path / "j"), timeout=20, interval=0.001)
        time.sleep(delay)  # any moment will do
        process.send_signal(signal.SIGKILL)
    size = sum(path.stat().st_size for path in segments(tmp_path / "j"))
    found = list(read_spool(tmp_path / "j"))
    see_no_holes(found)
    kept = sum(record.size for record in found if isinstance(record, Record))
    # Only the record that was being written may be torn.
    assert size - kept < 400_000


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A file system of that size."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small file system can be mounted by root on Linux alone")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    """With the disk full, appending goes on, who keeps up misses nothing, and what could not be kept is
    a gap; when there is room again, it is used.
    """
    with small_disk(tmp_path / "disk", "4m"):
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(2 * MIB))
        journal = Journal(tmp_path / "disk" / "j", 512 * MIB, memory=MIB)
        for n in range(1, 100_001):
            record = journal.append("iopub", message(n, 100))
            if n % 100 == 0:
                [delivery] = journal.read(n - 1, 1)
                assert isinstance(delivery, Delivery)
                assert unpack(delivery.frames[0]) == [record]
            if n % 1000 == 0:
                # Neither more than may wait nor more than there is room for.
                assert journal.bytes < 38 * MIB
        messages, size = journal.lost
        assert messages
        found = read_all(journal)
        there = see_no_holes(found)
        assert there[0] == 1
        assert there[-1] == 100_000
        gaps = [piece for piece in found if isinstance(piece, Gap)]
        assert sum(gap.last - gap.first + 1 for gap in gaps) == messages == 100_000 - len(there)
        assert sum(gap.bytes for gap in gaps) == size
        ballast.unlink()
        journal.append("iopub", message(100_001))
        before = len(there)
        eventually_sync(lambda: len(list(read_spool(tmp_path / "disk" / "j"))) > 1, timeout=10)
        assert len(see_no_holes(read_all(journal))) == before + 1
        started = time.monotonic()
        journal.close(remove=True)
        assert time.monotonic() - started < 5
        assert not (tmp_path / "disk" / "j").exists()


def test_no_place_at_all(tmp_path: Path) -> None:
    """Where no directory can be made, memory has what it has, and closing does not wait for more."""
    (tmp_path / "file").write_text("in the way")
    journal = Journal(tmp_path / "file" / "j", MIB)
    journal.append("iopub", message(1))
    assert see_no_holes(read_all(journal)) == [1]
    journal.close(remove=False)
    assert see_no_holes(read_all(journal)) == [1]


def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes its time holds up neither who appends nor who reads what is in memory."""
    write = os.write

    def write_slowly(descriptor: int, data: bytes) -> int:
        time.sleep(0.3)
        return write(descriptor, data)

    journal = Journal(tmp_path / "j", 64 * MIB)
    monkeypatch.setattr(spool_module.os, "write", write_slowly)
    slowest = 0.0
    for n in range(1, 5001):
        started = time.monotonic()
        journal.append("iopub", message(n))
        assert journal.read(n - 1, 1)
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 0.25
    assert see_no_holes(read_all(journal)) == list(range(1, 5001))
    journal.close(remove=False)
    assert see_no_holes(read_spool(tmp_path / "j")) == list(range(1, 5001))


def test_large_messages_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in large pieces faster than the disk takes it is kept until that has taken it."""
    write = os.write

    def write_slowly(descriptor: int, data: bytes) -> int:
        time.sleep(0.1)
        return write(descriptor, data)

    monkeypatch.setattr(spool_module.os, "write", write_slowly)
    journal = Journal(tmp_path / "j", 256 * MIB)
    for n in range(1, 7):
        journal.append("iopub", message(n, 34 * MIB if n % 2 else 10))
    eventually_sync(lambda: not journal.waiting, timeout=30)
    assert journal.lost == (0, 0)
    assert see_no_holes(read_all(journal)) == list(range(1, 7))
    journal.close(remove=True)


def test_losses_are_remembered_within_bounds() -> None:
    """However many stretches are lost, their sum stays right."""
    losses = Losses()
    for n in range(10_000):
        losses.add(Gap(10 * n + 1, 10 * n + 5, 50), 5)
    assert (losses.messages, losses.bytes) == (50_000, 500_000)
    assert losses.between(1, 100_000) == 500_000
    assert losses.between(99_991, 99_993) == 30
