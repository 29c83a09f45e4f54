"""A nanny as anybody starts one, by its request, and what a manager asks it, by plain messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import zmq
from kernel_mgmt import ConnectionInfo, KernelType, Message, Session
from kernel_mgmt.channels import shared_context
from kernel_mgmt.connection import CHANNELS
from kernel_mgmt.curve import encrypt_client
from kernel_mgmt.nanny.request import NannyRequest
from waiting import eventually_sync

__all__ = [
    "ECHO_COMMAND",
    "MODULE",
    "PATIENCE",
    "RECORDS",
    "RUNTIME_DIR",
    "Events",
    "Question",
    "RunningNanny",
    "answer_of",
    "ask_to_keep",
    "connect",
    "echo",
    "is_gone",
    "request_to_keep",
    "running_nanny",
    "start_nanny",
]

#: How long an answer may take, in seconds.
PATIENCE = 30.0

#: The nanny of this environment.
MODULE = (sys.executable, "-m", "kernel_mgmt.nanny")

#: The echo kernel of this environment.
ECHO_COMMAND = (
    *(sys.executable, "-m", "kernel_mgmt.testing.echo_kernel"),
    *("-f", "{connection_file}"),
)

ECHO = KernelType("echo", provider="echo", metadata={"supported_encryption": ["curve"]})

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
RECORDS = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernel-mgmt"


def echo(*options: object) -> tuple[str, ...]:
    """Give the command of an echo kernel with some options."""
    return (*ECHO_COMMAND, *map(str, options))


# --- one that runs -------------------------------------------------------------------------------


class Question:
    """A request on its way, and its reply.

    Args:
        nanny: who is asked.
        name: what.
        content: with what.
    """

    def __init__(self, nanny: RunningNanny, name: str, content: dict[str, Any]) -> None:
        self._session = nanny.new_session()
        self._request = self._session.message(f"{name}_request", content)
        self._socket = nanny.open("nanny_control", zmq.DEALER)
        self._socket.send_multipart(self._session.serialize(self._request))

    def is_answered(self) -> bool:
        """Tell whether the reply is there."""
        return bool(self._socket.poll(0))

    def reply(self) -> dict[str, Any]:
        """Wait for the reply; gives its content. To be called once."""
        with self._socket as socket:
            content = answer_on(socket, self._session, self._request)
            assert not socket.poll(0), "it was answered twice"
        return content


class Events:
    """The events of a nanny from the moment when this was made; those heard are kept.

    Args:
        nanny: who tells them.
    """

    def __init__(self, nanny: RunningNanny) -> None:
        self._session = nanny.new_session()
        self._socket = nanny.open("nanny_events", zmq.SUB)
        self._socket.subscribe(b"")
        #: All that were heard, as name and content.
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def take(self) -> None:
        """Hear what is there."""
        while self._socket.poll(0):
            frames = self._socket.recv_multipart()
            event = self._session.deserialize(frames)
            assert frames[0].decode() in (event.msg_type, event.content.get("subscription"))
            self.heard.append((event.msg_type, event.content))

    @property
    def names(self) -> list[str]:
        """The names of those heard so far, but for output."""
        self.take()
        return [name for name, _ in self.heard if name != "output"]

    def told(self, name: str, times: int = 1) -> dict[str, Any]:
        """Wait for an event's nth time; gives its content."""

        def contents() -> list[dict[str, Any]]:
            self.take()
            return [content for event, content in self.heard if event == name]

        return eventually_sync(lambda: contents()[times - 1 : times], PATIENCE)[0]

    def output(self) -> str:
        """Give all output that was told of so far."""
        self.take()
        return "".join(content["text"] for name, content in self.heard if name == "output")


class RunningNanny:
    """A nanny that has answered well.

    Args:
        answer: its answer.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.pid: int = answer["pid"]
        self.connection_info = ConnectionInfo.from_dict(answer["connection_info"])
        self.connection_file = Path(answer["connection_file"])
        self._sockets = ExitStack()

    def close(self) -> None:
        """Close all sockets that were opened to it."""
        self._sockets.close()

    def new_session(self) -> Session:
        """Make a session with its key."""
        return Session(self.connection_info.key, self.connection_info.signature_scheme)

    def open(self, channel: str, socket_type: int) -> zmq.Socket[bytes]:
        """Connect to one of its sockets, until :meth:`close`."""
        socket = self._sockets.enter_context(shared_context().socket(socket_type))
        socket.linger = 0
        connect(socket, self.connection_info, channel)
        return socket

    def begin(self, name: str, **content: Any) -> Question:
        """Ask it something, and do not wait."""
        return Question(self, name, content)

    def ask(self, name: str, **content: Any) -> dict[str, Any]:
        """Ask it something, as a manager does; gives the content of its reply."""
        session = self.new_session()
        request = session.message(f"{name}_request", content)
        with shared_context().socket(zmq.DEALER) as socket:
            socket.linger = 0
            connect(socket, self.connection_info, "nanny_control")
            socket.send_multipart(session.serialize(request))
            return answer_on(socket, session, request)

    def events(self) -> Events:
        """Listen to its events, of which none is missed from now on."""
        events = Events(self)
        events.told("subscribed")
        events.heard.clear()
        return events

    def send(
        self, msg_type: str, content: dict[str, Any] | None = None, channel: str = "shell"
    ) -> None:
        """Send a message as a client of the kernel that listens to no reply."""
        session = self.new_session()
        with shared_context().socket(zmq.DEALER) as socket:
            socket.linger = int(PATIENCE * 1000)
            connect(socket, self.connection_info, channel)
            socket.send_multipart(session.serialize(session.message(msg_type, content)))

    # -- what it consists of ---------------------------------------------------------------

    @property
    def state(self) -> str:
        """What it says of its kernel."""
        return str(self.ask("nanny_info")["state"])

    @property
    def kernel_pid(self) -> int:
        """The process id of its present kernel, which must be alive."""
        pid = self.ask("nanny_info")["kernel_pid"]
        assert isinstance(pid, int)
        return pid

    @property
    def watchdog_pid(self) -> int:
        """The process id of its watchdog."""
        kernel = self.ask("nanny_info")["kernel_pid"]
        (pid,) = [child.pid for child in psutil.Process(self.pid).children() if child.pid != kernel]
        return pid

    def resident(self) -> int:
        """Give how much memory it has, in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def files(self) -> list[str]:
        """Give what it and its kernels have made and not removed: all that there is, if it is alone.

        The journals are left out: those of killed nannies stay.
        """
        root = Path(os.environ["TMPDIR"])
        return [
            os.path.join(directory, name)
            for folder in (RUNTIME_DIR, RECORDS, *root.glob("km-*"))
            for directory, _, names in os.walk(folder)
            for name in (*names, "")
            if name or Path(directory) not in (RUNTIME_DIR, RECORDS)
            if not Path(directory).name.startswith("journal-")
        ]

    def is_all_gone(self) -> bool:
        """Tell whether nothing is left of it: no process, no file."""
        return is_gone(self.pid) and not self.files()

    def ended(self, timeout: float = PATIENCE) -> None:
        """Wait until nothing is left of it."""
        eventually_sync(self.is_all_gone, timeout)

    def kill(self) -> None:
        """Kill it, and it alone."""
        os.kill(self.pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    """Tell whether a process runs no more; a zombie does not, once its last thread is gone."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def answer_on(socket: zmq.Socket[bytes], session: Session, request: Message) -> dict[str, Any]:
    """Wait for the reply to a manager's request; gives its content."""
    assert socket.poll(PATIENCE * 1000), f"{request.msg_type} was not answered"
    reply = session.deserialize(socket.recv_multipart())
    assert reply.msg_type == request.msg_type.replace("_request", "_reply")
    assert reply.parent_id == request.msg_id
    return reply.content


def connect(socket: zmq.Socket[bytes], info: ConnectionInfo, channel: str) -> None:
    """Connect to a socket of a nanny, encrypted where it is."""
    encrypt_client(socket, info)
    socket.connect(info.endpoint(channel))


# --- starting one --------------------------------------------------------------------------------


def request_to_keep(
    argv: Sequence[str] = ECHO_COMMAND, *, kernel_type: KernelType = ECHO, **fields: Any
) -> NannyRequest:
    """Give the request to keep a kernel.

    Args:
        argv: the kernel's command.
        kernel_type: the kernel's type.
        **fields: further fields of the request.
    """
    defaults: dict[str, Any] = {
        "kernel_id": uuid.uuid4().hex,
        "runtime_dir": RUNTIME_DIR,
        "record_dir": RECORDS,
        "transport": "ipc",
    }
    return NannyRequest(kernel_type=kernel_type, argv=tuple(argv), **{**defaults, **fields})


def start_nanny(
    request: NannyRequest | bytes, nanny: Sequence[str] = MODULE, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a nanny and give it its request; its answer is still to be read.

    Args:
        request: the request, or what is written in its place.
        nanny: the nanny's command.
        **options: for the process.
    """
    process = subprocess.Popen(
        nanny, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    assert process.stdin is not None
    process.stdin.write(request if isinstance(request, bytes) else request.to_json())
    process.stdin.flush()
    return process


def ask_to_keep(
    argv: Sequence[str] = ECHO_COMMAND,
    *,
    nanny: Sequence[str] = MODULE,
    process: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Ask a nanny to keep a kernel; gives its answer.

    Args:
        argv: the kernel's command.
        nanny: the nanny's command.
        process: options for its process.
        **fields: those of :func:`request_to_keep`.
    """
    return answer_of(start_nanny(request_to_keep(argv, **fields), nanny, **(process or {})))


def answer_of(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Give the answer of a nanny that was started, and reap what was."""
    output, errors = process.communicate(timeout=PATIENCE)
    (line,) = output.splitlines() or [b""]
    assert line, errors.decode()
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def running_nanny(argv: Sequence[str] = ECHO_COMMAND, **options: Any) -> Iterator[RunningNanny]:
    """Have a kernel kept by a nanny; both are gone at the end.

    Args:
        argv: the kernel's command.
        **options: those of :func:`ask_to_keep`.
    """
    answer = ask_to_keep(argv, **options)
    given = options.get("connection_info")
    if answer.get("endpoints_refused") and given is not None and given.transport == "tcp":
        # Some other process has been given one of these ports meanwhile.
        fresh = ConnectionInfo.for_tcp()
        ports = {f"{channel}_port": getattr(fresh, f"{channel}_port") for channel in CHANNELS}
        answer = ask_to_keep(argv, **{**options, "connection_info": given.replace(**ports)})
    assert answer["status"] == "ok", answer
    nanny = RunningNanny(answer)
    try:
        yield nanny
        if not is_gone(nanny.pid) and nanny.connection_file.exists():
            assert nanny.ask("stop", timeout=1)["status"] == "ok"
    finally:
        nanny.close()
        _end(nanny.pid)


def _end(pid: int) -> None:
    """See a nanny end, by force when it does not: its watchdog then removes the rest."""
    deadline = time.monotonic() + 5
    while not is_gone(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
