"""Kernels that run on: ``start``, ``ps``, ``stop``, ``gc``, and what an ID may be."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_line import COMMAND, Distribution, InTerminal, Kept, Ps, Run
from fake_nanny import FakeNanny, nanny_connection
from kernel_mgmt import ConnectionInfo, KernelRecord
from kernel_mgmt.machine import this_machine
from kernel_mgmt.nanny_client.manager import manager_for
from kernel_mgmt.records import read_record, record_path, write_record
from kernel_mgmt_cli.detached.commands import _start
from kernel_mgmt_cli.errors import CommandError
from pseudo_terminal import PseudoTerminal
from waiting import eventually_sync

#: What is known of each kernel, in ``ps --json``.
FIELDS = {
    "id", "name", "type", "state", "problem", "started", "kernel_started", "uptime", "memory",
    "cpu", "clients", "last_activity", "restarts", "exit_status", "lease", "idle_timeout",
    "unattended_timeout", "kernel_pid", "nanny_pid", "host", "cwd", "connection_file",
}  # fmt: skip


def write(
    directory: Path, kernel_id: str, info: ConnectionInfo | None = None, **fields: object
) -> Path:
    """Write the record of a kernel that is not there."""
    info = info or ConnectionInfo.for_tcp(nanny_control_port=1, nanny_events_port=2)
    values = {"machine": this_machine(), "started": 1e9, **fields}
    return write_record(directory, KernelRecord(kernel_id, "spec/echo", info, **values))  # type: ignore[arg-type]


def ended_pid() -> int:
    """Give the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


# -- start and stop --------------------------------------------------------------------------------


def test_from_start_to_stop(run: Run, kept: Kept, ps: Ps, records: Path, tmp_path: Path) -> None:
    """A kernel is there when start ends, with all its facts, until stop ends, and leaves nothing."""
    started = time.time()
    kernel_id = kept(
        "--name",
        "train",
        "--cwd",
        str(tmp_path),
        "--idle-timeout",
        "500",
        "--unattended-timeout",
        "600",
    )
    (known,) = ps()
    assert set(known) == FIELDS
    assert (known["id"], known["name"], known["type"]) == (kernel_id, "train", "spec/echo")
    assert (known["state"], known["problem"], known["restarts"]) == ("idle", "", 0)
    assert (known["cwd"], known["host"]) == (str(tmp_path), this_machine()["host"])
    assert (known["idle_timeout"], known["unattended_timeout"]) == (500, 600)
    assert (known["lease"], known["exit_status"]) == (None, None)
    assert started <= known["started"] <= known["kernel_started"] <= time.time()
    assert 0 <= known["uptime"] <= time.time() - started
    assert known["memory"] > 1_000_000
    assert known["cpu"] >= 0
    assert known["clients"] == 0
    assert started <= known["last_activity"] <= time.time()
    assert psutil.Process(known["kernel_pid"]).ppid() == known["nanny_pid"]
    assert Path(known["connection_file"]).exists()
    result = run("stop", kernel_id)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"stopped {kernel_id} (train)\n"
    assert not psutil.pid_exists(known["kernel_pid"])
    assert ps() == []
    assert not [*records.glob("kernel-*")]


def test_the_journal_of_a_kernel(kept: Kept, records: Path) -> None:
    """How much is kept of what a kernel says is what start was told."""

    def journal(kernel_id: str) -> object:
        info = read_record(record_path(records, kernel_id)).connection_info
        return asyncio.run(manager_for(info).info())["journal"]

    limited = journal(kept("--journal-limit", "64K"))
    assert isinstance(limited, dict)
    assert limited["limit"] == 65536
    with pytest.raises(CommandError, match="both --journal-limit and --no-journal; give one"):
        _start("spec/echo", journal_limit="64K", no_journal=True)
    with pytest.raises(CommandError, match=r"^--journal-limit 'much' is no size; "):
        _start("spec/echo", journal_limit="much")


def test_start_in_a_terminal_says_how_to_go_on(
    in_terminal: InTerminal, run: Run, records: Path, echo: str
) -> None:
    """A person sees the id, and how to talk to the kernel and how to stop it."""
    with in_terminal("start", echo, "--name", "train") as terminal:
        terminal.expect("[0-9a-f-]{36}\r\n")
        terminal.expect("hint:.* 'kernel-mgmt attach train' talks to it")
        terminal.expect("'kernel-mgmt stop train' ends it")
        assert terminal.wait() == 0
    assert run("stop", "train").returncode == 0


def test_a_table_for_people(run: Run, kept: Kept) -> None:
    """Each kernel is a line, with a short id, times and sizes in units."""
    kernel_id = kept("--name", "train")
    result = run("ps")
    header, line = result.stdout.splitlines()
    assert re.split("   +", header) == [
        "id", "name", "type", "state", "up", "memory", "cpu", "clients", "last activity",
    ]  # fmt: skip
    assert re.fullmatch(
        rf"{kernel_id[:8]} +train +spec/echo +idle +\d+ s +\d+ MiB +\d+ % +0 +\d+ s ago", line
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_no_kernel_at_all(run: Run, records: Path) -> None:
    """Who has none is told how to start one; programs get an empty list."""
    result = run("ps")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("hint: there are none; 'kernel-mgmt start TYPE'")
    assert run("ps", "--json").stdout == "[]\n"
    assert run("stop", "--all").stderr == "hint: there is nothing to stop.\n"
    assert run("gc").stdout == ""


def test_several_are_stopped_at_once(run: Run, kept: Kept, ps: Ps) -> None:
    """Each is told of, and one that does not exist costs itself and the exit code only."""
    first, second, third = kept(), kept("--name", "two"), kept()
    result = run("stop", first, "nobody", "two", first)
    assert sorted(result.stdout.splitlines()) == sorted(
        [f"stopped {first}", f"stopped {second} (two)"]
    )
    assert "'nobody'" in result.stderr
    assert result.returncode == 125
    assert [kernel["id"] for kernel in ps()] == [third]
    assert run("stop", "--all").stdout == f"stopped {third}\n"
    assert ps() == []


def test_the_terminal_that_started_it_may_go(run: Run, records: Path, echo: str) -> None:
    """The kernel survives the hang-up of its terminal, and the end of the shell in it."""
    shell = f"{shlex.join(COMMAND)} start {echo}; sleep 1000"
    with PseudoTerminal(["sh", "-c", shell]) as terminal:
        kernel_id = terminal.expect("([0-9a-f-]{36})\r\n")[1]
        terminal.hang_up()
        assert terminal.process.wait(20) == -signal.SIGHUP
    assert run("run", "--on", kernel_id, "-c", "print on").stdout == "on\n"
    assert run("stop", kernel_id).returncode == 0


def test_a_launch_that_fails_leaves_nothing(run: Run, ps: Ps, write_spec: object) -> None:
    """The error has the kernel's own words, and there is no record of it."""
    module = "kernel_mgmt.testing.echo_kernel"
    argv = [sys.executable, "-m", module, "-f", "{connection_file}", "--exit", "9"]
    write_spec("moon", [*argv, "--message", "no moon today"])  # type: ignore[operator]
    result = run("start", "spec/moon")
    assert (result.returncode, result.stdout) == (125, "")
    assert "exit code 9" in result.stderr
    assert result.stderr.endswith("  | no moon today\n")
    assert ps() == []


def test_ctrl_c_ends_the_launch(in_terminal: InTerminal, ps: Ps, write_spec: object) -> None:
    """A kernel that never answers is given up, and nothing of it is left."""
    module = "kernel_mgmt.testing.echo_kernel"
    argv = [sys.executable, "-m", module, "-f", "{connection_file}", "--never-answer"]
    write_spec("mute", argv)  # type: ignore[operator]
    with in_terminal("start", "spec/mute") as terminal:
        terminal.expect("ready|start")
        terminal.send("\x03")
        terminal.expect("interrupted:.* the launch was given up")
        assert terminal.wait() == 130
    assert ps() == []


# -- how a kernel is called --------------------------------------------------------------------------


def test_what_an_id_may_be(run: Run, kept: Kept) -> None:
    """The id, a beginning of it, or the name."""
    kernel_id = kept("--name", "train")
    for known_as in (kernel_id, kernel_id[:6], "train"):
        assert run("run", "--on", known_as, "-c", "print one").stdout == "one\n"


@pytest.mark.parametrize(
    "command", ["attach", "logs", "interrupt", "restart", "stop", "run -c 1 --on"]
)
def test_a_wrong_id_shows_which_there_are(run: Run, records: Path, command: str) -> None:
    """An ambiguous beginning shows all it may mean, an unknown name those that are near."""
    kernels = (("aaa-1", "train"), ("aaa-2", "test"))
    paths = [write(records, kernel_id, name=name) for kernel_id, name in kernels]
    result = run(*command.split(), "aaa")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr == (
        "error: Several kernels are called 'aaa': aaa-1 (train), aaa-2 (test); say which one.\n"
    )
    if command == "stop":
        result = run("stop", "trian")
        assert (result.returncode, result.stdout) == (125, "")
        assert "did you mean aaa-1 (train)" in result.stderr
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stop"], "there is neither an ID nor --all; give one of them."),
        (["stop", "a", "--all"], "there is both an ID and --all; give one of them."),
        (["run", "--on", "a"], "there is nothing to run; give a FILE"),
        (["run", "--on", "a", "type", "file"], "there is both a TYPE and --on ID; give one of"),
        (["run", "--on", "a", "-c", "1", "--cwd", "/"], "--cwd, --env and --param are for a"),
        (["start", "a", "--lease", "0"], "--lease 0 is no time to wait; give a positive"),
        (["start", "a", "--idle-timeout", "inf"], "--idle-timeout inf is no time to wait"),
        (
            ["start", "a", "--unattended-timeout", "-1"],
            "--unattended-timeout -1 is no time to wait",
        ),
        (["start", "a", "--env", "A"], "--env 'A' is not NAME=VALUE"),
    ],
)
def test_wrong_usage(run: Run, records: Path, arguments: list[str], expected: str) -> None:
    """What cannot be meant is exit code 2, before anything is looked for."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {expected}")


@pytest.mark.parametrize("command", ["start", "attach"])
def test_a_missing_word_points_to_the_help(run: Run, command: str) -> None:
    """Usage is shown for what the command line itself can tell."""
    result = run(command)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Missing argument" in result.stderr


# -- kernels that are not there ------------------------------------------------------------------------


def test_a_kernel_of_another_machine(run: Run, ps: Ps, records: Path) -> None:
    """It is shown with its host, and nothing here touches it."""
    moon = {"host": "moon", "machine_id": "x", "boot_id": "y", "pid_namespace": "z"}
    path = write(records, "far", machine=moon, manager={"nanny": {"pid": ended_pid()}})
    (known,) = ps()
    assert (known["state"], known["host"], known["memory"]) == ("elsewhere", "moon", None)
    assert "elsewhere (moon)" in run("ps").stdout
    for command in ("attach", "stop"):
        result = run(command, "far")
        assert (result.returncode, result.stdout) == (125, "")
        assert result.stderr == "error: the kernel far runs on moon; run the command there.\n"
    assert run("stop", "--all").returncode == 0
    assert run("gc").stdout == ""
    path.unlink()


def test_a_kernel_that_is_reached_over_a_network(run: Run, ps: Ps, records: Path) -> None:
    """It is shown with the host that its provider names, and is no kernel of this machine."""
    path = write(records, "far", machine={}, manager={"host": "me@moon", "box": 1})
    (known,) = ps()
    assert (known["state"], known["host"], known["uptime"]) == ("remote", "me@moon", None)
    assert "remote (me@moon)" in run("ps").stdout
    assert "nothing to stop" in run("stop", "--all").stderr
    assert run("gc").stdout == ""
    path.unlink()


def test_a_kernel_whose_nanny_is_gone(run: Run, ps: Ps, records: Path) -> None:
    """It is dead, each command says so, and gc removes it; a record that is alive stays."""
    write(records, "gone", name="train", manager={"nanny": {"pid": ended_pid()}})
    alive = write(records, "alive", manager={"nanny": {"pid": os.getpid()}})
    assert {kernel["id"]: kernel["state"] for kernel in ps()}["gone"] == "dead"
    for command in ("attach", "logs", "interrupt", "restart", "stop", "run -c 1 --on"):
        result = run(*command.split(), "gone")
        assert (result.returncode, result.stdout) == (126, "")
        assert "gone (train) is dead, and so is its nanny; 'kernel-mgmt gc' rem" in result.stderr
    assert run("gc").stdout == "removed gone (train)\n"
    assert [path.name for path in records.glob("kernel-*")] == [alive.name]
    alive.unlink()


def test_a_nanny_that_does_not_answer(run: Run, kept: Kept, ps: Ps) -> None:
    """It costs two seconds whatever else there is, and its kernel is shown without an answer."""
    kernel_id, other = kept(), kept()
    pid = next(kernel["nanny_pid"] for kernel in ps() if kernel["id"] == kernel_id)
    os.kill(pid, signal.SIGSTOP)
    try:
        states = {kernel["id"]: kernel["state"] for kernel in ps()}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert states == {kernel_id: "no answer", other: "idle"}
    assert run("stop", "--all").returncode == 0


def test_a_kernel_that_is_not_to_be_restarted(run: Run, kept: Kept, ps: Ps) -> None:
    """When it dies it stays dead, and how it ended is known until it is stopped."""
    kernel_id = kept("--no-restart")
    result = run("run", "--on", kernel_id, "-c", "print on\nexit 3")
    assert (result.returncode, result.stdout) == (126, "on\n")
    assert "exit code 3" in result.stderr
    (known,) = ps()
    assert (known["state"], known["uptime"]) == ("dead", None)
    assert known["exit_status"] == {"code": 3, "signal": None, "reason": ""}
    assert "dead (exit code 3)" in run("ps").stdout
    result = run("interrupt", kernel_id)
    assert (result.returncode, result.stderr) == (126, f"error: the kernel {kernel_id} is dead.\n")
    assert run("run", "--on", kernel_id, "-c", "1").returncode == 126
    assert run("restart", kernel_id).returncode == 0
    assert run("run", "--on", kernel_id, "-c", "print on").stdout == "on\n"
    assert run("stop", kernel_id).returncode == 0


def test_gc_removes_what_is_dead(run: Run, kept: Kept, ps: Ps) -> None:
    """A kernel that has died goes, and its nanny with it; one that is alive stays."""
    alive, ended = kept(), kept("--no-restart")
    assert run("run", "--on", ended, "-c", "exit 3").returncode == 126
    pids = {kernel["id"]: kernel["nanny_pid"] for kernel in ps()}
    result = run("gc")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"removed {ended}\n", "")
    assert [kernel["id"] for kernel in ps()] == [alive]
    assert eventually_sync(lambda: not psutil.pid_exists(pids[ended]))


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_a_nanny_of_another_version(run: Run, ps: Ps, records: Path, version: str) -> None:
    """An older and a newer one cost their kernel alone, and a sentence says what to update."""
    with nanny_connection() as info, FakeNanny(info, protocol_version=version):
        path = write(records, "other", info=info, manager={"nanny": {"pid": os.getpid()}})
        (known,) = ps()
        assert known["state"] == "unknown"
        assert f"speaks version '{version}' of its protocol" in known["problem"]
        assert run("ps").stderr == f"warning: {known['problem']}\n"
        result = run("stop", "other")
        assert (result.returncode, result.stdout) == (125, "")
        assert result.stderr == (
            f"error: the kernel other (its nanny is process {os.getpid()}) was not stopped. "
            f"{known['problem']}\n"
        )
        path.unlink()


def test_a_broken_record_is_a_warning(run: Run, records: Path) -> None:
    """It costs nothing but a sentence that names it."""
    records.mkdir(parents=True)
    path = records / "kernel-broken.json"
    path.write_text("{")
    result = run("ps")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith(f"warning: The record {str(path)!r} is not JSON")
    path.unlink()


_PROVIDER = """
import os
from pathlib import Path
from kernel_mgmt import ExitStatus, KernelManager, Launched, hookimpl

NOTES = Path(os.environ["NOTES"])

class Manager(KernelManager):
    kernel_id = "boxed"
    async def is_alive(self): return not NOTES.exists()
    async def wait(self): return ExitStatus(code=0)
    async def signal(self, signum): NOTES.open("a").write(f"signal {signum}\\n")
    async def kill(self): NOTES.open("a").write("kill\\n")
    async def cleanup(self): NOTES.open("a").write("cleanup\\n")
    async def log_tail(self, lines=50): return "from the box\\n"

@hookimpl
def kernel_mgmt_attach_kernel(record):
    return attach(record)

async def attach(record):
    return Launched(record.connection_info, Manager())
"""


def test_a_kernel_of_a_provider_of_its_own(
    run: Run,
    ps: Ps,
    records: Path,
    distribution: Distribution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One without a nanny comes into the list, and what its manager can do works."""
    distribution("kernel-mgmt-box", "kernel_mgmt", "box", _PROVIDER)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    info = ConnectionInfo.for_tcp()
    box = KernelRecord("boxed", "box/one", info, {"container": "1"}, machine=this_machine())
    path = write_record(records, box)
    (known,) = ps()
    assert (known["state"], known["type"], known["clients"]) == ("running", "box/one", None)
    assert run("logs", "boxed").stdout == "from the box\n"
    assert "state           running\n" in run("attach", "boxed").stdout
    for command in (["restart", "boxed"], ["logs", "-f", "boxed"]):
        result = run(*command)
        assert result.returncode == 125
        assert "has no nanny" in result.stderr
    assert run("interrupt", "boxed").returncode == 0
    (tmp_path / "notes").unlink()
    assert run("stop", "boxed").stdout == "stopped boxed\n"
    assert (tmp_path / "notes").read_text() == f"signal {int(signal.SIGTERM)}\ncleanup\n"
    path.unlink()


def test_a_kernel_that_dies_is_started_again(run: Run, kept: Kept, ps: Ps) -> None:
    """Another process is there under the same id, and restarts are counted."""
    kernel_id = kept()
    (before,) = ps()
    os.kill(before["kernel_pid"], signal.SIGKILL)
    after = eventually_sync(lambda: [k for k in ps() if k["restarts"] and k["state"] == "idle"], 20)
    assert after[0]["id"] == kernel_id
    assert after[0]["kernel_pid"] != before["kernel_pid"]
    assert after[0]["nanny_pid"] == before["nanny_pid"]
    assert after[0]["kernel_started"] > before["kernel_started"]
    assert run("stop", kernel_id).returncode == 0
