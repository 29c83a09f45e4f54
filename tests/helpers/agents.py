"""The agent of the provider ssh as the tunnel speaks to it, over plain pipes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from kernel_mgmt.nanny.memory import TUNABLES
from kernel_mgmt.nanny_client.archive import nanny_archive
from kernel_mgmt_ssh.remote import JSON, agent_source, start_command
from kernel_mgmt_ssh.remote.frames import FrameReader, frame
from nannies import ECHO_COMMAND, is_gone

__all__ = ["PATIENCE", "AgentFailure", "RunningAgent", "end", "kernel_request", "started"]

#: How long the agent may take for anything, in seconds.
PATIENCE = 30.0

TOKEN = "abc123"


class AgentFailure(Exception):
    """The agent answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.kind: str = error["kind"]
        self.cause: str = error["cause"]
        self.advice: str = error["advice"]
        self.log_tail: str = error["log_tail"]
        self.exit_status: dict[str, Any] | None = error["exit_status"]


class RunningAgent:
    """An agent that a shell has started, as sshd has the user's login shell do it.

    Args:
        pythons: which Pythons it may run with.
        shell: the command that is given what sshd is asked to run.
        env: variables of the host's session; None removes one.
        command: what is run in place of a shell.
        expect: the words that the host's line must have after the token.
    """

    def __init__(
        self,
        pythons: Sequence[str] = (sys.executable,),
        *,
        shell: Sequence[str] = ("/bin/sh", "-c"),
        env: Mapping[str, str | None] | None = None,
        command: Sequence[str] | None = None,
        expect: str = "ok",
    ) -> None:
        environment = dict(os.environ)
        for name, value in (env or {}).items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        self.process = subprocess.Popen(
            command or [*shell, start_command(pythons, TOKEN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self._reader = FrameReader()
        #: Frames that nobody has taken yet.
        self.frames: list[tuple[int, int, bytes]] = []
        self._replies: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        #: What shells wrote before.
        self.greeting = b""
        try:
            if expect == "ok":
                self._write(agent_source())
            self.line = self._first_line()
            assert self.line.startswith(expect), self.line
            self.hello: dict[str, Any] = {}
            if expect == "ok":
                self.take(lambda: self.frames)
                self.hello = json.loads(self.frames.pop(0)[2])["hello"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- what the tunnel does --------------------------------------------------------------

    def ask(self, op: str, **args: Any) -> dict[str, Any]:
        """Ask, and wait for the result; raises AgentFailure for an error."""
        return self.result(self.begin(op, **args))

    def begin(self, op: str, **args: Any) -> int:
        """Ask; gives the number of the request."""
        self._number += 1
        self.send(JSON, 0, json.dumps({"id": self._number, "op": op, **args}).encode())
        return self._number

    def cancel(self, number: int) -> None:
        """Give a request up."""
        self.send(JSON, 0, json.dumps({"cancel": number}).encode())

    def is_answered(self, number: int) -> bool:
        """Tell whether a request's reply is there."""
        self._receive(0)
        return number in self._replies

    def result(self, number: int) -> dict[str, Any]:
        """Wait for the result of a request; raises AgentFailure for an error."""
        self.take(lambda: number in self._replies)
        reply = self._replies.pop(number)
        if not reply["ok"]:
            raise AgentFailure(reply["error"])
        result: dict[str, Any] = reply["result"]
        return result

    def put_archive(self) -> str:
        """Give the agent the nanny; gives its digest."""
        data = nanny_archive()
        digest = hashlib.sha256(data).hexdigest()
        packed = base64.b64encode(zlib.compress(data)).decode()
        self.ask("put", digest=digest, data=packed)
        return digest

    def start(self, argv: Sequence[str] | None, **args: Any) -> dict[str, Any]:
        """Have a kernel started, and wait for that."""
        return self.result(self.begin_start(argv, **args))

    def begin_start(self, argv: Sequence[str] | None, **args: Any) -> int:
        """Have a kernel started; gives the number of the request."""
        fields = args.pop("fields", {})
        asked = {
            "pythons": [sys.executable],
            "request": kernel_request(argv, **fields),
            "tunables": TUNABLES,
            **args,
        }
        asked.setdefault("archive", self.put_archive())
        return self.begin("start", **asked)

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Send a frame."""
        self._write(frame(kind, stream, payload))

    def next_frame(self, stream: int) -> tuple[int, bytes]:
        """Wait for the next frame of a stream; gives its kind and payload."""
        self.take(lambda: any(number == stream for _, number, _ in self.frames))
        found = next(item for item in self.frames if item[1] == stream)
        self.frames.remove(found)
        return found[0], found[2]

    # -- its end ---------------------------------------------------------------------------

    def hang_up(self) -> None:
        """End the connection; returns when the agent is gone."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, by force when it does not."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._selector.close()
            self.process.stdout.close()
            self.errors = self.process.stderr.read()
            self.process.stderr.close()

    # -- its own ---------------------------------------------------------------------------

    def take(self, is_there: Callable[[], object], patience: float = PATIENCE) -> None:
        """Read until something is there."""
        deadline = time.monotonic() + patience
        while not is_there():
            left = deadline - time.monotonic()
            assert left > 0, "the agent did not answer in time"
            assert self._receive(left), "the agent has ended"

    def _receive(self, patience: float) -> bool:
        """Read what there is; gives False at the end."""
        assert self.process.stdout is not None
        if not self._selector.select(patience):
            return True
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        for kind, stream, payload in self._reader.feed(data):
            content = json.loads(payload) if kind == JSON and stream == 0 else {}
            if "id" in content:
                self._replies[content["id"]] = content
            else:
                self.frames.append((kind, stream, payload))
        return bool(data)

    def _first_line(self) -> str:
        """Read up to the line with the token; gives the rest of that line."""
        assert self.process.stdout is not None
        text = bytearray()
        deadline = time.monotonic() + PATIENCE
        mark = b"\n" + TOKEN.encode() + b" "
        while mark not in text or not text.endswith(b"\n"):
            assert self._selector.select(deadline - time.monotonic()), text
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, (bytes(text), self.process.stderr and self.process.stderr.read())
            text += byte
        self.greeting, _, line = bytes(text).rpartition(mark)
        return line.decode().strip()

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.process.stdin.fileno(), rest) :]


@contextmanager
def started(
    agent: RunningAgent, argv: Sequence[str] | None = ECHO_COMMAND, **args: Any
) -> Iterator[dict[str, Any]]:
    """Have a kernel started on the host; it is ended with all that keeps it."""
    result = agent.start(argv, **args)
    try:
        yield result
    finally:
        end(result["answer"]["pid"])


def end(pid: int) -> None:
    """End a nanny or a plain supervisor, by force when it does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not is_gone(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def kernel_request(argv: Sequence[str] | None, **fields: Any) -> dict[str, Any]:
    """Give the request for a kernel as the provider makes it: what only the host knows is left out."""
    return {
        "version": 1,
        "kernel_id": uuid.uuid4().hex,
        "kernel_type": {"provider": "ssh", "name": "echo", "display_name": "Echo"},
        "argv": None if argv is None else list(argv),
        "runtime_dir": None,
        "record_dir": None,
        "cwd": None,
        "env": {},
        "transport": "ipc",
        **fields,
    }
