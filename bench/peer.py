"""jupyter_client, used as its documentation says, with its defaults."""

from __future__ import annotations

import asyncio
import subprocess
import time
from queue import Empty
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, start_new_async_kernel
from jupyter_client.session import Session

from . import samples
from .contestant import Flood, Footprint, per_client, rate, threads_and_descriptors
from .wire import execute_content

#: Seconds of silence on iopub after which nothing more is expected.
_SILENCE = 2


async def _ready_client(info: dict[str, Any]) -> AsyncKernelClient:
    client = AsyncKernelClient()
    client.load_connection_info({**info, "key": info["key"].encode()})
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    return client


class Peer:
    """The asynchronous client, on one event loop that lasts."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._client: AsyncKernelClient | None = None
        self._payload = b""

    @property
    def client(self) -> AsyncKernelClient:
        """The client that :meth:`connect` made."""
        assert self._client is not None
        return self._client

    def launch(self, count: int) -> float:
        """Launch ipykernels at once; seconds until all are ready."""
        return self._runner.run(self._launch(count))

    async def _launch(self, count: int) -> float:
        kernels: list[tuple[AsyncKernelManager, AsyncKernelClient]] = []

        async def launch_one() -> None:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            kernels.append(await start_new_async_kernel(kernel_name="python3", **quiet))

        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(launch_one())
            return time.perf_counter() - started
        finally:
            for manager, client in kernels:
                client.stop_channels()
                await manager.shutdown_kernel(now=True)

    def attach(self, info: dict[str, Any], count: int) -> list[float]:
        """Attach to a live kernel several times."""
        return self._runner.run(self._attach(info, count))

    async def _attach(self, info: dict[str, Any], count: int) -> list[float]:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            client = await _ready_client(info)
            times.append(time.perf_counter() - started)
            client.stop_channels()
        return times

    def connect(self, info: dict[str, Any]) -> None:
        """Make the client for the tasks below."""
        self._client = self._runner.run(_ready_client(info))

    def round_trips(self, count: int) -> list[float]:
        """Run empty cells one after another."""
        return self._runner.run(self._round_trips(count))

    async def _round_trips(self, count: int) -> list[float]:
        client, times = self.client, []
        for _ in range(count):
            started = time.perf_counter()
            msg_id = client.execute("")
            while (await client.get_shell_msg())["parent_header"].get("msg_id") != msg_id:
                pass
            while not _is_idle(await client.get_iopub_msg(), msg_id):
                pass
            times.append(time.perf_counter() - started)
        return times

    def flood(self, count: int, *, read: bool) -> Flood:
        """Take a burst of messages; all are decoded whole, whatever ``read`` says."""
        return self._runner.run(self._flood(count))

    async def _flood(self, count: int) -> Flood:
        client = self.client
        msg_id = client.execute(f"flood {count} 200")
        received, first, last = 0, 0.0, 0.0
        while True:
            try:
                # The first comes when the kernel has signed them all.
                message = await client.get_iopub_msg(timeout=_SILENCE if first else 60)
            except Empty:
                break
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if message["msg_type"] == "stream":
                first = first or time.perf_counter()
                received += bool(message["content"]["text"])
                last = time.perf_counter()
            elif _is_idle(message, msg_id):
                last = time.perf_counter()
                break
        await client.get_shell_msg()
        return {"seconds": last - first, "received": received}

    def prepare_payload(self, size: int) -> None:
        """Make the buffer for :meth:`echo`."""
        self._payload = b"\xa5" * size

    def echo(self) -> float:
        """Send the buffer and have it back."""
        return self._runner.run(self._echo())

    async def _echo(self) -> float:
        client = self.client
        started = time.perf_counter()
        content = {"comm_id": "bench", "data": {}}
        message = client.session.msg("comm_msg", content)
        message["buffers"] = [self._payload]
        client.shell_channel.send(message)
        while True:
            answer = await client.get_iopub_msg()
            if answer["msg_type"] == "comm_msg":
                break
        seconds = time.perf_counter() - started
        assert len(answer["buffers"][0]) == len(self._payload)
        del answer
        while not _is_idle(await client.get_iopub_msg(), message["msg_id"]):
            pass
        await asyncio.sleep(0.1)
        return seconds

    def encode_rate(self, count: int) -> float:
        """Serialise and sign ready-made execute_requests."""
        session = Session(key=samples.KEY.encode())
        content = execute_content("print(6 * 7)")
        return rate(
            session.serialize, [session.msg("execute_request", content) for _ in range(count)]
        )

    def make_rate(self, count: int) -> float:
        """Make execute_requests, serialise and sign them."""
        session = Session(key=samples.KEY.encode())
        return rate(
            lambda code: session.serialize(session.msg("execute_request", execute_content(code))),
            ["print(6 * 7)"] * count,
        )

    def decode_rate(self, count: int, *, read: bool) -> float:
        """Verify and deserialise stream messages; all whole, whatever ``read`` says."""
        session = Session(key=samples.KEY.encode())
        return rate(
            lambda frames: session.deserialize(session.feed_identities(frames)[1]),
            samples.signed_streams(count),
        )

    def footprint(self, info: dict[str, Any], count: int, *, used: bool) -> Footprint:
        """Make clients beyond the first; all of their channels are always open."""
        return self._runner.run(self._footprint(info, count))

    async def _footprint(self, info: dict[str, Any], count: int) -> Footprint:
        clients = [await _ready_client(info)]
        try:
            before = threads_and_descriptors()
            for _ in range(count):
                clients.append(await _ready_client(info))  # noqa: PERF401 - each is closed below
            return per_client(before, threads_and_descriptors(), count)
        finally:
            for client in clients:
                client.stop_channels()

    def close(self) -> None:
        """Close the client and the loop."""
        if self._client is not None:
            self._client.stop_channels()
        self._runner.close()


class PeerBlocking:
    """The blocking client."""

    def __init__(self) -> None:
        self._client: BlockingKernelClient | None = None

    def connect(self, info: dict[str, Any]) -> None:
        """Make the client for the tasks below."""
        self._client = BlockingKernelClient()
        self._client.load_connection_info({**info, "key": info["key"].encode()})
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def round_trips(self, count: int) -> list[float]:
        """Run empty cells one after another."""
        client, times = self._client, []
        assert client is not None
        for _ in range(count):
            started = time.perf_counter()
            msg_id = client.execute("")
            while client.get_shell_msg()["parent_header"].get("msg_id") != msg_id:
                pass
            while not _is_idle(client.get_iopub_msg(), msg_id):
                pass
            times.append(time.perf_counter() - started)
        return times

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.stop_channels()


def _is_idle(message: dict[str, Any], msg_id: str) -> bool:
    return (
        message["msg_type"] == "status"
        and message["parent_header"].get("msg_id") == msg_id
        and message["content"]["execution_state"] == "idle"
    )
