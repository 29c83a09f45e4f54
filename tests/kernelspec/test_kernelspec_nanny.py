"""Kernels with a ZeroMQ, or a protocol, of their own, behind a nanny: xeus-python and Deno's."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from kept_kernels import kept_kernel
from kernel_mgmt import KernelClient, KernelDied, KernelFinder, Message
from messages import outputs, second_client, texts

deno = pytest.importorskip("deno", reason="the distribution 'deno' brings its program along")

PATIENCE = 60


@pytest.fixture
def xeus_spec(write_spec: Any) -> str:
    """The id of a kernelspec of xeus-python, as it installs it; `-5.6` after it is one that says
    more of what the kernel can do.
    """
    if importlib.util.find_spec("xpython_launcher") is None:
        pytest.skip("the distribution 'xeus-python' is not installed")
    argv = ["python", "-m", "xpython_launcher", "-f", "{connection_file}"]
    write_spec("xpython", argv)
    write_spec("xpython-5.6", argv, kernel_protocol_version="5.6")
    return "spec/xpython"


@pytest.fixture
def deno_spec(write_spec: Any, tmp_path: Path) -> str:
    """The id of a kernelspec of Deno's kernel, as it installs it."""
    write_spec(
        "deno",
        [deno.find_deno_bin(), "jupyter", "--kernel", "--conn", "{connection_file}"],
        env={"DENO_DIR": str(tmp_path / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
    )
    return "spec/deno"


async def result_of(client: KernelClient, code: str) -> str:
    """What code evaluates to."""
    request = client.execute(code)
    assert (await request).content["status"] == "ok"
    (result,) = [m for m in await outputs(request) if m.msg_type == "execute_result"]
    return str(result.content["data"]["text/plain"])


# --- xeus-python ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-5.6"])
async def test_xeus_asks_and_is_restarted(
    suffix: str, xeus_spec: str, finder: KernelFinder
) -> None:
    """xeus-python, with given ports and with its own, asks the client that runs the code; restarted
    behind that client it is another process.
    """
    async with (
        asyncio.timeout(PATIENCE),
        kept_kernel(f"{xeus_spec}{suffix}", finder) as (manager, client),
    ):
        shown: list[Message] = []
        await client.execute_interactive(
            "print(input('who? '))", stdin_hook=lambda _: "Ada", output_hook=shown.append
        )
        assert "Ada" in texts(shown)
        first = await result_of(client, "import os; os.getpid()")
        await manager.restart()
        assert await result_of(client, "import os; os.getpid()") != first


async def test_comms_of_xeus_have_buffers(xeus_spec: str, finder: KernelFinder) -> None:
    """Buffers go both ways through a comm that xeus-python has opened."""
    code = """
import comm

def reverse(message):
    opened.send({"n": 2}, buffers=[bytes(message["buffers"][0])[::-1]])

opened = comm.create_comm(target_name="t")
opened.on_msg(reverse)
"""
    async with asyncio.timeout(PATIENCE), kept_kernel(xeus_spec, finder) as (_, client):
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


async def test_replies_without_a_route_arrive(deno_spec: str, finder: KernelFinder) -> None:
    """Deno's kernel leaves out of its replies and questions all but the first step of the way back;
    each still gets to the client that it is for.
    """
    async with (
        asyncio.timeout(PATIENCE),
        kept_kernel(deno_spec, finder) as (_, client),
        second_client(client) as other,
    ):
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


async def test_deno_is_started_again(deno_spec: str, finder: KernelFinder) -> None:
    """SIGINT ends Deno; what it was running ends with that, and the next one answers."""
    async with asyncio.timeout(PATIENCE), kept_kernel(deno_spec, finder) as (manager, client):
        request = client.execute("console.log('runs'); while (true) {}")
        async for message in request:
            if texts([message]) == ["runs"]:
                break
        await manager.interrupt()
        with pytest.raises(KernelDied, match="killed by SIGINT"):
            await request
        await client.wait_for_ready()
        assert (await client.execute("6 * 7")).content["status"] == "ok"
