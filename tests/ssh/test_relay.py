"""Relayed connections: sockets of the host carried in frames, each for itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from agents import RunningAgent
from kernel_mgmt_ssh.remote import CLOSE, CREDIT, DATA, EOF, OPEN, OPENED, REFUSED, WINDOW
from kernel_mgmt_ssh.remote.frames import CREDIT_SIZE

#: How long anything may take, in seconds.
PATIENCE = 20.0


@pytest.fixture
def agent() -> Iterator[RunningAgent]:
    """An agent of one's own."""
    with RunningAgent() as running:
        yield running


class Listener:
    """A socket of the host that streams can be opened to.

    Args:
        family: of the socket.
    """

    def __init__(self, family: int = socket.AF_UNIX) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="km-")
        self._socket = socket.socket(family)
        self._socket.settimeout(PATIENCE)
        if family == socket.AF_UNIX:
            path = str(Path(self._directory.name, "s"))
            self._socket.bind(path)
            self.address: dict[str, Any] = {"path": path}
        else:
            self._socket.bind(("127.0.0.1", 0))
            self.address = {"port": self._socket.getsockname()[1]}
        self._socket.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._directory.cleanup()

    def accept(self) -> socket.socket:
        """Give the next connection."""
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE)
        return connection


def open_stream(agent: RunningAgent, stream: int, address: object) -> tuple[int, bytes]:
    """Open a stream; gives the answer."""
    agent.send(OPEN, stream, json.dumps(address).encode())
    return agent.next_frame(stream)


def read(agent: RunningAgent, stream: int, length: int, *, credit: bool = True) -> bytes:
    """Read bytes of a stream, with credit for each or without."""
    data = b""
    while len(data) < length:
        kind, payload = agent.next_frame(stream)
        if kind == DATA:
            data += payload
            if credit:
                agent.send(CREDIT, stream, CREDIT_SIZE.pack(len(payload)))
        else:
            assert kind == CREDIT, kind
    return data


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_bytes_go_both_ways(agent: RunningAgent, family: int) -> None:
    """What is sent on either side arrives at the other, over Unix sockets and TCP."""
    with Listener(family) as listener:
        assert open_stream(agent, 7, listener.address) == (OPENED, b"")
        with listener.accept() as far:
            agent.send(DATA, 7, b"ping")
            assert far.recv(100) == b"ping"
            far.sendall(b"pong")
            assert agent.next_frame(7) == (DATA, b"pong")


@pytest.mark.parametrize(
    "address", [{"path": "/no/such/socket"}, {"path": "relative"}, {"port": 0}, {}, [], None]
)
def test_what_cannot_be_opened_is_refused(agent: RunningAgent, address: object) -> None:
    """A stream to nowhere is refused with a reason, and its number is free again."""
    for _ in range(2):
        kind, reason = open_stream(agent, 1, address)
        assert (kind, bool(reason)) == (REFUSED, True)


def test_a_taken_number_is_refused(agent: RunningAgent) -> None:
    """A number that is in use, or the requests' own, names no further stream."""
    with Listener() as listener:
        assert open_stream(agent, 1, listener.address)[0] == OPENED
        with listener.accept():
            assert open_stream(agent, 1, listener.address)[0] == REFUSED
        agent.send(OPEN, 0, json.dumps(listener.address).encode())
        assert agent.next_frame(0)[0] == REFUSED


def test_ends_are_passed_on(agent: RunningAgent) -> None:
    """Either side may end its half, and go on reading; after both, the number is free."""
    with Listener() as listener:
        for first in ("tunnel", "host"):
            assert open_stream(agent, 1, listener.address)[0] == OPENED
            with listener.accept() as far:
                if first == "tunnel":
                    agent.send(DATA, 1, b"question")
                    agent.send(EOF, 1)
                    assert far.makefile("rb").read() == b"question"
                    far.sendall(b"answer")
                    far.shutdown(socket.SHUT_WR)
                    assert agent.next_frame(1) == (DATA, b"answer")
                    assert agent.next_frame(1) == (EOF, b"")
                else:
                    far.shutdown(socket.SHUT_WR)
                    assert agent.next_frame(1) == (EOF, b"")
                    agent.send(DATA, 1, b"late")
                    agent.send(EOF, 1)
                    assert far.makefile("rb").read() == b"late"
        assert open_stream(agent, 1, listener.address)[0] == OPENED
        listener.accept().close()


def test_close_drops_a_connection(agent: RunningAgent) -> None:
    """CLOSE closes the host's socket at once; frames that were on their way are passed over."""
    with Listener() as listener:
        open_stream(agent, 1, listener.address)
        with listener.accept() as far:
            agent.send(CLOSE, 1)
            agent.send(DATA, 1, b"late")
            agent.send(CREDIT, 1, CREDIT_SIZE.pack(10))
            assert far.recv(1) == b""
    assert agent.ask("ping") == {}


def test_a_socket_that_breaks_is_told(agent: RunningAgent) -> None:
    """When the host's side is gone while something is sent, the stream is closed."""
    with Listener() as listener:
        open_stream(agent, 1, listener.address)
        listener.accept().close()
        agent.send(DATA, 1, b"x" * 100_000)
        kinds = [agent.next_frame(1)[0]]
        if kinds == [EOF]:
            agent.send(DATA, 1, b"x" * 100_000)
            kinds.append(agent.next_frame(1)[0])
        assert kinds[-1] == CLOSE


def test_much_goes_both_ways_at_once(agent: RunningAgent) -> None:
    """Several megabytes on several streams arrive whole, in order, in both directions."""
    size, streams = 3 * WINDOW, (1, 2, 3)
    payload = bytes(range(256)) * (size // 256)

    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    with Listener() as listener, contextlib.ExitStack() as stack:
        for stream in streams:
            assert open_stream(agent, stream, listener.address)[0] == OPENED
            thread = threading.Thread(target=echo, args=(listener.accept(),))
            thread.start()
            stack.callback(thread.join)
        sent = dict.fromkeys(streams, 0)
        credit = dict.fromkeys(streams, WINDOW)
        received = {stream: hashlib.sha256() for stream in streams}
        counts = dict.fromkeys(streams, 0)
        ended: set[int] = set()
        while len(ended) < len(streams):
            for stream in streams:
                step = min(32768, size - sent[stream], credit[stream])
                if step:
                    agent.send(DATA, stream, payload[sent[stream] : sent[stream] + step])
                    sent[stream] += step
                    credit[stream] -= step
                    if sent[stream] == size:
                        agent.send(EOF, stream)
            sendable = any(sent[stream] < size and credit[stream] for stream in streams)
            if not sendable:
                agent.take(lambda: agent.frames)
            else:
                agent.is_answered(0)  # takes what is there
            for kind, stream, data in agent.frames:
                if kind == DATA:
                    received[stream].update(data)
                    counts[stream] += len(data)
                    agent.send(CREDIT, stream, CREDIT_SIZE.pack(len(data)))
                elif kind == CREDIT:
                    credit[stream] += CREDIT_SIZE.unpack(data)[0]
                elif kind == EOF:
                    ended.add(stream)
            agent.frames.clear()
    assert counts == dict.fromkeys(streams, size)
    wanted = hashlib.sha256(payload).digest()
    assert all(digest.digest() == wanted for digest in received.values())


def test_no_more_is_sent_than_there_is_credit_for(agent: RunningAgent) -> None:
    """A stream that the tunnel does not drain stops at the window, and holds nobody up."""
    with Listener() as listener:
        open_stream(agent, 1, listener.address)
        open_stream(agent, 2, listener.address)
        with listener.accept() as full, listener.accept() as other:
            writer = threading.Thread(target=lambda: full.sendall(bytes(2 * WINDOW)))
            writer.start()
            assert len(read(agent, 1, WINDOW, credit=False)) == WINDOW
            other.sendall(b"quick")
            assert agent.next_frame(2) == (DATA, b"quick")
            assert agent.ask("ping") == {}
            assert not [item for item in agent.frames if item[1] == 1]
            agent.send(CREDIT, 1, CREDIT_SIZE.pack(WINDOW))
            assert len(read(agent, 1, WINDOW, credit=False)) == WINDOW
            writer.join()


def test_a_socket_that_takes_nothing_holds_nobody_up(agent: RunningAgent) -> None:
    """What the host's side does not read waits, up to the window; other streams and requests go on."""
    with Listener() as listener:
        open_stream(agent, 1, listener.address)
        open_stream(agent, 2, listener.address)
        with listener.accept() as slow, listener.accept() as other:
            for _ in range(16):
                agent.send(DATA, 1, bytes(WINDOW // 16))
            agent.send(DATA, 2, b"quick")
            assert other.recv(100) == b"quick"
            assert agent.ask("ping") == {}
            count = 0
            while count < WINDOW:
                count += len(slow.recv(65536))
            kind, credit = agent.next_frame(1)
            assert kind == CREDIT
            assert CREDIT_SIZE.unpack(credit)[0] <= WINDOW


def test_who_sends_without_credit_is_dropped(agent: RunningAgent) -> None:
    """A stream on which the tunnel sends more than the window is closed."""
    with Listener() as listener:
        open_stream(agent, 1, listener.address)
        with listener.accept():
            for _ in range(3):
                agent.send(DATA, 1, bytes(WINDOW))
            kinds = set()
            while CLOSE not in kinds:
                kinds.add(agent.next_frame(1)[0])
    assert agent.ask("ping") == {}


def test_the_end_of_the_connection_closes_all(agent: RunningAgent) -> None:
    """When the tunnel is gone, the host's side of each stream sees the end."""
    with Listener() as listener:
        open_stream(agent, 1, listener.address)
        with listener.accept() as far:
            agent.hang_up()
            assert far.recv(1) == b""
