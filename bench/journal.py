"""What a journal does and costs, with kernels that a nanny keeps."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from kernel_mgmt import KernelClient, KernelFinder, Message, manager_for, start_detached
from kernel_mgmt.testing import EchoProvider

from .ours import Ours

_MB = 1_000_000


class Replay(TypedDict):
    """What a replay gave, and how long it took."""

    seconds: float
    messages: int


class OursWithJournal(Ours):
    """The asynchronous client with a nanny whose journal is set as asked."""

    def connect_with_journal(self, limit: int | None, *, read: bool) -> None:
        """Make the client for the tasks below.

        Args:
            limit: how many bytes the journal may have on disk; None for no journal.
            read: whether the client reads it; otherwise it is one as Jupyter's are.
        """
        self._runner.run(self._connect_with_journal(limit, read))

    async def _connect_with_journal(self, limit: int | None, read: bool) -> None:
        finder = KernelFinder({"echo": EchoProvider()})
        self._kept = await start_detached("echo/echo", finder=finder, journal_limit=limit)
        info = self._kept.connection_info
        await self._connect(info if read else info.replace(nanny_journal_port=0))

    def leave(self) -> None:
        """Close the client; the kernel goes on."""
        self._runner.run(self._leave())

    async def _leave(self) -> None:
        self.client.close()
        await asyncio.sleep(0.1)

    def put_out(self, megabytes: int, size: int) -> dict[str, float]:
        """Have much printed while nobody reads; gives the nanny's memory before, and at its most.

        Args:
            megabytes: how much.
            size: of each message, in bytes.
        """
        return self._runner.run(self._put_out(megabytes, size))

    async def _put_out(self, megabytes: int, size: int) -> dict[str, float]:
        assert self._kept is not None
        rounds = max(1, megabytes // 20)
        count = megabytes * _MB // size // rounds
        before = most = self.nanny_memory()
        manager = manager_for(self._kept.connection_info)
        first = (await manager.info())["journal"]["next"]
        async with KernelClient(self._kept.connection_info.replace(nanny_journal_port=0)) as client:
            await client.wait_for_ready()
            _ = client.execute("\n".join([f"flood {count} {size}"] * rounds))
        while (await manager.info())["journal"]["next"] < first + rounds * count:
            most = max(most, self.nanny_memory())
            await asyncio.sleep(0.02)
        return {"before": before, "most": most}

    def replay(self, after: int) -> Replay:
        """Read everything after a number."""
        return self._runner.run(self._replay(after))

    async def _replay(self, after: int) -> Replay:
        assert self._kept is not None
        messages = 0
        async with KernelClient(self._kept.connection_info) as client:
            await client.wait_for_ready()
            started = time.perf_counter()
            async for _ in client.replay(after=after):
                messages += 1
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "messages": messages}

    def catch_up(self, after: int) -> float:
        """Make a client that goes on after a number; seconds until it has its first message."""
        return self._runner.run(self._catch_up(after))

    async def _catch_up(self, after: int) -> float:
        assert self._kept is not None
        came = asyncio.get_running_loop().create_future()

        def take(_: Message) -> None:
            if not came.done():
                came.set_result(time.perf_counter())

        started = time.perf_counter()
        client = KernelClient(self._kept.connection_info, resume_after=after, on_message=take)
        async with client:
            return await came - started

    def journal(self) -> dict[str, Any]:
        """Give what the nanny says of its journal."""
        return self._runner.run(self._journal())

    async def _journal(self) -> dict[str, Any]:
        assert self._kept is not None
        told: dict[str, Any] = (await manager_for(self._kept.connection_info).info())["journal"]
        return told
