"""CURVE between client and kernel: who is let in, who is not, and kernels that only say they do it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import (
    ClientClosed,
    ConnectionInfo,
    KernelClient,
    KernelFinder,
    KernelType,
    LaunchError,
    Message,
    RequestTimeout,
    run_kernel,
    run_kernel_blocking,
)
from kernel_mgmt import encryption as encryption_module
from kernel_mgmt.curve import new_curve_keys
from kernel_mgmt.encryption import check_encrypted, mechanism_of, wants_encryption
from strategies import quickly
from waiting import eventually
from zmq.utils.monitor import recv_monitor_message

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])

CAN = KernelType("can", metadata={"supported_encryption": ["curve"]}, provider="some")
CANNOT = KernelType("cannot", provider="some")

each_transport = pytest.mark.parametrize("transport", ["tcp", "ipc"])


def encrypted(transport: str = "tcp") -> dict[str, Any]:
    """Launch parameters for an encrypted echo kernel."""
    return {"transport": transport, "encryption": "required"}


# --- whether to encrypt --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "kernel_type", "transport", "expected"),
    [
        ("auto", CAN, "tcp", True),
        ("auto", CAN, "ipc", False),
        ("auto", CANNOT, "tcp", False),
        ("auto", CANNOT, "ipc", False),
        ("required", CAN, "tcp", True),
        ("required", CAN, "ipc", True),
        ("off", CAN, "tcp", False),
        ("off", CANNOT, "ipc", False),
    ],
)
def test_the_choice(choice: str, kernel_type: KernelType, transport: str, expected: bool) -> None:
    """`auto` encrypts TCP where the kernel can, `required` both transports, `off` nothing."""
    assert wants_encryption(choice, kernel_type, transport) is expected


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (["curve"], True),
        (["tls", " CURVE "], True),
        ("curve", True),
        (["tls"], False),
        ("curved", False),
        ([None, 1], False),
        ({"curve": True}, False),
        (True, False),
        (None, False),
    ],
)
def test_what_counts_as_declared(declared: Any, expected: bool) -> None:
    """A list with `curve` in it, or the bare word that older ipykernels had, in any case."""
    kernel_type = KernelType("any", metadata={"supported_encryption": declared})
    assert wants_encryption("auto", kernel_type, "tcp") is expected


@pytest.mark.parametrize("choice", ["on", "Required", "", None, True, ["auto"]])
async def test_another_choice_is_refused(choice: Any, finder: KernelFinder) -> None:
    """A value that is none of the three is an error before anything runs."""
    params = {"encryption": choice, "arguments": ["--exit", "7"]}
    with pytest.raises(LaunchError, match="must be 'auto', 'required' or 'off'") as caught:
        await finder.launch("echo/echo", launch_params=params)
    assert caught.value.phase == "resolve"


def test_required_of_a_kernel_that_cannot_is_refused() -> None:
    """The error names the kernel type, and says what else to ask for."""
    with pytest.raises(LaunchError) as caught:
        wants_encryption("required", CANNOT, "tcp")
    assert caught.value.phase == "resolve"
    assert caught.value.summary.endswith(
        "Encryption is required, and the kernel type 'some/cannot' does not declare that it supports "
        "'curve'. Pass encryption='auto' or 'off'."
    )


def test_a_libzmq_without_curve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` does without, and says so in the log; `required` is refused."""
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    with caplog.at_level("DEBUG", "kernel_mgmt"):
        assert wants_encryption("auto", CAN, "tcp") is False
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("DEBUG", "The channels are not encrypted: this libzmq was built without CURVE.")
    ]
    with pytest.raises(LaunchError, match="libzmq was built without CURVE") as caught:
        wants_encryption("required", CAN, "tcp")
    assert caught.value.phase == "resolve"


@pytest.mark.parametrize(
    ("choice", "kernel_type", "keys", "sentence"),
    [
        ("off", CAN, ("curve_publickey", "curve_secretkey"), "encryption is 'off'"),
        ("required", CAN, (), "has no CURVE keys"),
        ("auto", CAN, ("curve_publickey",), "one of the kernel's two CURVE keys"),
        ("auto", CAN, ("curve_secretkey",), "one of the kernel's two CURVE keys"),
        ("auto", CANNOT, ("curve_publickey", "curve_secretkey"), "'some/cannot' does not declare"),
    ],
)
def test_given_keys_that_do_not_fit_are_refused(
    choice: str, kernel_type: KernelType, keys: tuple[str, ...], sentence: str
) -> None:
    """A connection info to use again must agree with the choice, and with the kernel."""
    fresh = new_curve_keys()
    info = ConnectionInfo.for_tcp(**{name: fresh[name] for name in keys})
    with pytest.raises(LaunchError) as caught:
        wants_encryption(choice, kernel_type, "tcp", info)
    assert sentence in caught.value.cause
    assert caught.value.phase == "resolve"


@each_transport
async def test_a_relaunch_keeps_the_keys_and_a_new_launch_has_new_ones(
    transport: str, finder: KernelFinder
) -> None:
    """Clients can follow a relaunch with the same connection info; other launches share nothing."""
    params = {"launch_params": encrypted(transport)}
    first, manager = await finder.launch("echo/echo", **params)
    assert manager is not None
    await manager.cleanup()
    again, manager = await finder.launch("echo/echo", connection_info=first, **params)
    assert manager is not None
    async with manager:
        assert again == first
        other, manager = await finder.launch("echo/echo", **params)
        assert manager is not None
        async with manager:
            assert other.curve_publickey != first.curve_publickey
            assert other.curve_secretkey != first.curve_secretkey


async def test_given_endpoints_without_keys_stay_plain(finder: KernelFinder) -> None:
    """`auto` adds no keys to a connection info that the caller's clients know without any."""
    plain = ConnectionInfo.for_tcp()
    info, manager = await finder.launch(
        "echo/echo", connection_info=plain, launch_params={"transport": "tcp"}
    )
    assert manager is not None
    async with manager:
        assert info == plain


# --- who is let in -------------------------------------------------------------------------------


async def use_each_channel(client: KernelClient, answer: str) -> None:
    """Talk over all five channels; none may be silent."""
    seen: list[Message] = []
    await client.execute_interactive(  # shell, iopub and stdin
        "input name?", output_hook=seen.append, stdin_hook=lambda prompt: answer
    )
    assert [m.content["text"] for m in seen if m.msg_type == "stream"] == [f"{answer}\n"]
    assert (await client.kernel_info(channel="control")).content["status"] == "ok"
    assert client.responsive  # makes the heartbeat, which needs a moment for its first answer
    assert client._line.heartbeat is not None
    heartbeat = client._line.heartbeat
    await eventually(lambda: heartbeat._unanswered == 0)


@each_transport
async def test_every_channel_works_encrypted(transport: str, finder: KernelFinder) -> None:
    """Shell, iopub, stdin, control and heartbeat of one client all get through."""
    async with run_kernel(
        "echo/echo", finder=finder, launch_params=encrypted(transport), startup_timeout=20
    ) as client:
        assert client.connection_info.curve_secretkey
        await use_each_channel(client, "Ada")


async def test_a_client_needs_the_public_key_alone(finder: KernelFinder) -> None:
    """Who was not given the kernel's secret key can use every channel: its own keys are ephemeral."""
    async with run_kernel("echo/echo", finder=finder, launch_params=encrypted()) as owner:
        guest_info = owner.connection_info.replace(curve_secretkey=None)
        guest = KernelClient(guest_info)
        try:
            await guest.wait_for_ready(timeout=20)
            await use_each_channel(guest, "Guest")
        finally:
            guest.close()


def test_the_blocking_client_works_encrypted(finder: KernelFinder) -> None:
    """The blocking client is the same client."""
    with run_kernel_blocking("echo/echo", finder=finder, launch_params=encrypted()) as client:
        request = client.execute("print hello")
        assert request.reply(20).content["status"] == "ok"
        texts = [m.content["text"] for m in request.outputs(20) if m.msg_type == "stream"]
        assert texts == ["hello\n"]
        assert client.connection_info.curve_publickey


async def test_auto_encrypts_tcp_and_leaves_unix_sockets_plain(finder: KernelFinder) -> None:
    """Without being asked: the channels that others can connect to are encrypted."""
    for transport in ("tcp", "ipc"):
        async with run_kernel(
            "echo/echo", finder=finder, launch_params={"transport": transport}
        ) as client:
            assert bool(client.connection_info.curve_publickey) is (transport == "tcp")


async def test_the_secret_key_is_in_the_file_alone(finder: KernelFinder) -> None:
    """Neither arguments nor environment of the kernel hold the secret key, nor does a repr."""
    info, manager = await finder.launch("echo/echo", launch_params=encrypted())
    assert manager is not None
    async with manager:
        secret = info.curve_secretkey
        assert secret is not None
        process = Path("/proc", str(manager.pid))  # type: ignore[attr-defined]
        if process.exists():
            assert secret.encode() not in (process / "cmdline").read_bytes()
            assert secret.encode() not in (process / "environ").read_bytes()
        assert secret not in f"{info!r} {manager!r}"
        file = RUNTIME_DIR / f"kernel-{manager.kernel_id}.json"
        assert ConnectionInfo.read(file) == info
        assert file.stat().st_mode & 0o777 == 0o600


# --- who is not ----------------------------------------------------------------------------------

_REJECTED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)


@contextmanager
def eavesdropper(info: ConnectionInfo, server_key: bytes = b"") -> Iterator[Any]:
    """A SUB socket on iopub, plain or with CURVE, and the monitor of what becomes of it."""
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    monitor = sub.get_monitor_socket(_REJECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        if server_key:
            sub.curve_publickey, sub.curve_secretkey = zmq.curve_keypair()
            sub.curve_serverkey = server_key
        sub.subscribe(b"")
        sub.connect(info.endpoint("iopub"))
        yield sub, monitor
    finally:
        sub.disable_monitor()
        context.destroy(linger=0)


async def fate(monitor: Any) -> int:
    """What became of the eavesdropper's first handshake."""
    await eventually(lambda: monitor.poll(0), timeout=10)
    return int(recv_monitor_message(monitor)["event"])


async def flood(client: KernelClient) -> int:
    """Make the kernel print; gives how many of the 300 messages the client got."""
    request = client.execute("flood 300 20")
    await request
    return sum([1 async for message in request if message.msg_type == "stream"])


@each_transport
@pytest.mark.parametrize("keys", ["none", "wrong"])
async def test_an_eavesdropper_gets_nothing(
    keys: str, transport: str, finder: KernelFinder
) -> None:
    """A SUB without keys, or with a wrong server key, is turned away; the client misses nothing."""
    server_key = zmq.curve_keypair()[0] if keys == "wrong" else b""
    async with run_kernel("echo/echo", finder=finder, launch_params=encrypted(transport)) as client:
        with eavesdropper(client.connection_info, server_key) as (sub, monitor):
            assert await fate(monitor) & _REJECTED
            assert await flood(client) == 300
            # Even were it connected again by now, and what it missed sent once more.
            assert await flood(client) == 300
            assert sub.poll(200) == 0


@pytest.mark.parametrize("keys", ["none", "right"])
async def test_the_eavesdropper_can_hear_where_it_may(keys: str, finder: KernelFinder) -> None:
    """The same SUB hears a kernel that is not encrypted, and with the right key one that is."""
    params = encrypted() if keys == "right" else {"transport": "tcp", "encryption": "off"}
    async with run_kernel("echo/echo", finder=finder, launch_params=params) as client:
        server_key = (client.connection_info.curve_publickey or "").encode()
        with eavesdropper(client.connection_info, server_key) as (sub, monitor):
            assert await fate(monitor) == zmq.EVENT_HANDSHAKE_SUCCEEDED
            assert await flood(client) == 300
            assert sub.poll(10_000)


@pytest.mark.parametrize("keys", ["none", "wrong"])
async def test_a_client_with_the_wrong_keys_gets_no_answer(keys: str, finder: KernelFinder) -> None:
    """Whoever has the signing key and not the kernel's public key is not let in either."""
    public = zmq.curve_keypair()[0].decode() if keys == "wrong" else None
    async with run_kernel("echo/echo", finder=finder, launch_params=encrypted()) as owner:
        stranger = KernelClient(owner.connection_info.replace(curve_publickey=public))
        try:
            with pytest.raises(RequestTimeout):
                await stranger.wait_for_ready(timeout=0.7)
        finally:
            stranger.close()
        assert await flood(owner) == 300


@pytest.mark.parametrize("keys", ["none", "wrong"])
async def test_requests_of_a_refused_client_wait(keys: str, finder: KernelFinder) -> None:
    """A request waits also where ZeroMQ takes none, because the kernel refuses the connection."""
    public = zmq.curve_keypair()[0].decode() if keys == "wrong" else None
    async with run_kernel("echo/echo", finder=finder, launch_params=encrypted()) as owner:
        stranger = KernelClient(owner.connection_info.replace(curve_publickey=public))
        async with stranger:
            requests = []
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                requests.append(stranger.kernel_info())
                await asyncio.sleep(0.001)
            assert not any(request.answered for request in requests)
        with pytest.raises(ClientClosed):
            await requests[-1]


# --- a kernel that only says it can --------------------------------------------------------------


@each_transport
async def test_a_kernel_that_does_not_encrypt_is_found_out(
    transport: str, finder: KernelFinder
) -> None:
    """It declares CURVE, is given keys and speaks plain: the launch fails, and leaves nothing."""
    params = {**encrypted(transport), "arguments": ["--no-curve"]}
    with pytest.raises(LaunchError) as caught:
        await finder.launch("echo/echo", launch_params=params)
    assert caught.value.phase == "start"
    assert caught.value.summary.endswith(
        "The kernel declares that it supports 'curve', was given keys, and speaks NULL. Update the "
        "kernel, or launch it with launch_params={'encryption': 'off'}."
    )
    assert list(RUNTIME_DIR.iterdir()) == []


async def test_the_advice_helps(finder: KernelFinder) -> None:
    """With encryption off the same kernel works."""
    params = {"transport": "tcp", "encryption": "off", "arguments": ["--no-curve"]}
    async with run_kernel("echo/echo", finder=finder, launch_params=params) as client:
        assert await flood(client) == 300


@pytest.mark.parametrize(
    ("says", "then_closes"),
    [(b"", False), (b"", True), (b"SSH-2.0-OpenSSH_9.2\r\n", False), (b"x" * 64, True)],
)
async def test_what_cannot_be_judged_is_let_pass(
    says: bytes, then_closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that says nothing, or nothing known, costs a bounded wait and no launch."""
    monkeypatch.setattr(encryption_module, "_GREETING_PATIENCE", 0.05)
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(says)
        if then_closes:
            theirs.close()
        async with asyncio.timeout(5):
            await check_encrypted(ours)
    assert ours.fileno() == -1


@given(st.binary(max_size=80))
@quickly
def test_any_bytes_have_a_mechanism_or_none(greeting: bytes) -> None:
    """Whatever a peer sends is read without an exception."""
    assert isinstance(mechanism_of(greeting), str)


def test_the_mechanism_of_a_greeting() -> None:
    """It is the name that ZMTP 3 has at byte 12; older versions have none."""
    head = b"\xff" + bytes(8) + b"\x7f"
    assert mechanism_of(head + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)) == "CURVE"
    assert mechanism_of(head + b"\x03\x00" + b"PLAIN".ljust(20, b"\0") + bytes(32)) == "PLAIN"
    assert mechanism_of(head + b"\x01\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)) == ""
    assert mechanism_of(head + b"\x03\x01" + b"CURVE".ljust(20, b"\0")) == ""
