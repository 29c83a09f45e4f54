"""The startup handshake: kernels that pick their ports, and strangers who would speak for them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import (
    ConnectionInfo,
    KernelClient,
    KernelFinder,
    KernelType,
    Launched,
    LaunchError,
    LaunchRequest,
    Session,
)
from kernel_mgmt.connection import CHANNELS, SUN_PATH_MAX
from kernel_mgmt.local import launch_local
from kernel_mgmt.protocol import DELIMITER
from kernel_mgmt.registration import (
    BadRegistration,
    Registration,
    RegistrationRefused,
    RegistrationSocket,
    speaks_handshake,
)
from strategies import json_values, quickly
from waiting import eventually

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
TEMPLATE = ConnectionInfo.for_tcp(kernel_name="some")
PORTS = {f"{channel}_port": str(50_000 + n) for n, channel in enumerate(CHANNELS)}
CONTENT = {"kernel_id": "the-id", **PORTS}

each_transport = pytest.mark.parametrize("transport", ["tcp", "ipc"])


def handshake(transport: str = "tcp", *arguments: str) -> dict[str, Any]:
    """Launch parameters for an echo kernel that registers."""
    return {
        "transport": transport,
        "encryption": "off",
        "handshake": True,
        "arguments": list(arguments),
    }


def frames(
    content: Any, key: str = TEMPLATE.key, idents: tuple[bytes, ...] = (b"id",)
) -> list[bytes]:
    """A registration message as it comes from a ROUTER."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return [*idents, DELIMITER, Session(key).sign([data]), data]


# --- the decision, without I/O -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("5.6", True),
        ("5.6.1", True),
        ("5.10", True),
        ("6.0", True),
        ("5.5", False),
        ("5", False),
        ("4.9", False),
        ("", False),
        ("5.6rc1", False),
        ("latest", False),
    ],
)
def test_who_speaks_it(version: str, expected: bool) -> None:
    """Kernels of protocol 5.6 and later; what is no version is not one of them."""
    assert speaks_handshake(version) is expected


@pytest.mark.parametrize("port_type", [str, int])
@pytest.mark.parametrize("idents", [(b"id",), (b"far", b"near")])
def test_a_registration_is_accepted_and_acknowledged(
    port_type: type, idents: tuple[bytes, ...]
) -> None:
    """The connection info is the template with the kernel's ports, the answer signed and routed."""
    content = {name: port_type(port) for name, port in PORTS.items()} | {"kernel_id": "the-id"}
    info, reply = Registration("the-id", TEMPLATE).receive(frames(content, idents=idents))
    assert info == TEMPLATE.replace(**{name: int(port) for name, port in PORTS.items()})
    assert tuple(reply[: len(idents)]) == idents
    delimiter, signature, acknowledgement = reply[len(idents) :]
    assert delimiter == DELIMITER
    assert signature == Session(TEMPLATE.key).sign([acknowledgement])
    assert json.loads(acknowledgement) == {"status": "ok"}


GOOD = frames(CONTENT)
STRANGERS = {
    "forged": (frames(CONTENT, key="another"), "its signature does not fit"),
    "half a signature": ([*GOOD[:2], GOOD[2][:32], GOOD[3]], "its signature does not fit"),
    "changed": ([*GOOD[:3], GOOD[3].replace(b"50000", b"50009")], "its signature does not fit"),
    "unsigned": ([*GOOD[:2], b"", GOOD[3]], "it is unsigned"),
    "no delimiter": ([GOOD[0], *GOOD[2:]], "it is no registration message"),
    "a frame too many": ([*GOOD, b""], "it is no registration message"),
    "a frame too few": (GOOD[:3], "it is no registration message"),
    "empty": ([], "it is no registration message"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_refused_and_the_kernel_is_not(kind: str) -> None:
    """What does not have the key changes nothing, however often it comes."""
    registration = Registration("the-id", TEMPLATE)
    stranger, reason = STRANGERS[kind]
    for _ in range(3):
        with pytest.raises(RegistrationRefused, match=f"^{reason}$"):
            registration.receive(stranger)
    info, _ = registration.receive(GOOD)
    assert info.shell_port == 50_000


@given(st.lists(st.lists(st.binary(max_size=80) | st.just(DELIMITER), max_size=6), max_size=4))
@quickly
def test_no_frames_can_disturb_it(messages: list[list[bytes]]) -> None:
    """Any bytes at all are refused, and the kernel's registration is accepted after them."""
    registration = Registration("the-id", TEMPLATE)
    for message in messages:
        with pytest.raises(RegistrationRefused):
            registration.receive(message)
    assert registration.receive(GOOD)[0].hb_port == 50_004


def test_it_happens_once() -> None:
    """A replay is refused, and so is a second registration with other ports."""
    registration = Registration("the-id", TEMPLATE)
    registration.receive(GOOD)
    for late in (GOOD, frames(CONTENT | {"shell_port": "50009"})):
        with pytest.raises(RegistrationRefused, match="the kernel has registered before"):
            registration.receive(late)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "it is no JSON object"),
        (b"[" * 100_000, "it is no JSON object"),
        (b"\xff", "it is no JSON object"),
        ([1], "it is no JSON object"),
        (PORTS, "it lacks 'kernel_id'"),
        (CONTENT | {"kernel_id": "another"}, "it has another kernel's id"),
        ({"kernel_id": "the-id"}, "it lacks 'shell_port'"),
        (CONTENT | {"hb_port": "0"}, "'0' is no port"),
        (CONTENT | {"hb_port": "65536"}, "'65536' is no port"),
        (CONTENT | {"hb_port": -1}, "'-1' is no port"),
        (CONTENT | {"hb_port": "9" * 5000}, "'99999999999999999999' is no port"),
        (CONTENT | {"hb_port": True}, "'True' is no port"),
        (CONTENT | {"hb_port": 50.5}, "'50.5' is no port"),
        (CONTENT | {"hb_port": None}, "'None' is no port"),
        (CONTENT | {"hb_port": "50000"}, "two of its ports are the same"),
    ],
)
def test_nonsense_of_the_kernel_itself_is_told(content: Any, reason: str) -> None:
    """Who has the key is the kernel: what is wrong with its registration is an error with a reason."""
    with pytest.raises(BadRegistration, match=f"^{re.escape(reason)}$"):
        Registration("the-id", TEMPLATE).receive(frames(content))


@given(json_values)
@quickly
def test_any_signed_json_is_nonsense(value: Any) -> None:
    """Whatever JSON the kernel may sign is read without any other exception."""
    with pytest.raises(BadRegistration):
        Registration("the-id", TEMPLATE).receive(frames(json.dumps(value).encode()))


def test_a_path_that_is_too_long_is_told() -> None:
    """Numbers that make a Unix socket's path longer than the system allows are an error."""
    prefix = "/".ljust(SUN_PATH_MAX - len("-5"), "x")
    template = ConnectionInfo(1, 2, 3, 4, 5, transport="ipc", ip=prefix, key="key")
    with pytest.raises(BadRegistration, match=f"this system allows {SUN_PATH_MAX}"):
        Registration("the-id", template).receive(frames(CONTENT, key="key"))


@pytest.mark.parametrize("port_as_text", [False, True])
def test_the_registration_file(port_as_text: bool) -> None:
    """It has what the specification lists, where to bind, and none of the five ports."""
    content = Registration("the-id", TEMPLATE).file_content(4711, port_as_text=port_as_text)
    assert content == {
        "kernel_id": "the-id",
        "transport": "tcp",
        "ip": "127.0.0.1",
        "registration_ip": "127.0.0.1",
        "registration_port": "4711" if port_as_text else 4711,
        "signature_scheme": "hmac-sha256",
        "key": TEMPLATE.key,
        "kernel_name": "some",
        "interrupt_mode": "signal",
    }


# --- a kernel that registers ---------------------------------------------------------------------


async def talk(info: ConnectionInfo) -> None:
    """A further client gets an answer from a kernel."""
    client = KernelClient(info)
    try:
        await client.wait_for_ready(timeout=20)
        assert (await client.execute("print hello")).content["status"] == "ok"
    finally:
        client.close()


@each_transport
@pytest.mark.parametrize("way", ["well", "twice"])
async def test_a_kernel_that_registers_is_launched(
    way: str, transport: str, finder: KernelFinder
) -> None:
    """It is reached at ports of its own choice, which the file then has for other clients too."""
    info, manager = await finder.launch(
        "echo/echo", kernel_id="of-this-test", launch_params=handshake(transport, "--register", way)
    )
    assert manager is not None
    async with manager:
        assert info.transport == transport
        file = RUNTIME_DIR / "kernel-of-this-test.json"
        assert list(RUNTIME_DIR.iterdir()) == [file]
        assert file.stat().st_mode & 0o777 == 0o600
        assert ConnectionInfo.read(file) == info
        assert "registration_port" not in file.read_text()
        await talk(ConnectionInfo.read(file))
    assert list(RUNTIME_DIR.iterdir()) == []
    assert transport == "tcp" or not Path(info.ip).parent.exists()


class Stages:
    """Launches the echo kernel and keeps what its file held when its command was asked for."""

    def __init__(self, *arguments: str) -> None:
        self.files: list[dict[str, Any]] = []
        self._arguments = arguments

    def __call__(self, connection_file: Path) -> list[str]:
        """Give the command."""
        self.files.append(json.loads(connection_file.read_text()))
        assert connection_file.stat().st_mode & 0o777 == 0o600
        module = "kernel_mgmt.testing.echo_kernel"
        return [sys.executable, "-m", module, "-f", str(connection_file), *self._arguments]


async def launch(
    make_argv: Callable[[Path], list[str]],
    *,
    transport: str = "tcp",
    encryption: str = "auto",
    **fields: Any,
) -> Launched:
    """Launch a command whose kernel type declares CURVE and the handshake."""
    kernel_type = KernelType("test", metadata={"supported_encryption": ["curve"]})
    return await launch_local(
        LaunchRequest(kernel_type, **{"kernel_id": "of-this-test", **fields}),
        make_argv,
        runtime_dir=RUNTIME_DIR,
        transport=transport,
        encryption=encryption,
        handshake=True,
    )


async def test_given_endpoints_are_kept() -> None:
    """With a connection info to use again there is no registration: the kernel gets its ports."""
    given_info = ConnectionInfo.for_tcp()
    stages = Stages()
    info, manager = await launch(stages, connection_info=given_info)
    assert manager is not None
    async with manager:
        assert info == given_info
        assert stages.files == [given_info.to_dict()]


async def test_an_encrypted_kernel_gets_its_ports() -> None:
    """The handshake's specification knows no CURVE keys, so that encryption goes first."""
    stages = Stages()
    info, manager = await launch(stages)
    assert manager is not None
    async with manager:
        assert stages.files == [info.to_dict()]
        assert info.curve_secretkey
        await talk(info)


#: A kernel with the reader of xeus 6, which refuses a number; otherwise it is the echo kernel.
LIKE_XEUS = """
import json, os, sys
file = sys.argv[1]
if not isinstance(json.load(open(file))["registration_port"], str):
    sys.exit("[json.exception.type_error.302] type must be string, but is number")
os.execv(sys.executable, [sys.executable, "-m", "kernel_mgmt.testing.echo_kernel", "-f", file])
"""


async def test_a_kernel_that_wants_text_gets_text() -> None:
    """What the specification says is tried first, and what kernels based on xeus 6 want next."""
    tries = []

    def make_argv(connection_file: Path) -> list[str]:
        tries.append(type(json.loads(connection_file.read_text())["registration_port"]))
        return [sys.executable, "-c", LIKE_XEUS, str(connection_file)]

    info, manager = await launch(make_argv, encryption="off")
    assert manager is not None
    async with manager:
        assert tries == [int, str]
        await talk(info)


# --- strangers -----------------------------------------------------------------------------------


@asynccontextmanager
async def waiting_launch(
    finder: KernelFinder, transport: str, tmp_path: Path
) -> AsyncIterator[tuple[asyncio.Task[Any], dict[str, Any], Path]]:
    """A launch whose kernel waits for a file; gives its task, its registration file and that file."""
    go = tmp_path / "go"
    task = asyncio.create_task(
        finder.launch(
            "echo/echo",
            kernel_id="of-this-test",
            launch_params=handshake(transport, "--wait-for", str(go)),
        )
    )
    try:
        file = RUNTIME_DIR / "kernel-of-this-test.json"
        await eventually(file.exists)
        yield task, json.loads(file.read_text()), go
    finally:
        task.cancel()
        await asyncio.wait([task])


def registration_endpoint(file: dict[str, Any]) -> str:
    """The address that a registration file names."""
    separator = ":" if file["transport"] == "tcp" else "-"
    return f"{file['transport']}://{file['registration_ip']}{separator}{file['registration_port']}"


@each_transport
async def test_strangers_do_not_stop_the_kernel(
    transport: str, finder: KernelFinder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Forged, unsigned, broken and huge messages come first; the kernel is launched all the same."""
    context = zmq.Context()
    try:
        async with waiting_launch(finder, transport, tmp_path) as (task, file, go):
            stranger = context.socket(zmq.DEALER)
            huge = context.socket(zmq.DEALER)
            for dealer in (stranger, huge):
                dealer.connect(registration_endpoint(file))
            content = json.dumps(CONTENT | {"kernel_id": file["kernel_id"]}).encode()
            for signature in (b"", b"0" * 64, Session("another").sign([content])):
                stranger.send_multipart([DELIMITER, signature, content])
            stranger.send_multipart([b"hello"])
            for _ in range(500):
                stranger.send_multipart([DELIMITER, b"0" * 64, content])
            huge.send_multipart([DELIMITER, b"0" * 64, bytes(10_000_000)])
            with caplog.at_level("DEBUG", "kernel_mgmt"):
                await eventually(lambda: len(caplog.records) >= 504)
            levels = [record.levelname for record in caplog.records if "Refused" in record.message]
            assert levels == ["WARNING"] + ["DEBUG"] * (len(levels) - 1)
            assert not task.done()
            go.touch()
            info, manager = await task
            async with manager:
                assert {f"{c}_port": str(getattr(info, f"{c}_port")) for c in CHANNELS} != PORTS
                await talk(info)
            assert stranger.poll(0) == 0
            assert huge.poll(0) == 0
    finally:
        context.destroy(linger=0)


@each_transport
async def test_after_the_registration_nobody_listens(
    transport: str, finder: KernelFinder, tmp_path: Path
) -> None:
    """A late registration reaches no one: the socket is closed when the launch returns."""
    async with waiting_launch(finder, transport, tmp_path) as (task, file, go):
        go.touch()
        _, manager = await task
        async with manager:
            if transport == "ipc":
                path = f"{file['registration_ip']}-{file['registration_port']}"
                assert not os.path.exists(path)
            else:
                address = (file["registration_ip"], file["registration_port"])
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(address)


@each_transport
async def test_it_listens_on_loopback_or_a_private_path_only(
    transport: str, finder: KernelFinder, tmp_path: Path
) -> None:
    """While it is waited for, the registration socket cannot be reached from another machine."""
    before = listening()
    async with waiting_launch(finder, transport, tmp_path) as (_, file, _go):
        new = listening() - before
        if transport == "tcp":
            assert new == {("127.0.0.1", file["registration_port"])}
        else:
            path = Path(f"{file['registration_ip']}-{file['registration_port']}")
            await eventually(path.is_socket)
            assert path.parent.stat().st_mode & 0o777 == 0o700
            assert new == set()


def listening() -> set[tuple[str, int]]:
    """The TCP addresses that this process listens at."""
    return {
        tuple(connection.laddr)
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


# --- kernels that do not register ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("bad-id", "it has another kernel's id"),
        ("bad-port", "'-1' is no port"),
        ("same-ports", "two of its ports are the same"),
        ("nonsense", "it is no JSON object"),
    ],
)
async def test_a_bad_registration_fails_the_launch(
    way: str, reason: str, finder: KernelFinder
) -> None:
    """At once, with what is wrong with it and what to do; nothing is left."""
    with pytest.raises(LaunchError) as caught:
        await finder.launch("echo/echo", launch_params=handshake("tcp", "--register", way))
    assert caught.value.phase == "start"
    assert caught.value.summary.endswith(
        f"The kernel's registration cannot be used: {reason}. Update the kernel, or pass "
        "connection_info=ConnectionInfo.for_tcp(): with given ports there is no registration."
    )
    assert list(RUNTIME_DIR.iterdir()) == []


@each_transport
async def test_a_kernel_that_ends_instead_is_an_error_at_once(
    transport: str, finder: KernelFinder
) -> None:
    """The error has its exit status and its last words; nothing is left."""
    params = handshake(transport, "--exit", "7", "--message", "no licence")
    async with asyncio.timeout(20):
        with pytest.raises(LaunchError) as caught:
            await finder.launch("echo/echo", launch_params=params)
    assert caught.value.cause == "The kernel ended before it registered: exit code 7."
    assert caught.value.log_tail == "no licence\n"
    assert list(RUNTIME_DIR.iterdir()) == []


@each_transport
async def test_waiting_for_a_registration_can_be_given_up(
    transport: str, finder: KernelFinder
) -> None:
    """A kernel that never registers is waited for until the launch is cancelled; nothing is left."""
    task = asyncio.create_task(
        finder.launch("echo/echo", launch_params=handshake(transport, "--register", "never"))
    )
    await eventually(lambda: list(RUNTIME_DIR.iterdir()))
    child = await eventually(lambda: psutil.Process().children())
    await eventually(lambda: _listens(child[0], transport), timeout=20)
    task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list(RUNTIME_DIR.iterdir()) == []


def _listens(process: psutil.Process, transport: str) -> bool:
    """Whether a kernel has bound its sockets."""
    kind = "tcp" if transport == "tcp" else "unix"
    return len(process.net_connections(kind)) >= len(CHANNELS)


@each_transport
async def test_a_launch_can_be_cancelled_at_any_step(transport: str, finder: KernelFinder) -> None:
    """Wherever it is given up it ends at once, and nothing is left."""
    for steps in range(20):
        task = asyncio.create_task(
            launch(lambda _: ["sleep", "1000"], transport=transport, encryption="off")
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert list(RUNTIME_DIR.iterdir()) == []


async def test_a_socket_that_cannot_be_bound_is_explained(tmp_path: Path) -> None:
    """Where the directory is not there, the error names the registration socket."""
    info = ConnectionInfo.for_ipc(tmp_path / "missing")
    registrar = RegistrationSocket(Registration("the-id", info), info)
    with pytest.raises(LaunchError, match="socket for the kernel's registration cannot be bound"):
        registrar.listen()
