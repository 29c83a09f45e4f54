"""Kernels with a ZeroMQ, or a protocol, of their own, behind a nanny: xeus-python and Deno's."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import KernelClient, KernelType, Message
from messages import outputs, second_client, texts
from nannies import RunningNanny, running_nanny

deno = pytest.importorskip("deno", reason="the distribution 'deno' brings its program along")

PATIENCE = 60


@asynccontextmanager
async def kept(
    name: str, *argv: str, **options: Any
) -> AsyncIterator[tuple[RunningNanny, KernelClient]]:
    """Have a kernel kept by a nanny; gives that and a client."""
    options = {"kernel_type": KernelType(name, provider="spec"), "transport": "tcp", **options}
    with running_nanny(argv, **options) as nanny:
        async with asyncio.timeout(PATIENCE), KernelClient(nanny.connection_info) as client:
            await client.wait_for_ready()
            yield nanny, client


@asynccontextmanager
async def xeus(**options: Any) -> AsyncIterator[tuple[RunningNanny, KernelClient]]:
    """Have xeus-python kept."""
    if importlib.util.find_spec("xpython_launcher") is None:
        pytest.skip("the distribution 'xeus-python' is not installed")
    argv = (sys.executable, "-m", "xpython_launcher", "-f", "{connection_file}")
    async with kept("xpython", *argv, **options) as both:
        yield both


@asynccontextmanager
async def denos(directory: Path) -> AsyncIterator[tuple[RunningNanny, KernelClient]]:
    """Have Deno's kernel kept."""
    argv = (deno.find_deno_bin(), "jupyter", "--kernel", "--conn", "{connection_file}")
    env = {"DENO_DIR": str(directory), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    async with kept("deno", *argv, env=env) as both:
        yield both


async def result_of(client: KernelClient, code: str) -> str:
    """What code evaluates to."""
    request = client.execute(code)
    assert (await request).content["status"] == "ok"
    (result,) = [m for m in await outputs(request) if m.msg_type == "execute_result"]
    return str(result.content["data"]["text/plain"])


# --- xeus-python ---------------------------------------------------------------------------------


@pytest.mark.parametrize("handshake", [False, True])
async def test_xeus_asks_and_is_restarted(handshake: bool) -> None:
    """xeus-python, with given ports and with its own, asks the client that runs the code; restarted
    behind that client it is another process.
    """
    async with xeus(handshake=handshake) as (nanny, client):
        shown: list[Message] = []
        await client.execute_interactive(
            "print(input('who? '))", stdin_hook=lambda _: "Ada", output_hook=shown.append
        )
        assert "Ada" in texts(shown)
        first = await result_of(client, "import os; os.getpid()")
        assert (await asyncio.to_thread(nanny.ask, "restart"))["kernel"] == 2
        await client.wait_for_ready()
        assert await result_of(client, "import os; os.getpid()") != first


async def test_comms_of_xeus_have_buffers() -> None:
    """Buffers go both ways through a comm that xeus-python has opened."""
    code = """
import comm

def reverse(message):
    opened.send({"n": 2}, buffers=[bytes(message["buffers"][0])[::-1]])

opened = comm.create_comm(target_name="t")
opened.on_msg(reverse)
"""
    async with xeus() as (_, client):
        heard: asyncio.Queue[Message] = asyncio.Queue()
        client.add_handler(heard.put_nowait, {"iopub"})
        assert (await client.execute(code)).content["status"] == "ok"
        while (opened := await heard.get()).msg_type != "comm_open":
            pass
        client.comm_msg(opened.content["comm_id"], {"n": 1}, buffers=[b"abc"])
        while (message := await heard.get()).msg_type != "comm_msg":
            pass
        assert [bytes(buffer) for buffer in message.buffers] == [b"cba"]


# --- Deno ----------------------------------------------------------------------------------------


async def test_replies_without_a_route_arrive(tmp_path: Path) -> None:
    """Deno's kernel leaves out of its replies and questions all but the first step of the way back;
    each still gets to the client that it is for.
    """
    async with denos(tmp_path) as (_, client), second_client(client) as other:
        requests = {
            n: (client, other)[n % 2].execute(f"throw new Error('{n}')", stop_on_error=False)
            for n in range(10)
        }
        for n, request in requests.items():
            assert (await request).content["evalue"] == str(n)
        for name, which in (("first", client), ("second", other)):
            # What it evaluates to, Deno may tell after the end of the request.
            reply = await which.execute_interactive(
                "throw new Error(prompt('who?'))", stdin_hook=lambda _, name=name: name
            )
            assert reply.content["evalue"] == name


async def test_deno_is_started_again(tmp_path: Path) -> None:
    """SIGINT ends Deno; what it was running ends with the nanny's reply, and the next one answers."""
    async with denos(tmp_path) as (nanny, client):
        request = client.execute("console.log('runs'); while (true) {}")
        async for message in request:
            if texts([message]) == ["runs"]:
                break
        nanny.ask("interrupt")
        reply = await request
        assert reply.content["ename"] == "KernelDied"
        assert reply.content["evalue"] == "The kernel died: killed by SIGINT."
        await client.wait_for_ready()
        assert (await client.execute("6 * 7")).content["status"] == "ok"
