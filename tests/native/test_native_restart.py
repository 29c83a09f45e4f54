"""Restarting ipykernel."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import kernel_mgmt_native
import psutil
import pytest
from kernel_mgmt import (
    KernelDied,
    KernelFinder,
    KernelRestarted,
    KernelRestarter,
    Message,
    Prompt,
    start_kernel,
)

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
PATIENCE = 60.0


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_an_ipykernel_killed_and_restarted(tmp_path: Path, transport: str) -> None:
    """The same client and its handlers work on, in a fresh namespace at the same place; a pending
    prompt ends with the restart by hand; at the end nothing is left.
    """
    finder = KernelFinder({"native": kernel_mgmt_native})
    params = {"transport": transport}
    manager, client = await start_kernel(
        "native/python3", finder=finder, cwd=tmp_path, launch_params=params
    )
    assert manager is not None
    info = client.connection_info
    heard: list[str] = []

    def hear(message: Message) -> None:
        if message.msg_type == "stream":
            heard.append(message.content["text"].strip())

    client.add_handler(hear)
    restarter = KernelRestarter(
        finder, "native/python3", manager, info, cwd=tmp_path, launch_params=params
    )
    restarter.follow(client)
    events = restarter.events()
    async with restarter, asyncio.timeout(PATIENCE):
        await client.execute("x = 1; print('first')").wait_until_finished()
        sleeping = client.execute("import time; time.sleep(3600)")
        os.kill(manager.pid, signal.SIGKILL)
        with pytest.raises(KernelDied, match="SIGKILL"):
            await sleeping
        assert [(await anext(events)).name for _ in range(3)] == ["died", "restarting", "ready"]
        assert restarter.connection_info == info
        code = "import os; print('x' in globals(), os.getcwd())"
        await client.execute(code).wait_until_finished()

        asked = asyncio.Event()

        async def never(prompt: Prompt) -> str:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        prompting = asyncio.create_task(
            client.execute_interactive("input('Name? ')", stdin_hook=never)
        )
        await asked.wait()
        await restarter.restart()
        with pytest.raises(KernelRestarted):
            await prompting
        await client.execute("print('third')").wait_until_finished()
        await restarter.restart(timeout=PATIENCE)  # asked to end, and does
        await client.execute("print('fourth')").wait_until_finished()
        await client.shutdown_or_terminate()
    assert heard == ["first", f"False {tmp_path}", "third", "fourth"]
    assert [event.name async for event in events] == ["restarting", "ready"] * 2
    client.close()
    assert psutil.Process().children(recursive=True) == []
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []
