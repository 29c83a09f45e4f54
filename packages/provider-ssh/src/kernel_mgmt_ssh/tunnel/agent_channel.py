"""The tunnel's end of the one channel to the agent on the host: requests, and relayed streams.

The frames are those of :mod:`kernel_mgmt_ssh.remote`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import paramiko

from ..errors import SshError
from ..remote import (
    CLOSE,
    CREDIT,
    DATA,
    EOF,
    FRAME,
    JSON,
    OPEN,
    OPENED,
    REFUSED,
    agent_source,
    start_command,
)
from .forwarding import NotListening, Target

__all__ = ["AgentChannel"]

logger = logging.getLogger("kernel_mgmt.ssh")

#: How long the agent may take to start, in seconds: a host may be slow to start a Python.
_START_PATIENCE = 30.0
#: How long it may take to open a stream, in seconds.
_OPEN_PATIENCE = 10.0
#: What shells print before it is passed over, up to so many bytes.
_MOST_GREETING = 1_000_000
#: How many bytes of a stream may be under way in one direction.
WINDOW = 1_048_576
#: The longest payload that makes sense.
_LONGEST = 256 * 1024 * 1024
#: How much of what the host writes to standard error is kept.
_KEPT_ERRORS = 10_000


class AgentChannel:
    """Starts the agent on a host, and speaks with it.

    When the agent ends the connection is closed, too: it is of no use without.

    Args:
        transport: the connection.
        pythons: the Pythons with which the agent may run, the first that there is.

    Raises:
        SshError: it does not start.
    """

    def __init__(self, transport: paramiko.Transport, pythons: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._next_id = 0
        self._asked: dict[int, Future[dict[str, Any]]] = {}
        self._streams: dict[int, _Stream] = {}
        self._closed = False
        #: What the host has written to standard error, its last part.
        self._errors = b""
        self._buffer = bytearray()
        #: What the agent has told of the host.
        self.hello: dict[str, Any] = {}
        #: Why the connection was closed; empty when it was not, or for another reason.
        self.verdict = ""
        self._transport = transport
        try:
            self._channel = transport.open_session(timeout=_START_PATIENCE)
        except paramiko.ChannelException as error:
            raise SshError(
                f"The host lets nobody run anything ({error.text}).",
                kind="no-session",
                advice="Allow sessions on the host: MaxSessions of its sshd_config is 1 or more.",
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error
        try:
            self._start(pythons)
        except BaseException:
            self.close()
            raise
        self._channel.settimeout(None)
        threading.Thread(target=self._receive, name="agent", daemon=True).start()

    # -- starting it --------------------------------------------------------------------------

    def _start(self, pythons: Sequence[str]) -> None:
        token = secrets.token_hex(16)
        self._channel.settimeout(_START_PATIENCE)
        deadline = time.monotonic() + _START_PATIENCE
        try:
            self._channel.exec_command(start_command(pythons, token))
            # A host that runs something else has ended it by now, and what that printed tells more.
            with contextlib.suppress(OSError):
                self._channel.sendall(agent_source())
            self._check_greeting(self._read_greeting(token.encode(), deadline), pythons)
            self.hello = self._read_hello(deadline)
        except TimeoutError:
            raise SshError(
                f"The host started no Python within {_START_PATIENCE:g} s.",
                kind="no-python",
                advice="Run 'ssh HOST python3 -V' to see what it waits for.",
                log_tail=self._error_tail(),
            ) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error

    def _read_greeting(self, token: bytes, deadline: float) -> str:
        """Give what follows the token, which shells may have printed something before."""
        mark = b"\n" + token + b" "
        while True:
            before, found, after = self._buffer.partition(mark)
            if found and b"\n" in after:
                line, _, rest = after.partition(b"\n")
                self._buffer = bytearray(rest)
                return line.decode("utf-8", "replace")
            if len(before) > _MOST_GREETING or not self._fill(deadline):
                printed = bytes(before[-2000:]).decode("utf-8", "replace").strip()
                raise SshError(
                    "The host did not run the command that it was sent.",
                    kind="no-python",
                    advice="See what 'ssh HOST python3 -V' prints: a forced command, or a login "
                    "shell that runs none, may be set up there.",
                    log_tail="\n".join(filter(None, (printed, self._error_tail()))),
                )

    def _check_greeting(self, greeting: str, pythons: Sequence[str]) -> None:
        word, _, rest = greeting.partition(" ")
        if word == "ok":
            return
        if word == "old-python":
            version, _, path = rest.partition(" ")
            raise SshError(
                f"The Python of the host, {path or 'python3'}, is {version}, and 3.9 is needed.",
                kind="old-python",
                advice="Name another in 'python' of ssh_kernels.toml.",
            )
        raise SshError(
            f"The host has no Python: there is none of {', '.join(pythons)}.",
            kind="no-python",
            advice="Install one there, or give its path in 'python' of ssh_kernels.toml.",
            log_tail=self._error_tail(),
        )

    def _read_hello(self, deadline: float) -> dict[str, Any]:
        while (frame := self._take_frame()) is None:
            if not self._fill(deadline):
                raise SshError(
                    "The program on the host ended as soon as it began.",
                    kind="protocol",
                    advice="What it wrote may tell why.",
                    log_tail=self._error_tail(),
                )
        kind, _, payload = frame
        hello = json.loads(payload).get("hello") if kind == JSON else None
        if not isinstance(hello, dict):
            raise SshError("The program on the host did not introduce itself.", kind="protocol")
        return hello

    def _fill(self, deadline: float) -> bool:
        self._channel.settimeout(max(0.001, deadline - time.monotonic()))
        data = self._channel.recv(65536)
        self._buffer += data
        return bool(data)

    def _error_tail(self) -> str:
        while self._channel.recv_stderr_ready():
            self._errors = (self._errors + self._channel.recv_stderr(65536))[-_KEPT_ERRORS:]
        return self._errors.decode("utf-8", "replace").strip()

    # -- requests -----------------------------------------------------------------------------

    def ask(self, op: str, args: Mapping[str, Any]) -> tuple[int, Future[dict[str, Any]]]:
        """Send a request; gives its number and its result to be.

        The future raises :class:`SshError`.
        """
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._next_id += 1
            number = self._next_id
            if self._closed:
                future.set_exception(_lost(None))
                return number, future
            self._asked[number] = future
        self._say({"id": number, "op": op, **args})
        return number, future

    def cancel(self, number: int) -> None:
        """Give a request up; its future still ends."""
        self._say({"cancel": number})

    def _say(self, content: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # then all futures end, too
            self.send_frame(JSON, 0, json.dumps(content).encode())

    def send_frame(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Send one frame.

        Raises:
            OSError: the connection is gone.
        """
        with self._send_lock:
            try:
                self._channel.sendall(FRAME.pack(kind, stream, len(payload)) + payload)
            except (paramiko.SSHException, EOFError) as error:
                raise ConnectionResetError from error

    # -- relayed streams ----------------------------------------------------------------------

    def open_stream(self, target: Target) -> _Stream:
        """Have the agent connect to a socket on the host.

        Raises:
            NotListening: it refuses.
            OSError: the connection is gone.
        """
        with self._lock:
            if self._closed:
                raise ConnectionResetError
            self._next_id += 1
            stream = self._streams[self._next_id] = _Stream(self, self._next_id)
        self.send_frame(OPEN, stream.number, json.dumps(dict(target)).encode())
        if not stream.answered.wait(_OPEN_PATIENCE) or stream.is_gone:
            stream.close()
            raise ConnectionResetError
        if stream.refused:
            self.forget(stream.number)
            raise NotListening
        return stream

    def forget(self, number: int) -> bool:
        """Take no more of a stream; gives whether it was known."""
        with self._lock:
            return self._streams.pop(number, None) is not None

    # -- what comes in ------------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            while True:
                while (frame := self._take_frame()) is not None:
                    self._on_frame(*frame)
                data = self._channel.recv(262_144)
                if not data:
                    break
                self._buffer += data
                if self._channel.recv_stderr_ready():
                    self._error_tail()
        except Exception as error:
            if not isinstance(error, (OSError, EOFError, paramiko.SSHException)):
                logger.exception("The agent on the host sent nonsense")
        finally:
            if not self._closed and self._transport.is_active():
                self.verdict = "the program that it needs on the host has ended"
            self.close()
            self._transport.close()

    def _take_frame(self) -> tuple[int, int, bytes] | None:
        buffer, start = self._buffer, FRAME.size
        if len(buffer) < start:
            return None
        kind, stream, length = FRAME.unpack_from(buffer)
        if length > _LONGEST:
            raise ValueError("a frame is too long")
        if len(buffer) < start + length:
            return None
        payload = bytes(memoryview(buffer)[start : start + length])
        del buffer[: start + length]
        return kind, stream, payload

    def _on_frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == JSON:
            self._on_reply(json.loads(payload))
            return
        with self._lock:
            stream = self._streams.get(number)
        if stream is not None:
            stream.on_frame(kind, payload)

    def _on_reply(self, reply: Mapping[str, Any]) -> None:
        with self._lock:
            future = self._asked.pop(reply.get("id", 0), None)
        if future is None:
            return
        if reply.get("ok") is True:
            future.set_result(reply.get("result") or {})
        else:
            future.set_exception(SshError.from_dict(reply.get("error") or {}))

    def close(self) -> None:
        """End the agent; whatever was asked of it ends with an error.  From any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asked, self._asked = self._asked, {}
            streams, self._streams = self._streams, {}
        with contextlib.suppress(Exception):  # paramiko may find many things wrong by now
            self._channel.close()
        for future in asked.values():
            future.set_exception(_lost(None))
        for stream in streams.values():
            stream.on_frame(CLOSE, b"")


class _Stream:
    """A connection that the agent has made to a socket on the host; a far end of a pump."""

    def __init__(self, agent: AgentChannel, number: int) -> None:
        self.number = number
        self._agent = agent
        #: Set when the agent has said how it went.
        self.answered = threading.Event()
        self.refused = False
        self.is_gone = False
        self._on_data: Callable[[], None] | None = None
        self._received: deque[bytes] = deque()
        self._ended = False
        self._credit = WINDOW
        self._changed = threading.Condition()

    def on_frame(self, kind: int, payload: bytes) -> None:
        """Take a frame of this stream, on the agent channel's thread."""
        with self._changed:
            if kind == DATA:
                self._received.append(payload)
            elif kind == CREDIT:
                self._credit += int.from_bytes(payload, "big")
            elif kind == EOF:
                self._ended = True
            elif kind == REFUSED:
                self.refused = True
            elif kind == CLOSE:
                self.is_gone = self._ended = True
            self._changed.notify_all()
            on_data = self._on_data
        if kind in (OPENED, REFUSED, CLOSE):
            self.answered.set()
        if kind in (DATA, EOF, CLOSE) and on_data is not None:
            on_data()

    def attach(self, on_data: Callable[[], None]) -> None:
        """See :class:`.pump.FarEnd`."""
        with self._changed:
            self._on_data = on_data
        on_data()

    def read(self) -> bytes | None:
        """See :class:`.pump.FarEnd`."""
        with self._changed:
            if not self._received:
                return b"" if self._ended else None
            data = self._received.popleft()
        with contextlib.suppress(OSError):
            self._agent.send_frame(CREDIT, self.number, len(data).to_bytes(4, "big"))
        return data

    def send(self, data: bytes) -> None:
        """See :class:`.pump.FarEnd`."""
        rest = memoryview(data)
        while rest:
            with self._changed:
                while not self._credit and not self.is_gone:
                    self._changed.wait()
                if self.is_gone:
                    raise ConnectionResetError
                # Small enough that others get their turn in between.
                part = rest[: min(self._credit, 65536)]
                self._credit -= len(part)
            self._agent.send_frame(DATA, self.number, bytes(part))
            rest = rest[len(part) :]

    def finish(self) -> None:
        """See :class:`.pump.FarEnd`."""
        self._agent.send_frame(EOF, self.number)

    def close(self) -> None:
        """See :class:`.pump.FarEnd`."""
        with self._changed:
            self.is_gone = self._ended = True
            self._changed.notify_all()
        if self._agent.forget(self.number):
            with contextlib.suppress(OSError):
                self._agent.send_frame(CLOSE, self.number)


def _lost(error: BaseException | None) -> SshError:
    reason = f": {error}" if error is not None and str(error) else ""
    return SshError(f"The connection to the host was lost{reason}.", kind="lost")
