"""One ``exec`` in a container that runs the relay's program: its frames in both directions."""

from __future__ import annotations

import contextlib
import logging
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, Protocol

from .far_end import FRAME, HELLO, LONGEST

__all__ = ["Connection", "Link", "LinkError", "open_link"]

logger = logging.getLogger("kernel_mgmt.docker")

#: The engine puts this before each piece of what a command writes: which stream, and its length
#: (Docker Engine API, "Attach to a container", stream format).
_HEADER = struct.Struct(">BxxxL")
_STDOUT = 1

#: Reads the program, whose length comes first, from its input.
_START = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
#: How long the program may take to start, in seconds.
_START_PATIENCE = 30.0
#: Of Python's sockets, one with a time limit is the one that two threads may share under TLS: it waits
#: outside of the library.
_NO_LIMIT = 1_000_000.0
#: How much of what it writes to standard error is kept, and of what is no frame.
_KEPT = 4000


class Connection(Protocol):
    """What the engine gives for an ``exec`` with standard streams: like a socket."""

    def recv(self, size: int, /) -> bytes:
        """Receive some bytes; none at the end."""

    def sendall(self, data: bytes, /) -> object:
        """Send all of it."""

    def settimeout(self, timeout: float | None, /) -> object:
        """Set how long each operation may take."""

    def close(self) -> object:
        """End the connection."""


class LinkError(Exception):
    """The program could not be run; its text has what was written."""


def open_link(run: Callable[[Sequence[str]], Connection], pythons: Sequence[str]) -> Link:
    """Start the relay's program with the first Python that there is.  This blocks.

    Args:
        run: starts a command in the container, and gives its streams.
        pythons: names or paths.

    Raises:
        LinkError: there is none, or it does not run.
        OSError: the engine cannot be reached.
    """
    failures = []
    for python in pythons:
        link = Link(run([python, "-I", "-S", "-c", _START]))
        try:
            link.begin()
        except LinkError as error:
            failures.append(str(error))
            link.close()
        except BaseException:
            link.close()
            raise
        else:
            return link
    raise LinkError("\n".join(dict.fromkeys(failures)))


class Link:
    """The frames of one program.

    Args:
        connection: its streams, as the engine mixes them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._raw = bytearray()
        self._frames = bytearray()
        self._other = b""

    def begin(self) -> None:
        """Send the program; returns when it has answered.

        Raises:
            LinkError: it did not.
        """
        deadline = time.monotonic() + _START_PATIENCE
        self._connection.settimeout(_START_PATIENCE)
        program = (resources.files(__package__) / "far_end.py").read_bytes()
        # What was not run is told by what it wrote.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(b"%d\n" % len(program) + program)
        try:
            while len(self._frames) < FRAME.size:
                if not self._fill():
                    raise LinkError(self._told() or "it ended at once")
                # One time for all of it, however often something comes that is no answer.
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._connection.settimeout(left)
        except TimeoutError:
            raise LinkError(f"it did not start within {_START_PATIENCE:g} s") from None
        except ConnectionError as error:
            raise LinkError(self._told() or str(error)) from None
        if self._frames[0] != HELLO:
            raise LinkError(self._told())
        del self._frames[: FRAME.size]
        self._connection.settimeout(_NO_LIMIT)

    def start(
        self,
        on_frames: Callable[[list[tuple[int, int, bytes]]], object],
        on_end: Callable[[], object],
    ) -> None:
        """Read and write from now on.

        Args:
            on_frames: is given what has come in, on a thread; while it blocks no more is read.
            on_end: called once when the program has ended, on a thread.
        """

        def read() -> None:
            try:
                while not self._closed.is_set():
                    frames = list(self._take())
                    if frames:
                        on_frames(frames)
                    if not self._fill():
                        break
            except (OSError, EOFError, ValueError) as error:
                if not self._closed.is_set():
                    logger.debug("The relay's connection to the engine broke: %s", error)
            finally:
                self.close()
                on_end()

        threading.Thread(target=self._write, name="kernel-mgmt-relay-out", daemon=True).start()
        threading.Thread(target=read, name="kernel-mgmt-relay-in", daemon=True).start()

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send a frame soon."""
        self._outgoing.put(FRAME.pack(kind, number, len(payload)) + payload)

    def close(self) -> None:
        """End the program; from any thread."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._outgoing.put(None)
        # A thread that waits for it is woken by this, not by close.
        shutdown = getattr(self._connection, "shutdown", None)
        with contextlib.suppress(OSError):
            if shutdown is not None:
                shutdown(2)
        with contextlib.suppress(OSError):
            self._connection.close()

    # -- its own ----------------------------------------------------------------------------

    def _write(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # then the reader sees the end, too
            while (data := self._outgoing.get()) is not None:
                self._connection.sendall(data)

    def _fill(self) -> bool:
        """Receive some, and sort it; False at the end."""
        data = self._connection.recv(262_144)
        self._raw += data
        while len(self._raw) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(self._raw)
            end = _HEADER.size + length
            if len(self._raw) < end:
                break
            piece = bytes(self._raw[_HEADER.size : end])
            del self._raw[:end]
            if stream == _STDOUT:
                self._frames += piece
            else:
                self._other = (self._other + piece)[-_KEPT:]
        return bool(data)

    def _take(self) -> Iterator[tuple[int, int, bytes]]:
        while len(self._frames) >= FRAME.size:
            kind, number, length = FRAME.unpack_from(self._frames)
            if length > LONGEST:
                raise ValueError("the relay's program sent nonsense")
            end = FRAME.size + length
            if len(self._frames) < end:
                return
            payload = bytes(self._frames[FRAME.size : end])
            del self._frames[:end]
            yield kind, number, payload

    def _told(self) -> str:
        text = bytes(self._frames[:_KEPT]) + self._other
        return text.decode("utf-8", "replace").strip()


def exec_connection(api: Any, container: str, argv: Sequence[str]) -> Connection:
    """Start a command in a container, and give its streams.  This blocks.

    Args:
        api: docker-py's ``APIClient``.
        container: its id.
        argv: the command.
    """
    created = api.exec_create(container, list(argv), stdin=True, stdout=True, stderr=True)
    stream = api.exec_start(created["Id"], socket=True)
    # docker-py gives a file around the socket, or the socket itself under TLS and SSH.
    return _Held(getattr(stream, "_sock", stream), stream)


class _Held:
    """A connection with the objects that would close it when they are collected."""

    def __init__(self, connection: Any, holder: Any) -> None:
        self._connection = connection
        self._holder = holder

    def recv(self, size: int, /) -> bytes:
        return bytes(self._connection.recv(size))

    def sendall(self, data: bytes, /) -> object:
        return self._connection.sendall(data)

    def settimeout(self, timeout: float | None, /) -> object:
        return self._connection.settimeout(timeout)

    def shutdown(self, how: int, /) -> object:
        return self._connection.shutdown(how)

    def close(self) -> None:
        # Let go of: a response that is kept keeps the client's idle connections, too.
        holder, self._holder = self._holder, None
        response = getattr(holder, "_response", None)
        for one in (holder, response, self._connection):
            if one is not None:
                with contextlib.suppress(Exception):
                    one.close()
