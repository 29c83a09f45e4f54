"""Connection files are read tolerantly and written safely, and no secret is ever shown."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import ConnectionFileError, ConnectionInfo
from kernel_mgmt.connection import CHANNELS, SUN_PATH_MAX, free_tcp_ports, new_key
from strategies import json_objects, json_values, quickly

#: As jupyter_client writes it.
JUPYTER: dict[str, Any] = {
    "shell_port": 47123,
    "iopub_port": 47124,
    "stdin_port": 47125,
    "control_port": 47126,
    "hb_port": 47127,
    "ip": "127.0.0.1",
    "key": "hunter2-b55e-4a92",
    "transport": "tcp",
    "signature_scheme": "hmac-sha256",
    "kernel_name": "python3",
    "jupyter_session": "/home/alice/a.ipynb",
}
NEEDED = ("key", "shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


def from_dict(**changes: Any) -> ConnectionInfo:
    """Jupyter's connection info with some entries changed; None takes one away."""
    content = {**JUPYTER, **changes}
    return ConnectionInfo.from_dict({k: v for k, v in content.items() if v is not None})


def write(path: Path, text: str | bytes) -> Path:
    """A file with some content."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- dicts and files -----------------------------------------------------------------------------


def test_jupyters_own() -> None:
    """The content of a file of jupyter_client is understood, and what is unknown in it is kept."""
    info = from_dict()
    assert info.shell_port == 47123
    assert info.key == "hunter2-b55e-4a92"
    assert info.kernel_name == "python3"
    assert info.interrupt_mode == "signal"
    assert info.extra == {"jupyter_session": "/home/alice/a.ipynb"}
    assert info.to_dict() == {**JUPYTER, "interrupt_mode": "signal"}


def test_least() -> None:
    """Five ports and a key are enough, and the rest is Jupyter's defaults."""
    info = ConnectionInfo.from_dict({name: JUPYTER[name] for name in NEEDED})
    assert (info.transport, info.ip, info.signature_scheme) == ("tcp", "127.0.0.1", "hmac-sha256")
    assert info.curve_publickey is info.nanny_control_port is None
    assert "curve_publickey" not in info.to_dict()


def test_null_is_absent() -> None:
    """An entry that is null counts as one that is not there."""
    content = {**JUPYTER, "ip": None, "nanny_control_port": None, "curve_publickey": None}
    assert ConnectionInfo.from_dict(content) == from_dict(ip=None)


def test_key_as_bytes() -> None:
    """jupyter_client's own dicts hold the key as bytes."""
    assert from_dict(key=b"abc").key == "abc"


@pytest.mark.parametrize(
    "info",
    [
        from_dict(),
        from_dict(key=""),
        from_dict(transport="ipc", ip="/tmp/ü/k", interrupt_mode="message"),
        from_dict(nanny_control_port=1, nanny_events_port=2, future={"a": [None, 1.5]}),
        from_dict(curve_publickey="p" * 40, curve_secretkey="s" * 40, ip="::1"),
    ],
    ids=["tcp", "unsigned", "ipc", "nanny", "curve"],
)
def test_round_trip(info: ConnectionInfo, tmp_path: Path) -> None:
    """What is written to a file is read from it."""
    path = info.write(tmp_path / "kernel-1.json")
    assert ConnectionInfo.read(path) == info
    assert ConnectionInfo.read(str(path)) == info
    assert ConnectionInfo.from_dict(info.to_dict()) == info


@quickly
@given(extra=json_objects)
def test_unknown_entries_survive(extra: dict[str, Any]) -> None:
    """Whatever else a connection info holds is there again afterwards."""
    known = {field.name for field in fields(ConnectionInfo)} - {"extra"}
    unknown = {name: value for name, value in extra.items() if name not in known}
    content = {**unknown, **JUPYTER, "interrupt_mode": "message"}
    assert ConnectionInfo.from_dict(content).to_dict() == content


PORTS = NEEDED[1:]
OTHERS = [name for name in JUPYTER if name not in NEEDED]


@quickly
@given(
    st.fixed_dictionaries(
        {"key": st.text() | json_values, **dict.fromkeys(PORTS, st.integers(0, 65535))},
        optional={
            **dict.fromkeys(OTHERS, st.text() | json_values),
            **dict.fromkeys(["curve_publickey", "interrupt_mode", "extra"], json_values),
            "transport": st.sampled_from(["ipc", "tcp"]) | json_values,
            "nanny_control_port": st.integers(0, 65535) | json_values,
        },
    )
)
def test_any_json_object(content: dict[str, Any]) -> None:
    """Any JSON object is a connection info that loses nothing, or a ConnectionFileError."""
    try:
        info = ConnectionInfo.from_dict(content)
    except ConnectionFileError:
        return
    assert repr(info)
    kept = info.to_dict()
    assert {k: v for k, v in content.items() if v is not None}.items() <= kept.items()
    for channel in (*CHANNELS, "nanny_control"):
        with suppress(ConnectionFileError):
            assert info.endpoint(channel)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", NEEDED)
def test_missing(name: str) -> None:
    """What lacks a port or the key is no connection info, and the error names what is missing."""
    with pytest.raises(ConnectionFileError, match=rf"lacks {name};"):
        from_dict(**{name: None})


@pytest.mark.parametrize("name", [*PORTS, "nanny_control_port", "nanny_events_port"])
def test_bad_ports(name: str) -> None:
    """A port is a whole number of 16 bits."""
    for port in (-1, 65536, 10**30, 10**5000, 1.0, "1", True, [], nested(100), nested(100_000)):
        with pytest.raises(ConnectionFileError, match=rf"{name} is .*; it must be a port"):
            from_dict(**{name: port})


@pytest.mark.parametrize("name", ["ip", "transport", "signature_scheme", "interrupt_mode", "key"])
def test_bad_texts(name: str) -> None:
    """A text is a text."""
    for value in (5, True, 1.5, [], {"a": "b"}, nested(100_000)):
        with pytest.raises(ConnectionFileError, match=f"{name} is .*; it must be a string"):
            from_dict(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("transport", "udp", "'tcp' or 'ipc'"),
        ("interrupt_mode", "none", "'signal' or 'message'"),
    ],
)
def test_unknown_values(name: str, value: str, advice: str) -> None:
    """A transport or interrupt mode that is unknown is an error that says which are known."""
    with pytest.raises(ConnectionFileError, match=f"'{value}'.*{advice}"):
        from_dict(**{name: value})


@pytest.mark.parametrize("ip", ["/tmp/\ud800", "/tmp/\0"], ids=["surrogate", "NUL"])
def test_paths_that_no_file_can_have(ip: str) -> None:
    """A socket path that the system cannot express is refused at once."""
    with pytest.raises(ConnectionFileError, match="path"):
        from_dict(transport="ipc", ip=ip)


def test_socket_paths_have_a_longest_length() -> None:
    """The longest socket path that the system allows is accepted, and one byte more is not."""
    ip = "/" + "x" * (SUN_PATH_MAX - 1 - len("-47123"))
    assert len(str(from_dict(transport="ipc", ip=ip).socket_path("shell"))) == SUN_PATH_MAX
    with pytest.raises(ConnectionFileError, match=r"use a shorter directory, or transport 'tcp'"):
        from_dict(transport="ipc", ip=ip + "x")
    with pytest.raises(ConnectionFileError, match="bytes"):
        from_dict(transport="ipc", ip=ip[:-1] + "ü")
    assert from_dict(transport="tcp", ip=ip + "x")


def test_longest_socket_path_can_be_bound(tmp_path: Path) -> None:
    """The length that we allow is the one that ZeroMQ and the system allow."""
    ip = str(tmp_path / "x")
    ip += "x" * (SUN_PATH_MAX - len(ip) - len("-47123"))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(from_dict(transport="ipc", ip=ip).endpoint("shell"))


def test_frozen() -> None:
    """A connection info cannot be changed, but gives changed copies, which are checked."""
    info = from_dict()
    with pytest.raises(FrozenInstanceError):
        info.key = "x"  # type: ignore[misc]
    assert info.replace(key="x").key == "x"
    with pytest.raises(ConnectionFileError):
        info.replace(shell_port=-1)


# --- endpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "endpoint"),
    [
        ({}, "tcp://127.0.0.1:47123"),
        ({"ip": "::1"}, "tcp://[::1]:47123"),
        ({"ip": "host.example"}, "tcp://host.example:47123"),
        ({"ip": "*"}, "tcp://*:47123"),
        ({"transport": "ipc", "ip": "/tmp/a b/k"}, "ipc:///tmp/a b/k-47123"),
        ({"transport": "ipc", "ip": "k"}, "ipc://k-47123"),
    ],
)
def test_endpoint(changes: dict[str, str], endpoint: str) -> None:
    """An endpoint is what ZeroMQ calls the address of a channel."""
    assert from_dict(**changes).endpoint("shell") == endpoint


def test_endpoints_of_a_nanny() -> None:
    """A nanny's sockets have endpoints when there is one."""
    info = from_dict(nanny_control_port=1, nanny_events_port=2)
    assert info.endpoint("nanny_control") == "tcp://127.0.0.1:1"
    assert info.endpoint("nanny_events") == "tcp://127.0.0.1:2"


@pytest.mark.parametrize("channel", ["nanny_control", "shell", "spam", ""])
def test_no_endpoint(channel: str) -> None:
    """A channel that does not exist, or has no port yet, has no endpoint."""
    with pytest.raises(ConnectionFileError, match="no port"):
        from_dict(shell_port=0).endpoint(channel)


def test_for_tcp() -> None:
    """A fresh connection info has a fresh key and ports that can be bound, all different."""
    first, second = ConnectionInfo.for_tcp(kernel_name="x"), ConnectionInfo.for_tcp()
    assert first.key != second.key
    assert first.kernel_name == "x"
    endpoints = {first.endpoint(channel) for channel in CHANNELS}
    assert len(endpoints) == 5
    with zmq.Context() as context:
        for endpoint in endpoints:
            with context.socket(zmq.ROUTER) as socket:
                socket.bind(endpoint)


def test_for_ipc(tmp_path: Path) -> None:
    """Socket paths in a directory are absolute, different, and not there yet."""
    directory = Path(os.path.relpath(tmp_path)) / "new"
    info = ConnectionInfo.for_ipc(directory, interrupt_mode="message")
    paths = [info.socket_path(channel) for channel in CHANNELS]
    assert [path.parent for path in paths] == [tmp_path / "new"] * 5
    assert len(set(paths)) == 5
    assert not (tmp_path / "new").exists()
    assert (info.transport, info.interrupt_mode) == ("ipc", "message")
    assert len(info.key) == 36


def test_free_ports_are_different() -> None:
    """Ports that are given together are all different, and none is privileged."""
    ports = free_tcp_ports(200)
    assert len(set(ports)) == 200
    assert min(ports) >= 1024


def test_keys_are_fresh() -> None:
    """No key is given twice."""
    assert len({new_key() for _ in range(100)}) == 100


# --- secrets -------------------------------------------------------------------------------------


def test_repr_shows_no_secret() -> None:
    """Neither repr nor str shows a key, and the repr says what a person wants to know."""
    info = from_dict(
        curve_publickey="p" * 40,
        curve_secretkey="hunter2" * 6,
        nanny_control_port=5,
        extra="hunter2",
    )
    for text in (repr(info), str(info), f"{info}", repr([info])):
        assert "hunter2" not in text
    assert repr(info) == (
        "<ConnectionInfo tcp 127.0.0.1:47123,47124,47125,47126,47127,5 signed encrypted nanny>"
    )
    assert repr(from_dict(transport="ipc", ip="/tmp/k", key="")) == (
        "<ConnectionInfo ipc /tmp/k UNSIGNED>"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"transport": "udp"},
        {"shell_port": -1},
        {"shell_port": None},
        {"ip": 5},
        {"transport": "ipc", "ip": "x" * 200},
        {"key": ["hunter2"]},
        {"curve_secretkey": ["hunter2"]},
        {"key": None, "password": "hunter2"},
    ],
)
def test_errors_show_no_secret(changes: dict[str, Any], tmp_path: Path) -> None:
    """No error about a connection info shows a key, from wherever it was read."""
    content = {k: v for k, v in {**JUPYTER, **changes}.items() if v is not None}
    path = write(tmp_path / "k.json", json.dumps(content))
    for read in (lambda: ConnectionInfo.from_dict(content), lambda: ConnectionInfo.read(path)):
        with pytest.raises(ConnectionFileError) as caught:
            read()
        assert "hunter2" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"


def test_broken_file_shows_no_secret(tmp_path: Path) -> None:
    """A file that was cut off in the middle is not quoted."""
    path = write(tmp_path / "k.json", json.dumps(JUPYTER)[:-20])
    with pytest.raises(ConnectionFileError) as caught:
        ConnectionInfo.read(path)
    assert "hunter2" not in str(caught.value)


def test_pickle() -> None:
    """A connection info can be handed to another process."""
    assert pickle.loads(pickle.dumps(from_dict())) == from_dict()


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{", "is not JSON"),
        (json.dumps(JUPYTER)[:-1], "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"key": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "does not hold a JSON object"),
        ("null", "does not hold a JSON object"),
        ("{}", "lacks key, shell_port"),
        (json.dumps({**JUPYTER, "hb_port": "x"}), "hb_port is 'x'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_file(content: str | bytes, what: str, tmp_path: Path) -> None:
    """A file that is none is an error with the file's path and what is wrong with it."""
    path = write(tmp_path / "kernel.json", content)
    with pytest.raises(ConnectionFileError, match=what) as caught:
        ConnectionInfo.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error that says what may have happened."""
    with pytest.raises(ConnectionFileError, match="has the kernel ended") as caught:
        ConnectionInfo.read(tmp_path / "kernel.json")
    assert caught.value.path == str(tmp_path / "kernel.json")


def test_directory(tmp_path: Path) -> None:
    """A directory is no file."""
    with pytest.raises(ConnectionFileError, match="cannot be read: Is a directory"):
        ConnectionInfo.read(tmp_path)


#: Reads a file as another user, when started by root. Imports come first: the other user may not
#: reach this environment.
READ_AS = """
import os, sys
from kernel_mgmt import ConnectionFileError, ConnectionInfo
path, uid, any_owner = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
os.setuid(uid)
try:
    print(ConnectionInfo.read(path, any_owner=any_owner))
except ConnectionFileError as error:
    print(error)
"""


def read_as(path: Path, uid: int, *, any_owner: bool = False) -> str:
    """What reading a file gives another user."""
    command = [sys.executable, "-c", READ_AS, path, str(uid), str(any_owner)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def of_user(path: Path, uid: int, mode: int) -> Path:
    """A user's connection file, in a directory that everybody can reach."""
    write(path, json.dumps(JUPYTER))
    path.chmod(mode)
    os.chown(path, uid, -1)
    for directory in (path.parent, *path.parents):
        if directory.is_relative_to(tempfile.gettempdir()):
            directory.chmod(0o711)
    return path


def test_unreadable(tmp_path: Path) -> None:
    """A file that may not be read is an error that says who may."""
    path = of_user(tmp_path / "k.json", os.geteuid(), 0)
    message = read_as(path, os.geteuid() or 1234)
    assert "cannot be read: Permission denied; it can be used by the user" in message


# Only root can make files of others: elsewhere these tests are not there, rather than skipped.
if os.geteuid() == 0:

    def test_file_of_another_user(tmp_path: Path) -> None:
        """Somebody else's file is not trusted, not even by root, unless the caller says so."""
        path = of_user(tmp_path / "k.json", 1234, 0o644)
        with pytest.raises(ConnectionFileError, match=r"\(uid 1234\).*any_owner=True") as caught:
            ConnectionInfo.read(path)
        assert caught.value.path == str(path)
        assert ConnectionInfo.read(path, any_owner=True) == from_dict()

    def test_file_of_root(tmp_path: Path) -> None:
        """Root's file is trusted by everybody who may read it."""
        path = of_user(tmp_path / "k.json", 0, 0o644)
        assert read_as(path, 1234).startswith("<ConnectionInfo tcp")

    def test_file_of_one_user_for_another(tmp_path: Path) -> None:
        """A user does not trust another user's file, even a readable one."""
        path = of_user(tmp_path / "k.json", 1233, 0o644)
        assert "belongs to another user (uid 1233)" in read_as(path, 1234)
        assert read_as(path, 1234, any_owner=True).startswith("<ConnectionInfo tcp")


# --- writing -------------------------------------------------------------------------------------


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """A connection file is private from its first moment, whatever the umask."""
    before = os.umask(0)
    try:
        path = from_dict().write(tmp_path / "k.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_written_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the written file stays right when the working directory changes."""
    monkeypatch.chdir(tmp_path)
    assert from_dict().write("k.json") == tmp_path / "k.json"


def test_never_overwrites(tmp_path: Path) -> None:
    """A file that exists, which may be another kernel's, stays as it is."""
    path = write(tmp_path / "k.json", "precious")
    with pytest.raises(ConnectionFileError, match="cannot be written: File exists") as caught:
        from_dict().write(path)
    assert caught.value.path == str(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_never_follows_a_link(tmp_path: Path, target: str) -> None:
    """A link that somebody put where the file will be leads the key nowhere."""
    precious = write(tmp_path / "precious", "precious")
    path = tmp_path / "k.json"
    path.symlink_to(tmp_path / target)
    with pytest.raises(ConnectionFileError, match="cannot be written"):
        from_dict().write(path)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert path.is_symlink()


def test_no_directory(tmp_path: Path) -> None:
    """A directory that is not there is an error, not made in silence."""
    with pytest.raises(ConnectionFileError, match="No such file or directory"):
        from_dict().write(tmp_path / "missing" / "k.json")


def test_without_json_form(tmp_path: Path) -> None:
    """A connection info that has no JSON form is an error, and no file is left."""
    with pytest.raises(ConnectionFileError, match="JSON"):
        from_dict(future=object()).write(tmp_path / "k.json")
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from kernel_mgmt import ConnectionFileError, ConnectionInfo
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    ConnectionInfo.for_tcp().write(sys.argv[1])
except ConnectionFileError as error:
    print(error)
"""


def test_full_disk(tmp_path: Path) -> None:
    """When there is no room for the file, no half of it is left."""
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "k.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be written: File too large." in process.stdout
    assert list(tmp_path.iterdir()) == []
