"""Clients of a kernel whose nanny keeps a journal: a cut is a pause, and the past can be read."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import journal_client
import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    ClientClosed,
    ConnectionChange,
    ConnectionLost,
    KernelClient,
    KernelDied,
    KernelRestarted,
    Message,
    NannyError,
    NannyOptions,
    Prompt,
    RemoteKernelManager,
    Request,
)
from messages import failure, outputs, run_long, texts
from nannies import PATIENCE, RunningNanny, running_nanny
from tunnels import Way, way_to_nanny
from waiting import eventually, eventually_sync

#: A thousand ticks, in some seconds.
TICKS = "\n".join(f"print {number}\nsleep 0.002" for number in range(1000))


@pytest.fixture(scope="module")
def nanny() -> Iterator[RunningNanny]:
    """A nanny with an echo kernel, for tests that leave both as they are."""
    with running_nanny() as nanny:
        yield nanny


@pytest.fixture
def way() -> Iterator[Way]:
    """A nanny with an echo kernel, and a way to it that can be cut."""
    with way_to_nanny() as way:
        yield way


@pytest.fixture
async def client(way: Way) -> AsyncIterator[KernelClient]:
    """A client that is ready, and knows no link: its connections alone tell of a cut."""
    async with KernelClient(way.info, manager=RemoteKernelManager(way.info)) as client:
        await client.wait_for_ready(PATIENCE)
        yield client


@pytest.fixture
def changes(client: KernelClient) -> list[ConnectionChange]:
    """What is told of the client's connection."""
    told: list[ConnectionChange] = []
    client.on_connection_change(told.append)
    return told


async def lost(client: KernelClient) -> None:
    """Wait until the client knows that the connection is lost."""
    await eventually(lambda: "cut off" in repr(client))


async def printed(request: Request) -> list[str]:
    """Wait until a request is finished; gives what it printed."""
    async with asyncio.timeout(PATIENCE):
        await request.wait_until_finished()
        return texts(await outputs(request))


# -- the past ------------------------------------------------------------------------------


async def test_numbers(nanny: RunningNanny) -> None:
    """Each message has the next number, whatever its channel, and the position is the last one's."""
    heard: list[Message] = []
    async with KernelClient(nanny.connection_info, on_message=heard.append) as client:
        await client.wait_for_ready(PATIENCE)
        assert await printed(client.execute("print x")) == ["x"]
        await client.kernel_info(channel="control")
        # That reply may come first by its channel, and have no number then.
        assert await printed(client.execute("print y")) == ["y"]
        assert client.dropped_messages == 0
        numbers = [message.journal_number for message in heard if message.journal_number]
        assert numbers == sorted(set(numbers))
        assert {"iopub", "shell", "control"} <= {message.channel for message in heard}
        replies = [m for m in heard if m.channel == "control"]
        assert len(replies) == len({m.msg_id for m in replies})


async def test_replay(nanny: RunningNanny) -> None:
    """The past is read from a number, to a number, or from a moment on, as often as one likes."""
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        before = client.journal_position
        request = client.execute("print one\nprint two")
        assert await printed(request) == ["one", "two"]
        moment = time.time()
        assert await printed(client.execute("print three")) == ["three"]
        last = client.journal_position
        past = [message async for message in client.replay(before)]
        assert texts(past) == ["one", "two", "three"]
        assert [m.journal_number for m in past] == list(range(before + 1, last + 1))
        assert {"execute_reply", "status", "stream"} <= {m.msg_type for m in past}
        (number,) = (m.journal_number for m in past if texts([m]) == ["two"])
        assert texts([m async for m in client.replay(before, until=number)]) == ["one", "two"]
        assert texts([m async for m in client.replay(since=moment)]) == ["three"]
        assert [m async for m in client.replay(last)] == []
        everything = [message async for message in client.replay()]
        assert [m.journal_number for m in everything] == list(range(1, last + 1))
        assert everything[0].channel == "nanny"
        async for message in client.replay():
            assert message.journal_number == 1
            break
        with pytest.raises(NannyError, match=str(last + 1000)):
            _ = [message async for message in client.replay(last + 1000)]


async def test_resume_after(nanny: RunningNanny) -> None:
    """A client that goes on after a position is handed on the rest first, in order, once."""
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        position = client.journal_position
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        assert await printed(client.execute("print missed")) == ["missed"]
    heard: list[Message] = []
    told: list[ConnectionChange] = []
    async with KernelClient(
        nanny.connection_info, resume_after=position, on_message=heard.append
    ) as client:
        client.on_connection_change(told.append)
        assert await printed(client.execute("print more")) == ["more"]
        assert texts(heard) == ["missed", "more"]
        assert heard[0].journal_number == position + 1
        assert [change.state for change in told] == ["connected"]
        assert told[0].caught_up > 0
        assert told[0].gap is None


async def test_who_does_not_count_as_a_reader(nanny: RunningNanny) -> None:
    """What such a client is told stays unread, also when it is made anew; that of another is read."""

    def last_read() -> int:
        return int(nanny.ask("nanny_info")["journal"]["read"])

    info = nanny.connection_info
    async with KernelClient(info) as client:
        await client.wait_for_ready(PATIENCE)
        end = client.journal_position
    await eventually(lambda: last_read() >= end)
    before = last_read()
    async with KernelClient(info, counts_as_reader=False) as client:
        assert await printed(client.execute("print unread")) == ["unread"]
        await client.reconnect(info)
        assert await printed(client.execute("print unread")) == ["unread"]
    with BlockingKernelClient(info, counts_as_reader=False) as blocking:
        await asyncio.to_thread(blocking.execute("print unread").reply, PATIENCE)
    assert last_read() == before
    async with KernelClient(info, counts_as_reader=False) as client:
        assert await printed(client.execute("print unread")) == ["unread"]
        unread = client.journal_position
        client.count_as_reader()
        assert await printed(client.execute("print read")) == ["read"]
    await eventually(lambda: last_read() > unread)


async def test_resume_after_what_never_was(nanny: RunningNanny) -> None:
    """A position that the journal does not reach is refused, with that reason."""
    async with KernelClient(nanny.connection_info, resume_after=10**9) as client:
        with pytest.raises(NannyError, match="1000000000"):
            await client.wait_for_ready(PATIENCE)
        with pytest.raises(NannyError):
            client.execute("print x")


async def test_two_clients_at_different_positions(nanny: RunningNanny) -> None:
    """Each client reads from where it is, and gets the replies to its own requests."""
    first: list[Message] = []
    second: list[Message] = []
    info = nanny.connection_info
    async with KernelClient(info, resume_after=0, on_message=first.append) as one:
        await one.wait_for_ready(PATIENCE)
        async with KernelClient(info, on_message=second.append) as other:
            await other.wait_for_ready(PATIENCE)
            assert await printed(one.execute("print a")) == ["a"]
            assert await printed(other.execute("print b")) == ["b"]
            end = max(one.journal_position, other.journal_position)
            await eventually(lambda: one.journal_position == other.journal_position >= end)
        numbers = [m.journal_number for m in first if m.channel != "control"]
        assert numbers == sorted(set(numbers))
        assert texts(second)[-2:] == texts(first)[-2:] == ["a", "b"]
        assert numbers[0] == 1


async def test_without_a_journal() -> None:
    """A nanny that keeps no journal is talked to as before: there is no past to read."""
    with running_nanny(options=NannyOptions(journal_limit=None)) as nanny:
        async with KernelClient(nanny.connection_info) as client:
            await client.wait_for_ready(PATIENCE)
            assert await printed(client.execute("print x")) == ["x"]
            assert client.journal_position == 0
            with pytest.raises(NannyError, match="no nanny that keeps a journal"):
                client.request("x")
            with pytest.raises(NannyError, match="no nanny that keeps a journal"):
                _ = [message async for message in client.replay()]


# -- another process -----------------------------------------------------------------------


def start_client(nanny: RunningNanny, told: Path) -> subprocess.Popen[bytes]:
    """Start a process that has the kernel tick, and writes down what it is told."""
    with told.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, journal_client.__file__, str(nanny.connection_file), TICKS],
            stdout=file,
        )


async def test_a_client_that_is_killed(tmp_path: Path) -> None:
    """What a client was told before it was killed, and what the next one is told, is all, once."""
    with running_nanny() as nanny:
        told = tmp_path / "told"
        process = start_client(nanny, told)
        await eventually(lambda: told.read_bytes().count(b"\n") > 200, PATIENCE)
        process.kill()
        process.wait()
        lines = told.read_bytes().split(b"\n")[:-1]  # the last one may not be whole
        msg_id, *before = map(json.loads, lines)
        heard: list[Message] = []
        async with KernelClient(
            nanny.connection_info, resume_after=before[-1][0], on_message=heard.append
        ) as client:
            request = client.request(msg_id)
            async with asyncio.timeout(PATIENCE):
                assert (await request).content["status"] == "ok"
                streams = [m for m in await outputs(request) if m.msg_type == "stream"]
            ticks = [str(number) for number in range(1000)]
            assert "".join(m.content["text"] for m in streams).split() == ticks
            await eventually(lambda: any(_is_idle(m) and m.parent_id == msg_id for m in heard))
            after = [m.content["text"] for m in heard if m.msg_type == "stream"]
            assert "".join([*(text for _, text in before), *after]).split() == ticks
            assert request.message.header["session"] != client.session.session_id
            assert request.message.msg_type == "execute_request"


def _is_idle(message: Message) -> bool:
    return message.msg_type == "status" and message.content["execution_state"] == "idle"


async def test_a_request_of_another_client(nanny: RunningNanny) -> None:
    """A request that is under way, has ended, or never was is had by its id."""
    info = nanny.connection_info
    async with KernelClient(info) as one, KernelClient(info) as other:
        await asyncio.gather(one.wait_for_ready(PATIENCE), other.wait_for_ready(PATIENCE))
        own = one.execute("print begun\nsleep 0.3\nprint done")
        async for message in own:
            if texts([message]):
                break
        request = other.request(own.msg_id)
        assert other.request(own.msg_id) is request
        assert one.request(own.msg_id) is own
        assert await printed(request) == ["begun", "done"]
        assert (await request).msg_id == (await own).msg_id
        del request
        assert await printed(other.request(own.msg_id)) == ["begun", "done"]
        with pytest.raises(NannyError, match="id"):
            await other.request("never was")


async def test_another_answers_the_question(nanny: RunningNanny) -> None:
    """What a kernel asks can be answered by another client, also when it has asked before."""
    info = nanny.connection_info
    async with KernelClient(info) as one:
        await one.wait_for_ready(PATIENCE)
        asked = asyncio.Event()
        one.add_handler(lambda _: asked.set(), {"stdin"})
        own = one.execute("input first?\ninput second?", allow_stdin=True)
        await asked.wait()
    questions: list[str] = []
    async with KernelClient(info) as other:

        def answer(prompt: Prompt) -> str:
            questions.append(prompt.message)
            return str(len(questions))

        assert await printed(other.request(own.msg_id, answer)) == ["1", "2"]
        assert questions == ["first?", "second?"]


# -- cuts ----------------------------------------------------------------------------------


async def test_a_cut_is_a_pause(
    way: Way, client: KernelClient, changes: list[ConnectionChange]
) -> None:
    """What is under way during a cut, and what is asked in it, is answered, and nothing is missed."""
    request = client.execute("print before\nsleep 0.3\nprint after")
    async for message in request:
        if texts([message]):
            break
    began = time.time()
    way.tunnel.cut()
    await lost(client)
    held = [client.execute(f"print {number}") for number in range(5)]
    client.connection_info = client.connection_info.replace(interrupt_mode="message")
    with pytest.raises(ConnectionLost):
        await client.interrupt()
    assert not client.responsive
    await asyncio.sleep(0.3)
    way.tunnel.restore()
    assert await printed(request) == ["before", "after"]
    for number, one in enumerate(held):
        assert await printed(one) == [str(number)]
    await eventually(lambda: len(changes) == 2)
    assert [change.state for change in changes] == ["lost", "resumed"]
    for change in changes:
        assert change.since is not None
        assert abs(change.since - began) < 1
    assert changes[1].caught_up > 0
    assert changes[1].gap is None
    assert client.dropped_messages == 0


@pytest.mark.parametrize("channel", ["shell", "control", "stdin", "nanny_journal"])
async def test_any_channel(
    way: Way, client: KernelClient, changes: list[ConnectionChange], channel: str
) -> None:
    """The loss of any one connection has all made anew, and is told."""
    await client.kernel_info(channel="control")
    await client.execute_interactive("input ?", stdin_hook=lambda _: "x", output_hook=repr)
    request = await run_long(client)
    way.tunnel.break_off(channel)
    await eventually(lambda: [c.state for c in changes] == ["lost", "resumed"])
    assert client.manager is not None
    await client.manager.interrupt()
    async with asyncio.timeout(PATIENCE):
        assert (await request).content["ename"] == "KeyboardInterrupt"
    assert await printed(client.execute("print x")) == ["x"]


async def test_a_stall_is_noticed(
    way: Way, client: KernelClient, changes: list[ConnectionChange]
) -> None:
    """A connection that carries nothing any more, and does not say so, counts as lost within 5 s."""
    began = time.monotonic()
    way.tunnel.stall()
    await eventually(lambda: [c.state for c in changes] == ["lost"], PATIENCE)
    assert time.monotonic() - began < 5
    request = client.execute("print x")
    way.tunnel.restore()
    assert await printed(request) == ["x"]


async def test_requests_are_done_once(way: Way, client: KernelClient) -> None:
    """Whatever a cut does to requests on their way, each is done once, and in order."""
    ran: list[str] = []
    client.add_handler(
        lambda message: (
            ran.append(message.content["code"]) if message.msg_type == "execute_input" else None
        )
    )
    requests: list[Request] = []
    for _ in range(10):
        requests += [client.execute(f"print {len(requests) + more}") for more in range(20)]
        way.tunnel.cut()
        way.tunnel.restore()
    for number, request in enumerate(requests):
        assert await printed(request) == [str(number)]
    assert ran == [f"print {number}" for number in range(200)]


async def test_input_across_cuts(way: Way, client: KernelClient) -> None:
    """A question is asked once, and its answer arrives though the connection is lost meanwhile."""
    asked: list[str] = []

    async def answer(prompt: Prompt) -> str:
        asked.append(prompt.message)
        way.tunnel.cut()
        if len(asked) % 2:
            await lost(client)
        asyncio.get_running_loop().call_later(0.1, way.tunnel.restore)
        return str(len(asked))

    code = "\n".join(f"print {n}\ninput {n}?" for n in range(4))
    heard: list[Message] = []
    await client.execute_interactive(
        code, stdin_hook=answer, output_hook=heard.append, timeout=PATIENCE
    )
    assert asked == [f"{n}?" for n in range(4)]
    assert texts(heard) == ["0", "1", "1", "2", "2", "3", "3", "4"]


async def test_restart_during_a_cut(way: Way, client: KernelClient) -> None:
    """When the kernel was restarted in a cut old requests end so, and what is asked then works."""
    heard: list[str] = []
    client.add_handler(lambda message: heard.append(message.msg_type), {"nanny"})
    old = await run_long(client)
    way.tunnel.cut()
    await lost(client)
    held = client.execute("print held")
    reply = await asyncio.to_thread(way.nanny.ask, "restart")
    assert reply["status"] == "ok"
    way.tunnel.restore()
    for request in (old, held):
        assert isinstance(await failure(request), KernelRestarted)

    async def works() -> bool:
        try:
            await client.wait_for_ready(PATIENCE)
            return await printed(client.execute("print x")) == ["x"]
        except (KernelDied, KernelRestarted):
            return False

    assert await eventually(works, PATIENCE)
    assert heard == ["died", "restarting", "started", "ready"]


async def test_with_a_link(way: Way) -> None:
    """Where a manager tells of a link a client closes with it and comes back with it."""
    told: list[str] = []
    manager = RemoteKernelManager(way.info, link=way.link)
    async with KernelClient(way.info, manager=manager) as client:
        client.on_connection_change(lambda change: told.append(change.state))
        request = client.execute("print before\nsleep 0.3\nprint after")
        await eventually(lambda: told == ["connected"], PATIENCE)
        way.lose()
        await lost(client)
        held = client.execute("print held")
        await asyncio.sleep(0.5)
        assert not request.answered
        way.restore()
        assert await printed(request) == ["before", "after"]
        assert await printed(held) == ["held"]
        assert told == ["connected", "lost", "resumed"]
        way.link.close("It is over.")
        error = await _error(client)
        assert isinstance(error, ConnectionLost)
        assert error.final
        await eventually(lambda: told[-1] == "closed")


async def _error(client: KernelClient) -> Exception:
    async def fails() -> Exception | None:
        try:
            await client.execute("print x")
        except ConnectionLost as error:
            return error
        return None

    found: Exception = await eventually(fails)
    return found


async def test_replay_across_a_cut(way: Way, client: KernelClient) -> None:
    """A replay goes on where it was after a cut, and gives nothing twice."""
    flood = client.execute("flood 5000 200")
    await flood.wait_until_finished()
    numbers = []
    async for message in client.replay():
        if len(numbers) == 100:
            way.tunnel.cut()
            way.tunnel.restore()
        numbers.append(message.journal_number)
    assert len(numbers) > 5000
    assert numbers == list(range(1, len(numbers) + 1))


async def test_close_acknowledges(way: Way) -> None:
    """What a client has handled counts as read when it is closed."""
    async with KernelClient(way.info) as client:
        await client.wait_for_ready(PATIENCE)
        assert await printed(client.execute("print x")) == ["x"]
        position = client.journal_position

    async def is_read() -> bool:
        info = await RemoteKernelManager(way.info).info()
        return bool(info["journal"]["read"] >= position)

    assert await eventually(is_read)


async def test_closed_in_a_cut(way: Way, client: KernelClient) -> None:
    """A client that is closed during a cut ends what waits, and leaves nothing."""
    way.tunnel.cut()
    await lost(client)
    held = client.execute("print x")
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await asyncio.sleep(0)
    client.close()
    for awaitable in (held, waiting):
        assert isinstance(await failure(awaitable), ClientClosed)
    way.tunnel.restore()


# -- without an event loop -----------------------------------------------------------------


def test_blocking_client(way: Way) -> None:
    """The blocking client lives through a cut, reads the past, and has requests by their ids."""
    told: list[str] = []
    with BlockingKernelClient(way.info, manager=RemoteKernelManager(way.info)) as client:
        client.wait_for_ready(PATIENCE)
        client.on_connection_change(lambda change: told.append(change.state))
        position = client.journal_position
        request = client.execute("print before\nsleep 0.3\nprint after")
        next(request.outputs(PATIENCE))
        way.tunnel.cut()
        eventually_sync(lambda: told == ["lost"])
        way.tunnel.restore()
        assert request.wait_until_finished(PATIENCE).content["status"] == "ok"
        assert texts(list(request)) == ["before", "after"]
        eventually_sync(lambda: told == ["lost", "resumed"])
        assert texts(list(client.replay(position))) == ["before", "after"]
        heard: list[Message] = []
        with BlockingKernelClient(
            way.info, resume_after=position, on_message=heard.append
        ) as other:
            same = other.request(request.msg_id)
            assert same.reply(PATIENCE).msg_id == request.reply().msg_id
            assert texts(list(same.outputs(PATIENCE))) == ["before", "after"]
            eventually_sync(lambda: texts(heard) == ["before", "after"])
