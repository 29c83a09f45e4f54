"""A nanny that says what a test wants: real sockets and signatures, and no kernel of its own."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import zmq
from kernel_mgmt import ConnectionInfo, Message, Session
from kernel_mgmt.connection import free_tcp_ports
from kernel_mgmt.nanny.protocol import PROTOCOL_VERSION, REQUESTS

__all__ = ["KILLED", "FakeNanny", "nanny_connection"]

KILLED = {"code": None, "signal": 9, "reason": ""}
#: How long a call into the thread may take, in seconds.
_PATIENCE = 20.0


@contextmanager
def nanny_connection(transport: str = "ipc") -> Iterator[ConnectionInfo]:
    """Give addresses for a kernel and its nanny; what is at Unix sockets goes with the block."""
    if transport == "tcp":
        control, events = free_tcp_ports(2)
        yield ConnectionInfo.for_tcp(nanny_control_port=control, nanny_events_port=events)
        return
    # Its name is not that of our own socket directories, which go with their kernel.
    directory = Path(tempfile.mkdtemp(prefix="fake-"))
    try:
        yield ConnectionInfo.for_ipc(directory, nanny_control_port=6, nanny_events_port=7)
    finally:
        shutil.rmtree(directory)


class FakeNanny:
    """Answers on the sockets of a nanny, in a thread, for as long as a block lasts.

    Args:
        info: where to listen.
        protocol_version: what it says that it speaks.
        capabilities: what it says that it can.
        restart: replaces the kernel, in the thread, when it is asked to.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        protocol_version: str = PROTOCOL_VERSION,
        capabilities: Sequence[str] = tuple(REQUESTS),
        restart: Callable[[], object] = lambda: None,
    ) -> None:
        self._info = info
        self._restart = restart
        self._session = Session(info.key, info.signature_scheme)
        self._calls: deque[Callable[[], object]] = deque()
        self._waiting: list[tuple[Message, int]] = []
        self._waiting_for_ready: list[tuple[Message, int]] = []
        self._stopping = False
        #: Names and contents of what was asked so far.
        self.asked: list[tuple[str, dict[str, Any]]] = []
        #: What nanny_info answers.
        self.info: dict[str, Any] = {
            "protocol_version": protocol_version,
            "capabilities": list(capabilities),
            "kernel_id": "fake-kernel",
            "kernel": 1,
            "nanny_pid": 4711,
        }
        #: The kernels that have ended: number to exit status, log tail and restarting.
        self.ends: dict[int, dict[str, Any]] = {}
        #: Requests that are not answered.
        self.silent: set[str] = set()
        #: Requests that are answered with an error: name to ename and evalue.
        self.errors: dict[str, tuple[str, str]] = {}
        #: What other replies hold beside their status.
        self.answers: dict[str, dict[str, Any]] = {"log_tail": {"text": "one\ntwo\nthree\n"}}
        #: What is sent before each reply: gets its frames and gives messages.
        self.noise: Callable[[list[Any]], list[list[Any]]] = lambda frames: []
        #: How many listen to events.
        self.listeners = 0
        self._context = zmq.Context()
        self._thread = threading.Thread(target=self._run, name="fake nanny")

    # -- for tests -------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._control = self._context.socket(zmq.ROUTER)
        self._events = self._context.socket(zmq.XPUB)
        self._events.set(zmq.XPUB_VERBOSER, 1)
        for socket, name in ((self._control, "nanny_control"), (self._events, "nanny_events")):
            socket.linger = 0
            socket.bind(self._info.endpoint(name))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Be gone, whatever is under way."""
        self._stopping = True
        self._thread.join()
        self._context.destroy(linger=0)

    def call(self, function: Callable[[], object]) -> None:
        """Do something in the thread, and wait until it is done."""
        done = threading.Event()
        self._calls.append(lambda: (function(), done.set()))
        assert done.wait(_PATIENCE)

    @property
    def kernel(self) -> int:
        """The number of the present kernel."""
        return int(self.info["kernel"])

    def names(self) -> list[str]:
        """What was asked so far."""
        return [name for name, _ in self.asked]

    def end(self, log_tail: str = "", *, restarting: bool = False, status: Any = KILLED) -> None:
        """Let the present kernel have ended."""
        details = {"exit_status": status, "log_tail": log_tail, "restarting": restarting}
        self.call(lambda: self._end(details))

    def start(self) -> None:
        """Let the next kernel answer."""
        self.call(self._start)

    def give_up(self) -> None:
        """Let there be no next kernel."""
        self.errors["wait_ready"] = ("KernelFailed", "It died too often.")
        self.call(self._answer_waiting)

    def tell(self, name: str, content: Any) -> None:
        """Send an event."""
        message = self._session.message(name, content)
        self.send_event([name.encode(), *self._session.serialize(message)])

    def send_event(self, frames: list[Any]) -> None:
        """Send frames to all who listen."""
        self.call(lambda: self._events.send_multipart(frames))

    def cut(self) -> None:
        """Lose all connections, and listen again."""

        def again() -> None:
            endpoint = self._info.endpoint("nanny_control")
            self._waiting.clear()
            self._waiting_for_ready.clear()
            self._control.close(linger=0)
            self._control = self._context.socket(zmq.ROUTER)
            while True:
                try:
                    self._control.bind(endpoint)
                    return
                except zmq.ZMQError:  # the old one takes a moment to go
                    continue

        self.call(again)

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            while self._calls:
                self._calls.popleft()()
            if self._control.poll(5):
                self._on_frames(self._control.recv_multipart())
            while self._events.poll(0):
                self.listeners += 1 if self._events.recv()[0] else -1

    def _on_frames(self, frames: list[bytes]) -> None:
        request = self._session.deserialize(frames)
        name = request.msg_type.removesuffix("_request")
        self.asked.append((name, request.content))
        if name in self.silent:
            return
        if name in self.errors:
            ename, evalue = self.errors[name]
            self._reply(request, {"status": "error", "ename": ename, "evalue": evalue})
        elif name == "wait":
            self._waiting.append((request, request.content["kernel"] or self.kernel))
            self._answer_waiting()
        elif name == "wait_ready":
            self._waiting_for_ready.append((request, request.content["after"]))
            self._answer_waiting()
        else:
            self._reply(request, {"status": "ok", **self._answer(name)})

    def _answer(self, name: str) -> dict[str, Any]:
        if name == "nanny_info":
            return self.info
        if name in self.answers:
            return self.answers[name]
        if name == "restart":
            self._end({"exit_status": KILLED, "log_tail": "", "restarting": True})
            self._restart()
            self._start()
        elif name in ("kill", "stop"):
            self._end({"exit_status": KILLED, "log_tail": "", "restarting": False})
        return {"kernel": self.kernel, "alive": self.kernel not in self.ends}

    def _end(self, details: dict[str, Any]) -> None:
        self.ends.setdefault(self.kernel, details)
        self._answer_waiting()

    def _start(self) -> None:
        self.info["kernel"] += 1
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        for request, kernel in tuple(self._waiting):
            if kernel in self.ends:
                self._waiting.remove((request, kernel))
                self._reply(request, {"status": "ok", "kernel": kernel, **self.ends[kernel]})
        for request, after in tuple(self._waiting_for_ready):
            if "wait_ready" in self.errors:
                ename, evalue = self.errors["wait_ready"]
                content = {"status": "error", "ename": ename, "evalue": evalue}
            elif self.kernel > after and self.kernel not in self.ends:
                content = {"status": "ok", "kernel": self.kernel}
            else:
                continue
            self._waiting_for_ready.remove((request, after))
            self._reply(request, content)

    def _reply(self, request: Message, content: Any) -> None:
        message = self._session.message(
            request.msg_type.replace("_request", "_reply"), content, parent=request
        )
        frames = self._session.serialize(message)
        for wrong in self.noise(frames):
            self._control.send_multipart([*request.idents, *wrong])
        self._control.send_multipart([*request.idents, *frames])
