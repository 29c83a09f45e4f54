"""Telling this machine from others, and a process from another with its number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kernel_mgmt import machine
from kernel_mgmt.machine import is_process, process_identity, same_boot, same_machine, this_machine
from kernel_mgmt.process import identity
from waiting import eventually_sync
from windows import FakeWindows

LINUX = sys.platform == "linux"

#: Ends the first thread alone (``exit(2)``, and not ``exit_group``), and the other at the end of input.
FIRST_THREAD_ENDS = """
import ctypes, os, platform, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


# --- machines ------------------------------------------------------------------------------------


def test_this_is_the_same_machine() -> None:
    """This machine is itself, and is so in every process."""
    code = "import json; from kernel_mgmt.machine import *; print(json.dumps(this_machine()))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    import json

    there = json.loads(process.stdout)
    assert there == this_machine()
    assert all(isinstance(value, str) for value in there.values())
    assert same_machine(there)
    assert same_boot(there)


def test_another_machine() -> None:
    """A machine with another id and boot is another one, whatever its name."""
    other = {**this_machine(), "machine_id": "other", "boot_id": "other"}
    assert not same_machine(other)


def test_machines_of_one_image() -> None:
    """Of machines with the same id, as copies of an image have, the name tells which is which."""
    other = {**this_machine(), "host": "other", "boot_id": "other"}
    assert not same_machine(other)


def test_this_machine_before_it_started_again() -> None:
    """After another boot it is the same machine, and nothing of before is alive."""
    before = {**this_machine(), "boot_id": "before"}
    assert same_machine(before)
    assert same_boot(before) is not LINUX


@pytest.mark.skipif(not LINUX, reason="boots are told apart on Linux only")
def test_renamed_machine() -> None:
    """A machine whose name has changed since is the same: it has not started again."""
    assert same_machine({**this_machine(), "host": "before"})


@pytest.mark.skipif(not LINUX, reason="containers are a thing of Linux")
def test_container_that_shares_the_home() -> None:
    """Another namespace of process ids is another machine."""
    assert not same_machine({**this_machine(), "pid_namespace": "pid:[1]"})


@pytest.mark.parametrize("described", [{}, {"boot_id": None}, {"machine_id": 5, "host": []}])
def test_no_description(described: dict[str, object]) -> None:
    """What describes no machine describes another one."""
    assert not same_machine(described)


@pytest.mark.parametrize("content", [None, "", "\n", "uninitialized\n", "ü"])
def test_machine_without_an_id(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no machine id, or an empty one as in images of containers, the name counts."""
    file = tmp_path / "machine-id"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(machine, "_MACHINE_ID_FILES", (str(file),))
    here = this_machine()
    assert here["machine_id"] == here["host"]
    assert same_machine(here)


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its standard input to end."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process:
        yield process


def end(child: subprocess.Popen[bytes]) -> None:
    """End the child and reap it."""
    assert child.stdin is not None
    child.stdin.close()
    child.wait()


def test_life_of_a_process(child: subprocess.Popen[bytes]) -> None:
    """A process has the same identity as long as it lives, and none afterwards."""
    before = process_identity(child.pid)
    assert before
    assert before != process_identity(os.getpid())
    assert process_identity(child.pid) == before
    assert is_process(child.pid, before)
    end(child)
    assert process_identity(child.pid) is None
    assert not is_process(child.pid, before)


def test_reused_number(child: subprocess.Popen[bytes]) -> None:
    """A process that started at another time is not the one that had its number before."""
    assert not is_process(child.pid, "12345")


@pytest.mark.parametrize("unknown", [None, "", 5, {}])
def test_unknown_identity(unknown: object, child: subprocess.Popen[bytes]) -> None:
    """Where nobody noted the identity, a process with that number is taken for it."""
    assert is_process(child.pid, unknown)


def test_zombie_is_gone(child: subprocess.Popen[bytes]) -> None:
    """A process that has ended and was not reaped yet counts as gone."""
    assert child.stdin is not None
    child.stdin.close()
    eventually_sync(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert process_identity(child.pid) is None
    child.wait()


@pytest.mark.skipif(not LINUX, reason="only there a first thread can end before the others")
def test_last_thread_counts() -> None:
    """A process whose first thread has ended runs, as long as another of its threads does."""
    from kernel_mgmt.process.posix import group_runs  # which Windows does not have

    command = [sys.executable, "-c", FIRST_THREAD_ENDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as child:
        eventually_sync(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        assert process_identity(child.pid)
        assert group_runs(child.pid)
        assert child.stdin is not None
        child.stdin.close()
        eventually_sync(lambda: process_identity(child.pid) is None)
        assert not group_runs(child.pid)


@pytest.mark.parametrize("pid", [0, -1, -(2**40), 2**31, 2**70])
def test_no_number_of_a_process(pid: int) -> None:
    """A number that no process can have is none's."""
    assert process_identity(pid) is None


@pytest.mark.skipif(not LINUX, reason="the name of a process can be set so on Linux only")
def test_confusing_name(tmp_path: Path) -> None:
    """Parentheses, spaces and line ends in a program's name confuse nothing."""
    program = tmp_path / ") Z 1 (\n)"
    program.symlink_to("/bin/cat")
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        plain = identity._start_from_ps(process.pid)
        assert process_identity(process.pid)
        assert plain
        assert process.stdin is not None
        process.stdin.close()


def test_by_ps(child: subprocess.Popen[bytes]) -> None:
    """The way of systems without /proc tells the same: start, zombie, gone."""
    before = identity._start_from_ps(child.pid)
    assert before
    assert identity._start_from_ps(child.pid) == before
    assert child.stdin is not None
    child.stdin.close()
    eventually_sync(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert identity._start_from_ps(child.pid) is None
    child.wait()
    assert identity._start_from_ps(child.pid) is None


def test_neither_proc_nor_ps(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that nothing is told of but that it is there, is taken for the one looked for."""
    monkeypatch.setattr(identity, "process_identity", identity._start_from_ps)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert identity.is_process(child.pid, "12345")
    assert identity.is_process(1, "12345")  # somebody else's, unless we are root
    end(child)
    assert not identity.is_process(child.pid, "12345")


def test_on_windows(child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be told without one, Windows tells the same, and no handle is left open."""
    windows = FakeWindows(monkeypatch)
    before = windows.module.process_start(child.pid)
    assert int(before) > 0
    assert windows.module.process_start(child.pid) == before
    windows.failing["GetProcessTimes"] = 5
    assert windows.module.process_start(child.pid) == ""
    windows.failing["OpenProcess"] = 5  # ERROR_ACCESS_DENIED: somebody else's
    assert windows.module.process_start(child.pid) == ""
    windows.failing["OpenProcess"] = 87  # ERROR_INVALID_PARAMETER: nobody's
    assert windows.module.process_start(child.pid) is None
    windows.failing.clear()
    end(child)
    assert windows.module.process_start(child.pid) is None
    assert windows.handles == {}
