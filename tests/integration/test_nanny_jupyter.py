"""Jupyter's own clients, unmodified, at a kernel that a nanny keeps and starts again behind them."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import jupyter_client
import pytest
from jupyter_core.utils import ensure_event_loop
from kept_kernels import kept_kernel, kept_kernel_blocking
from kernel_mgmt import ConnectionInfo
from pseudo_terminal import PseudoTerminal
from waiting import eventually

PATIENCE = 60

#: Runs until it is interrupted or killed, and says so.
FOREVER = "import time\nprint('runs')\nwhile True: time.sleep(0.1)"

Parts = dict[str, Any]


@pytest.fixture(scope="session", autouse=True)
def _jupyters_loop() -> None:
    """Make the event loop that jupyter_client keeps for its blocking calls, once."""
    ensure_event_loop()


# --- the asynchronous client ---------------------------------------------------------------------


class AsyncJupyter:
    """jupyter_client's asynchronous client of a kernel, and what a user does with it."""

    def __init__(self, connection_file: str) -> None:
        self.client = jupyter_client.AsyncKernelClient(connection_file=connection_file)
        self.client.load_connection_file()
        self.client.start_channels()

    async def shell_reply(self, msg_id: str) -> Parts:
        """The content of a request's reply."""
        while True:
            reply = await self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"]["msg_id"] == msg_id:
                return reply["content"]  # type: ignore[no-any-return]

    async def output(self, msg_id: str, until: str = "idle") -> str:
        """What a request prints, until it is idle or has printed something."""
        text = ""
        while until not in text:
            message = await self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if message["content"].get("execution_state") == until:
                break
            text += message["content"].get("text", "")
        return text

    async def run(self, code: str) -> str:
        """What code prints."""
        msg_id = self.client.execute(code)
        assert (await self.shell_reply(msg_id))["status"] == "ok"
        return await self.output(msg_id)


async def test_async_client() -> None:
    """AsyncKernelClient runs code, answers questions, interrupts by message and completes; when the
    kernel is restarted, what it runs ends with an error reply, and the next requests are answered.
    """
    async with asyncio.timeout(PATIENCE), kept_kernel("native/python3") as (manager, _):
        jupyter = AsyncJupyter((await manager.info())["connection_file"])
        client = jupyter.client
        try:
            await client.wait_for_ready(timeout=PATIENCE)
            assert await jupyter.run("print(6 * 7)") == "42\n"

            asking = client.execute("print(input('who? '))", allow_stdin=True)
            question = await client.get_stdin_msg(timeout=PATIENCE)
            assert question["content"]["prompt"] == "who? "
            client.input("Ada")
            assert (await jupyter.shell_reply(asking))["status"] == "ok"
            assert await jupyter.output(asking) == "Ada\n"

            running = client.execute(FOREVER)
            await jupyter.output(running, until="runs")
            interrupt = client.session.msg("interrupt_request")
            client.control_channel.send(interrupt)
            told = await client.get_control_msg(timeout=PATIENCE)
            assert told["parent_header"]["msg_id"] == interrupt["header"]["msg_id"]
            assert (await jupyter.shell_reply(running))["ename"] == "KeyboardInterrupt"

            completed = await jupyter.shell_reply(client.complete("impor"))
            assert completed["matches"] == ["import"]

            first = await jupyter.run("import os; print(os.getpid())")
            running = client.execute(FOREVER)
            await jupyter.output(running, until="runs")
            await manager.restart()
            ended = await jupyter.shell_reply(running)
            assert (ended["status"], ended["ename"]) == ("error", "KernelRestarted")
            await jupyter.output(running)  # ends with an idle status, too
            assert await jupyter.run("import os; print(os.getpid())") != first
            await eventually(client.is_alive)
        finally:
            client.stop_channels()
            client.context.destroy(linger=0)


# --- the blocking client -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_blocking_client(transport: str) -> None:
    """BlockingKernelClient runs code and answers questions; when the kernel dies, what it runs ends
    with an error reply, and its next requests are answered by the next kernel.
    """
    given = ConnectionInfo.for_tcp() if transport == "tcp" else None
    with kept_kernel_blocking("native/python3", connection_info=given) as (_, record):
        client = jupyter_client.BlockingKernelClient(connection_file=str(record.connection_file))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE)

            def run(code: str, answer: str = "") -> str:
                shown: list[Parts] = []
                client.execute_interactive(
                    code,
                    allow_stdin=True,
                    timeout=PATIENCE,
                    stdin_hook=lambda _: client.input(answer),
                    output_hook=lambda message: shown.append(message["content"]),
                )
                return "".join(content.get("text", "") for content in shown)

            assert run("print(input('who? '))", "Ada") == "Ada\n"
            first = run("import os; print(os.getpid())")
            reply = client.execute("import os; os._exit(3)", reply=True, timeout=PATIENCE)
            assert reply["content"]["ename"] == "KernelDied"
            assert reply["content"]["evalue"] == "The kernel died: exit code 3."
            # Held until there is a kernel to answer it.
            client.wait_for_ready(timeout=PATIENCE)
            assert run("import os; print(os.getpid())") != first
        finally:
            client.stop_channels()
            client.context.destroy(linger=0)


# --- jupyter console -----------------------------------------------------------------------------


def test_console_goes_on_with_the_next_kernel() -> None:
    """`jupyter console --existing` stays as it is while its kernel is restarted, and leaves the new one
    running.
    """
    console = shutil.which("jupyter-console", path=Path(sys.executable).parent)
    assert console, "jupyter_console is not installed beside this Python"
    with (
        kept_kernel_blocking("native/python3") as (manager, record),
        PseudoTerminal(
            [console, "--simple-prompt", "--existing", str(record.connection_file)]
        ) as terminal,
    ):
        terminal.expect(r"In \[\d+\]: ")
        terminal.send("shared = 'of the first kernel'\n")
        terminal.expect(r"In \[\d+\]: ")
        manager.restart()
        terminal.send("print('shared' in globals())\n")
        terminal.expect("False")
        terminal.expect(r"In \[\d+\]: ")
        terminal.send("\x04")
        terminal.expect("Do you really want to exit")
        terminal.send("y\n")
        terminal.wait()
        assert manager.is_alive()
