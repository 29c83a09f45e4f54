"""A client and its kernel from ready to the end, and what a client costs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest
from kernel_mgmt import (
    KernelClient,
    KernelDied,
    KernelFinder,
    KernelManager,
    RequestTimeout,
    run_kernel,
    start_kernel,
)
from messages import outputs, second_client, texts
from waiting import eventually

# -- interrupt, heartbeat, readiness -------------------------------------------------------


@pytest.mark.parametrize("mode", ["signal", "message"])
async def test_interrupt_reaches_a_running_cell(finder: KernelFinder, mode: str) -> None:
    """Interrupting ends the running code at once, by signal or by a message on control."""
    params = {"interrupt_mode": mode}
    async with run_kernel("echo/echo", finder=finder, launch_params=params) as client:
        assert client.connection_info.interrupt_mode == mode
        request = client.execute("print started\nsleep 60")
        async for message in request:
            if texts([message]) == ["started"]:
                break
        async with asyncio.timeout(5):
            await client.interrupt()
            assert (await request).content["ename"] == "KeyboardInterrupt"


async def test_responsive_and_alive_are_two_things(client: KernelClient) -> None:
    """A stopped kernel is alive but not responsive, and responsive again when it goes on."""
    manager = client.manager
    assert manager is not None
    assert client.responsive
    await manager.signal(signal.SIGSTOP)
    await eventually(lambda: not client.responsive, timeout=10, interval=0.05)
    assert await manager.is_alive()
    await manager.signal(signal.SIGCONT)
    await eventually(lambda: client.responsive, timeout=10, interval=0.05)


async def test_a_busy_kernel_is_responsive_and_can_be_attached_to(client: KernelClient) -> None:
    """A client can become ready while another's cell runs: control does not wait behind it."""
    request = client.execute("print started\nsleep 60")
    async for message in request:
        if texts([message]) == ["started"]:
            break
    async with KernelClient(client.connection_info) as other:
        info = await other.wait_for_ready(5)
        assert info["implementation"] == "echo"
    await client.interrupt()
    await request


@pytest.mark.parametrize("arguments", [[], ["--no-welcome"], ["--answer-delay", "0.7"]])
async def test_ready_means_that_nothing_is_missed(
    finder: KernelFinder, arguments: list[str]
) -> None:
    """After wait_for_ready the first request's output is complete, with iopub_welcome or without."""
    params = {"arguments": arguments, "transport": "tcp"}
    async with run_kernel("echo/echo", finder=finder, launch_params=params) as first:
        for _ in range(3):
            async with second_client(first) as client:
                messages = await outputs(client.execute("print x"))
                assert messages[0].content["execution_state"] == "busy"
                assert texts(messages) == ["x"]


async def test_waiting_for_a_kernel_that_dies_ends_at_once(finder: KernelFinder) -> None:
    """wait_for_ready raises KernelDied as soon as the process ends, long before its timeout."""
    info, manager = await finder.launch(
        "echo/echo", launch_params={"arguments": ["--never-answer"]}
    )
    assert manager is not None
    async with manager, KernelClient(info, manager=manager) as client:
        ready = asyncio.create_task(client.wait_for_ready(60))
        await asyncio.sleep(0)
        started = time.monotonic()
        await manager.kill()
        with pytest.raises(KernelDied, match="SIGKILL"):
            await ready
        assert time.monotonic() - started < 2


async def test_a_kernel_that_never_answers_times_out(finder: KernelFinder) -> None:
    """wait_for_ready names the phase, and says that the process is alive."""
    info, manager = await finder.launch(
        "echo/echo", launch_params={"arguments": ["--never-answer"]}
    )
    assert manager is not None
    async with manager, KernelClient(info, manager=manager) as client:
        with pytest.raises(RequestTimeout, match=r"phase 'ready'.*alive"):
            await client.wait_for_ready(0.3)


# -- ending a kernel -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "how"),
    [
        ([], "exit code 0"),
        (["--ignore-shutdown"], "killed by SIGTERM"),
        (["--ignore-shutdown", "--ignore-sigterm"], "killed by SIGKILL"),
    ],
)
async def test_ending_escalates(finder: KernelFinder, arguments: list[str], how: str) -> None:
    """A kernel is asked, then terminated, then killed, and its files are gone afterwards."""
    params: dict[str, Any] = {"arguments": arguments}
    manager, client = await start_kernel("echo/echo", finder=finder, launch_params=params)
    assert manager is not None
    request = client.execute("sleep 60")
    await client.shutdown_or_terminate(timeout=0.3)
    assert str(await manager.wait()) == how
    with pytest.raises(KernelDied):
        await request
    await client.shutdown_or_terminate()  # a second time does nothing
    client.close()


async def test_ending_without_a_manager_is_polite(client: KernelClient) -> None:
    """Without a manager the kernel is asked by message alone."""
    assert client.manager is not None
    async with KernelClient(client.connection_info) as other:
        await other.shutdown_or_terminate()
    assert str(await client.manager.wait()) == "exit code 0"


async def test_ending_cancelled_midway_leaves_nothing(finder: KernelFinder) -> None:
    """A cancelled shutdown_or_terminate kills the kernel instead of leaving it half ended."""
    params = {"arguments": ["--ignore-shutdown", "--ignore-sigterm"]}
    manager, client = await start_kernel("echo/echo", finder=finder, launch_params=params)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.shutdown_or_terminate(timeout=60)
    assert manager is not None
    assert not await manager.is_alive()
    client.close()


# -- what a client costs -------------------------------------------------------------------


async def test_a_client_costs_no_thread_and_few_descriptors(client: KernelClient) -> None:
    """A further client adds no thread, and six descriptors while control and heartbeat are unused."""
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    clients = [KernelClient(client.connection_info, manager=client.manager) for _ in range(10)]
    for other in clients:
        await other.wait_for_ready(10)
    added = len(os.listdir("/proc/self/fd")) - descriptors
    assert set(threading.enumerate()) == threads
    assert added <= 6 * len(clients)
    for other in clients:
        other.close()


async def test_a_client_needs_a_running_loop() -> None:
    """Made in a thread without a loop, the client says which class to use instead."""
    raised: list[BaseException] = []

    def make(manager: KernelManager | None = None) -> None:
        try:
            KernelClient(None, manager=manager)  # type: ignore[arg-type]
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert "BlockingKernelClient" in str(raised[0])


async def test_clients_on_two_loops_at_once(client: KernelClient) -> None:
    """Two loops in two threads talk to one kernel with a client each, side by side."""

    async def talk() -> list[str]:
        async with KernelClient(client.connection_info) as other:
            await other.wait_for_ready(10)
            requests = [other.execute(f"print {n}") for n in range(20)]
            return [texts(await outputs(request))[0] for request in requests]

    mine, theirs = await asyncio.gather(talk(), asyncio.to_thread(asyncio.run, talk()))
    assert mine == theirs == [str(n) for n in range(20)]
