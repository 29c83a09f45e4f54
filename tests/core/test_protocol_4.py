"""The clients and a kernel that speaks version 4 of the messaging protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    KernelClient,
    KernelFinder,
    Message,
    Prompt,
    UnsupportedFeature,
    run_kernel,
    run_kernel_blocking,
)
from messages import outputs, second_client, texts
from waiting import eventually

OLD = {"arguments": ["--protocol", "4.1"]}


@pytest.fixture
async def old(finder: KernelFinder) -> AsyncIterator[KernelClient]:
    """A client of an echo kernel of its own that speaks protocol 4.1."""
    async with run_kernel(
        "echo/echo", finder=finder, launch_params=OLD, startup_timeout=20
    ) as client:
        yield client


async def test_kernel_info(old: KernelClient) -> None:
    """The kernel's version is known, and what it says of itself is in the words of version 5."""
    info = old.kernel_info_content
    assert info["protocol_version"] == "4.1"
    assert info["language_info"] == {"name": "echo", "version": "1.0"}
    assert info["supported_features"] == []
    request = old.kernel_info()
    assert (await request).content == info
    assert await outputs(request) == []


async def test_output_and_result(old: KernelClient) -> None:
    """Code gives its output and its result as it does in version 5, parent headers too."""
    request = old.execute(
        "print hello\nresult 42\ndisplay text/html <b>", user_expressions={"a": "b"}
    )
    reply = await request
    assert reply.content["status"] == "ok"
    assert reply.content["user_expressions"]["a"]["data"] == {"text/plain": "b"}
    messages = await outputs(request)
    assert [m.msg_type for m in messages] == [
        "status",
        "execute_input",
        "stream",
        "execute_result",
        "display_data",
        "status",
    ]
    assert texts(messages) == ["hello"]
    assert messages[3].content["data"] == {"text/plain": "42"}
    assert messages[4].content == {"data": {"text/html": "<b>"}, "metadata": {}, "transient": {}}
    for message in [reply, *messages]:
        assert message.header["version"] == "5.0"
        assert message.parent_header["msg_type"] == "execute_request"
    assert request.message.header["version"] == "5.5"


async def test_error_and_what_it_aborts(old: KernelClient) -> None:
    """An error is an error, and what is queued behind it ends without an idle status of its own."""
    failing = old.execute("sleep 0.1\nerror ValueError no")
    aborted = old.execute("print never")
    reply = await failing.wait_until_finished()
    assert (reply.content["status"], reply.content["ename"]) == ("error", "ValueError")
    assert [m.content["evalue"] for m in await outputs(failing) if m.msg_type == "error"] == ["no"]
    async with asyncio.timeout(10):
        reply = await aborted.wait_until_finished()
    assert reply.content["status"] == "aborted"
    assert await outputs(aborted) == []


async def test_questions(old: KernelClient) -> None:
    """Completion, inspection and history are asked and answered in the words of version 5."""
    reply = await old.complete("print a\nst", 10)
    assert reply.content["matches"] == ["stderr"]
    assert (reply.content["cursor_start"], reply.content["cursor_end"]) == (8, 10)
    request = old.inspect("print a", 2)
    reply = await request.wait_until_finished()
    assert reply.msg_type == "inspect_reply"
    assert reply.content["found"]
    assert "on stdout" in reply.content["data"]["text/plain"]
    assert (await old.inspect("nothing")).content["data"] == {}
    await old.execute("print past")
    reply = await old.history(hist_access_type="tail", n=1)
    assert reply.content == {"status": "ok", "history": [[1, 1, "print past"]]}


async def test_input(old: KernelClient) -> None:
    """Code asks for input, and is given the answer."""
    asked: list[Prompt] = []

    def answer(prompt: Prompt) -> str:
        asked.append(prompt)
        return "Ada"

    shown: list[Message] = []
    await old.execute_interactive("input name?", output_hook=shown.append, stdin_hook=answer)
    assert texts(shown) == ["Ada"]
    assert asked == [Prompt("name?", secret=False)]


async def test_comms(old: KernelClient) -> None:
    """Comm messages go both ways, buffers and all."""
    await old.comm_open("target", "c")
    request = old.comm_msg("c", {"data": 1}, buffers=[b"buffer"])
    await request
    (echo,) = [m for m in await outputs(request) if m.msg_type == "comm_msg"]
    assert echo.content == {"comm_id": "c", "data": {"data": 1}}
    assert [bytes(buffer) for buffer in echo.buffers] == [b"buffer"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.is_complete("1"),
        lambda client: client.comm_info(),
        lambda client: client.debug({}),
    ],
)
async def test_what_the_kernel_does_not_know(old: KernelClient, ask: object) -> None:
    """A request that is newer than the kernel ends at once, saying so; nothing is sent."""
    with pytest.raises(UnsupportedFeature, match=r"version 4\.1 of the protocol") as caught:
        ask(old)  # type: ignore[operator]
    assert caught.value.feature.endswith("_request")
    assert old._pending == {}
    assert (await old.execute("print on")).content["status"] == "ok"


async def test_bad_messages(old: KernelClient) -> None:
    """Broken messages of version 4 are dropped and counted, and the channel goes on."""
    kinds = ["forged", "notjson", "badcontent", "truncated"]
    request = old.execute("\n".join(f"bad {kind}" for kind in kinds) + "\nprint good")
    await request.wait_until_finished()
    assert texts(await outputs(request)) == ["good"]
    assert old.dropped_messages == len(kinds)


async def test_a_second_client_comes_late(old: KernelClient) -> None:
    """A client that comes while the kernel runs is ready, though it asks for no code to be run."""
    async with second_client(old) as other:
        request = other.execute("print other")
        await request
        assert texts(await outputs(request)) == ["other"]
        # Silent code is what made iopub audible; it left no trace.
        assert (await other.history(hist_access_type="tail", n=9)).content["history"] == [
            [1, 1, "print other"]
        ]


async def test_before_the_version_is_known(old: KernelClient) -> None:
    """What comes in is translated by its header until the kernel has said what it speaks."""
    async with KernelClient(old.connection_info, manager=old.manager) as other:

        async def hears() -> bool:
            await old.execute("", silent=True)
            return other._line.iopub_heard.is_set()

        await eventually(hears)
        request = other.execute("print early")
        assert (await request.wait_until_finished()).header["version"] == "5.0"
        assert texts(await outputs(request)) == ["early"]
        assert other.kernel_info_content == {}
        await other.kernel_info()
        assert other.kernel_info_content["protocol_version"] == "4.1"
        assert (await other.complete("stde")).content["cursor_start"] == 0


async def test_interrupt(old: KernelClient) -> None:
    """A signal interrupts the kernel as it does one of version 5."""
    request = old.execute("print started\nsleep 60")
    async for message in request:
        if texts([message]) == ["started"]:
            break
    await old.interrupt()
    async with asyncio.timeout(10):
        assert (await request).content["ename"] == "KeyboardInterrupt"


async def test_interrupt_by_message(finder: KernelFinder) -> None:
    """A message to interrupt is newer than the kernel, which the client says."""
    params = {**OLD, "interrupt_mode": "message"}
    async with run_kernel("echo/echo", finder=finder, launch_params=params) as client:
        with pytest.raises(UnsupportedFeature, match=r"interrupt_request came with 5\.3"):
            await client.interrupt()


async def test_shutdown(old: KernelClient) -> None:
    """The kernel ends when it is asked to, without force."""
    await old.shutdown_or_terminate(timeout=10)
    assert old.manager is not None
    assert (await old.manager.wait()).code == 0


async def test_reconnect_to_another_version(old: KernelClient, finder: KernelFinder) -> None:
    """A client follows from a kernel of one version to one of the other, and back."""
    first, first_manager = old.connection_info, old.manager
    async with run_kernel("echo/echo", finder=finder, startup_timeout=20) as new:
        await old.reconnect(new.connection_info, new.manager)
        assert (await old.wait_for_ready(10))["protocol_version"] == "5.5"
        assert (await old.is_complete("1")).content["status"] == "complete"
        assert old._dialect.translate is None
        await old.reconnect(first, first_manager)
        assert (await old.wait_for_ready(10))["protocol_version"] == "4.1"
        assert (await old.complete("stde")).content["matches"] == ["stderr"]


def test_blocking(finder: KernelFinder) -> None:
    """The blocking client speaks to a kernel of version 4 as the other does."""
    with run_kernel_blocking("echo/echo", finder=finder, launch_params=OLD) as client:
        assert isinstance(client, BlockingKernelClient)
        shown: list[Message] = []
        client.execute_interactive(
            "print hello\ninput name?\nresult 1",
            output_hook=shown.append,
            stdin_hook=lambda prompt: "Ada",
            timeout=20,
        )
        assert texts(shown) == ["hello", "Ada"]
        assert client.execute("error E v").reply(10).content["ename"] == "E"
        request = client.complete("stde")
        assert request.wait_until_finished(10).content["cursor_end"] == 4
        assert list(request) == []
        assert client.inspect("print").reply(10).content["found"]
        assert client.history().reply(10).content["status"] == "ok"
        with pytest.raises(UnsupportedFeature, match="is_complete_request came with 5"):
            client.is_complete("1")
        client.shutdown_or_terminate()
