"""Forwards: local sockets that stand for others, here for sockets of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_mgmt_ssh.tunnel.forwarding import Forwarder, NotListening, Target
from kernel_mgmt_ssh.tunnel.pump import FarEnd
from waiting import eventually_sync

#: How long a thing may take that takes milliseconds, in seconds.
PATIENCE = 10.0


class SocketEnd:
    """A far end that is a socket of this machine."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise NotListening from error
        self._received: list[bytes] = []
        self._on_data: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        # As far ends do: what is not read holds up who sends.
        self._room = threading.Semaphore(8)

    def attach(self, on_data: Callable[[], None]) -> None:
        """Begin to receive."""
        self._on_data = on_data
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while True:
            data = b""
            self._room.acquire()
            with contextlib.suppress(OSError):
                data = self._socket.recv(65536)
            with self._lock:
                self._received.append(data)
            self._on_data()
            if not data:
                return

    def read(self) -> bytes | None:
        """Give what has come."""
        with self._lock:
            data = self._received.pop(0) if self._received else None
        if data is not None:
            self._room.release()
        return data

    def send(self, data: bytes) -> None:
        """Send it."""
        self._socket.sendall(data)

    def finish(self) -> None:
        """Send no more."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Drop the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._room.release()
        self._socket.close()


def open_far(target: Target) -> FarEnd:
    """Connect to a socket of this machine."""
    return SocketEnd(target["path"])


class Server:
    """A listening socket, whose connections are taken by the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(PATIENCE)

    def accept(self) -> socket.socket:
        """Take the next connection."""
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        return connection

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        self.path.unlink(missing_ok=True)


class Place:
    """A forwarder, a forward of it, and what the forward leads to."""

    def __init__(self, directory: Path, forwarder: Forwarder) -> None:
        self.forwarder = forwarder
        self.local = directory / "local"
        self.far = directory / "far"
        self.gone = False
        forwarder.add(
            "one",
            {str(self.local): {"path": str(self.far)}},
            lambda: self.gone,
        )

    def connect(self) -> socket.socket:
        """Connect to the local socket."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.local))
        except OSError:
            connection.close()
            raise
        connection.settimeout(PATIENCE)
        return connection


@pytest.fixture(scope="module")
def forwarder() -> Forwarder:
    """The one forwarder of these tests: its threads stay as long as its process."""
    return Forwarder(open_far)


@pytest.fixture
def place(tmp_path: Path, forwarder: Forwarder) -> Iterator[Place]:
    """A forward, up."""
    place = Place(tmp_path, forwarder)
    forwarder.restore()
    yield place
    forwarder.close()
    assert not place.local.exists()


def ended(connection: socket.socket) -> bool:
    """Wait for the end of a connection."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True


def test_both_ways(place: Place) -> None:
    """Bytes pass in both directions, and each direction ends by itself."""
    server = Server(place.far)
    with place.connect() as client, server.accept() as there:
        client.sendall(b"question")
        assert there.recv(100) == b"question"
        there.sendall(b"answer")
        assert client.recv(100) == b"answer"
        client.shutdown(socket.SHUT_WR)
        assert there.recv(100) == b""
        there.sendall(b"one more")
        there.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"one more"
        assert client.recv(100) == b""
    server.close()


def test_much(place: Place) -> None:
    """Many megabytes come through unchanged, also to who reads late."""
    server = Server(place.far)
    data = os.urandom(1_000_003) * 8
    with place.connect() as client, server.accept() as there:
        for sender, receiver in ((client, there), (there, client)):
            thread = threading.Thread(target=sender.sendall, args=(data,))
            thread.start()
            received = bytearray()
            while len(received) < len(data):
                received += receiver.recv(1 << 20)
            thread.join()
            assert received == data
    server.close()


def test_slow_reader(place: Place) -> None:
    """Who does not read keeps nobody else waiting."""
    server = Server(place.far)
    with place.connect() as slow, server.accept() as flood:
        flood.settimeout(0.3)
        with pytest.raises(TimeoutError):
            flood.sendall(bytes(64 << 20))
        with place.connect() as quick, server.accept() as there:
            there.sendall(b"here")
            assert quick.recv(100) == b"here"
        slow.close()
        assert ended(flood)
    server.close()


def test_held_until_the_far_end_listens(place: Place) -> None:
    """A connection made before the far end listens gets there, with what it has sent."""
    with place.connect() as client:
        client.sendall(b"early")
        server = Server(place.far)
        with server.accept() as there:
            assert there.recv(100) == b"early"
    server.close()


def test_held_while_lost(place: Place) -> None:
    """A cut drops what was connected; what connects meanwhile is held until the way is back."""
    server = Server(place.far)
    with place.connect() as before, server.accept() as there:
        place.forwarder.lose()
        assert ended(before)
        assert ended(there)
    with place.connect() as during:
        during.sendall(b"again")
        place.forwarder.restore()
        with server.accept() as there:
            assert there.recv(100) == b"again"
    server.close()


def test_who_has_left_is_not_held(place: Place) -> None:
    """Of connections that were given up while they were held, nothing is kept."""
    place.forwarder.lose()
    for _ in range(50):
        place.connect().close()
    eventually_sync(lambda: not place.forwarder._held, PATIENCE)
    place.forwarder.restore()


def test_far_end_gone(place: Place) -> None:
    """When nothing will ever listen there, the local socket is removed: connecting is refused."""
    with place.connect() as client:
        place.gone = True
        assert ended(client)
    eventually_sync(lambda: not place.local.exists(), PATIENCE)


def test_removed(place: Place) -> None:
    """A forward that is removed drops what is carried and what is held."""
    server = Server(place.far)
    with place.connect() as carried, server.accept() as there:
        server.close()
        with place.connect() as held:
            place.forwarder.remove("one")
            assert ended(carried)
            assert ended(there)
            assert ended(held)


def test_no_room_for_a_socket(tmp_path: Path, forwarder: Forwarder) -> None:
    """When one of the local sockets cannot be made, none is left."""
    good, bad = tmp_path / "good", tmp_path / "missing" / "bad"
    sockets = {str(path): {"path": str(tmp_path / "far")} for path in (good, bad)}
    with pytest.raises(OSError, match="No such file"):
        forwarder.add("two", sockets, lambda: False)
    assert not good.exists()


def test_private(place: Place) -> None:
    """Nobody else may connect to a local socket."""
    assert place.local.stat().st_mode & 0o077 == 0


def test_a_hundred_at_once(place: Place) -> None:
    """A hundred connections are carried at the same time, each to its own end."""
    server = Server(place.far)
    pairs = []
    for number in range(100):
        client = place.connect()
        client.sendall(b"%d" % number)
        pairs.append((client, server.accept()))
    answers = sorted(int(there.recv(100)) for _, there in pairs)
    assert answers == list(range(100))
    for pair in pairs:
        for connection in pair:
            connection.close()
    server.close()
