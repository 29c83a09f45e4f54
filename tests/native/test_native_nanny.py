"""An ipykernel behind a nanny: what finds its way back to a client by the route that it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import kernel_mgmt_native
import pytest
from kept_kernels import kept_kernel
from kernel_mgmt import KernelClient, KernelFinder, Message
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.protocol.requests import interrupt_request
from messages import outputs, second_client, texts

Kept = tuple[RemoteKernelManager, KernelClient]


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """The manager and a client of an ipykernel that a nanny keeps."""
    finder = KernelFinder({"native": kernel_mgmt_native})
    async with kept_kernel("native/python3", finder) as kept:
        yield kept


@pytest.fixture
def client(kept: Kept) -> KernelClient:
    """Its client alone."""
    return kept[1]


async def test_input(client: KernelClient) -> None:
    """A question goes to the client that runs the code, and to no other."""
    async with asyncio.timeout(60), second_client(client) as other:
        asked: list[str] = []

        def answer(whose: str) -> str:
            asked.append(whose)
            return whose

        for name, which in (("first", client), ("second", other)):
            shown: list[Message] = []
            await which.execute_interactive(
                "print(input('who? '))",
                stdin_hook=lambda _, name=name: answer(name),
                output_hook=shown.append,
            )
            assert texts(shown) == [name]
        assert asked == ["first", "second"]


async def test_comms_with_buffers(client: KernelClient) -> None:
    """Buffers go both ways through a comm that a client has opened."""
    target = """
from ipykernel.comm import Comm

def opened(comm, message):
    def reverse(message):
        comm.send({"n": 2}, buffers=[bytes(message["buffers"][0])[::-1]])
    comm.on_msg(reverse)

get_ipython().kernel.comm_manager.register_target("t", opened)
"""
    async with asyncio.timeout(60):
        assert (await client.execute(target)).content["status"] == "ok"
        heard: asyncio.Queue[Message] = asyncio.Queue()
        client.add_handler(heard.put_nowait, {"iopub"})
        await client.comm_open("t", "c")
        data = bytes(range(256)) * 4096
        client.comm_msg("c", {"n": 1}, buffers=[data])
        while (message := await heard.get()).msg_type != "comm_msg":
            pass
        assert message.content["data"] == {"n": 2}
        assert bytes(message.buffers[0]) == data[::-1]


async def test_interrupt(kept: Kept) -> None:
    """Code is interrupted by the nanny's signal, and by a message of the client's."""
    manager, client = kept
    code = "import time\nprint('runs')\nwhile True: time.sleep(0.1)"
    for interrupt in (
        manager.interrupt,
        lambda: client.send(interrupt_request(), "control"),
    ):
        async with asyncio.timeout(60):
            # An error would abort a request that comes soon after it.
            request = client.execute(code, stop_on_error=False)
            async for message in request:
                if texts([message]) == ["runs"]:
                    break
            await interrupt()
            reply = await request
            assert reply.content["ename"] == "KeyboardInterrupt"


async def test_subshell(client: KernelClient) -> None:
    """A subshell answers while the main shell is busy."""
    async with asyncio.timeout(60):
        subshell = (await client.create_subshell()).content["subshell_id"]
        waiting = client.execute(
            "import threading; go = threading.Event(); print('waits'); assert go.wait(60)"
        )
        async for message in waiting:
            if texts([message]) == ["waits"]:
                break
        beside = client.execute("print('beside'); go.set()", subshell_id=subshell)
        assert (await beside.wait_until_finished()).content["status"] == "ok"
        assert texts(await outputs(beside)) == ["beside"]
        assert (await waiting).content["status"] == "ok"


async def test_debugger(client: KernelClient) -> None:
    """The debug adapter answers on control, and tells of events on iopub."""
    initialize = {
        "type": "request",
        "seq": 1,
        "command": "initialize",
        "arguments": {"clientID": "test", "adapterID": "", "pathFormat": "path"},
    }
    async with asyncio.timeout(60):
        reply = await client.debug(initialize)
        assert reply.content["success"] is True
        assert reply.content["command"] == "initialize"
