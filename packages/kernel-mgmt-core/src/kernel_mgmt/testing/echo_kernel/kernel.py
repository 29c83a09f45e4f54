"""The echo kernel's sockets and requests, in one thread around one poll."""

from __future__ import annotations

import functools
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import zmq

from ...connection import CHANNELS, ConnectionInfo
from ...curve import encrypt_server
from ...errors import ProtocolError
from ...protocol import Buffer, JSONObject, Message, Session, adapt
from ...protocol.adapter import NEW_IN_5, major_version
from . import answers
from .cell import Cell, CellError
from .wire import receive, send

__all__ = ["EchoKernel"]

_SOCKET_TYPES = {
    "shell": zmq.ROUTER,
    "control": zmq.ROUTER,
    "stdin": zmq.ROUTER,
    "hb": zmq.ROUTER,
    "iopub": zmq.XPUB,
}
_BUSY = b'{"execution_state":"busy"}'
_IDLE = b'{"execution_state":"idle"}'
_STARTING = b'{"execution_state":"starting"}'
#: How often the kernel looks whether its parent is still there, in seconds.
_PARENT_INTERVAL = 1.0
#: How long the last messages may take to leave, in milliseconds.
_LINGER = 1000
_FOREVER = float("inf")
#: What protocol 4 surrounds by busy and idle; since 5.0 it is every request.
_HAS_STATUS_IN_4 = frozenset({"execute_request", "comm_open", "comm_msg", "comm_close"})


class EchoKernel:
    """A kernel that serves requests until it is shut down.

    Args:
        info: where to bind, and the keys; a TCP port of 0 is any that is free.
        welcome: whether subscribers are sent ``iopub_welcome``.
        answer_delay: how long ``kernel_info_request`` waits for its reply, in seconds.
        ignore_shutdown: whether a ``shutdown_request`` is answered and not obeyed.
        protocol: the version of the messaging protocol to report; one of major version 4 is spoken.
        parent_pid: the process to die with; 0 for none.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        welcome: bool = True,
        answer_delay: float = 0.0,
        ignore_shutdown: bool = False,
        protocol: str = "5.5",
        parent_pid: int = 0,
    ) -> None:
        self.session = Session(info.key, info.signature_scheme, username="echo")
        self.execution_count = 0
        #: The last answer to an input_request.
        self.input_reply: Message | None = None
        #: Requests that shall never be followed by idle.
        self.without_idle: set[str] = set()
        self._answer_delay = answer_delay
        self._ignore_shutdown = ignore_shutdown
        self._protocol = protocol
        self._speaks_4 = major_version(protocol) == 4
        self._parent_pid = parent_pid
        self._comms: dict[str, str] = {}
        #: Execution counts and codes.
        self._history: list[tuple[int, str]] = []
        self._late: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._next_tick = time.monotonic() + _PARENT_INTERVAL
        #: What the request being served wants done behind its idle.
        self._afterwards: Callable[[], None] | None = None
        self._running = False
        self._interrupted = False
        self._wakeup, wakeup_end = socket.socketpair()
        self._wakeup_end = wakeup_end
        self._catch_interrupts()

        self._context = zmq.Context()
        #: The ports by channel; those that were 0 are now what the system chose.
        self.ports: dict[str, int] = {}
        welcome = welcome and not self._speaks_4
        self._sockets = {channel: self._bind(info, channel, welcome) for channel in CHANNELS}
        self._shell, self._iopub, self._stdin, self._control, self._hb = self._sockets.values()
        self._handlers: dict[Any, Callable[[], None]] = {
            self._shell: lambda: self._serve_request(self._shell, "shell"),
            self._control: lambda: self._serve_request(self._control, "control"),
            self._stdin: self._take_input,
            self._iopub: self._welcome_subscriber,
            self._hb: self._beat,
            self._wakeup.fileno(): self._empty_wakeup,
        }
        self._poller = zmq.Poller()
        #: While a cell runs, everything but shell.
        self._busy_poller = zmq.Poller()
        for key in self._handlers:
            self._poller.register(key, zmq.POLLIN)
            if key is not self._shell:
                self._busy_poller.register(key, zmq.POLLIN)
        self._requests: dict[str, Callable[[Message], JSONObject | None]] = {
            "kernel_info_request": self._kernel_info,
            "execute_request": self._execute,
            "complete_request": lambda request: answers.complete(request.content),
            "inspect_request": lambda request: answers.inspect(request.content),
            "is_complete_request": lambda request: answers.is_complete(request.content),
            "history_request": lambda request: answers.history(request.content, self._history),
            "comm_info_request": lambda request: answers.comm_info(request.content, self._comms),
            "comm_open": self._comm_open,
            "comm_msg": self._comm_msg,
            "comm_close": self._comm_close,
            "interrupt_request": self._interrupt,
            "shutdown_request": self._shutdown,
        }

    def _bind(self, info: ConnectionInfo, channel: str, welcome: bool) -> zmq.Socket[bytes]:
        plain_pub = channel == "iopub" and not welcome
        bound = self._context.socket(zmq.PUB if plain_pub else _SOCKET_TYPES[channel])
        bound.setsockopt(zmq.SNDHWM, 0)
        bound.setsockopt(zmq.RCVHWM, 0)
        bound.setsockopt(zmq.LINGER, _LINGER)
        if bound.type == zmq.ROUTER:
            # A client that connects again under its identity takes over from its old connection.
            bound.setsockopt(zmq.ROUTER_HANDOVER, 1)
        elif bound.type == zmq.XPUB:
            # Also a second subscriber to the same topic is welcomed.
            bound.setsockopt(zmq.XPUB_VERBOSE, 1)
        encrypt_server(bound, info)
        self.ports[channel] = getattr(info, f"{channel}_port")
        if self.ports[channel]:
            bound.bind(info.endpoint(channel))
        else:
            bound.bind(f"tcp://{info.ip}:*")
            self.ports[channel] = int(bound.getsockopt_string(zmq.LAST_ENDPOINT).split(":")[-1])
        return bound

    # -- the loop --------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve requests; ends with SystemExit."""
        self.publish("status", _STARTING, None)
        while True:
            self._turn(self._poller)

    def stay_mute(self) -> None:
        """Do nothing at all, not even answer the heartbeat, until the parent is gone."""
        while True:
            time.sleep(_PARENT_INTERVAL)
            self._check_parent()

    def close(self) -> None:
        """Close everything, once the last messages have left."""
        self._context.destroy(linger=_LINGER)
        signal.set_wakeup_fd(-1)
        self._wakeup.close()
        self._wakeup_end.close()

    def wait(self, seconds: float = _FOREVER, until: Callable[[], bool] = lambda: False) -> None:
        """Serve everything but shell for a time, or until something is true.

        Raises:
            CellError: the running cell was interrupted.
        """
        deadline = time.monotonic() + seconds
        while not until() and time.monotonic() < deadline:
            self.check_interrupted()
            self._turn(self._busy_poller, deadline)
        self.check_interrupted()

    def check_interrupted(self) -> None:
        """Let an interrupt end the running cell.

        Raises:
            CellError: the running cell was interrupted.
        """
        if self._interrupted:
            self._interrupted = False
            raise CellError("KeyboardInterrupt", "")

    def hang(self) -> None:
        """Serve nothing until a signal interrupts.

        Raises:
            CellError: the running cell was interrupted.
        """
        while True:
            # A signal's byte stays in the pipe: one that came just before is not missed.
            select.select([self._wakeup], [], [], _PARENT_INTERVAL)
            self.check_interrupted()
            self._check_parent()

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after a time."""
        due = time.monotonic() + seconds
        heappush(self._late, (due, next(self._order), function))
        self._next_tick = min(self._next_tick, due)

    def _turn(self, poller: zmq.Poller, deadline: float = _FOREVER) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._tick()
        # Rounded up: a poll that ends too early would only be repeated.
        timeout = int((min(self._next_tick, deadline) - now) * 1000) + 1
        for key, _ in poller.poll(max(timeout, 0)):
            self._handle(key)

    def _handle(self, key: Any) -> None:
        try:
            self._handlers[key]()
        except (zmq.Again, BlockingIOError):
            pass  # a cell that ran since the poll has served this socket already

    def _tick(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            heappop(self._late)[2]()
        self._check_parent()
        self._next_tick = time.monotonic() + _PARENT_INTERVAL
        if self._late:
            self._next_tick = min(self._next_tick, self._late[0][0])

    def _check_parent(self) -> None:
        if self._parent_pid and os.getppid() != self._parent_pid:
            sys.stderr.write("The parent process is gone; the echo kernel ends.\n")
            raise SystemExit(1)

    def _catch_interrupts(self) -> None:
        # The handler only sets a flag, so that no message is ever cut in two; the byte that the
        # signal puts into the pipe ends the poll.
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, lambda *_: self._interrupt_cell())

    def _empty_wakeup(self) -> None:
        self._wakeup.recv(4096)

    def _interrupt_cell(self) -> None:
        self._interrupted = self._running

    # -- messages --------------------------------------------------------------------------

    def publish(
        self,
        msg_type: str,
        content: JSONObject | bytes,
        parent: Message | None,
        buffers: Any = (),
    ) -> None:
        """Send a message on iopub."""
        send(self._iopub, self.iopub_frames(msg_type, content, parent, buffers))

    def iopub_frames(
        self,
        msg_type: str,
        content: JSONObject | bytes,
        parent: Message | None,
        buffers: Any = (),
    ) -> list[Buffer]:
        """Give the frames of a message for iopub, with its type as the topic."""
        header = self.session.header(msg_type)
        parent_header = parent.header if parent is not None else {}
        message = Message(header, parent_header, b"{}", content, buffers)
        if self._speaks_4:
            message = adapt(message, 4)
        message.idents = (message.msg_type.encode(),)
        return self.session.serialize(message)

    def publish_frames(self, messages: list[list[Buffer]]) -> None:
        """Send frames on iopub as they are, in one burst."""
        for frames in messages:
            send(self._iopub, frames)

    def ask(self, request: Message, prompt: str, *, password: bool) -> str:
        """Ask the sender of a request for input, and give its answer.

        Raises:
            CellError: the running cell was interrupted.
        """
        while self._stdin.poll(0):
            self._take_input()  # answers to questions that nobody asks any more
        self.input_reply = None
        content = {"prompt": prompt, "password": password}
        self._send(self._stdin, "input_request", content, request)
        self.wait(until=lambda: self.input_reply is not None)
        assert self.input_reply is not None
        return str(self.input_reply.content.get("value", ""))

    def _send(
        self, to: zmq.Socket[bytes], msg_type: str, content: JSONObject, request: Message
    ) -> None:
        header = self.session.header(msg_type)
        message = Message(header, request.header, b"{}", content, (), request.idents)
        if self._speaks_4:
            message = adapt(message, 4, request)
        send(to, self.session.serialize(message))

    def _receive(self, source: zmq.Socket[bytes], channel: str) -> Message | None:
        try:
            message = self.session.deserialize(receive(source), channel)
            return self._from_version_4(message) if self._speaks_4 else message
        except ProtocolError as error:
            sys.stderr.write(f"Dropped a message on {channel}: {error}\n")
            return None

    def _from_version_4(self, message: Message) -> Message | None:
        """Read a message as a kernel of protocol 4 does: whatever version its header may tell."""
        if message.msg_type in NEW_IN_5:
            sys.stderr.write(f"Unknown in protocol 4: {message.msg_type}\n")
            return None
        message.header.pop("version", None)
        return adapt(message, 5)

    def _take_input(self) -> None:
        message = self._receive(self._stdin, "stdin")
        if message is not None and message.msg_type == "input_reply":
            self.input_reply = message

    def _beat(self) -> None:
        self._hb.send_multipart(self._hb.recv_multipart(zmq.NOBLOCK))

    def _welcome_subscriber(self) -> None:
        event = self._iopub.recv(zmq.NOBLOCK)
        if event[:1] == b"\x01":
            topic = event[1:]
            message = self.session.message(
                "iopub_welcome", {"subscription": topic.decode("utf-8", "replace")}, idents=(topic,)
            )
            send(self._iopub, self.session.serialize(message))

    # -- requests --------------------------------------------------------------------------

    def _serve_request(self, source: zmq.Socket[bytes], channel: str) -> None:
        request = self._receive(source, channel)
        if request is not None:
            self._serve(request)

    def _serve(self, request: Message) -> None:
        handler = self._requests.get(request.msg_type, self._refuse)
        has_status = not self._speaks_4 or (
            request.msg_type in _HAS_STATUS_IN_4 and handler != self._abort
        )
        if has_status:
            self.publish("status", _BUSY, request)
        try:
            content = handler(request)
        except (ProtocolError, LookupError, TypeError) as error:
            content = answers.failure(type(error).__name__, str(error))
        if content is not None:
            self._reply(request, content)
        if has_status and request.msg_id not in self.without_idle:
            self.publish("status", _IDLE, request)
        if self._afterwards is not None:
            afterwards, self._afterwards = self._afterwards, None
            afterwards()

    def _reply(self, request: Message, content: JSONObject) -> None:
        msg_type = request.msg_type.replace("_request", "_reply")
        self._send(self._sockets[request.channel], msg_type, content, request)

    def _refuse(self, request: Message) -> JSONObject | None:
        if self._speaks_4 or not request.msg_type.endswith("_request"):
            return None
        return answers.failure(
            "NotImplementedError", f"The echo kernel does not know {request.msg_type}."
        )

    def _kernel_info(self, request: Message) -> JSONObject:
        if self._answer_delay:
            self.wait(self._answer_delay)
        return answers.kernel_info(self._protocol)

    def _execute(self, request: Message) -> JSONObject | None:
        content = request.content
        code, silent = content["code"], content.get("silent", False)
        if not silent and content.get("store_history", True):
            self.execution_count += 1
            if code:
                self._history.append((self.execution_count, code))
        if not silent:
            shown = {"code": code, "execution_count": self.execution_count}
            self.publish("execute_input", shown, request)
        reply: JSONObject = {
            "status": "ok",
            "execution_count": self.execution_count,
            "user_expressions": {
                name: {"status": "ok", "data": {"text/plain": expression}, "metadata": {}}
                for name, expression in (content.get("user_expressions") or {}).items()
            },
            "payload": [],
        }
        if not code:
            return reply
        cell = Cell(self, request, silent=silent)
        self._running, self._interrupted = True, False
        try:
            cell.run(code)
        except CellError as error:
            failure = {"ename": error.ename, "evalue": error.evalue, "traceback": error.traceback}
            self.publish("error", failure, request)
            reply = {"status": "error", "execution_count": self.execution_count, **failure}
            if content.get("stop_on_error", True):
                # Taken before the reply: what its receiver sends next is not queued behind it.
                self._afterwards = functools.partial(self._abort_all, self._take_queue())
        finally:
            self._running = False
        return reply if cell.replies else None

    def _take_queue(self) -> list[Message]:
        queue = []
        while self._shell.poll(0):
            request = self._receive(self._shell, "shell")
            if request is not None:
                queue.append(request)
        return queue

    def _abort_all(self, queue: list[Message]) -> None:
        """Abort the execute requests behind a failed one; serve the rest."""
        execute, self._requests["execute_request"] = self._execute, self._abort
        try:
            for request in queue:
                self._serve(request)
        finally:
            self._requests["execute_request"] = execute

    def _abort(self, request: Message) -> JSONObject:
        return {"status": "aborted", "execution_count": self.execution_count}

    def _comm_open(self, request: Message) -> None:
        self._comms[request.content["comm_id"]] = request.content["target_name"]

    def _comm_msg(self, request: Message) -> None:
        self.publish("comm_msg", request.content, request, request.buffers)

    def _comm_close(self, request: Message) -> None:
        self._comms.pop(request.content["comm_id"], None)

    def _interrupt(self, request: Message) -> JSONObject:
        self._interrupt_cell()
        return {"status": "ok"}

    def _shutdown(self, request: Message) -> JSONObject:
        if not self._ignore_shutdown:
            self._afterwards = sys.exit
        return {"status": "ok", "restart": request.content.get("restart", False)}
