"""Subshells (JEP 91) of a real ipykernel: what runs beside a busy main shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import kernel_mgmt_native
import pytest
from kernel_mgmt import (
    KernelClient,
    KernelFinder,
    Message,
    Request,
    UnsupportedFeature,
    run_kernel,
    run_kernel_blocking,
)
from messages import outputs, texts

#: Waits on the main shell until it is told to go on.
WAIT = "import threading; go = threading.Event(); print('waits'); assert go.wait(60); print('went')"


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `native` alone."""
    return KernelFinder({"native": kernel_mgmt_native})


@pytest.fixture
async def client(finder: KernelFinder) -> AsyncIterator[KernelClient]:
    """A client of an ipykernel of its own."""
    async with run_kernel("native/python3", finder=finder) as client:
        yield client


async def new_subshell(client: KernelClient) -> str:
    """The id of a new subshell."""
    reply = await client.create_subshell()
    assert reply.content["status"] == "ok"
    return str(reply.content["subshell_id"])


async def busy(client: KernelClient) -> Request:
    """A request that the main shell runs until `go.set()`."""
    request = client.execute(WAIT)
    async for message in request:
        if texts([message]) == ["waits"]:
            break
    return request


async def test_create_list_delete(client: KernelClient) -> None:
    """Subshells are made, listed and ended, also while the main shell is busy."""
    async with asyncio.timeout(60):
        waiting = await busy(client)
        first, second = await new_subshell(client), await new_subshell(client)
        listed = (await client.list_subshell()).content["subshell_id"]
        assert sorted(listed) == sorted([first, second])
        assert (await client.delete_subshell(first)).content["status"] == "ok"
        assert (await client.list_subshell()).content["subshell_id"] == [second]
        await client.execute("go.set()", subshell_id=second)
        assert (await waiting).content["status"] == "ok"


async def test_code_runs_beside_the_main_shell(client: KernelClient) -> None:
    """A subshell answers while the main shell is busy, and each request gets its own output."""
    async with asyncio.timeout(60):
        subshell = await new_subshell(client)
        waiting = await busy(client)
        beside = client.execute("print('beside')\n6 * 7", subshell_id=subshell)
        assert (await beside.wait_until_finished()).content["status"] == "ok"
        assert not waiting.answered
        assert beside.message.header["subshell_id"] == subshell
        messages = await outputs(beside)
        assert texts(messages) == ["beside"]
        assert [m.msg_type for m in messages].count("execute_result") == 1
        shown: list[Message] = []
        await client.execute_interactive(
            "print('told'); go.set()", output_hook=shown.append, subshell_id=subshell
        )
        assert texts(shown) == ["told"]
        await waiting.wait_until_finished()
        assert texts(await outputs(waiting)) == ["waits", "went"]
        assert {m.parent_id for m in await outputs(waiting)} == {waiting.msg_id}


async def test_an_error_aborts_only_its_own_shell(client: KernelClient) -> None:
    """Code that fails on a subshell leaves what the main shell runs, and what is queued there."""
    async with asyncio.timeout(60):
        subshell = await new_subshell(client)
        waiting, queued = await busy(client), client.execute("queued = True")
        failed = await client.execute("1 / 0", subshell_id=subshell)
        assert failed.content["ename"] == "ZeroDivisionError"
        # The error aborts what reaches its own shell in the next moment.
        while (await client.execute("go.set()", subshell_id=subshell)).content["status"] != "ok":
            pass
        assert (await waiting).content["status"] == (await queued).content["status"] == "ok"


async def test_questions_are_answered_beside_the_main_shell(client: KernelClient) -> None:
    """Every question can be put to a subshell, and is answered while the main shell is busy."""
    async with asyncio.timeout(60):
        on = {"subshell_id": await new_subshell(client)}
        waiting = await busy(client)
        for request, reply_type in [
            (client.complete("pri", **on), "complete_reply"),
            (client.inspect("print", **on), "inspect_reply"),
            (client.is_complete("1", **on), "is_complete_reply"),
            (client.history(**on), "history_reply"),
            (client.comm_info(**on), "comm_info_reply"),
        ]:
            reply = await request.wait_until_finished()
            assert reply.msg_type == reply_type
            assert reply.content["status"] != "error"
        assert not waiting.answered
        await client.execute("go.set()", **on)
        await waiting


async def test_comms_go_to_a_subshell(client: KernelClient) -> None:
    """A comm is opened, written to and closed on a subshell while the main shell is busy."""
    target = """
from ipykernel.comm import Comm

def opened(comm, message):
    comm.on_msg(lambda message: print("got", message["content"]["data"]))

get_ipython().kernel.comm_manager.register_target("t", opened)
"""
    async with asyncio.timeout(60):
        assert (await client.execute(target)).content["status"] == "ok"
        on = {"subshell_id": await new_subshell(client)}
        waiting = await busy(client)
        await client.comm_open("t", "c", **on)
        written = client.comm_msg("c", {"a": 1}, **on)
        await written
        assert texts(await outputs(written)) == ["got {'a': 1}"]
        await client.comm_close("c", **on)
        assert not waiting.answered
        await client.execute("go.set()", **on)
        await waiting


async def test_unknown_subshells(client: KernelClient) -> None:
    """A request for a subshell that is not there ends at once with the kernel's error reply."""
    async with asyncio.timeout(60):
        request = client.execute("print('never')", subshell_id="nowhere")
        reply = await request.wait_until_finished()
        assert reply.content["status"] == "error"
        assert "nowhere" in reply.content["evalue"]
        assert texts(await outputs(request)) == []
        reply = await client.delete_subshell("nowhere")
        assert reply.content["status"] == "error"
        assert "nowhere" in reply.content["evalue"]
        subshell = await new_subshell(client)
        await client.delete_subshell(subshell)
        reply = await client.complete("pri", subshell_id=subshell)
        assert reply.content["status"] == "error"


async def test_before_the_kernel_has_said_what_it_supports(client: KernelClient) -> None:
    """Without the kernel's kernel_info reply nothing is risked, and with it subshells work."""
    async with KernelClient(client.connection_info) as other:
        with pytest.raises(UnsupportedFeature, match="not known before it has answered") as caught:
            other.create_subshell()
        assert caught.value.feature == "kernel subshells"
        async with asyncio.timeout(60):
            await other.kernel_info()
            assert (await other.create_subshell()).content["status"] == "ok"


def test_blocking(finder: KernelFinder) -> None:
    """The blocking client makes subshells and runs code on them, too."""
    with run_kernel_blocking("native/python3", finder=finder) as client:
        subshell = client.create_subshell().reply(30).content["subshell_id"]
        waiting = client.execute(WAIT)
        for message in waiting.outputs(30):
            if texts([message]) == ["waits"]:
                break
        shown: list[Any] = []
        client.execute_interactive(
            "print('beside'); go.set()",
            output_hook=shown.append,
            subshell_id=subshell,
            timeout=30,
        )
        assert texts(shown) == ["beside"]
        assert waiting.reply(30).content["status"] == "ok"
        assert client.list_subshell().reply(30).content["subshell_id"] == [subshell]
        assert client.delete_subshell(subshell).reply(30).content["status"] == "ok"
