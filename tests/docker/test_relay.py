"""The relay's end on this machine, with other ends that it cannot trust."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt.endpoints import private_directory, remove_directory
from kernel_mgmt_docker.relay import Relay, far_end, link
from kernel_mgmt_docker.relay.far_end import CLOSE, CREDIT, DATA, FRAME, HELLO, OPEN, WINDOW
from kernel_mgmt_docker.relay.link import LinkError


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory for the sockets."""
    made = private_directory()
    yield made
    remove_directory(made)


class _Engine:
    """Stands in for an engine: what it runs is a function in a thread."""

    def __init__(self, behave: Callable[[socket.socket], object]) -> None:
        self._behave = behave
        self.commands: list[Sequence[str]] = []
        self.failures: list[str] = []
        self._threads: list[threading.Thread] = []

    def run(self, argv: Sequence[str]) -> Any:
        self.commands.append(argv)
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(theirs,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return ours

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            try:
                self._behave(connection)
            except AssertionError as error:
                self.failures.append(str(error))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def say(connection: socket.socket, data: bytes, stream: int = 1) -> None:
    """Send something as an engine passes on what a command has written."""
    connection.sendall(struct.pack(">BxxxL", stream, len(data)) + data)


def hello(connection: socket.socket) -> None:
    """Take the program, and answer as it does."""
    with connection.makefile("rb", buffering=0) as source:
        length = b""
        while not length.endswith(b"\n"):
            length += source.read(1)
        program = b""
        while len(program) < int(length):
            program += source.read(int(length) - len(program))
    assert program == Path(far_end.__file__).read_bytes()
    say(connection, FRAME.pack(HELLO, 0, 0))


def drain(connection: socket.socket) -> None:
    """Read until the other end is gone."""
    while connection.recv(65536):
        pass


def _floods(connection: socket.socket) -> None:
    hello(connection)
    connection.recv(FRAME.size)
    piece = FRAME.pack(DATA, 1, 65536) + bytes(65536)
    for _ in range(100 * WINDOW // 65536):
        say(connection, piece)
    raise AssertionError("all of it was taken")


def _nonsense(connection: socket.socket) -> None:
    hello(connection)
    connection.recv(FRAME.size)  # it opens a stream
    for frame in (
        FRAME.pack(DATA, 77, 3) + b"abc",
        FRAME.pack(CREDIT, 1, 1) + b"x",
        FRAME.pack(CLOSE, 99, 0),
        FRAME.pack(OPEN, 1, 0),
        FRAME.pack(200, 1, 2) + b"zz",
    ):
        say(connection, frame)
        say(connection, b"on standard error", stream=2)
    say(connection, FRAME.pack(DATA, 1, 2) + b"ok")
    drain(connection)


def _too_long(connection: socket.socket) -> None:
    hello(connection)
    say(connection, FRAME.pack(DATA, 1, 2**31))
    drain(connection)


def _sends_nothing_often(connection: socket.socket) -> None:
    hello(connection)
    connection.recv(FRAME.size)
    nothing = FRAME.pack(DATA, 1, 0) * 1000
    say(connection, FRAME.pack(DATA, 1, 65536) + bytes(65536))
    for _ in range(1000):
        say(connection, nothing)
    raise AssertionError("all of it was taken")


def _gives_too_much_credit(connection: socket.socket) -> None:
    hello(connection)
    connection.recv(FRAME.size)
    for _ in range(3):
        say(connection, FRAME.pack(CREDIT, 1, 4) + b"\xff\xff\xff\xff")
    connection.settimeout(5)
    try:
        drain(connection)  # until the other end is gone
    except TimeoutError:
        raise AssertionError("all of it was taken") from None


def _trickles(connection: socket.socket) -> None:
    while True:  # until the other end has enough of it
        say(connection, b"wait\n", stream=2)
        time.sleep(0.02)


async def _first(behave: Callable[[socket.socket], object], directory: Path) -> bytes:
    """Give what a client is sent before its connection is dropped, or first."""
    engine = _Engine(behave)
    relay = Relay(engine.run, {directory / "k-1": 5555}, ["python3"])
    await relay.start()
    try:
        reader, writer = await asyncio.open_unix_connection(directory / "k-1")
        if behave is _floods:  # and is not read
            await asyncio.to_thread(engine.join)
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(reader.read(2), 10)
        return b""
    finally:
        with contextlib.suppress(UnboundLocalError):
            writer.transport.abort()
        await relay.close()
        engine.join()
        assert not engine.failures
        assert not (directory / "k-1").exists()


async def test_who_sends_without_credit_is_dropped(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel cannot fill the memory of this process."""
    await _first(_floods, directory)
    assert "sends without credit" in caplog.text


@pytest.mark.parametrize("behave", [_sends_nothing_often, _gives_too_much_credit])
async def test_who_breaks_the_rules_is_dropped(
    behave: Callable[[socket.socket], object], directory: Path
) -> None:
    """Frames without content take memory, too; and credit lets this end hold what is not taken."""
    engine = _Engine(behave)
    relay = Relay(engine.run, {directory / "k-1": 5555}, ["python3"])
    await relay.start()
    _, writer = await asyncio.open_unix_connection(directory / "k-1")
    try:
        await asyncio.to_thread(engine.join)
    finally:
        writer.transport.abort()
        await relay.close()
    assert not engine.failures


def test_a_program_that_only_talks_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time until it has started is limited, whatever it writes meanwhile."""
    monkeypatch.setattr(link, "_START_PATIENCE", 0.2)
    engine = _Engine(_trickles)
    with pytest.raises(LinkError, match=r"did not start within 0\.2 s"):
        link.open_link(engine.run, ["python3"])
    engine.join()


async def test_nonsense_does_no_harm(directory: Path) -> None:
    """Frames that mean nothing are passed over."""
    assert await _first(_nonsense, directory) == b"ok"


async def test_a_frame_that_is_too_long_ends_it(directory: Path) -> None:
    """Its client sees the end."""
    assert await _first(_too_long, directory) == b""


async def test_each_python_is_tried_and_all_that_was_said_is_told(directory: Path) -> None:
    """The error has what the engine said of each."""
    engine = _Engine(lambda connection: say(connection, b"exec failed: no such file", stream=2))
    relay = Relay(engine.run, {directory / "k-1": 5555}, ["python3", "python"])
    with pytest.raises(LinkError, match="no such file"):
        await relay.start()
    await relay.close()
    assert [argv[0] for argv in engine.commands] == ["python3", "python"]
    engine.join()


def test_the_program_is_for_old_pythons() -> None:
    """It compiles as Python 3.7, and needs nothing but what it imports of the standard library."""
    source = Path(far_end.__file__).read_text()
    compile(source, "far_end", "exec", dont_inherit=True)
    check = "import ast, sys; ast.parse(sys.stdin.read(), feature_version=(3, 7))"
    command = [sys.executable, "-I", "-S", "-c", check]
    subprocess.run(command, input=source, text=True, check=True)
