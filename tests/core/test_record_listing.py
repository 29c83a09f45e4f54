"""All records: what can be told of them, and one of them by what its user calls it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import NoSuchKernel, NoSuchRunningKernel
from kernel_mgmt.machine import this_machine
from kernel_mgmt.records import (
    find_record,
    has_ended,
    is_dead,
    read_records,
    record_path,
    record_state,
    records_dir,
    write_record,
)
from making_records import alive, gone, make_record

LINUX = sys.platform == "linux"
ELSEWHERE = {**this_machine(), "boot_id": "other", "machine_id": "other", "host": "other"}


def test_a_process_that_a_provider_names_tells_whether_its_kernel_has_ended() -> None:
    """What it left is still its provider's to remove, so that the record does not count as dead."""

    def record(process: object, **changes: Any) -> Any:
        return make_record(manager={"moon": {}, "process": process}, **changes)

    there, ended = alive()["nanny"], gone()["nanny"]
    assert not has_ended(record(there))
    assert has_ended(record(ended))
    assert record_state(record(ended)) == "alive"
    assert has_ended(record({**there, "identity": "another"}))
    assert has_ended(make_record(manager=gone()))
    for unclear in (None, "x", {}, {"pid": True}, {"pid": -1}, {"pid": "1"}):
        assert not has_ended(record(unclear))
    for machine in (ELSEWHERE, {}):
        assert not has_ended(record(ended, machine=machine))
    if LINUX:
        assert has_ended(record(there, machine={**this_machine(), "boot_id": "before"}))


# --- reading all ---------------------------------------------------------------------------------


def test_records_are_in_the_data_directory() -> None:
    """Records are below Jupyter's data directory."""
    assert records_dir() == Path(os.environ["JUPYTER_DATA_DIR"], "kernel-mgmt")


def test_no_directory(tmp_path: Path) -> None:
    """Where there was never a kernel there is no record, and no problem."""
    assert read_records(tmp_path / "missing") == ([], [])
    assert read_records() == ([], [])


def test_no_directory_but_a_file(tmp_path: Path) -> None:
    """A directory that cannot be read is a problem, and no exception."""
    (tmp_path / "file").touch()
    records, problems = read_records(tmp_path / "file")
    assert records == []
    assert problems == [
        f"The records in {str(tmp_path / 'file')!r} cannot be read: Not a directory."
    ]


def test_the_oldest_kernel_comes_first(tmp_path: Path) -> None:
    """Records are ordered by when their kernels were started; who does not tell comes first."""
    for kernel_id, started in {"a": 30.0, "b": 10.0, "c": None, "d": 20.0}.items():
        write_record(tmp_path, make_record(kernel_id, started=started))
    records, problems = read_records(tmp_path)
    assert [record.kernel_id for record in records] == ["c", "b", "d", "a"]
    assert problems == []


def test_what_cannot_be_used_costs_itself_only(tmp_path: Path) -> None:
    """Each file that is no record is one sentence, and the others are read all the same."""
    record = make_record()
    write_record(tmp_path, record)
    (tmp_path / "kernel-half.json").write_text('{"format": 1, "kern')
    (tmp_path / "kernel-directory.json").mkdir()
    (tmp_path / "kernel-newer.json").write_text('{"format": 2}')
    records, problems = read_records(tmp_path)
    assert records == [record]
    for problem, name in zip(problems, ("directory", "half", "newer"), strict=True):
        assert f"kernel-{name}.json" in problem
        assert problem.count("\n") == 0


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    """A record that is being written, and what is no record at all, is no problem."""
    for name in (".kernel-x.json.12345678", "kernel-x.journal", "notes.txt", "kernel-.json"):
        (tmp_path / name).write_text("x")
    assert read_records(tmp_path) == ([], [])


# --- what a record tells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"manager": alive()}, "alive"),
        ({"manager": gone()}, "dead"),
        ({"manager": {"nanny": {"pid": os.getpid(), "identity": "1"}}}, "dead"),
        ({"manager": gone(), "machine": ELSEWHERE}, "elsewhere"),
        ({"manager": alive(), "machine": ELSEWHERE}, "elsewhere"),
        ({"manager": gone(), "machine": {}}, "alive"),
        ({"manager": {"ssh": "desk"}, "machine": {}}, "alive"),
        ({"manager": {"nanny": {"pid": os.getpid()}}}, "alive"),
        ({"manager": {"nanny": {"pid": -1}}}, "alive"),
        ({"manager": {"nanny": {"pid": "5"}}}, "alive"),
        ({"manager": {"nanny": [5]}}, "alive"),
        ({"manager": {"container": "abc"}}, "alive"),
        ({"manager": {}}, "alive"),
    ],
)
def test_state(changes: dict[str, Any], state: str) -> None:
    """A kernel is dead when that is certain, elsewhere on another machine, and else alive."""
    record = make_record(**changes)
    assert record_state(record) == state
    assert is_dead(record) is (state == "dead")


@pytest.mark.skipif(not LINUX, reason="boots are told apart on Linux only")
def test_before_the_machine_started_again() -> None:
    """What ran before the machine started again is dead, also if its number is another's now."""
    before = {**this_machine(), "boot_id": "before"}
    assert is_dead(make_record(manager=alive(), machine=before))


# --- finding one ---------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the records of five kernels, one of them dead."""
    for kernel_id, name, manager in (
        ("abc-1", "analysis", alive()),
        ("abc-2", "", alive()),
        ("bcd-1", "abc-2x", alive()),
        ("dead-1", "analysis", gone()),
        ("dead-2", "late", gone()),
    ):
        write_record(tmp_path, make_record(kernel_id, name=name, manager=manager))
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "kernel_id"),
    [
        ("abc-1", "abc-1"),
        ("analysis", "abc-1"),  # a kernel that is dead does not keep its name
        ("abc-2", "abc-2"),
        ("abc-2x", "bcd-1"),
        ("b", "bcd-1"),
        ("dead-1", "dead-1"),
        ("late", "dead-2"),
        ("dead-2", "dead-2"),
    ],
)
def test_find(wanted: str, kernel_id: str, directory: Path) -> None:
    """A kernel is found by its id, its name, or the beginning of its id; the living come first."""
    assert find_record(wanted, directory).kernel_id == kernel_id


def test_ambiguous(directory: Path) -> None:
    """What several ids begin with is refused, and the candidates are shown with their names."""
    with pytest.raises(NoSuchRunningKernel) as caught:
        find_record("abc", directory)
    assert str(caught.value) == (
        "Several kernels are called 'abc': abc-1 (analysis), abc-2; say which one."
    )
    assert caught.value.candidates == ("abc-1", "abc-2")
    assert isinstance(caught.value, NoSuchKernel)


def test_two_of_one_name(directory: Path) -> None:
    """Two living kernels of one name are candidates, and so told apart by their ids."""
    write_record(directory, make_record("other", name="analysis", manager=alive()))
    with pytest.raises(NoSuchRunningKernel, match=r"abc-1 \(analysis\), other \(analysis\)"):
        find_record("analysis", directory)


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [
        ("analisys", "did you mean abc-1 (analysis)?"),
        ("zzzzzzzz", "there are abc-1 (analysis), abc-2, bcd-1 (abc-2x)."),
        ("", "there are abc-1 (analysis), abc-2, bcd-1 (abc-2x)."),
    ],
)
def test_none(wanted: str, advice: str, directory: Path) -> None:
    """What no kernel is called gets the near ones, or else those that there are."""
    with pytest.raises(NoSuchRunningKernel) as caught:
        find_record(wanted, directory)
    assert str(caught.value) == f"No running kernel is called {wanted!r}; {advice}"


def test_none_at_all(tmp_path: Path) -> None:
    """Where no kernel runs, the error says so."""
    with pytest.raises(NoSuchRunningKernel, match=r"called 'x'; none runs\."):
        find_record("x", tmp_path)


def test_the_one_that_cannot_be_read(directory: Path) -> None:
    """Whose record cannot be used is told why, when it is asked for by its id."""
    record_path(directory, "zzz-1").write_text("")
    with pytest.raises(NoSuchRunningKernel, match=r"called 'zzz'; The record .* is empty"):
        find_record("zzz", directory)
