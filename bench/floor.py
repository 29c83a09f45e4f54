"""The floor: raw pyzmq written by hand, for this benchmark's purpose alone.

It serves one request at a time, forgets replay protection, handlers, errors, process watching and
captured output, and so shows what ZeroMQ, the kernel and Python themselves take.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

import zmq

from . import samples
from .containers import HandmadeContainer
from .contestant import Flood, Footprint, per_client, rate, threads_and_descriptors
from .kernels import CHANNELS, IPYKERNEL, RawKernel
from .wire import Wire, execute_content

_TYPES = {
    "shell": zmq.DEALER,
    "iopub": zmq.SUB,
    "stdin": zmq.DEALER,
    "control": zmq.DEALER,
    "hb": zmq.DEALER,
}
#: How often a socket tries to connect to a kernel that is not there yet, in milliseconds.
_RECONNECT = 5
#: How long a kernel that has replied may be silent on iopub until it is asked again, likewise.
_SILENCE = 50


class RawClient:
    """Sockets, a poller and a key.

    Args:
        info: the content of a connection file.
        channels: which sockets to make.
    """

    def __init__(self, info: dict[str, Any], channels: Sequence[str] = ("shell", "iopub")) -> None:
        self.wire = Wire(info["key"])
        self._sockets = {channel: self._connect(info, channel) for channel in channels}
        self.shell = self._sockets["shell"]
        self.iopub = self._sockets["iopub"]
        self.poller = zmq.Poller()
        self.poller.register(self.shell, zmq.POLLIN)
        self.poller.register(self.iopub, zmq.POLLIN)
        self.replied = self.heard = False

    def _connect(self, info: dict[str, Any], channel: str) -> zmq.Socket[bytes]:
        connected = zmq.Context.instance().socket(_TYPES[channel])
        connected.set_hwm(0)
        connected.linger = 0
        connected.reconnect_ivl = _RECONNECT
        if "curve_publickey" in info:
            connected.curve_publickey, connected.curve_secretkey = zmq.curve_keypair()
            connected.curve_serverkey = info["curve_publickey"].encode()
        if channel == "iopub":
            connected.subscribe(b"")
        separator = ":" if info["transport"] == "tcp" else "-"
        connected.connect(f"{info['transport']}://{info['ip']}{separator}{info[f'{channel}_port']}")
        return connected

    def send(self, msg_type: str, content: dict[str, Any]) -> str:
        """Send a request on shell; gives its id."""
        header = self.wire.header(msg_type)
        self.shell.send_multipart(self.wire.encode(header, {}, content))
        return str(header["msg_id"])

    def take(self) -> bool:
        """Take what has come, for :func:`wait_until_ready`; tell whether it is ready."""
        while self.shell.poll(0):
            self.wire.decode(self.shell.recv_multipart())
            self.replied = True
        while self.iopub.poll(0):
            self.wire.decode(self.iopub.recv_multipart())
            self.heard = True
        return self.replied and self.heard

    def close(self) -> None:
        """Close the sockets."""
        for connected in self._sockets.values():
            connected.close()


def wait_until_ready(clients: Sequence[RawClient]) -> None:
    """Send kernel_info at once, which waits in the socket, until all replied and were heard."""
    waiting = list(clients)
    poller = zmq.Poller()
    for client in waiting:
        client.send("kernel_info_request", {})
        poller.register(client.shell, zmq.POLLIN)
        poller.register(client.iopub, zmq.POLLIN)
    while waiting:
        if not poller.poll(_SILENCE):
            for client in waiting:
                if client.replied:
                    client.send("kernel_info_request", {})
        waiting = [client for client in waiting if not client.take()]


class Floor:
    """The contestant that the others are measured by."""

    def __init__(self) -> None:
        self._client: RawClient | None = None
        self._payload = b""

    @property
    def client(self) -> RawClient:
        """The client that :meth:`connect` made."""
        assert self._client is not None
        return self._client

    def launch(self, count: int) -> float:
        """Launch ipykernels at once; seconds until all are ready."""
        with ExitStack() as stack:
            started = time.perf_counter()
            kernels = [stack.enter_context(closing(RawKernel(IPYKERNEL))) for _ in range(count)]
            clients = [stack.enter_context(closing(RawClient(kernel.info))) for kernel in kernels]
            wait_until_ready(clients)
            return time.perf_counter() - started

    def launch_in_container(self, image: str) -> float:
        """Start an ipykernel by ``docker run``; seconds until it is ready."""
        started = time.perf_counter()
        with (
            closing(HandmadeContainer(image)) as container,
            closing(RawClient(container.info)) as client,
        ):
            wait_until_ready([client])
            return time.perf_counter() - started

    def attach(self, info: dict[str, Any], count: int) -> list[float]:
        """Attach to a live kernel several times."""
        times = []
        for _ in range(count):
            started = time.perf_counter()
            with closing(RawClient(info)) as client:
                wait_until_ready([client])
                times.append(time.perf_counter() - started)
        return times

    def connect(self, info: dict[str, Any]) -> None:
        """Make the client for the tasks below."""
        self._client = RawClient(info)
        wait_until_ready([self._client])

    def round_trips(self, count: int) -> list[float]:
        """Run empty cells one after another."""
        times = []
        for _ in range(count):
            started = time.perf_counter()
            self._round_trip()
            times.append(time.perf_counter() - started)
        return times

    def _round_trip(self) -> None:
        client = self.client
        shell, iopub, decode, poll = (
            client.shell,
            client.iopub,
            client.wire.decode,
            client.poller.poll,
        )
        msg_id = client.send("execute_request", execute_content(""))
        replied = idle = False
        while not (replied and idle):
            for ready, _ in poll():
                if ready is shell:
                    _, parent, _, _ = decode(shell.recv_multipart())
                    replied = parent.get("msg_id") == msg_id
                else:
                    _, parent, _, content = decode(iopub.recv_multipart())
                    idle = (
                        parent.get("msg_id") == msg_id and content.get("execution_state") == "idle"
                    )

    def flood(self, count: int, *, read: bool) -> Flood:
        """Take a burst of messages; all are decoded whole, whatever ``read`` says."""
        client = self.client
        iopub, decode = client.iopub, client.wire.decode
        msg_id = client.send("execute_request", execute_content(f"flood {count} 200"))
        received, first, last = 0, 0.0, 0.0
        while True:
            header, parent, _, content = decode(iopub.recv_multipart())
            if parent.get("msg_id") != msg_id:
                continue
            if header["msg_type"] == "stream":
                first = first or time.perf_counter()
                received += bool(content["text"])
            elif content.get("execution_state") == "idle":
                last = time.perf_counter()
                break
        client.shell.recv_multipart()
        return {"seconds": last - first, "received": received}

    def prepare_payload(self, size: int) -> None:
        """Make the buffer for :meth:`echo`."""
        self._payload = b"\xa5" * size

    def echo(self) -> float:
        """Send the buffer and have it back, neither copied here."""
        client = self.client
        started = time.perf_counter()
        content = {"comm_id": "bench", "data": {}}
        frames = client.wire.encode(client.wire.header("comm_msg"), {}, content)
        client.shell.send_multipart([*frames, self._payload], copy=False)
        while True:
            received = client.iopub.recv_multipart(copy=False)
            header, *_ = client.wire.decode([frame.bytes for frame in received[:7]])
            if header["msg_type"] == "comm_msg":
                break
        seconds = time.perf_counter() - started
        assert len(received[-1]) == len(self._payload)
        del received
        while client.iopub.poll(100):
            client.iopub.recv_multipart()
        return seconds

    def encode_rate(self, count: int) -> float:
        """Serialise and sign ready-made execute_requests."""
        wire = Wire(samples.KEY)
        content = execute_content("print(6 * 7)")
        headers = [wire.header("execute_request") for _ in range(count)]
        return rate(lambda header: wire.encode(header, {}, content), headers)

    def make_rate(self, count: int) -> float:
        """Make execute_requests, serialise and sign them."""
        wire = Wire(samples.KEY)
        return rate(
            lambda code: wire.encode(wire.header("execute_request"), {}, execute_content(code)),
            ["print(6 * 7)"] * count,
        )

    def decode_rate(self, count: int, *, read: bool) -> float:
        """Verify and decode stream messages; all whole, whatever ``read`` says."""
        return rate(Wire(samples.KEY).decode, samples.signed_streams(count))

    def footprint(self, info: dict[str, Any], count: int, *, used: bool) -> Footprint:
        """Make clients beyond the first."""
        channels = CHANNELS if used else ("shell", "iopub")
        with ExitStack() as stack:
            wait_until_ready([stack.enter_context(closing(RawClient(info, channels)))])
            before = threads_and_descriptors()
            for _ in range(count):
                wait_until_ready([stack.enter_context(closing(RawClient(info, channels)))])
            return per_client(before, threads_and_descriptors(), count)

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()
