"""The records of running kernels: written for nobody else, read tolerantly."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import LaunchError
from kernel_mgmt.records import BadRecord, read_record, record_path, remove_record, write_record
from making_records import make_record
from strategies import json_frames, json_objects, json_values, quickly


def change(directory: Path, **changes: Any) -> Path:
    """Write a record with fields that no writer would write."""
    path = write_record(directory, make_record())
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


# --- writing -------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A record comes back from its file as it was, with every field."""
    record = make_record()
    path = write_record(tmp_path, record)
    assert path == record_path(tmp_path, "one")
    assert read_record(path) == record


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """A record has mode 0600 in a directory with mode 0700, whatever the umask is."""
    old = os.umask(0)
    try:
        path = write_record(tmp_path / "new" / "kernel-mgmt", make_record())
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_writing_again_replaces(tmp_path: Path) -> None:
    """A second record of the same kernel takes the place of the first, and nothing else is left."""
    write_record(tmp_path, make_record(name="before"))
    path = write_record(tmp_path, make_record(name="after"))
    assert read_record(path).name == "after"
    assert os.listdir(tmp_path) == ["kernel-one.json"]


def test_removing_twice(tmp_path: Path) -> None:
    """A record is removed once, and a second time does no harm."""
    write_record(tmp_path, make_record())
    remove_record(tmp_path, "one")
    remove_record(tmp_path, "one")
    assert os.listdir(tmp_path) == []


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A data directory that is a file is a LaunchError that names it and says what to check."""
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="file/kernel-mgmt") as caught:
        write_record(tmp_path / "file" / "kernel-mgmt", make_record())
    assert caught.value.phase == "start"
    assert "Check the directory" in caught.value.advice


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from kernel_mgmt import ConnectionInfo, KernelRecord, LaunchError
from kernel_mgmt.records import write_record
record = KernelRecord("one", "test/echo", ConnectionInfo.for_tcp())
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_record(Path(sys.argv[1]), record)
except LaunchError as error:
    print(error.phase, error.cause)
"""


def test_no_room(tmp_path: Path) -> None:
    """A record that does not fit is a LaunchError, and no part of it is left."""
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("start The record ")
    assert "cannot be written: File too large" in process.stdout
    assert os.listdir(tmp_path) == []


# --- reading -------------------------------------------------------------------------------------


def test_missing(tmp_path: Path) -> None:
    """A record that is not there (any more) is told apart from one that cannot be used."""
    with pytest.raises(FileNotFoundError):
        read_record(record_path(tmp_path, "one"))


def test_unknown_fields_are_left_out(tmp_path: Path) -> None:
    """A field that a newer version writes does no harm."""
    path = change(tmp_path, journal={"path": "x"})
    assert read_record(path).kernel_id == "one"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 2}, "has format 2 and format 1 is known; update kernel-mgmt-core"),
        ({"format": 10**30}, "has format very large"),
        ({"format": None}, "no JSON object with a format"),
        ({"format": True}, "no JSON object with a format"),
        ({"kernel_id": "two"}, "its name is not that of the kernel in it"),
        ({"connection_info": {}}, "lacks key"),
        ({"connection_info": []}, "connection_info is no JSON object"),
        ({"manager": []}, "manager is no JSON object"),
        ({"machine": "x"}, "machine is no JSON object"),
        ({"name": 5}, "name is no text"),
        ({"name": "\ud800"}, "surrogates not allowed"),
        ({"connection_file": "a\0b"}, "connection_file is no text"),
        ({"started": float("nan")}, "started is no number of seconds"),
        ({"started": 10**400}, "started is no number of seconds"),
        ({"started": True}, "started is no number of seconds"),
    ],
)
def test_wrong_content(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    """A record with a wrong field is refused in one sentence that says which file and why."""
    path = change(tmp_path, **changes)
    with pytest.raises(BadRecord, match=why) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def half_written(path: Path) -> None:
    """What is left when a machine loses its power."""
    path.write_bytes(path.read_bytes()[:100])


def replaced_by_directory(path: Path) -> None:
    """A directory of the record's name."""
    path.unlink()
    path.mkdir()


def replaced_by_pipe(path: Path) -> None:
    """A pipe of the record's name, that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def replaced_by_link(path: Path) -> None:
    """A link of the record's name to a good one."""
    path.rename(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (half_written, "is not JSON; was it written completely"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(bytes(2_000_000)), "is larger than any record"),
        (lambda path: path.write_bytes(b"[" * 100_000), "is not JSON"),
        (lambda path: path.write_bytes(b"[]"), "no JSON object with a format"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not JSON"),
        (replaced_by_directory, "no regular file"),
        (replaced_by_pipe, "no regular file"),
        (replaced_by_link, "cannot be read"),
    ],
)
def test_no_record(tmp_path: Path, spoil: Callable[[Path], object], why: str) -> None:
    """A file that is no record is refused in one sentence that says which file and why."""
    path = write_record(tmp_path, make_record())
    spoil(path)
    with pytest.raises(BadRecord, match=why):
        read_record(path)


def test_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that another user wrote is refused: it may lead to a kernel of theirs."""
    path = write_record(tmp_path, make_record())
    os.chmod(path, 0o644)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BadRecord, match=r"belongs to another user \(uid \d+\)"):
        read_record(path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a record that the examples of a property overwrite."""
    return write_record(tmp_path_factory.mktemp("records"), make_record())


@quickly
@given(frame=json_frames)
def test_any_bytes(shared: Path, frame: bytes) -> None:
    """Whatever a file holds, reading it gives a record or BadRecord."""
    shared.write_bytes(frame)
    with pytest.raises(BadRecord):
        read_record(shared)


_FIELDS = [
    "type_id",
    "name",
    "started",
    "cwd",
    "machine",
    "manager",
    "connection_file",
    "connection_info",
]


@quickly
@given(changes=st.dictionaries(st.sampled_from(_FIELDS), json_values), more=json_objects)
def test_any_fields(shared: Path, changes: dict[str, Any], more: dict[str, Any]) -> None:
    """Whatever the fields of a record hold, it is refused or can be written and read again."""
    write_record(shared.parent, make_record())
    content = {**more, **json.loads(shared.read_text()), **changes}
    shared.write_text(json.dumps(content))
    try:
        record = read_record(shared)
    except BadRecord:
        return
    write_record(shared.parent, record)
    assert read_record(shared) == record
