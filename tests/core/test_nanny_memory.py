"""What a nanny itself takes of its host's memory, of which there is one for each kernel."""

from __future__ import annotations

import asyncio

import psutil
from kept_kernels import kept_kernel
from kernel_mgmt import KernelFinder, Message
from messages import outputs
from waiting import eventually

#: In bytes; what the system shares between processes counted in each.
LIMIT = 40_000_000
PATIENCE = 60


async def test_memory_stays_small(finder: KernelFinder) -> None:
    """A nanny has 40 MB at most when it has started, and again soon after it has passed on a burst of
    20,000 messages and a buffer of 100 MB, and has answered a thousand managers.
    """
    async with asyncio.timeout(PATIENCE), kept_kernel("echo/echo", finder) as (manager, client):
        nanny = psutil.Process((await manager.info())["nanny_pid"])

        def is_small() -> bool:
            return bool(nanny.memory_info().rss <= LIMIT)

        assert is_small()

        flood = client.execute("flood 20000 200")
        streams = [m for m in await outputs(flood) if m.msg_type == "stream"]
        assert len(streams) == 20_000
        await eventually(is_small)

        for _ in range(1000):
            await manager.is_alive()
        await eventually(is_small)

        heard: asyncio.Queue[Message] = asyncio.Queue()
        client.add_handler(heard.put_nowait, {"iopub"})
        client.comm_msg("c", buffers=[bytes(100_000_000)])
        while (message := await heard.get()).msg_type != "comm_msg":
            pass
        assert len(message.buffers[0]) == 100_000_000
        await eventually(is_small)
