"""What dead kernels have left is removed, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import ConnectionInfo, KernelRecord
from kernel_mgmt.machine import this_machine
from kernel_mgmt.records import gc, read_records, record_path, write_record
from making_records import alive, gone, make_record


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the records of a test are."""
    return tmp_path / "records"


def leave(directory: Path, kernel_id: str = "one", **changes: Any) -> KernelRecord:
    """Leave all that a kernel has while it runs: record, connection file, sockets in a directory."""
    root = directory.parent
    sockets = root / f"km-{kernel_id}"
    sockets.mkdir(mode=0o700)
    info = ConnectionInfo.for_ipc(sockets, nanny_control_port=6, nanny_events_port=7)
    for channel in ("shell", "iopub", "nanny_control"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(info.socket_path(channel)))
    record = make_record(
        kernel_id,
        connection_info=info,
        connection_file=info.write(root / f"kernel-{kernel_id}.json"),
        **changes,
    )
    write_record(directory, record)
    return record


def what_is_left(directory: Path) -> list[str]:
    """The names of all that is left of kernels."""
    names = [*os.listdir(directory.parent), *os.listdir(directory)]
    return sorted(name for name in names if name != directory.name)


def test_dead(directory: Path) -> None:
    """Of a kernel that is dead everything is removed, once, and told."""
    record = leave(directory, manager=gone())
    assert gc(directory) == [record]
    assert what_is_left(directory) == []
    assert gc(directory) == []


def test_number_of_somebody_else(directory: Path) -> None:
    """A kernel whose nanny's process id is another process's by now is dead; that one is let be."""
    record = leave(directory, manager={"nanny": {"pid": os.getpid(), "identity": "1"}})
    assert gc(directory) == [record]


@pytest.mark.parametrize(
    "changes",
    [
        {"manager": alive()},
        {"manager": {"container": "abc"}},
        {"manager": {"nanny": {"pid": -5}}},
        {"manager": gone(), "machine": {**this_machine(), "boot_id": "o", "host": "o"}},
        {"manager": gone(), "machine": {}},
    ],
    ids=["alive", "of a provider", "not understood", "elsewhere", "of no machine"],
)
def test_not_dead(changes: dict[str, Any], directory: Path) -> None:
    """What is alive, on another machine, or not understood is not touched."""
    leave(directory, **changes)
    before = what_is_left(directory)
    assert gc(directory) == []
    assert what_is_left(directory) == before


def test_no_record(directory: Path) -> None:
    """Files that are no records are not touched: nobody knows whose they are."""
    directory.mkdir()
    record_path(directory, "newer").write_text('{"format": 2}')
    record_path(directory, "half").write_text("{")
    assert gc(directory) == []
    assert what_is_left(directory) == ["kernel-half.json", "kernel-newer.json"]


def test_no_directory(directory: Path) -> None:
    """Where there was never a kernel there is nothing to be removed."""
    assert gc(directory) == []
    assert not directory.exists()


def test_connection_file_of_another(directory: Path) -> None:
    """A connection file that has another kernel's key by now stays."""
    record = leave(directory, manager=gone())
    assert record.connection_file is not None
    other = record.connection_info.replace(key="another")
    other.write(record.connection_file, replace=True)
    assert gc(directory) == [record]
    assert what_is_left(directory) == ["kernel-one.json"]
    assert ConnectionInfo.read(record.connection_file) == other


def test_address_of_another(directory: Path) -> None:
    """Sockets that another kernel listens at by now stay, though it is not known which."""
    record = leave(directory, manager=gone())
    path = record.connection_info.socket_path("shell")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert gc(directory) == [record]
        assert path.exists()


def test_address_of_one_that_starts(directory: Path) -> None:
    """Sockets stay whose directory is that of a living kernel too, which may not listen yet."""
    record = leave(directory, manager=gone())
    write_record(
        directory, make_record("two", connection_info=record.connection_info, manager=alive())
    )
    assert gc(directory) == [record]
    assert record.connection_info.socket_path("shell").exists()
    assert [left.kernel_id for left in read_records(directory)[0]] == ["two"]


def test_directory_of_somebody_elses_choice(directory: Path) -> None:
    """Of a directory that we did not name only the sockets are removed."""
    chosen = directory.parent / "chosen"
    chosen.mkdir()
    (chosen / "notes").touch()
    ConnectionInfo.for_tcp().write(chosen / "kernel-other.json")
    info = ConnectionInfo.for_ipc(chosen)
    info.socket_path("shell").touch()
    manager = gone()
    manager["nanny"]["directory"] = str(chosen)
    write_record(
        directory, make_record(connection_info=info, manager=manager, connection_file=None)
    )
    assert len(gc(directory)) == 1
    assert sorted(os.listdir(chosen)) == ["kernel-other.json", "notes"]


def test_nannys_own_directory(directory: Path) -> None:
    """The directory that a nanny had beside its sockets' goes too; one that cannot be is let be."""
    home = directory.parent / "km-home"
    home.mkdir()
    (home / "nanny.log").touch()
    for kernel_id, named in {"one": str(home), "two": "km-x", "three": "/km-\0", "four": 5}.items():
        manager = gone()
        manager["nanny"]["directory"] = named
        leave(directory, kernel_id, manager=manager)
    assert len(gc(directory)) == 4
    assert what_is_left(directory) == []


def test_kernel_behind_the_nanny(directory: Path) -> None:
    """The sockets of the kernel go too, which are in the nanny's directory."""
    manager = gone()
    manager["nanny"]["directory"] = str(directory.parent / "km-one")
    leave(directory, manager=manager)
    behind = directory.parent / "km-one" / "km-kernel"
    behind.mkdir(mode=0o700)
    ConnectionInfo.for_ipc(behind).socket_path("shell").touch()
    assert len(gc(directory)) == 1
    assert what_is_left(directory) == []


def test_unfinished(directory: Path) -> None:
    """What a writer has left that was killed in the middle goes after an hour, not before."""
    directory.mkdir()
    for name in (".kernel-old.json.0123abcd", ".kernel-new.json.0123abcd", ".other"):
        (directory / name).touch()
    two_hours_ago = time.time() - 7200
    for name in (".kernel-old.json.0123abcd", ".other"):
        os.utime(directory / name, (two_hours_ago, two_hours_ago))
    assert gc(directory) == []
    assert what_is_left(directory) == [".kernel-new.json.0123abcd", ".other"]


COLLECT = """
import sys
from pathlib import Path
from kernel_mgmt.records import gc
print("ready", flush=True)
sys.stdin.readline()
print(*(record.kernel_id for record in gc(Path(sys.argv[1]))))
"""


@pytest.fixture
def collectors(directory: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that will remove leftovers at the same moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COLLECT, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield processes
    for process in processes:
        process.communicate()


def test_several_at_once(collectors: list[subprocess.Popen[str]], directory: Path) -> None:
    """Several processes that remove at once are in nobody's way: all goes, and nothing else."""
    manager = gone()
    dead = {leave(directory, f"dead-{n}", manager=manager).kernel_id for n in range(60)}
    leave(directory, "living", manager=alive())
    for process in collectors:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in collectors]
    assert [errors for _, errors in outputs] == [""] * 3
    assert {kernel_id for output, _ in outputs for kernel_id in output.split()} == dead
    assert what_is_left(directory) == ["kernel-living.json", "kernel-living.json", "km-living"]
