"""Interrupting and ending a kernel inside this process."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest
from inprocess import (
    ROOT,
    RUNTIME_DIR,
    TYPE,
    beats,
    begun,
    busy_subshell,
    printed,
    run,
)
from kernel_mgmt import (
    ExitStatus,
    KernelClient,
    KernelFinder,
    KernelManager,
    KernelMgmtError,
    run_kernel,
    start_kernel,
)

BUSY = [
    "while True: pass",
    "import time\nwhile True: time.sleep(0.01)",
    "import asyncio\nawait asyncio.sleep(60)",
    "async def busy():\n    while True: pass\nawait busy()",
    "import threading\nwhile True: threading.Event().wait(0.01)",
    "get_ipython().run_cell('while True: pass').raise_error()",
]


@pytest.mark.parametrize("code", BUSY)
async def test_a_cell_can_be_interrupted(client: KernelClient, code: str) -> None:
    """By message as by the manager, and the next cell is not hit."""
    assert client.manager is not None
    for interrupt in (client.interrupt, client.manager.interrupt):
        request = client.execute(f"print('begun')\n{code}", stop_on_error=False)
        async with asyncio.timeout(20):
            await begun(request)
            await interrupt()
            assert (await request).content["ename"] == "KeyboardInterrupt"
        assert await printed(client, "print('on')") == "on\n"


async def test_an_interrupt_is_neither_lost_nor_leaked(client: KernelClient) -> None:
    """It stops a cell that just begins, and one that comes between cells hits none."""
    assert client.manager is not None
    async with asyncio.timeout(30):
        for _ in range(15):
            request = client.execute("while True: pass", stop_on_error=False)
            async for _ in request:  # its status busy: the cell's code may not have begun
                break
            await client.manager.interrupt()
            assert (await request).content["ename"] == "KeyboardInterrupt"
        for n in range(30):
            short = client.execute("1 + 1", stop_on_error=False)
            await asyncio.sleep(n % 10 * 0.0005)  # before, in and after the cell
            await client.manager.interrupt()
            reply = await short
            assert reply.content.get("ename", "KeyboardInterrupt") == "KeyboardInterrupt"
            assert await printed(client, "print('on')") == "on\n"


async def test_an_interrupted_input_ends(client: KernelClient) -> None:
    """A cell that waits for its user's answer can be interrupted."""
    asked = asyncio.Event()

    async def never(prompt: Any) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    task = asyncio.create_task(run(client, "input('? ')", stdin_hook=never))
    async with asyncio.timeout(10):
        await asked.wait()
        await client.interrupt()
        reply, _ = await task
    assert reply.content["ename"] == "KeyboardInterrupt"


async def end_by_exit(client: KernelClient, manager: KernelManager) -> None:
    """Call `exit()` in a cell."""
    await run(client, "exit()")


async def end_by_message(client: KernelClient, manager: KernelManager) -> None:
    """Send a shutdown_request."""
    await client.shutdown()


async def end_by_terminate(client: KernelClient, manager: KernelManager) -> None:
    """Terminate it in a cell that would never end."""
    client.execute("while True: pass")
    await manager.terminate()


async def end_by_signal(client: KernelClient, manager: KernelManager) -> None:
    """Send what stands for SIGTERM."""
    client.execute("while True: pass")
    await manager.signal(signal.SIGTERM)


async def end_by_kill(client: KernelClient, manager: KernelManager) -> None:
    """Kill it in a cell that catches what is raised in it, and goes on."""
    stubborn = "try:\n    while True: pass\nexcept BaseException: pass\nwhile True: pass"
    request = client.execute(f"print('begun')\n{stubborn}")
    await begun(request)
    await manager.kill()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (end_by_exit, "exit() was called in it"),
        (end_by_message, "it was shut down"),
        (end_by_terminate, "it was terminated"),
        (end_by_signal, "it was terminated"),
        (end_by_kill, "it was killed"),
    ],
)
async def test_the_end_of_a_kernel(finder: KernelFinder, end: Any, reason: str) -> None:
    """Each way to end it ends the thread and not the process, and the status says which it was."""
    manager, client = await start_kernel(TYPE, finder=finder)
    assert manager is not None
    async with manager, client, asyncio.timeout(20):
        await end(client, manager)
        assert await manager.wait() == ExitStatus(code=0, reason=reason)
        assert not await manager.is_alive()
        for method in (manager.interrupt, manager.terminate, manager.kill, manager.cleanup):
            await method()
        await manager.signal(signal.SIGHUP)
        assert await manager.log_tail() == ""
        assert manager.record() is None


@pytest.mark.parametrize("shell", ["main shell", "subshell"])
async def test_a_thread_that_does_not_listen_cannot_be_killed(
    finder: KernelFinder, shell: str
) -> None:
    """The error says so, nobody can come in any more, and the thread ends when it can."""
    release = threading.Lock()
    release.acquire()
    params = {"user_ns": {"release": release}}
    manager, client = await start_kernel(TYPE, finder=finder, launch_params=params)
    assert manager is not None
    async with client:
        async with asyncio.timeout(20):
            if shell == "subshell":
                await busy_subshell(client, "release.acquire()")
            else:
                await begun(client.execute("print('begun')\nrelease.acquire()"))
            with pytest.raises(KernelMgmtError, match="a thread can only be asked to end"):
                await client.shutdown_or_terminate(timeout=0)
        assert await manager.is_alive()
        assert list(RUNTIME_DIR.iterdir()) == []
        assert list(ROOT.glob("km-*")) == []
        release.release()
        async with asyncio.timeout(20):
            await manager.wait()
        await manager.cleanup()


async def test_other_signals_are_refused(client: KernelClient) -> None:
    """They would be the whole application's."""
    assert client.manager is not None
    with pytest.raises(KernelMgmtError, match="it would reach the whole application"):
        await client.manager.signal(signal.SIGHUP)
    assert await client.manager.is_alive()


async def test_waiting_can_be_given_up(client: KernelClient) -> None:
    """A wait that is cancelled leaves the kernel alone, and can be begun again."""
    assert client.manager is not None
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.manager.wait()
    assert await printed(client, "print('on')") == "on\n"


async def test_tasks_of_cells_end_with_the_kernel(
    finder: KernelFinder, user_ns: dict[str, Any]
) -> None:
    """A task that a cell left behind is cancelled, and may clean up."""
    code = """
import asyncio
async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)
task = asyncio.create_task(forever())
await asyncio.sleep(0)
"""
    user_ns["ended"] = []
    params = {"user_ns": user_ns}
    async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
        assert await printed(client, code) == ""
        assert user_ns["ended"] == []
    assert user_ns["ended"] == [True]


async def test_a_thread_of_a_cell_does_not_hold_up_the_end(finder: KernelFinder) -> None:
    """What a cell runs in a thread is not waited for."""
    release = threading.Event()
    user_ns = {"release": release}
    params = {"user_ns": user_ns}
    try:
        async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
            code = "import asyncio\ntask = asyncio.create_task(asyncio.to_thread(release.wait, 60))\nawait asyncio.sleep(0.01)"
            assert await printed(client, code) == ""
            assert client.manager is not None
            async with asyncio.timeout(20):
                await client.shutdown()
                await client.manager.wait()
        assert not release.is_set()
    finally:
        release.set()


async def test_a_task_that_exits_ends_nothing(client: KernelClient) -> None:
    """SystemExit in a task of a cell neither ends the kernel nor the process."""
    code = (
        "import asyncio\nasync def leave(): raise SystemExit\ntask = asyncio.create_task(leave())"
    )
    assert await printed(client, code) == ""
    assert await printed(client, "print(repr(task.exception()))") == "SystemExit()\n"


async def test_heartbeat(client: KernelClient) -> None:
    """It is answered while a cell runs."""
    request = client.execute("print(1)\nwhile True: pass", stop_on_error=False)
    async with asyncio.timeout(20):
        await begun(request)
        await beats(client)
        await client.interrupt()
        await request
