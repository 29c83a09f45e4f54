"""kernel-mgmt, used as its documentation says."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
from kernel_mgmt import (
    BlockingKernelClient,
    ConnectionInfo,
    KernelClient,
    KernelFinder,
    KernelManager,
    KernelRecord,
    KernelRestarter,
    Message,
    Session,
    manager_for,
    start_detached,
    start_kernel,
)
from kernel_mgmt.protocol import requests
from kernel_mgmt.records import find_record
from kernel_mgmt.testing import EchoProvider

from . import samples
from .contestant import Flood, Footprint, per_client, rate, threads_and_descriptors


class Ours:
    """The asynchronous client, on one event loop that lasts."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._client: KernelClient | None = None
        self._payload = b""
        #: The kernel that a nanny keeps for us.
        self._kept: KernelRecord | None = None
        #: The manager of the kernel on a host.
        self._remote: KernelManager | None = None
        #: The manager of the kernel in a container.
        self._contained: KernelManager | None = None

    @property
    def client(self) -> KernelClient:
        """The client that :meth:`connect` made."""
        assert self._client is not None
        return self._client

    def launch(self, count: int) -> float:
        """Launch ipykernels at once; seconds until all are ready."""
        return self._runner.run(self._launch(count))

    async def _launch(self, count: int, kernel_type: str = "native/python3") -> float:
        started = time.perf_counter()
        finder = KernelFinder.from_entrypoints()
        clients: list[KernelClient] = []

        async def launch_one() -> KernelManager | None:
            manager, client = await start_kernel(kernel_type, finder=finder)
            clients.append(client)
            return manager

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(launch_one())
            return time.perf_counter() - started
        finally:
            await asyncio.gather(*(client.shutdown_or_terminate() for client in clients))
            for client in clients:
                client.close()

    def launch_in_process(self) -> float:
        """Launch a kernel in a thread of this process; seconds until it is ready."""
        return self._runner.run(self._launch_in_process())

    async def _launch_in_process(self) -> float:
        started = time.perf_counter()
        finder = KernelFinder.from_entrypoints()
        _, client = await start_kernel("native/inprocess", finder=finder)
        async with client:
            seconds = time.perf_counter() - started
            await client.shutdown_or_terminate()
        return seconds

    def restart(self) -> float:
        """Restart an ipykernel by hand; seconds until the new one is ready."""
        return self._runner.run(self._restart())

    async def _restart(self) -> float:
        finder = KernelFinder.from_entrypoints()
        manager, client = await start_kernel("native/python3", finder=finder)
        async with client:
            restarter = KernelRestarter(finder, "native/python3", manager, client.connection_info)
            async with restarter:
                restarter.follow(client)
                started = time.perf_counter()
                await restarter.restart()
                seconds = time.perf_counter() - started
            await client.shutdown_or_terminate()
        return seconds

    def launch_detached(self) -> float:
        """Start a kernel that would outlive this process, and stop it; seconds until it is ready."""
        return self._runner.run(self._launch_detached())

    async def _launch_detached(self) -> float:
        started = time.perf_counter()
        finder = KernelFinder.from_entrypoints()
        record = await start_detached("native/python3", finder=finder)
        seconds = time.perf_counter() - started
        await manager_for(record.connection_info).stop()
        return seconds

    def connect_through_nanny(self) -> None:
        """Make the client for the tasks below, of an echo kernel that a nanny keeps."""
        self._runner.run(self._connect_through_nanny())

    async def _connect_through_nanny(self) -> None:
        finder = KernelFinder({"echo": EchoProvider()})
        self._kept = await start_detached("echo/echo", finder=finder)
        await self._connect(self._kept.connection_info)

    def connect_over_ssh(self) -> dict[str, Any]:
        """Make the client for the tasks below, of an echo kernel on a host; gives where that is there."""
        return self._runner.run(self._connect_over_ssh())

    async def _connect_over_ssh(self) -> dict[str, Any]:
        info, manager = await KernelFinder.from_entrypoints().launch("ssh/echo")
        assert manager is not None
        self._remote = manager
        self._client = KernelClient(info, manager=manager)
        await self._client.wait_for_ready()
        return find_record(manager.kernel_id).connection_info.to_dict()

    def launch_over_ssh(self) -> float:
        """Launch an ipykernel on the host, on the connection that there is; seconds until ready."""
        return self._runner.run(self._launch_over_ssh())

    async def _launch_over_ssh(self) -> float:
        started = time.perf_counter()
        finder = KernelFinder.from_entrypoints()
        _, client = await start_kernel("ssh/python3", finder=finder)
        async with client:
            seconds = time.perf_counter() - started
            await client.shutdown_or_terminate()
        return seconds

    def connect_to_container(self) -> None:
        """Make the client for the tasks below, of an echo kernel in a container."""
        self._runner.run(self._connect_to_container())

    async def _connect_to_container(self) -> None:
        info, manager = await KernelFinder.from_entrypoints().launch("docker/echo")
        assert manager is not None
        self._contained = manager
        self._client = KernelClient(info, manager=manager)
        await self._client.wait_for_ready()

    def launch_in_containers(self, count: int) -> float:
        """Launch ipykernels in containers at once; seconds until all are ready."""
        return self._runner.run(self._launch(count, "docker/python3"))

    def nanny_memory(self) -> float:
        """Give the resident memory of that nanny, in bytes."""
        assert self._kept is not None
        return float(psutil.Process(self._kept.manager["nanny"]["pid"]).memory_info().rss)

    def attach(self, info: dict[str, Any], count: int) -> list[float]:
        """Attach to a live kernel several times."""
        return self._runner.run(self._attach(ConnectionInfo.from_dict(info), count))

    async def _attach(self, info: ConnectionInfo, count: int) -> list[float]:
        times = []
        for _ in range(count):
            started = time.perf_counter()
            async with KernelClient(info) as client:
                await client.wait_for_ready()
                times.append(time.perf_counter() - started)
        return times

    def connect(self, info: dict[str, Any]) -> None:
        """Make the client for the tasks below."""
        self._runner.run(self._connect(ConnectionInfo.from_dict(info)))

    async def _connect(self, info: ConnectionInfo) -> None:
        self._client = KernelClient(info)
        await self._client.wait_for_ready()

    def round_trips(self, count: int, size: int = 0) -> list[float]:
        """Run cells one after another, empty ones, or such that print so many bytes."""
        return self._runner.run(self._round_trips(count, f"print {'x' * size}" if size else ""))

    async def _round_trips(self, count: int, code: str) -> list[float]:
        client, times = self.client, []
        for _ in range(count):
            started = time.perf_counter()
            await client.execute(code).wait_until_finished()
            times.append(time.perf_counter() - started)
        return times

    def flood(self, count: int, *, read: bool) -> Flood:
        """Take a burst of messages by iterating over the request."""
        return self._runner.run(self._flood(count, read=read))

    async def _flood(self, count: int, *, read: bool) -> Flood:
        client = self.client
        first = 0.0

        def start_clock(message: Message) -> None:
            # The iteration sees the first message when a whole share of them has been taken.
            nonlocal first
            if message.msg_type == "stream":
                first = time.perf_counter()
                client.remove_handler(start_clock)

        client.add_handler(start_clock)
        request, received = client.execute(f"flood {count} 200"), 0
        async for message in request:
            if message.msg_type == "stream":
                received += bool(message.content["text"]) if read else 1
        last = time.perf_counter()
        await request
        return {"seconds": last - first, "received": received}

    def prepare_payload(self, size: int) -> None:
        """Make the buffer for :meth:`echo`."""
        self._payload = b"\xa5" * size

    def echo(self) -> float:
        """Send the buffer and have it back."""
        return self._runner.run(self._echo())

    async def _echo(self) -> float:
        started = time.perf_counter()
        seconds = 0.0
        async for message in self.client.comm_msg("bench", buffers=[self._payload]):
            if message.msg_type == "comm_msg":
                seconds = time.perf_counter() - started
                assert len(message.buffers[0]) == len(self._payload)
        await asyncio.sleep(0.1)
        return seconds

    def encode_rate(self, count: int) -> float:
        """Serialise and sign ready-made execute_requests."""
        session = Session(samples.KEY)
        content = requests.execute_request("print(6 * 7)").content
        messages = [session.message("execute_request", content) for _ in range(count)]
        return rate(session.serialize, messages)

    def make_rate(self, count: int) -> float:
        """Make execute_requests, serialise and sign them."""
        session = Session(samples.KEY)
        return rate(
            lambda code: session.serialize(requests.execute_request(code)), ["print(6 * 7)"] * count
        )

    def decode_rate(self, count: int, *, read: bool) -> float:
        """Verify and deserialise stream messages; the content is decoded when it is read."""
        deserialize = Session(samples.KEY).deserialize
        streams = samples.signed_streams(count)
        if read:
            return rate(lambda frames: deserialize(frames, "iopub").content, streams)
        return rate(lambda frames: deserialize(frames, "iopub"), streams)

    def footprint(self, info: dict[str, Any], count: int, *, used: bool) -> Footprint:
        """Make clients beyond the first."""
        return self._runner.run(self._footprint(ConnectionInfo.from_dict(info), count, used))

    async def _footprint(self, info: ConnectionInfo, count: int, used: bool) -> Footprint:
        clients: list[KernelClient] = []

        async def make() -> None:
            client = KernelClient(info)
            clients.append(client)
            await client.wait_for_ready()
            if used:
                _ = client.responsive
                await client.kernel_info(channel="control")

        try:
            await make()
            before = threads_and_descriptors()
            for _ in range(count):
                await make()
            return per_client(before, threads_and_descriptors(), count)
        finally:
            for client in clients:
                client.close()

    def close(self) -> None:
        """Close the client and the loop."""
        if self._client is not None:
            self._client.close()
        if self._kept is not None:
            self._runner.run(manager_for(self._kept.connection_info).stop())
        if self._remote is not None:
            self._runner.run(self._remote.cleanup())
        if self._contained is not None:
            self._runner.run(self._contained.cleanup())
        self._runner.close()


class OursBlocking:
    """The blocking client."""

    def __init__(self) -> None:
        self._client: BlockingKernelClient | None = None

    def connect(self, info: dict[str, Any]) -> None:
        """Make the client for the tasks below."""
        self._client = BlockingKernelClient(ConnectionInfo.from_dict(info))
        self._client.wait_for_ready()

    def round_trips(self, count: int) -> list[float]:
        """Run empty cells one after another."""
        assert self._client is not None
        times = []
        for _ in range(count):
            started = time.perf_counter()
            self._client.execute("").wait_until_finished()
            times.append(time.perf_counter() - started)
        return times

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()
