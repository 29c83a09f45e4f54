"""The promises of the asynchronous client, each against a real kernel over real sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
import warnings
import weakref

import pytest
from kernel_mgmt import (
    ClientClosed,
    KernelClient,
    KernelDied,
    KernelFinder,
    KernelRestarted,
    Message,
    Prompt,
    ReplyLost,
    Request,
    RequestTimeout,
)
from kernel_mgmt.handlers import HandlerCalls
from messages import outputs, second_client, states, texts
from waiting import eventually

# -- requests ------------------------------------------------------------------------------


async def test_reply_and_output_belong_to_the_request(client: KernelClient) -> None:
    """A request gives its reply when awaited and its own output, from busy to idle, when iterated."""
    request = client.execute("print hello")
    reply = await request
    assert (reply.msg_type, reply.content["status"]) == ("execute_reply", "ok")
    assert reply.parent_id == request.msg_id
    messages = await outputs(request)
    assert [m.msg_type for m in messages] == ["status", "execute_input", "stream", "status"]
    assert texts(messages) == ["hello"]


async def test_output_can_be_iterated_late_and_twice(client: KernelClient) -> None:
    """A request keeps its output from the start, for whoever iterates after the reply, or again."""
    request = client.execute("print one\nprint two")
    await request
    await eventually(lambda: request.finished)
    assert texts(await outputs(request)) == texts(await outputs(request)) == ["one", "two"]


async def test_reply_and_idle_can_be_waited_for_together(client: KernelClient) -> None:
    """wait_until_finished returns the reply when the last of the output has come, too."""
    request = client.execute("print one\nprint two")
    reply = await request.wait_until_finished()
    assert reply.content["status"] == "ok"
    assert request.finished
    started = time.monotonic()
    assert texts(await outputs(request)) == ["one", "two"]
    assert await request.wait_until_finished() is reply
    assert time.monotonic() - started < 1


async def test_output_can_be_iterated_while_it_comes(client: KernelClient) -> None:
    """Iterating gives each message when it comes, not at the end."""
    request = client.execute("print first\ninput go on?\nprint last", allow_stdin=True)
    asked = asyncio.Event()
    proceed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def hook(prompt: Prompt) -> str:
        asked.set()
        return await proceed

    request.stdin_hook = hook
    seen = []
    async for message in request:
        seen += texts([message])
        if seen == ["first"] and not proceed.done():
            await asyncio.wait_for(asked.wait(), 5)
            proceed.set_result("yes")
    assert seen[0] == "first"
    assert seen[-1] == "last"


async def test_many_requests_from_many_tasks(client: KernelClient) -> None:
    """A hundred requests under way at once each get their own reply and output."""

    async def one(number: int) -> tuple[int, list[str]]:
        request = client.execute(f"print number {number}")
        reply = await request
        return reply.content["execution_count"], texts(await outputs(request))

    results = await asyncio.gather(*(one(number) for number in range(100)))
    assert [text for _, text in results] == [[f"number {n}"] for n in range(100)]
    counts = [count for count, _ in results]
    assert counts == sorted(counts)
    assert len(set(counts)) == 100


async def test_several_tasks_wait_for_one_request(client: KernelClient) -> None:
    """One request may be awaited and iterated by several tasks, and each gets all of it."""
    request = client.execute("print shared")

    async def reply() -> Message:
        return await request

    first, second, *lists = await asyncio.gather(
        reply(), reply(), outputs(request), outputs(request)
    )
    assert first is second
    assert texts(lists[0]) == texts(lists[1]) == ["shared"]


async def test_a_cancelled_wait_leaves_the_request_alone(client: KernelClient) -> None:
    """Whoever waits may be cancelled; the request goes on and can be awaited again."""
    request = client.execute("sleep 0.2\nprint done")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await request
    assert (await request).content["status"] == "ok"
    assert texts(await outputs(request)) == ["done"]


async def test_an_error_aborts_what_is_queued_behind_it(client: KernelClient) -> None:
    """An error aborts the requests that wait behind it, unless stop_on_error is off, and no later one."""
    for stop, status in ((True, "aborted"), (False, "ok")):
        failing = client.execute("sleep 0.2\nerror Some reason", stop_on_error=stop)
        behind = client.execute("print behind")
        assert (await failing).content["status"] == "error"
        later = client.execute("print later")
        assert (await behind).content["status"] == status
        assert (await later).content["status"] == "ok"


async def test_every_kind_of_request_is_answered(client: KernelClient) -> None:
    """Each request of the protocol that the echo kernel knows comes back with its reply."""
    for request, reply_type in (
        (client.complete("pri"), "complete_reply"),
        (client.inspect("print"), "inspect_reply"),
        (client.history(hist_access_type="tail", n=3), "history_reply"),
        (client.is_complete("print x"), "is_complete_reply"),
        (client.kernel_info(), "kernel_info_reply"),
        (client.kernel_info(channel="control"), "kernel_info_reply"),
        (client.comm_info(), "comm_info_reply"),
        (client.debug({"type": "request", "command": "x"}), "debug_reply"),
    ):
        async with asyncio.timeout(5):
            assert (await request).msg_type == reply_type


async def test_comm_buffers_come_back_uncopied(client: KernelClient) -> None:
    """Buffers of a comm message travel both ways, and arrive as views of what ZeroMQ received."""
    big = os.urandom(1_000_000)
    await client.comm_open("echo", "c1", {"x": 1})
    request = client.comm_msg("c1", {"n": 7}, buffers=[big, b"", memoryview(b"small")])
    await request  # comm messages have no reply: their idle status answers them
    (echoed,) = [m for m in await outputs(request) if m.msg_type == "comm_msg"]
    assert echoed.content["data"] == {"n": 7}
    assert [bytes(buffer) for buffer in echoed.buffers] == [big, b"", b"small"]
    assert all(isinstance(buffer, memoryview) for buffer in echoed.buffers)


async def test_not_a_number_arrives(client: KernelClient) -> None:
    """A frame with NaN, which is no JSON but which kernels send, is decoded all the same."""
    messages = await outputs(client.execute("nan"))
    (result,) = [m for m in messages if m.msg_type in ("execute_result", "display_data")]
    assert "nan" in repr(result.content).lower()


async def test_a_message_without_json_form_is_refused_at_once(client: KernelClient) -> None:
    """What cannot be sent raises where it is asked for, and nothing is left pending."""
    with pytest.raises(Exception, match="no JSON form"):
        client.execute("x", metadata={"self": object()})
    assert "0 pending" in repr(client)


async def test_handle_is_held_weakly_once_answered(client: KernelClient) -> None:
    """The client keeps no request, and so no output, that was answered and that nobody holds."""

    async def run() -> weakref.ref[Request]:
        request = client.execute("print x")
        await request
        await eventually(lambda: request.finished)
        return weakref.ref(request)

    reference = await run()
    gc.collect()
    assert reference() is None


async def test_handle_is_kept_until_answered(client: KernelClient) -> None:
    """A request that nobody holds is not forgotten before its reply."""
    _ = weakref.ref(client.execute("sleep 0.1"))
    gc.collect()
    assert "1 pending" in repr(client)
    await eventually(lambda: "0 pending" in repr(client))


# -- handlers ------------------------------------------------------------------------------


async def test_nothing_is_discarded_while_something_is_awaited(client: KernelClient) -> None:
    """While one request is awaited, handlers get every message of everybody, in order."""
    async with second_client(client) as other:
        seen: list[Message] = []
        client.add_handler(seen.append, {"iopub"})
        requests = client.execute("print mine"), other.execute("print theirs")
        await asyncio.gather(*requests)
        ids = {request.msg_id for request in requests}
        await eventually(lambda: len(states(seen, ids)) == 4)
        assert states(seen, ids) == ["busy", "idle"] * 2
        assert sorted(texts(seen)) == ["mine", "theirs"]


async def test_late_output_reaches_handlers_but_not_the_request(client: KernelClient) -> None:
    """Output that comes after a request's idle status is for the handlers."""
    seen: list[Message] = []
    client.add_handler(seen.append)
    request = client.execute("late 0.05 afterwards")
    await request
    await eventually(lambda: "afterwards" in texts(seen))
    assert texts(await outputs(request)) == []


async def test_a_raising_handler_costs_nothing_but_itself(
    client: KernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises, plain or coroutine, is logged, and the next one still runs."""
    seen: list[Message] = []

    def broken(message: Message) -> None:
        raise ValueError("plain handler")

    async def broken_later(message: Message) -> None:
        raise ValueError("coroutine handler")

    for handler in (broken, broken_later, seen.append):
        client.add_handler(handler, {"iopub", "shell"})
    with caplog.at_level(logging.ERROR, "kernel_mgmt"):
        request = client.execute("print x")
        await request
        await eventually(lambda: request.finished)
        await eventually(lambda: "coroutine handler" in caplog.text)
    assert "plain handler" in caplog.text
    assert {m.channel for m in seen} == {"iopub", "shell"}


async def test_a_handler_that_is_cancelled_before_its_turn() -> None:
    """A coroutine that a client has begun when it is closed is not called forgotten."""

    async def handle(_: object) -> None:
        raise AssertionError("There was no time for it.")

    calls = HandlerCalls()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        calls.call(handle, None)
        calls.cancel()
        await eventually(lambda: not calls.tasks)
        gc.collect()
    assert told == []


async def test_a_removed_handler_is_not_called(client: KernelClient) -> None:
    """A handler that was removed gets nothing more, also when it removes itself."""
    seen: list[Message] = []

    def once(message: Message) -> None:
        seen.append(message)
        client.remove_handler(once)

    client.add_handler(once, {"iopub"})
    await outputs(client.execute("print x"))
    assert len(seen) == 1


async def test_unknown_channels_of_a_handler_are_refused(client: KernelClient) -> None:
    """A handler for a channel that does not exist, or for a bare string, is an error at once."""
    for channels in ({"iopup"}, "iopub"):
        with pytest.raises(ValueError, match="must be a set"):
            client.add_handler(print, channels)


# -- every request ends --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "how"), [("exit 3", "exit code 3"), ("signal 9", "killed by SIGKILL")]
)
async def test_requests_end_with_the_kernels_death(
    client: KernelClient, code: str, how: str
) -> None:
    """When the kernel dies every pending request ends at once, with exit status and last output."""
    waiting = client.execute(f"print last words\noutside-stderr the reason\n{code}")
    queued = client.execute("print never")
    started = time.monotonic()
    for request in (waiting, queued):
        with pytest.raises(KernelDied, match=how) as died:
            await request
        assert "the reason" in died.value.log_tail
    assert time.monotonic() - started < 2
    with pytest.raises(KernelDied):
        client.execute("print more")


async def test_output_before_the_death_is_not_lost(client: KernelClient) -> None:
    """What a kernel sent before it died can be iterated; then comes KernelDied."""
    count = 20_000
    output = aiter(client.execute(f"flood {count} 200\nexit 3"))
    seen = [await anext(output) for _ in range(2 + count)]
    assert len(texts(seen)) == count
    with pytest.raises(KernelDied):
        await anext(output)


async def test_requests_end_when_the_client_is_closed(client: KernelClient) -> None:
    """Closing ends what is under way, refuses more, may be repeated, and leaves the kernel alone."""
    async with second_client(client) as other:
        request = other.execute("sleep 0.1")
        other.close()
        other.close()
        with pytest.raises(ClientClosed):
            await request
        with pytest.raises(ClientClosed):
            await outputs(request)
        with pytest.raises(ClientClosed):
            other.execute("print x")
    assert (await client.execute("print x")).content["status"] == "ok"


async def test_reconnect_ends_old_requests_and_keeps_handlers(
    client: KernelClient, finder: KernelFinder
) -> None:
    """After reconnect old requests end with KernelRestarted, and handlers hear the new kernel."""
    seen: list[Message] = []
    client.add_handler(seen.append)
    request = client.execute("sleep 10")
    old_manager = client.manager
    assert old_manager is not None
    info, manager = await finder.launch("echo/echo")
    await client.reconnect(info, manager)
    with pytest.raises(KernelRestarted):
        await request
    await old_manager.cleanup()
    await client.wait_for_ready(10)
    seen.clear()
    await outputs(client.execute("print new"))
    assert texts(seen) == ["new"]


async def test_a_lost_reply_ends_its_request(client: KernelClient) -> None:
    """A request that the kernel finished without a reply ends with an error that says so."""
    request = client.execute("print done\nnoreply")
    with pytest.raises(ReplyLost, match="finished execute_request and never replied"):
        await asyncio.wait_for(request, 10)
    assert texts(await outputs(request)) == ["done"]
    with pytest.raises(ReplyLost):
        await client.execute_interactive("noreply", timeout=10)
    assert (await client.execute("print x")).content["status"] == "ok"


async def test_a_closed_client_is_let_go(client: KernelClient) -> None:
    """A client that was closed before it looked for a lost reply is kept by nobody."""
    other = KernelClient(client.connection_info)
    request = other.execute("noreply")
    async for _ in request:
        pass
    assert not request.answered
    other.close()
    gone = weakref.ref(other)
    del other, request, _
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


async def test_only_the_lost_reply_is_given_up(client: KernelClient) -> None:
    """Requests that the kernel has not finished yet keep waiting, however long it takes."""
    lost, slow = client.execute("noreply"), client.execute("sleep 1.5\nprint slow")
    given_up: list[bool] = []
    client.add_handler(lambda _: given_up.append(lost.answered), {"shell"})
    assert (await slow).content["status"] == "ok"
    with pytest.raises(ReplyLost):
        await asyncio.wait_for(lost, 10)
    assert given_up[0] is False  # with the reply of the slow one


async def test_a_reply_that_never_comes_can_be_timed_out(client: KernelClient) -> None:
    """A request that the kernel never answers stays pending until its waiter gives up."""
    request = client.execute("noidle\nnoreply")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await request
    assert not request.answered
    with pytest.raises(RequestTimeout, match=r"within 0\.1 s") as timeout:
        await client.execute_interactive("sleep 1", timeout=0.1)
    assert timeout.value.phase == "execute"


# -- bad frames ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["unsigned", "forged", "replayed", "truncated", "notjson", "nodelimiter", "empty"]
)
async def test_bad_frames_are_dropped_counted_and_logged(
    client: KernelClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A bad frame costs itself only: it is counted and logged, and the channel goes on."""
    before = client.dropped_messages
    with caplog.at_level(logging.WARNING, "kernel_mgmt"):
        shown = texts(await outputs(client.execute(f"bad {kind}\nprint after")))
    # A message is replayed after it was sent in earnest.
    assert shown == (["bad", "after"] if kind == "replayed" else ["after"])
    assert client.dropped_messages == before + 1
    assert "Dropped message" in caplog.text
    assert client.connection_info.key not in caplog.text


async def test_content_that_is_no_json_hurts_only_who_looks(client: KernelClient) -> None:
    """A signed message with broken content is delivered, and raises where its content is read."""
    messages = await outputs(client.execute("bad badcontent\nprint after"))
    broken = [m for m in messages if m.msg_type == "stream"]
    with pytest.raises(Exception, match="not JSON"):
        _ = broken[0].content
    assert texts(broken[1:]) == ["after"]


async def test_a_client_with_the_wrong_key_gets_nothing(client: KernelClient) -> None:
    """With another key neither side believes the other, and the error names the phase."""
    wrong = client.connection_info.replace(key="wrong")
    async with KernelClient(wrong) as stranger:
        with pytest.raises(RequestTimeout, match="phase 'ready'"):
            await stranger.wait_for_ready(0.3)


# -- no loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True], ids=["quick reader", "reader busy at first"])
async def test_no_output_is_lost(client: KernelClient, slow: bool) -> None:
    """Twenty thousand messages arrive complete and in order, also at a reader that is busy."""
    request = client.execute("flood 20000 200")
    if slow:
        time.sleep(0.5)  # noqa: ASYNC251 - the loop is blocked on purpose: everything piles up in the socket
    async with asyncio.timeout(60):
        messages = [m async for m in request if m.msg_type == "stream"]
    assert len(messages) == 20_000
    assert all(len(m.content["text"]) >= 200 for m in messages)


async def test_a_flood_does_not_starve_other_tasks(client: KernelClient) -> None:
    """While messages pour in, other tasks of the loop still get their turns."""
    turns = 0

    async def other_task() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other_task())
    async with asyncio.timeout(60):
        await outputs(client.execute("flood 20000 200"))
    task.cancel()
    assert turns > 50
