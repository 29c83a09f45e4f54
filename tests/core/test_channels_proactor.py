"""Clients on a loop that cannot watch sockets, as Windows' default loop cannot."""

from __future__ import annotations

import asyncio
import threading

import pytest
from kernel_mgmt import KernelFinder, run_kernel


def test_tornado_watches_the_sockets_for_a_proactor_loop(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and their output come through tornado's selector thread, which ends with the loop."""

    class ProactorEventLoop(asyncio.SelectorEventLoop):
        """Tornado takes it for the one of Windows; watching descriptors is not its business."""

        watched = 0

        def add_reader(self, *args: object) -> None:
            type(self).watched += 1
            super().add_reader(*args)  # type: ignore[arg-type]

    async def talk() -> int:
        async with run_kernel("echo/echo", finder=finder, startup_timeout=20) as client:
            requests = [client.execute("hello") for _ in range(20)]
            for request in requests:
                assert (await request).content["status"] == "ok"
                assert [message async for message in request]
            assert "Tornado selector" in {thread.name for thread in threading.enumerate()}
            return ProactorEventLoop.watched

    monkeypatch.setattr(asyncio, "ProactorEventLoop", ProactorEventLoop, raising=False)
    with asyncio.Runner(loop_factory=ProactorEventLoop) as runner:
        assert runner.run(talk()) == 0
