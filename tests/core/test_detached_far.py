"""Kernels that live on at the other end of a connection, and the records by which they are found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack

import pytest
from kernel_mgmt import (
    KernelFinder,
    KernelRecord,
    KernelType,
    Launched,
    LaunchError,
    LaunchRequest,
    RemoteKernelManager,
    attach_kernel,
    hookimpl,
    running_kernels,
    start_detached,
)
from kernel_mgmt.detached import collect_dead
from kernel_mgmt.records import gc, record_state, records_dir, remove_record, write_record
from messages import outputs, texts
from tunnels import Way, way_to_nanny
from waiting import eventually

PATIENCE = 30


class Far:
    """A provider whose kernels are kept by nannies at the other end of a tunnel."""

    def __init__(self) -> None:
        self.ways: dict[str, Way] = {}
        #: Whether connections are closed as soon as a kernel is launched.
        self.closes = False
        self._stack = ExitStack()

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> list[KernelType]:
        """Offer an echo kernel."""
        return [KernelType("echo")]

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Launched]:
        """Launch it at the other end."""
        return self._launch(request)

    @hookimpl
    def kernel_mgmt_attach_kernel(self, record: KernelRecord) -> Awaitable[Launched]:
        """Find it by what the record says of the way."""
        return self._attach(record)

    async def _launch(self, request: LaunchRequest) -> Launched:
        assert request.nanny is not None
        kernel_id = request.kernel_id
        way = await asyncio.to_thread(
            self._stack.enter_context,
            way_to_nanny(options=request.nanny, kernel_id=kernel_id, record_dir=None),
        )
        self.ways["north"] = way
        record = KernelRecord(
            kernel_id=kernel_id,
            type_id=request.kernel_type.id,
            connection_info=way.info,
            manager={"way": "north"},
            name=request.nanny.name,
            started=time.time(),
        )
        write_record(records_dir(), record)
        if self.closes:
            way.link.close("Nobody carries it any more.")
        return await self._attach(record)

    async def _attach(self, record: KernelRecord) -> Launched:
        way = self.ways[record.manager["way"]]
        manager = RemoteKernelManager(way.info, kernel_id=record.kernel_id, link=way.link)
        return Launched(way.info, manager)

    def close(self) -> None:
        """End all kernels."""
        self._stack.close()


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    """The provider, whose kernels end with the test."""
    far = Far()
    yield far
    await asyncio.to_thread(far.close)
    for record in running_kernels():
        remove_record(records_dir(), record.kernel_id)


async def test_record_of_a_provider(far: Far) -> None:
    """The provider's record stays, is no other machine's, and leads to the kernel by its name."""
    finder = KernelFinder({"far": far})
    record = await start_detached(
        "far/echo", name="mine", finder=finder, startup_timeout=PATIENCE, unattended_timeout=60
    )
    assert record.manager == {"way": "north"}
    assert record.machine == {}
    assert running_kernels() == [record]
    assert record_state(record) == "alive"
    assert gc() == []
    assert await collect_dead(finder=finder) == []
    manager, client = await attach_kernel("mine", finder=finder)
    assert isinstance(manager, RemoteKernelManager)
    assert (await manager.info())["unattended_timeout"] == 60
    far.ways["north"].lose()
    await eventually(lambda: "cut off" in repr(client))
    request = client.execute("print x")
    far.ways["north"].restore()
    async with asyncio.timeout(PATIENCE):
        await request.wait_until_finished()
    assert texts(await outputs(request)) == ["x"]
    client.close()
    # Dead for good, which its provider's manager tells when it is asked.
    await manager.kill()
    assert gc() == []
    assert await collect_dead(finder=finder) == [record]
    assert running_kernels() == []


async def test_start_without_a_connection(far: Far, caplog: pytest.LogCaptureFixture) -> None:
    """A start whose connection is closed before the kernel answers fails, and says what may be left."""
    far.closes = True
    with pytest.raises(LaunchError, match="Nobody carries it any more") as raised:
        await start_detached(
            "far/echo", finder=KernelFinder({"far": far}), startup_timeout=PATIENCE
        )
    assert raised.value.phase == "ready"
    assert "may be left" in caplog.text
