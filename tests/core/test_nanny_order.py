"""In which order the front passes on what a kernel says on several sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from kernel_mgmt import ConnectionInfo, Session
from kernel_mgmt.endpoints import private_directory, remove_directory
from kernel_mgmt.nanny.front import Front
from waiting import eventually_sync

PATIENCE = 10
KERNEL_TYPES = {"shell": zmq.ROUTER, "control": zmq.ROUTER, "stdin": zmq.ROUTER, "hb": zmq.REP}


class Kernel:
    """The sockets of a kernel that says what it is told to."""

    def __init__(self, directory: Path, context: zmq.Context[Any]) -> None:
        self.info = ConnectionInfo.for_ipc(directory)
        self.session = Session(self.info.key)
        self.sockets = {
            channel: context.socket(kind)
            for channel, kind in {**KERNEL_TYPES, "iopub": zmq.PUB}.items()
        }
        for channel, socket in self.sockets.items():
            socket.linger = 0
            socket.bind(self.info.endpoint(channel))
        self.peer = b""

    def answer_who_it_is(self) -> None:
        """Answer one kernel_info_request, and say something on iopub."""
        frames = self.sockets["shell"].recv_multipart()
        request = self.session.deserialize(frames)
        self.peer = frames[0]
        self.say("iopub", "status", {"execution_state": "idle"}, [b"status"])
        reply = self.session.message("kernel_info_reply", {}, parent=request, idents=request.idents)
        self.sockets["shell"].send_multipart(self.session.serialize(reply))

    def say(self, channel: str, msg_type: str, content: dict[str, Any], route: list[bytes]) -> None:
        """Send a message."""
        message = self.session.message(msg_type, content, idents=route)
        self.sockets[channel].send_multipart(self.session.serialize(message))

    def close(self) -> None:
        """Close the sockets."""
        for socket in self.sockets.values():
            socket.close(0)


class RecordingFront(Front):
    """A front that notes what it sends, and on which channel."""

    def __init__(self, info: ConnectionInfo, ready: threading.Event) -> None:
        self.sent: list[str] = []
        super().__init__(
            info,
            on_control=lambda frames: None,
            on_ready=lambda number: ready.set(),
            on_shutdown=lambda restart: None,
        )

    def _send(self, socket: Any, frames: Any) -> None:
        self.sent += [name for name, own in self._sockets.items() if own is socket]
        super()._send(socket, frames)


@pytest.fixture
def private() -> Iterator[Path]:
    """A private directory."""
    directory = private_directory()
    yield directory
    remove_directory(directory)


def test_output_goes_before_a_question(private: Path) -> None:
    """What a kernel prints before it asks for input is passed on before the question."""
    ready, stands, go = threading.Event(), threading.Event(), threading.Event()
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        kernel = Kernel(private, context)
        stack.callback(kernel.close)
        info = ConnectionInfo.for_ipc(
            private / "f", key=kernel.info.key, nanny_control_port=6, nanny_events_port=7
        )
        (private / "f").mkdir()
        front = RecordingFront(info, ready)
        stack.callback(front.close)
        loop = threading.Thread(target=front.run)
        loop.start()
        stack.callback(loop.join, PATIENCE)
        stack.callback(front.call, front.stop)
        front.call(front.meet, kernel.info, 1)
        while not ready.is_set():
            if kernel.sockets["shell"].poll(10):
                kernel.answer_who_it_is()

        def stand_still() -> None:
            stands.set()
            go.wait(PATIENCE)

        for _ in range(3):  # turns, after which it has nothing left to look at
            turned = threading.Event()
            front.call(turned.set)
            assert turned.wait(PATIENCE)
        front.call(stand_still)
        assert stands.wait(PATIENCE)
        del front.sent[:]
        kernel.say("iopub", "stream", {"name": "stdout", "text": "first"}, [b"stream"])
        kernel.say("stdin", "input_request", {"prompt": "?"}, [kernel.peer, b"client"])
        back = front._back
        assert back is not None
        eventually_sync(
            lambda: all(
                back.sockets[channel].getsockopt(zmq.EVENTS) & zmq.POLLIN
                for channel in ("iopub", "stdin")
            ),
            PATIENCE,
        )

        def look_at_question_alone() -> None:
            front._subscribers = 1
            front._to_look_at = {back.sockets["stdin"]}

        front.call(look_at_question_alone)
        go.set()
        eventually_sync(lambda: len(front.sent) == 2, PATIENCE)
        assert front.sent == ["iopub", "stdin"]
