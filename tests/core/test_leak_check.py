"""The leak check sees each kind of thing that a test could leave behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from leaks import LeakCheck, Snapshot
from waiting import eventually_sync

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def before(leak_check: LeakCheck) -> Snapshot:
    """What there is before the test makes its leak."""
    return leak_check.snapshot()


def only(kind: str, left: list[str]) -> str:
    """The one line about a leftover of this kind."""
    (line,) = [line for line in left if line.startswith(f"{kind} ")]
    return line


def test_nothing_is_reported_when_nothing_is_left(leak_check: LeakCheck, before: Snapshot) -> None:
    """A test that cleans up is not blamed."""
    assert leak_check.leftovers(before) == []


def test_child_process(leak_check: LeakCheck, before: Snapshot) -> None:
    """A child that still runs is reported with its command."""
    with subprocess.Popen(SLEEP) as process:
        try:
            eventually_sync(lambda: "time.sleep(60)" in "".join(leak_check.leftovers(before)))
            assert f"process {process.pid} (child" in only("process", leak_check.leftovers(before))
        finally:
            process.kill()
    assert leak_check.leftovers(before) == []


def test_zombie(leak_check: LeakCheck, before: Snapshot) -> None:
    """A child that ended and was never waited for is reported."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        eventually_sync(
            lambda: f"{process.pid} (child, zombie)" in "".join(leak_check.leftovers(before))
        )
    finally:
        process.wait()


@pytest.mark.skipif(os.name != "posix", reason="processes are reparented on POSIX only")
def test_orphan(leak_check: LeakCheck, before: Snapshot) -> None:
    """A grandchild that was reparented is found by the temporary root in its environment."""
    orphan = (
        "import subprocess, sys;"
        "print(subprocess.Popen(sys.argv[1:], start_new_session=True,"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid)"
    )
    command = [sys.executable, "-c", orphan, *SLEEP]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    pid = int(output)
    eventually_sync(lambda: f"process {pid} (not a child" in "".join(leak_check.leftovers(before)))
    leak_check.kill_processes(before)
    assert leak_check.leftovers(before, timeout=3) == []


def test_descriptor(leak_check: LeakCheck, before: Snapshot) -> None:
    """An open file and a socket are reported, the file by its path."""
    with tempfile.NamedTemporaryFile() as file, socket.socket():
        left = leak_check.leftovers(before)
        assert len([line for line in left if line.startswith("descriptor ")]) == 2
        if sys.platform == "linux":
            assert any(file.name in line for line in left)
            assert any("socket:" in line for line in left)


def test_thread(leak_check: LeakCheck, before: Snapshot) -> None:
    """A running thread is reported by its name, daemon or not."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="left over", daemon=True)
    thread.start()
    try:
        assert only("thread", leak_check.leftovers(before)) == "thread 'left over' (daemon)"
    finally:
        done.set()
        thread.join()


def test_runtime_file(leak_check: LeakCheck, before: Snapshot) -> None:
    """A file in Jupyter's runtime directory is reported by its path."""
    path = Path(os.environ["JUPYTER_RUNTIME_DIR"], "kernel-left-over.json")
    path.touch()
    try:
        assert only("file", leak_check.leftovers(before)) == f"file {path}"
    finally:
        path.unlink()


def test_socket_directory(leak_check: LeakCheck, before: Snapshot) -> None:
    """A private socket directory in the temporary directory is reported."""
    with tempfile.TemporaryDirectory(prefix="km-") as folder:
        assert only("file", leak_check.leftovers(before)) == f"file {folder}"


def test_grace(leak_check: LeakCheck, before: Snapshot) -> None:
    """What goes within the grace period is not reported."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: done.wait(0.1))
    thread.start()
    assert leak_check.leftovers(before, timeout=5) == []
    thread.join()


def test_session_is_isolated() -> None:
    """Kernels of this session get short socket paths and none of the user's Jupyter files."""
    root = Path(tempfile.gettempdir())
    assert len(str(root)) <= 30
    assert "JUPYTER_PATH" not in os.environ
    for name in (
        "JUPYTER_RUNTIME_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_CONFIG_DIR",
        "IPYTHONDIR",
        "TMPDIR",
    ):
        assert Path(os.environ[name]).is_relative_to(root)
