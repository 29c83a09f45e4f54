"""The parts of the commands for kernels that run on: words for people, states, and usage."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from kernel_mgmt import ConnectionInfo, KernelRecord
from kernel_mgmt_cli.detached.logs import last_lines
from kernel_mgmt_cli.detached.ps import details
from kernel_mgmt_cli.detached.status import KernelStatus, look_at
from kernel_mgmt_cli.detached.usage import measure
from kernel_mgmt_cli.detached.words import ago, duration, label, percent, short_ids, size
from making_records import alive, gone, make_record

RECORD = KernelRecord("abcdefgh-1", "spec/echo", ConnectionInfo.for_tcp())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (7200, "2 h"),
        (7205, "2 h"),
        (7265, "2 h 1 min"),
        (3 * 86400 + 7265, "3 d 2 h"),
    ],
)
def test_a_time_in_two_units(seconds: float | None, text: str) -> None:
    """The largest unit, and the next one if there is something of it."""
    assert duration(seconds) == text


def test_other_words() -> None:
    """What is not known is empty, and all else has a unit."""
    assert (ago(None), size(None), percent(None)) == ("", "", "")
    assert ago(time.time() - 65) == "1 min 5 s ago"
    assert (size(0), size(52 * 1024**2), size(3 * 1024**3 // 2)) == ("0 MiB", "52 MiB", "1.5 GiB")
    assert percent(99.6) == "100 %"


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        ([], []),
        (["abc"], ["abc"]),
        (["abcdefgh-1", "xbcdefgh-1"], ["abcdefgh", "xbcdefgh"]),
        (["abcdefgh-1", "abcdefgh-2", "x"], ["abcdefgh-1", "abcdefgh-2", "x"]),
    ],
)
def test_short_ids_are_unique(ids: list[str], short: list[str]) -> None:
    """As short as it is clear, but not shorter than eight characters."""
    assert short_ids(ids) == short


def test_labels() -> None:
    """A name is beside the id."""
    assert label(RECORD) == "abcdefgh-1"
    named = KernelRecord("abc", "spec/echo", ConnectionInfo.for_tcp(), name="train")
    assert label(named) == "abc (train)"


def test_states_say_what_belongs_to_them() -> None:
    """How a kernel ended and where it is are part of the state, when they are known."""
    elsewhere = KernelRecord("a", "b/c", ConnectionInfo.for_tcp(), machine={"host": "moon"})
    status = {"code": 3, "signal": None, "reason": ""}
    assert str(KernelStatus(elsewhere, "elsewhere")) == "elsewhere (moon)"
    remote = KernelRecord("a", "b/c", ConnectionInfo.for_tcp(), {"host": "me@moon"})
    assert str(KernelStatus(remote, "remote")) == "remote (me@moon)"
    assert str(KernelStatus(RECORD, "dead")) == "dead"
    assert str(KernelStatus(RECORD, "dead", {"exit_status": status})) == "dead (exit code 3)"
    assert str(KernelStatus(RECORD, "idle", {"exit_status": None})) == "idle"


@pytest.mark.parametrize(
    ("lines", "text"), [(0, ""), (1, "two\n"), (2, "one\ntwo\n"), (9, "one\ntwo\n")]
)
def test_last_lines(lines: int, text: str) -> None:
    """So many lines as are wanted, or as there are."""
    assert last_lines("one\ntwo\n", lines) == text


@pytest.fixture
def busy() -> Iterator[int]:
    """The id of a process whose child is busy."""
    child = "while True: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, 9)


def test_usage_counts_children(busy: int) -> None:
    """CPU and memory are those of the process and all below it; who has ended has none."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    deadline = time.monotonic() + 20
    while (used := measure([busy, ended.pid]))[busy].cpu < 5 and time.monotonic() < deadline:
        pass
    assert list(used) == [busy]
    assert used[busy].cpu >= 5
    assert used[busy].memory > psutil.Process(busy).memory_info().rss


def test_nothing_to_measure_takes_no_time() -> None:
    """Without processes there is nothing to wait for."""
    started = time.monotonic()
    assert measure([]) == {}
    assert time.monotonic() - started < 0.1


def test_a_record_tells_of_a_kernel_that_has_no_nanny() -> None:
    """Whether the process that it names is gone, and what is left of its lease; nobody is asked."""
    there, ended = alive()["nanny"], gone()["nanny"]
    records = [
        make_record("there", manager={"process": there, "lease_ends": time.time() + 100}),
        make_record("ended", manager={"process": ended, "lease_ends": 1.0}),
        make_record("unclear", manager={"lease_ends": None}),
    ]
    statuses = look_at(records)
    assert [status.state for status in statuses] == ["running", "dead", "running"]
    left = [details(status, {})["lease"] for status in statuses]
    assert 0 < left[0] <= 100
    assert left[1:] == [0.0, None]
