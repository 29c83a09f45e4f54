"""What a nanny answers whoever started it, and that nothing is left of one that could not start."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from kernel_mgmt import ConnectionInfo, KernelType
from kernel_mgmt.connection import CHANNELS
from kernel_mgmt.nanny.protocol import PROTOCOL_VERSION
from kernel_mgmt.records import read_record, record_path
from nannies import (
    ECHO_COMMAND,
    MODULE,
    RECORDS,
    RUNTIME_DIR,
    RunningNanny,
    answer_of,
    ask_to_keep,
    echo,
    request_to_keep,
    running_nanny,
    start_nanny,
)
from waiting import eventually_sync

ROOT = Path(os.environ["TMPDIR"])


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    # At once, when a bad answer is read; the processes need a moment after a good one.
    assert list(RUNTIME_DIR.iterdir()) == []
    assert not list(RECORDS.glob("kernel-*"))


def refused(argv: tuple[str, ...] = ECHO_COMMAND, **options: Any) -> dict[str, Any]:
    """Have a nanny refuse, and nothing be left of it by then; gives its answer."""
    answer = ask_to_keep(argv, **options)
    assert answer["status"] == "error"
    assert answer["cause"].endswith(".")
    assert "\n" not in answer["cause"]
    assert list(ROOT.glob("km-*")) == []
    return answer


# --- good starts ---------------------------------------------------------------------------------


def test_answer() -> None:
    """The answer has what is needed to reach the kernel, and is no secret to its own files."""
    with running_nanny() as nanny:
        answer = nanny.answer
        assert set(answer) == {
            "status",
            "protocol_version",
            "pid",
            "connection_info",
            "connection_file",
        }
        assert answer["protocol_version"] == PROTOCOL_VERSION
        assert psutil.Process(answer["pid"]).cmdline()[-2:] == ["-m", "kernel_mgmt.nanny"]
        assert ConnectionInfo.read(answer["connection_file"]) == nanny.connection_info
        assert Path(answer["connection_file"]).stat().st_mode & 0o777 == 0o600
        directory = Path(nanny.connection_info.ip).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        log = directory / "nanny.log"
        eventually_sync(log.exists)
        assert log.stat().st_mode & 0o777 == 0o600
        assert log.read_text() == ""


def test_record() -> None:
    """The record is that of the nanny, as it is found again by."""
    request = request_to_keep(cwd=RUNTIME_DIR)
    nanny = RunningNanny(answer_of(start_nanny(request)))
    try:
        record = read_record(record_path(RECORDS, request.kernel_id))
        assert record.kernel_id == request.kernel_id
        assert (record.type_id, record.cwd) == ("echo/echo", str(RUNTIME_DIR))
        assert record.connection_info == nanny.connection_info
        assert record.manager["nanny"]["pid"] == nanny.pid
        assert record.connection_file == nanny.connection_file
        nanny.ask("stop")
    finally:
        nanny.close()


def test_no_key_is_seen() -> None:
    """The key is in no argument and no environment of the nanny, its watchdog and its kernel."""
    with running_nanny() as nanny:
        key = nanny.connection_info.key
        process = psutil.Process(nanny.pid)
        for other in (process, *process.children()):
            assert key not in " ".join(other.cmdline())
            assert key not in " ".join(other.environ().values())


def test_record_comes_first() -> None:
    """The record is there before the kernel's process, which can see it."""
    code = "import glob, sys; n = len(glob.glob(sys.argv[1] + '/kernel-*')); sys.exit(n != 1)"
    argv = (sys.executable, "-c", code, str(RECORDS))
    assert refused(argv)["exit_status"]["code"] == 0


# --- bad requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"", "is no JSON object with a version"),
        (b"hello\n", "is no JSON object with a version"),
        (b"\xff\xfe\n", "is no JSON object with a version"),
        (b'{"version": 2}\n', "The version of the request is 2"),
        (b'{"version": 1}\n', "The request lacks 'kernel_id'"),
        (b'{"version": 1, "kernel_id": "a/b"}\n', "kernel_id must be up to 128 letters"),
    ],
)
def test_bad_request(line: bytes, cause: str) -> None:
    """What is no request is answered with why, and nothing happens."""
    answer = answer_of(start_nanny(line))
    assert (answer["status"], answer["ename"]) == ("error", "NannyError")
    assert cause in answer["cause"]


def test_bad_request_to_nobody() -> None:
    """Nobody is told when nobody is there to be told."""
    process = start_nanny(b"hello\n")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=30)
    assert errors == b""


# --- bad kernels ---------------------------------------------------------------------------------


def test_no_such_command() -> None:
    """A command that does not exist is named."""
    answer = refused(("/nowhere/kernel",))
    assert (answer["ename"], answer["phase"]) == ("LaunchError", "start")
    assert "The command '/nowhere/kernel' was not found" in answer["cause"]
    assert answer["advice"]
    assert (answer["exit_status"], answer["log_tail"]) == (None, "")
    assert answer["endpoints_refused"] is False


def test_kernel_that_ends() -> None:
    """A kernel that ends at once is told of, with its exit status and last words."""
    answer = refused(echo("--exit", 3, "--message", "no luck"))
    assert answer["ename"] == "LaunchError"
    assert answer["exit_status"] == {"code": 3, "signal": None, "reason": ""}
    assert answer["log_tail"] == "no luck\n"


def test_no_such_directory() -> None:
    """A working directory that does not exist is named."""
    assert "'/nowhere' does not exist" in refused(cwd=Path("/nowhere"))["cause"]


def test_encryption_that_cannot_be() -> None:
    """Encryption that is required of a kernel that cannot is refused."""
    kernel_type = KernelType("plain", provider="echo")
    answer = refused(transport="tcp", encryption="required", kernel_type=kernel_type)
    assert (answer["ename"], answer["phase"]) == ("LaunchError", "resolve")


# --- bad places ----------------------------------------------------------------------------------


def test_connection_file_exists(tmp_path: Path) -> None:
    """A connection file that is there already is another kernel's, and stays as it is."""
    (tmp_path / "kernel-k.json").write_text("another's")
    answer = refused(kernel_id="k", runtime_dir=tmp_path)
    assert "kernel-k.json" in answer["cause"]
    assert "File exists" in answer["cause"]
    assert (tmp_path / "kernel-k.json").read_text() == "another's"


def test_same_id_twice() -> None:
    """A second kernel with the id of a first is refused, and harms neither it nor its record."""
    with running_nanny(kernel_id="twin") as nanny:
        answer = ask_to_keep(kernel_id="twin")
        assert (answer["status"], answer["ename"]) == ("error", "LaunchError")
        assert nanny.connection_file.exists()
        assert record_path(RECORDS, "twin").exists()
        assert nanny.ask("wait_ready")["kernel"] == 1


@pytest.mark.parametrize("where", ["runtime_dir", "record_dir"])
def test_not_a_directory(tmp_path: Path, where: str) -> None:
    """A directory that cannot be one, whoever asks, is told of."""
    (tmp_path / "file").touch()
    answer = refused(**{where: tmp_path / "file" / "inside"})
    assert answer["ename"] == "LaunchError"
    assert "Not a directory" in answer["cause"]
    assert os.listdir(tmp_path) == ["file"]


def without_root_rights() -> None:
    """Have files' modes count for the program to be run, also when root runs it."""
    if sys.platform == "linux" and os.geteuid() == 0:
        drop = ctypes.CDLL(None).prctl
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            drop(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize("where", ["runtime_dir", "record_dir"])
def test_not_writable(tmp_path: Path, where: str) -> None:
    """A directory that may not be written to is told of, and nothing is left elsewhere."""
    tmp_path.chmod(0o500)
    answer = refused(process={"preexec_fn": without_root_rights}, **{where: tmp_path})
    assert "Permission denied" in answer["cause"]
    assert str(tmp_path) in answer["cause"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("room", [10, 900])
def test_no_room(tmp_path: Path, room: int) -> None:
    """A disk that is full for the connection file, or for the record, is told of."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    answer = refused(process={"preexec_fn": limit})
    assert answer["ename"] == "LaunchError"
    assert "File too large" in answer["cause"]
    assert ("record" in answer["cause"]) == (room == 900)


def test_too_many_open_files() -> None:
    """A nanny that may open too few files says so."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))

    answer = refused(process={"preexec_fn": limit})
    assert "Too many open files" in answer["cause"]


@pytest.mark.parametrize("channel", [*CHANNELS, "nanny_control", "nanny_events"])
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_taken_endpoint(transport: str, channel: str) -> None:
    """An address where somebody listens already is refused, and stays his."""
    sockets = ROOT / "s"
    sockets.mkdir(mode=0o700)
    info = ConnectionInfo.for_ipc(sockets, nanny_control_port=8, nanny_events_port=9)
    if transport == "tcp":
        info = ConnectionInfo.for_tcp()
        info = info.replace(nanny_control_port=info.hb_port + 1, nanny_events_port=info.hb_port + 2)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken:
        taken.linger = 0
        taken.bind(info.endpoint(channel))
        answer = refused(connection_info=info)
        assert (answer["ename"], answer["endpoints_refused"]) == ("LaunchError", True)
        assert channel in answer["cause"]
        with context.socket(zmq.DEALER) as visitor:
            visitor.connect(info.endpoint(channel))
            visitor.send(b"still here")
            assert taken.poll(10_000)
    for path in sockets.iterdir():
        path.unlink()
    sockets.rmdir()


def test_given_sockets_leave_room() -> None:
    """Given numbers of Unix sockets are not given to the nanny's own a second time."""
    sockets = ROOT / "s"
    info = ConnectionInfo.for_ipc(sockets, shell_port=6, hb_port=7)
    with running_nanny(connection_info=info) as nanny:
        mine = nanny.connection_info
        assert mine.key == info.key
        assert len({port for _, port in mine._ports()}) == 8
        assert nanny.ask("wait_ready")["kernel"] == 1
    eventually_sync(lambda: not list(sockets.iterdir()))
    sockets.rmdir()


def test_import_that_fails(tmp_path: Path) -> None:
    """A Python without pyzmq says what is missing."""
    (tmp_path / "zmq.py").write_text("raise ImportError('no pyzmq here')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = refused(process={"env": environment})
    assert answer["ename"] == "NannyError"
    assert "no pyzmq here" in answer["cause"]


def test_defect(tmp_path: Path) -> None:
    """Even a defect of the nanny's own is answered, and leaves nothing."""
    (tmp_path / "sitecustomize.py").write_text(
        "import kernel_mgmt.machine as m\ndef broken(): raise TypeError('broken')\nm.this_machine = broken"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = start_nanny(request_to_keep(), MODULE, env=environment)
    output, errors = process.communicate(timeout=30)
    answer = json.loads(output)
    assert (answer["status"], answer["ename"]) == ("error", "NannyError")
    assert answer["cause"] == "The nanny has a defect: broken."
    assert b"TypeError: broken" in errors
