"""What strangers can send a nanny: frames and bytes of all sorts, none of which harms it or its kernel."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
import zmq
from kernel_mgmt import ConnectionInfo, Session
from kernel_mgmt.connection import CHANNELS
from kernel_mgmt.launch import NannyOptions
from nannies import PATIENCE, RunningNanny, running_nanny
from waiting import eventually_sync

#: How much a nanny may grow under 10,000 frames, in bytes, after it has seen some. What it keeps of
#: them is their signatures, where these are good.
GROWTH = 8 * 1024 * 1024
FRAMES = 10_000
WARM_UP = 5_000
#: How soon a good request is answered while bad ones come, in seconds; a busy machine is slow.
PROMPTLY = 5.0

SEVEN = [*CHANNELS, "nanny_control", "nanny_events"]


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny whose kernel is ready, and would not be started again."""
    with running_nanny(options=NannyOptions(restart_policy=None)) as nanny:
        nanny.ask("wait_ready")
        yield nanny
        unharmed(nanny)


def unharmed(nanny: RunningNanny) -> None:
    """Assert that nanny and kernel are what they were: both answer, and no kernel was replaced."""
    began = time.monotonic()
    info = nanny.ask("nanny_info")
    assert (info["kernel"], info["restarts"], info["exit_status"]) == (1, 0, None)
    session = nanny.new_session()
    with contextlib.closing(nanny.open("shell", zmq.DEALER)) as shell:
        request = session.message("execute_request", {"code": ""})
        shell.send_multipart(session.serialize(request))
        assert shell.poll(PATIENCE * 1000)
        reply = session.deserialize(shell.recv_multipart())
    assert (reply.parent_id, reply.content["status"]) == (request.msg_id, "ok")
    assert time.monotonic() - began < PROMPTLY


# --- frames --------------------------------------------------------------------------------------

Frames = list[bytes]


class Forger:
    """Makes frames that no good manager or client sends; each kind again and again.

    Args:
        info: has the key, which a forger does not know, but a broken client does.
        names: the types of the messages that are made of them.
    """

    def __init__(self, info: ConnectionInfo, names: Sequence[str]) -> None:
        self._random = random.Random(4711)
        self._session = Session(info.key)
        self._stranger = Session("another key")
        self._names = names
        self._replayed = self._good()
        self.kinds: list[Callable[[], Frames]] = [
            self._garbage,
            self._random_frames,
            self._unsigned,
            self._forged,
            self._changed,
            self._truncated,
            self._without_delimiter,
            self._not_json,
            self._wrong_types,
            self._deep,
            self._many_frames,
            lambda: self._replayed,
            lambda: [b""],
            lambda: [b"<IDS|MSG>"],
            lambda: [b"<IDS|MSG>"] * 6,
        ]

    def frames(self, number: int) -> Frames:
        """Give the frames of one message."""
        return self.kinds[number % len(self.kinds)]()

    @property
    def replayed(self) -> Frames:
        """The good message that is sent again and again."""
        return self._replayed

    def _good(self, session: Session | None = None) -> Frames:
        session = session or self._session
        message = session.message(self._random.choice(self._names), {"seconds": None})
        return [bytes(frame) for frame in session.serialize(message)]

    def _sign(self, frames: Frames) -> Frames:
        return [frames[0], self._session.sign(frames[2:6]), *frames[2:]]

    def _garbage(self) -> Frames:
        return [self._random.randbytes(self._random.randrange(200))]

    def _random_frames(self) -> Frames:
        return [self._random.randbytes(10) for _ in range(self._random.randrange(1, 12))]

    def _unsigned(self) -> Frames:
        frames = self._good()
        return [frames[0], b"", *frames[2:]]

    def _forged(self) -> Frames:
        return self._good(self._stranger)

    def _changed(self) -> Frames:
        return [*self._good()[:-1], b'{"seconds": 1}']

    def _truncated(self) -> Frames:
        return self._good()[: self._random.randrange(1, 6)]

    def _without_delimiter(self) -> Frames:
        return self._good()[1:]

    def _not_json(self) -> Frames:
        frames = self._good()
        frames[self._random.randrange(2, 6)] = self._random.choice(
            [b"", b"{", b"\xff\xfe", b"nonsense", b'{"a": \xed\xa0\x80}']
        )
        return self._sign(frames)

    def _wrong_types(self) -> Frames:
        frames = self._good()
        value = self._random.choice([None, 5, "x", [], [[]], {"msg_id": []}, {"msg_type": {}}])
        frames[self._random.randrange(2, 6)] = json.dumps(value).encode()
        return self._sign(frames)

    def _deep(self) -> Frames:
        frames = self._good()
        depth = self._random.choice([100, 900, 1000, 1100, 20_000])
        frames[5] = b'{"seconds": ' + b"[" * depth + b"]" * depth + b"}"
        return self._sign(frames)

    def _many_frames(self) -> Frames:
        return [*self._good(self._stranger), *[b"x"] * 500]


def flood(nanny: RunningNanny, channel: str, forger: Forger) -> None:
    """Send bad frames to a channel, with good requests in between; the nanny's memory stays as it is."""
    kind = {"iopub": zmq.XSUB, "nanny_events": zmq.XSUB}.get(channel, zmq.DEALER)
    sender = nanny.open(channel, kind)
    sender.send_multipart(forger.replayed)
    before = 0
    for number in range(WARM_UP + FRAMES):
        if number == WARM_UP:
            settled(nanny)
            before = nanny.resident()
        frames = forger.frames(number)
        if kind == zmq.XSUB:
            frames = [b"\2", *frames]  # what is no subscription is handed up as it is
        sender.send_multipart(frames)
        if number % 250 == 0:
            all_taken(nanny, sender, channel)
            began = time.monotonic()
            assert nanny.ask("is_alive") == {"status": "ok", "alive": True, "kernel": 1}
            assert time.monotonic() - began < PROMPTLY
    settled(nanny)
    assert nanny.resident() - before < GROWTH


#: What is answered on a channel, after all that came before it.
_ANSWERED = {
    "shell": "comm_info_request",
    "control": "comm_info_request",
    "nanny_control": "is_alive_request",
}


def all_taken(nanny: RunningNanny, sender: zmq.Socket[bytes], channel: str) -> None:
    """Wait until what was sent is dealt with, where that can be seen: it shall not pile up."""
    session = nanny.new_session()
    if channel in _ANSWERED:
        request = session.message(_ANSWERED[channel])
        frames, mark = session.serialize(request), request.msg_id.encode()
    elif channel == "hb":
        mark = os.urandom(16)
        frames = [mark]
    else:
        return
    sender.send_multipart(frames)
    heard = b""
    while mark not in heard:
        assert sender.poll(PATIENCE * 1000)
        heard = b"".join(sender.recv_multipart())


def settled(nanny: RunningNanny) -> None:
    """Wait until a nanny and its kernel have nothing to do."""
    processes = [psutil.Process(nanny.pid), psutil.Process(nanny.kernel_pid)]

    def work() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def is_idle() -> bool:
        before = work()
        time.sleep(0.1)
        return work() == before

    eventually_sync(is_idle, PATIENCE)


@pytest.mark.parametrize("channel", ["nanny_control", "nanny_events"])
def test_bad_frames_for_nanny(nanny: RunningNanny, channel: str) -> None:
    """10,000 bad frames on the nanny's own sockets harm nobody, and its memory stays flat."""
    names = ["lease_request", "nanny_info_request", "made_up_request", "wait", "died"]
    flood(nanny, channel, Forger(nanny.connection_info, names))


@pytest.mark.parametrize("channel", CHANNELS)
def test_bad_frames_for_kernel(nanny: RunningNanny, channel: str) -> None:
    """10,000 bad frames on a kernel's sockets harm nobody, and the nanny's memory stays flat."""
    names = ["comm_info_request", "kernel_info_request", "made_up", "input_reply", "comm_msg"]
    flood(nanny, channel, Forger(nanny.connection_info, names))


def test_bad_frames_without_kernel() -> None:
    """Nor do they harm the nanny of a dead kernel, which answers what is good."""
    with running_nanny(options=NannyOptions(restart_policy=None)) as nanny:
        nanny.ask("kill")
        forger = Forger(nanny.connection_info, ["comm_info_request", "kernel_info_request"])
        for channel in ("shell", "control", "stdin", "hb"):
            sender = nanny.open(channel, zmq.DEALER)
            for number in range(2000):
                sender.send_multipart(forger.frames(number))
            assert nanny.state == "dead"
        nanny.ask("restart")
        assert nanny.ask("is_alive")["alive"] is True


def test_answers_to_bad_requests(nanny: RunningNanny) -> None:
    """What is signed well and makes no sense is answered with an error, and what is not with nothing."""
    session = nanny.new_session()
    control = nanny.open("nanny_control", zmq.DEALER)

    def answer(msg_type: str, content: Any) -> dict[str, Any]:
        message = session.message(msg_type, content)
        control.send_multipart(session.serialize(message))
        assert control.poll(PATIENCE * 1000)
        reply = session.deserialize(control.recv_multipart())
        assert reply.parent_id == message.msg_id
        return {"type": reply.msg_type, **reply.content}

    unknown = answer("make_coffee_request", {})
    assert (unknown["type"], unknown["ename"]) == ("make_coffee_reply", "UnknownRequest")
    assert (
        "This nanny does not know 'make_coffee_request'; it knows nanny_info, " in unknown["evalue"]
    )
    for msg_type in ("wait", "lease_reply", "", "_request", "x" * 500, "__init___request"):
        assert answer(msg_type, {})["ename"] == "UnknownRequest"
    bad = answer("signal_request", {"signum": "HUP"})
    assert (bad["type"], bad["ename"]) == ("signal_reply", "BadRequest")
    assert "signum of signal_request is 'HUP'" in bad["evalue"]
    for forged in (Session("wrong"), Session("")):
        control.send_multipart(forged.serialize(forged.message("is_alive_request")))
    again = session.serialize(session.message("is_alive_request"))
    for _ in range(3):
        control.send_multipart(again)
    assert control.poll(PATIENCE * 1000)
    assert session.deserialize(control.recv_multipart()).content["alive"] is True
    assert answer("is_alive_request", {})["alive"] is True  # and nothing was before it


def test_too_large(nanny: RunningNanny) -> None:
    """Whoever sends a manager's request larger than any is cut off, and others are not."""
    huge = nanny.open("nanny_control", zmq.DEALER)
    session = nanny.new_session()
    message = session.message("lease_request", {"seconds": None, "padding": "x" * 2_000_000})
    huge.send_multipart(session.serialize(message))
    assert nanny.ask("is_alive")["alive"] is True
    assert not huge.poll(200)


def test_many_who_wait() -> None:
    """Managers that ask and go, thousands of them, do not keep others from asking."""
    with running_nanny() as nanny:
        nanny.ask("wait_ready")
        wait_in_thousands(nanny)


def wait_in_thousands(nanny: RunningNanny) -> None:
    """Leave more questions open than a nanny remembers, and see it answer all the same."""
    settled(nanny)
    before = nanny.resident()
    session = nanny.new_session()
    socket = nanny.open("nanny_control", zmq.DEALER)
    for _ in range(1500):
        for name in ("wait", "wait_ready"):
            message = session.message(f"{name}_request", {"after": 1})
            socket.send_multipart(session.serialize(message))
    # Of 3000 the first 2000 are told to ask again.
    for _ in range(2000):
        assert socket.poll(PATIENCE * 1000)
        reply = session.deserialize(socket.recv_multipart()).content
        assert (reply["ename"], "ask again" in reply["evalue"]) == ("NannyError", True)
    assert not socket.poll(100)
    question = nanny.begin("wait")
    assert nanny.ask("is_alive")["alive"] is True
    assert nanny.resident() - before < 30_000_000
    assert nanny.ask("restart")["kernel"] == 2
    assert question.reply()["kernel"] == 1
    for _ in range(1000):
        assert socket.poll(PATIENCE * 1000)
        socket.recv_multipart()


# --- bytes ---------------------------------------------------------------------------------------

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(socket_type: bytes) -> bytes:
    """Give the command by which a socket says what it is."""
    body = b"\x05READY\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    return bytes([4, len(body)]) + body


READY = ready(b"DEALER")
#: A frame that says it has 2**62 bytes.
ENDLESS = b"\x02" + (2**62).to_bytes(8, "big") + b"x" * 1000

BYTES = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "garbage": random.Random(1).randbytes(5000),
    "zeros": bytes(5000),
    "half a greeting": GREETING[:20],
    "greeting": GREETING,
    "another mechanism": GREETING.replace(b"NULL", b"EVIL"),
    "an old version": GREETING[:10] + b"\x01" + GREETING[11:],
    "ready": GREETING + READY,
    "a broken command": GREETING + b"\x04\xff" + READY,
    "another type": GREETING + ready(b"PULL"),
    "no type": GREETING + ready(b""),
    "an endless frame": GREETING + READY + ENDLESS,
    "half a frame": GREETING + READY + b"\x01\x40abc",
    "garbage at last": GREETING + READY + random.Random(2).randbytes(5000),
}


def say(raw: socket.socket, content: bytes) -> None:
    """Say something as a ZeroMQ socket would: what follows a READY when there was one in return."""
    opening, found, _ = content.partition(b"\x05READY")
    if not found or not opening.startswith(GREETING):
        raw.sendall(content)
        return
    length = content[len(opening) - 1]
    raw.sendall(opening + content[len(opening) :][:length])
    raw.settimeout(PATIENCE)
    heard = b""
    while b"Socket-Type" not in heard:
        data = raw.recv(65536)
        if not data:  # hung up
            return
        heard += data
    raw.sendall(content[len(opening) + length :])


def connected(info: ConnectionInfo, channel: str) -> socket.socket:
    """Connect to a channel without ZeroMQ."""
    if info.transport == "ipc":
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(str(info.socket_path(channel)))
    else:
        raw = socket.create_connection((info.ip, getattr(info, f"{channel}_port")))
    return raw


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_bytes(transport: str) -> None:
    """Bytes of all sorts on all sockets, and connections that stay in the middle of it, harm nobody."""
    given = {"connection_info": ConnectionInfo.for_tcp()} if transport == "tcp" else {}
    with running_nanny(options=NannyOptions(restart_policy=None), **given) as nanny:
        nanny.ask("wait_ready")
        unharmed(nanny)
        settled(nanny)
        process = psutil.Process(nanny.pid)
        descriptors, memory = process.num_fds(), nanny.resident()
        with contextlib.ExitStack() as stack:
            for channel in SEVEN:
                for content in BYTES.values():
                    for _ in range(3):
                        raw = stack.enter_context(connected(nanny.connection_info, channel))
                        with contextlib.suppress(OSError):  # cut off already
                            say(raw, content)
            unharmed(nanny)
        unharmed(nanny)
        settled(nanny)
        eventually_sync(lambda: process.num_fds() <= descriptors + 2, PATIENCE)
        assert nanny.resident() - memory < 4 * GROWTH


def subscription(size: int) -> bytes:
    """Give what a SUB socket sends to subscribe to a topic of some size."""
    return (
        GREETING
        + ready(b"SUB")
        + (b"\x02" + (size + 1).to_bytes(8, "big") + b"\x01" + random.Random(size).randbytes(size))
    )


@pytest.mark.parametrize("channel", ["iopub", "nanny_events"])
def test_large_subscriptions(nanny: RunningNanny, channel: str) -> None:
    """Nobody makes a nanny keep megabytes by subscribing to them; the nanny hangs up on who tries."""
    settled(nanny)
    before = nanny.resident()
    for _ in range(5):
        with connected(nanny.connection_info, channel) as raw:
            raw.settimeout(PATIENCE)
            with contextlib.suppress(OSError):  # cut off already
                say(raw, subscription(4_000_000))
            with contextlib.suppress(ConnectionError):
                while raw.recv(65536):
                    pass
    settled(nanny)
    assert nanny.resident() - before < GROWTH


def test_small_subscriptions(nanny: RunningNanny) -> None:
    """Subscriptions made by hand count, so that those above were refused for their size."""
    with connected(nanny.connection_info, "iopub") as raw:
        say(raw, subscription(100))
        eventually_sync(lambda: nanny.ask("nanny_info")["clients"] == 1, PATIENCE)
    eventually_sync(lambda: nanny.ask("nanny_info")["clients"] == 0, PATIENCE)
