"""Clients and managers of a kernel whose connection is lost, and comes back."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

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
    RemoteKernelManager,
    Request,
    RequestTimeout,
)
from messages import outputs, run_long, texts
from nannies import PATIENCE, is_gone
from tunnels import Way, way_to_nanny
from waiting import eventually, eventually_sync


@pytest.fixture
def way() -> Iterator[Way]:
    """A nanny with an echo kernel, and a way to it that can be cut."""
    with way_to_nanny(options=NannyOptions(journal_limit=None)) as way:
        yield way


@pytest.fixture
async def client(way: Way) -> AsyncIterator[KernelClient]:
    """A client that is ready, and whose manager knows the kernel."""
    manager = RemoteKernelManager(way.info, link=way.link)
    async with KernelClient(way.info, manager=manager) as client:
        await client.wait_for_ready(PATIENCE)
        # On a busy machine it may not, and would take the next kernel for the one that was there.
        await eventually(lambda: manager.kernel_number, PATIENCE)
        yield client


@pytest.fixture
def changes(client: KernelClient) -> list[str]:
    """The states that the client's connection goes through."""
    told: list[str] = []
    client.on_connection_change(lambda change: told.append(change.state))
    return told


async def lost(client: KernelClient) -> None:
    """Wait until the client knows that the connection is lost."""
    await eventually(lambda: "cut off" in repr(client))


async def printed(request: Request) -> list[str]:
    """Wait until a request is finished; gives what it printed."""
    async with asyncio.timeout(PATIENCE):
        await request.wait_until_finished()
        return texts(await outputs(request))


async def failure(awaitable: Awaitable[object]) -> BaseException:
    """Wait for what ends a request in place of a reply."""
    try:
        async with asyncio.timeout(PATIENCE):
            await awaitable
    except Exception as error:  # noqa: BLE001 - looked at by the caller
        return error
    raise AssertionError("It did not fail.")


async def everything(request: Request) -> list[Message]:
    """Give all messages of a request, in the order of iopub and then its reply."""
    reply = await request.wait_until_finished()
    return [*await outputs(request), reply]


# -- a cut while there is work -------------------------------------------------------------


async def test_cut_while_a_cell_runs(way: Way, client: KernelClient, changes: list[str]) -> None:
    """What is under way ends with an error that says why; the same client then works on."""
    request = client.execute("print started\nsleep 60", stop_on_error=False)
    async for message in request:
        if texts([message]):
            break
    way.lose()
    error = await failure(request)
    assert isinstance(error, ConnectionLost)
    assert (error.host, error.reason, error.final) == ("me@far", "The cable was cut.", False)
    assert "lost before execute_request was answered: The cable was cut;" in str(error)
    assert isinstance(await failure(outputs(request)), ConnectionLost)
    assert changes == ["lost"]
    way.restore()
    await eventually(lambda: changes == ["lost", "restored"], PATIENCE)
    assert client.manager is not None
    await client.manager.interrupt()  # the cell has run on
    assert await printed(client.execute("print x")) == ["x"]
    assert client.dropped_messages == 0


async def test_output_of_the_cell_that_runs_on(way: Way, client: KernelClient) -> None:
    """What a cell of before prints after the cut reaches the handlers."""
    heard: list[str] = []
    client.add_handler(lambda message: heard.extend(texts([message])))
    request = client.execute("print before\nsleep 1\nprint after")
    await eventually(lambda: heard == ["before"], PATIENCE)
    way.lose()
    assert isinstance(await failure(request), ConnectionLost)
    way.restore()
    await eventually(lambda: heard == ["before", "after"], PATIENCE)


async def test_request_made_meanwhile(way: Way, client: KernelClient, changes: list[str]) -> None:
    """What is asked during a cut is sent after it, once, in order, and no output of it is missed."""
    before = {message.msg_type for message in await everything(client.execute("print x"))}
    ran: list[str] = []
    client.add_handler(
        lambda message: (
            ran.append(message.content["code"]) if message.msg_type == "execute_input" else None
        )
    )
    way.lose()
    await lost(client)
    requests = [client.execute(f"print {number}") for number in range(5)]
    await asyncio.sleep(0.2)
    assert not any(request.answered for request in requests)
    assert "5 pending" in repr(client)
    way.restore()
    for number, request in enumerate(requests):
        assert await printed(request) == [str(number)]
        assert {message.msg_type for message in await everything(request)} == before
        assert changes[-1] == "restored" or number == 0
    assert [code for code in ran if code] == [f"print {number}" for number in range(5)]


async def test_request_made_before_the_loss_is_noticed(way: Way, client: KernelClient) -> None:
    """What is sent into a connection that is dead ends when the loss is told, and not before."""
    way.tunnel.cut()
    request = client.execute("print x")
    await asyncio.sleep(0.2)
    assert not request.answered
    way.link.lose("The cable was cut.")
    assert isinstance(await failure(request), ConnectionLost)
    way.restore()
    assert await printed(client.execute("print y")) == ["y"]


async def test_kernel_that_is_busy_when_it_is_back(
    way: Way, client: KernelClient, changes: list[str]
) -> None:
    """A kernel that runs a cell and answers nothing keeps nobody from being told of the return."""
    request = client.execute("print started\nhang", stop_on_error=False)
    async for message in request:
        if texts([message]):
            break
    way.lose()
    await lost(client)
    held = client.execute("print x")
    way.restore()
    await eventually(lambda: changes == ["lost", "restored"], PATIENCE)
    assert client.manager is not None
    await client.manager.interrupt()
    assert await printed(held) == ["x"]


async def test_repeated_cuts(way: Way, client: KernelClient, changes: list[str]) -> None:
    """After fifty cuts in a row the client works, and holds no more sockets than before."""
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        request = client.execute("sleep 0.1" if number % 2 else "print x")
        way.lose()
        if number % 3:
            await lost(client)
        held = client.execute(f"print {number}")
        way.restore()
        if number % 2:
            assert isinstance(await failure(request), ConnectionLost)
        if number % 3:
            assert await printed(held) == [str(number)]
    assert await printed(client.execute("print end")) == ["end"]
    await eventually(lambda: changes == ["lost", "restored"] * (len(changes) // 2))
    # What the manager has open varies; each cut would have left three sockets.
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 20)


async def test_cuts_at_any_moment(way: Way, client: KernelClient) -> None:
    """Whenever it is cut, each request ends: with all of its output, or an error, and none ran twice."""
    chance = random.Random(5)
    ran: Counter[str] = Counter()
    client.add_handler(lambda message: ran.update(texts([message])))
    ends: Counter[str] = Counter()
    goes_on = True

    async def use(user: int) -> None:
        number = 0
        while goes_on:
            number += 1
            try:
                assert await printed(client.execute(f"print {user} {number}")) == [
                    f"{user} {number}"
                ]
                ends["reply"] += 1
            except ConnectionLost:
                ends["loss"] += 1
            await asyncio.sleep(chance.random() * 0.01)

    users = [asyncio.create_task(use(user)) for user in range(3)]
    for _ in range(20):
        await asyncio.sleep(chance.random() * 0.1)
        cut = [way.tunnel.cut, lambda: way.link.lose("The cable was cut.")]
        chance.shuffle(cut)
        for step in cut:
            step()
            await asyncio.sleep(chance.choice([0, 0.02]))
        await asyncio.sleep(chance.random() * 0.05)
        way.restore()
    goes_on = False
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*users)
    assert ends["reply"] > 0
    assert ends["loss"] > 0
    assert set(ran.values()) == {1}
    assert client.dropped_messages == 0


async def test_cut_again_before_it_works(
    way: Way, client: KernelClient, changes: list[str]
) -> None:
    """A connection that is lost again before the client works is told of as one loss."""
    way.lose()
    await lost(client)
    held = client.execute("print x")
    for _ in range(5):
        way.link.restore()  # the tunnel itself carries nothing
        await asyncio.sleep(0.05)
        way.link.lose("Once more.")
        await lost(client)
    assert changes == ["lost"]
    way.restore()
    assert await printed(held) == ["x"]
    assert changes == ["lost", "restored"]


# -- what else happens meanwhile -----------------------------------------------------------


async def test_ready_during_a_cut(way: Way, client: KernelClient) -> None:
    """Who waits for the kernel waits for the connection, too, no longer than it may."""
    way.lose()
    await lost(client)
    with pytest.raises(RequestTimeout, match="the connection to me@far is lost"):
        await client.wait_for_ready(0.1)
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    way.restore()
    assert (await waiting)["implementation"] == "echo"


async def test_cut_while_waiting_for_ready(way: Way) -> None:
    """A cut in the middle of the first wait only makes it longer."""
    way.tunnel.cut()
    manager = RemoteKernelManager(way.info, link=way.link)
    async with KernelClient(way.info, manager=manager) as client:
        waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
        await asyncio.sleep(0.1)
        way.link.lose("The cable was cut.")
        await lost(client)
        assert not waiting.done()
        way.restore()
        await waiting
        assert await printed(client.execute("print x")) == ["x"]


async def test_client_of_a_lost_link(way: Way) -> None:
    """A client may be made during a cut; it works when that is over."""
    way.lose()
    manager = RemoteKernelManager(way.info, link=way.link)
    async with KernelClient(way.info, manager=manager) as client:
        told: list[str] = []
        client.on_connection_change(lambda change: told.append(change.state))
        request = client.execute("print x")
        await asyncio.sleep(0.1)
        way.restore()
        assert await printed(request) == ["x"]
        assert told == ["restored"]


async def test_restart_during_a_cut(way: Way, client: KernelClient, changes: list[str]) -> None:
    """When the kernel was restarted meanwhile what was held ends so, unsent; then the client follows."""
    (pid,) = await printed(client.execute("pid"))
    way.lose()
    await lost(client)
    held = client.execute("print lost")
    assert (await asyncio.to_thread(way.nanny.ask, "restart"))["status"] == "ok"
    ran: list[Any] = []
    client.add_handler(lambda message: ran.append(message.content.get("code")))
    way.restore()
    assert isinstance(await failure(held), KernelRestarted)
    await client.wait_for_ready(PATIENCE)
    (new_pid,) = await printed(client.execute("pid"))
    assert new_pid != pid
    await eventually(lambda: changes == ["lost", "restored"], PATIENCE)
    assert "print lost" not in ran


async def test_death_during_a_cut(way: Way, client: KernelClient, changes: list[str]) -> None:
    """When the kernel has died for good meanwhile what was held, and what comes, ends with that."""
    way.lose()
    await lost(client)
    held = client.execute("print lost")
    assert (await asyncio.to_thread(way.nanny.ask, "kill"))["status"] == "ok"
    way.restore()
    error = await failure(held)
    assert isinstance(error, KernelDied)
    assert error.exit_status is not None
    assert error.exit_status.signal == 9
    await eventually(lambda: changes == ["lost", "restored"], PATIENCE)
    with pytest.raises(KernelDied):
        client.execute("print x")


async def test_the_nanny_ends_during_a_cut(way: Way, client: KernelClient) -> None:
    """When the nanny is gone afterwards, and connections are refused, the kernel is dead."""
    way.lose()
    await lost(client)
    held = client.execute("print lost")
    await asyncio.to_thread(way.nanny.ask, "stop", timeout=0)
    await asyncio.to_thread(way.nanny.ended)
    way.tunnel.refuse()
    way.link.restore()
    error = await failure(held)
    assert isinstance(error, KernelDied)
    assert "its nanny ended" in str(error)


async def test_a_refusal_while_lost_is_no_end(way: Way, client: KernelClient) -> None:
    """As long as the connection is lost nothing that is refused tells of the nanny's end."""
    assert client.manager is not None
    waiting = asyncio.create_task(client.manager.wait())
    way.link.lose("The tunnel is gone.")
    way.tunnel.refuse()
    await lost(client)
    await asyncio.sleep(0.5)
    assert not waiting.done()
    way.link.close("Nobody makes another.")
    assert isinstance(await failure(waiting), ConnectionLost)


async def test_input_during_a_cut(way: Way, client: KernelClient) -> None:
    """An answer to a question that was asked before the cut is refused: the question is lost."""
    asked = asyncio.Event()
    client.add_handler(lambda _: asked.set(), {"stdin"})
    request = client.execute("input name?", allow_stdin=True)
    await asked.wait()
    way.lose()
    await lost(client)
    with pytest.raises(ConnectionLost, match="input_request"):
        client.send_input("x")
    assert isinstance(await failure(request), ConnectionLost)
    assert client.responsive is False
    way.restore()
    await client.wait_for_ready(PATIENCE)
    assert client.responsive is True
    await client.interrupt()


async def test_input_before_the_loss_is_noticed(way: Way, client: KernelClient) -> None:
    """An answer that does not go out, because of a loss that is not known yet, tells of no death."""
    way.tunnel.cut()

    async def is_refused() -> bool:
        try:
            client.send_input("x")
        except ConnectionLost:
            return True
        return False

    await eventually(is_refused)
    way.lose()
    way.restore()


async def test_interrupt_by_message_during_a_cut(way: Way, client: KernelClient) -> None:
    """An interrupt that cannot go out is refused, and interrupts nothing later."""
    client.connection_info = client.connection_info.replace(interrupt_mode="message")
    way.lose()
    await lost(client)
    with pytest.raises(ConnectionLost):
        await client.interrupt()
    held = client.execute("sleep 0.1\nprint x")
    way.restore()
    assert await printed(held) == ["x"]


# -- ends ----------------------------------------------------------------------------------


async def test_closed_link(way: Way, client: KernelClient, changes: list[str]) -> None:
    """When the link is closed everything ends with an error that is final."""
    request = await run_long(client)
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    way.tunnel.cut()
    way.link.close("The password is refused.")
    for awaitable in (request, waiting):
        error = await failure(awaitable)
        assert isinstance(error, ConnectionLost)
        assert error.final
    with pytest.raises(ConnectionLost, match="attach to the kernel again"):
        client.execute("print x")
    assert changes == ["closed"]
    manager = client.manager
    assert manager is not None
    for ask in (manager.is_alive, manager.wait, manager.interrupt, manager.cleanup):
        assert isinstance(await failure(ask()), ConnectionLost)
    way.tunnel.restore()


async def test_closed_after_the_end(way: Way, client: KernelClient) -> None:
    """Of a kernel that has died it is told so, also when its connection is closed later."""
    assert client.manager is not None
    await client.manager.kill()
    await eventually(lambda: "dead" in repr(client), PATIENCE)
    way.link.close("Nobody needs it any more.")
    await eventually(lambda: not way.link._watchers)
    with pytest.raises(KernelDied):
        client.execute("print x")


async def test_closed_while_lost(way: Way, client: KernelClient, changes: list[str]) -> None:
    """What is held ends as well when the link that is lost does not come back."""
    way.lose()
    await lost(client)
    held = client.execute("print x")
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await asyncio.sleep(0)
    way.link.close("Given up.")
    for awaitable in (held, waiting):
        error = await failure(awaitable)
        assert isinstance(error, ConnectionLost)
        assert error.final
    assert changes == ["lost", "closed"]
    way.tunnel.restore()


async def test_client_of_a_closed_link(way: Way) -> None:
    """A client of a link that is closed raises that from the start."""
    way.link.close("Given up.")
    manager = RemoteKernelManager(way.info, link=way.link)
    async with KernelClient(way.info, manager=manager) as client:
        with pytest.raises(ConnectionLost, match="Given up"):
            await client.wait_for_ready(PATIENCE)
        with pytest.raises(ConnectionLost):
            client.execute("print x")


@pytest.mark.parametrize("restored", [False, True])
async def test_close_during_a_cut(way: Way, client: KernelClient, restored: bool) -> None:
    """A client that is closed during a cut, or as it becomes ready again, ends what was held."""
    way.lose()
    await lost(client)
    held = client.execute("print x")
    waiting = asyncio.create_task(client.wait_for_ready(PATIENCE))
    await asyncio.sleep(0)
    if restored:
        way.link.restore()
        await eventually(lambda: "cut off" not in repr(client))
    client.close()
    for awaitable in (held, waiting):
        assert isinstance(await failure(awaitable), ClientClosed)
    assert not way.link._watchers or await eventually(lambda: not way.link._watchers)
    way.restore()


async def test_let_go_and_reconnect_during_a_cut(
    way: Way, client: KernelClient, changes: list[str]
) -> None:
    """A client may go to another kernel during a cut, and hears of that one's connection."""
    with way_to_nanny(options=NannyOptions(journal_limit=None)) as other:
        way.lose()
        await lost(client)
        held = client.execute("print x")
        await client.let_go(KernelRestarted("It is replaced."))
        assert isinstance(await failure(held), KernelRestarted)
        manager = RemoteKernelManager(other.info, link=other.link)
        await client.reconnect(other.info, manager)
        await client.wait_for_ready(PATIENCE)
        way.restore()
        assert await printed(client.execute("print y")) == ["y"]
        other.lose()
        await lost(client)
        held = client.execute("print z")
        other.restore()
        assert await printed(held) == ["z"]
        assert changes == ["lost", "lost", "restored"]
        client.close()


# -- who is told ---------------------------------------------------------------------------


async def test_handlers(way: Way, client: KernelClient, caplog: pytest.LogCaptureFixture) -> None:
    """Handlers, coroutine functions as well, are told on the loop; one that raises harms no other."""
    told: list[ConnectionChange] = []
    worked: list[str] = []

    async def work(change: ConnectionChange) -> None:
        if change.state == "restored":
            worked.extend(await printed(client.execute("print x")))

    def fail(_: ConnectionChange) -> None:
        raise RuntimeError("no")

    ends: list[Callable[[], None]] = [
        client.on_connection_change(handler) for handler in (fail, work, told.append, told.append)
    ]
    ends[-1]()
    ends[-1]()
    way.lose("Why not?")
    await lost(client)
    way.restore()
    await eventually(lambda: worked == ["x"], PATIENCE)
    assert told == [ConnectionChange("lost", "Why not?"), ConnectionChange("restored")]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert str(told[0]) == "lost: Why not?"


def test_blocking_client(way: Way) -> None:
    """A blocking client lives through a cut as well."""
    manager = RemoteKernelManager(way.info, link=way.link)
    with BlockingKernelClient(way.info, manager=manager) as client:
        client.wait_for_ready(PATIENCE)
        told: list[str] = []
        end = client.on_connection_change(lambda change: told.append(change.state))
        request = client.execute("print x\nsleep 60", stop_on_error=False)
        next(request.outputs(PATIENCE))
        way.lose()
        with pytest.raises(ConnectionLost):
            request.reply(PATIENCE)
        held = client.execute("print x")
        with pytest.raises(RequestTimeout):
            held.reply(0.1)
        way.restore()
        client.manager.interrupt()  # type: ignore[union-attr]
        held.wait_until_finished(PATIENCE)
        assert texts(list(held)) == ["x"]
        eventually_sync(lambda: told == ["lost", "restored"])
        end()
        way.link.close("It is over.")
        with pytest.raises(ConnectionLost):
            eventually_sync(lambda: client.execute("print x") is None)
        assert told == ["lost", "restored"]


# -- the manager ---------------------------------------------------------------------------


async def test_wait_survives(way: Way) -> None:
    """To wait for the end, and for the next kernel, survives cuts that are longer than patience."""
    manager = RemoteKernelManager(way.info, link=way.link, patience=0.3)
    waiting = asyncio.create_task(manager.wait())
    await eventually(lambda: manager._kernel == 1)
    for _ in range(2):
        way.lose()
        await asyncio.sleep(0.8)
        way.restore()
        await asyncio.sleep(0.8)
    way.tunnel.cut()  # which nobody notices for a while
    await asyncio.sleep(0.8)
    assert not waiting.done()
    way.restore()
    reply = await asyncio.to_thread(way.nanny.ask, "restart")
    assert reply["status"] == "ok"
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).signal == 9
        assert await manager.next_kernel()
    await manager.kill()
    coming = asyncio.create_task(manager.wait())
    async with asyncio.timeout(PATIENCE):
        assert (await coming).signal == 9
    way.lose()
    none = asyncio.create_task(manager.next_kernel())
    await asyncio.sleep(0.8)
    assert not none.done()
    way.restore()
    async with asyncio.timeout(PATIENCE):
        assert await none is False


async def test_bounded_requests(way: Way) -> None:
    """What has a limit ends when that is over, with the loss; a nanny that is stopped is another thing."""
    manager = RemoteKernelManager(way.info, link=way.link, patience=0.3)
    assert await manager.is_alive()
    way.lose()
    began = time.monotonic()
    for ask in (
        manager.is_alive,
        manager.log_tail,
        manager.info,
        manager.interrupt,
        manager.cleanup,
    ):
        error = await failure(ask())
        assert isinstance(error, ConnectionLost)
        assert not error.final
    assert time.monotonic() - began < 10
    asking = asyncio.create_task(manager.is_alive())
    await asyncio.sleep(0.1)
    way.restore()
    assert await asking
    way.tunnel.cut()
    with pytest.raises(NannyError, match="is it stopped"):
        await manager.is_alive()
    way.tunnel.restore()
    assert manager.link is way.link


async def test_a_cut_in_the_middle_of_what_is_done_once(way: Way) -> None:
    """A restart that was asked for, and whose answer is lost, is not asked for again."""
    manager = RemoteKernelManager(way.info, link=way.link)
    async with KernelClient(way.info, manager=manager) as client:
        await client.wait_for_ready(PATIENCE)
        await client.execute("print x")
        await eventually(lambda: manager.kernel_number, PATIENCE)
        restarting = asyncio.create_task(manager.restart(timeout=60))
        events = way.nanny.events()
        _ = await run_long(client)
        way.lose()
        error = await failure(restarting)
        assert isinstance(error, ConnectionLost)
        assert "restart" in str(error)
        way.restore()
        assert "died" not in events.names or events.names.count("died") == 1


async def test_events(way: Way) -> None:
    """An iteration over events goes on after a cut, and ends when the link is closed."""
    manager = RemoteKernelManager(way.info, link=way.link)
    events = manager.events()
    assert await events.listening(PATIENCE)
    way.lose()
    way.restore()
    nanny = way.nanny.events()

    async def next_event() -> str:
        return (await anext(events)).name

    hearing = asyncio.create_task(next_event())

    async def restart_until_heard() -> bool:
        await asyncio.to_thread(way.nanny.ask, "restart")
        return hearing.done()

    await eventually(restart_until_heard, PATIENCE)
    assert (await hearing) in ("died", "started", "ready")
    assert nanny.names
    way.link.close("It is over.")
    async with asyncio.timeout(PATIENCE):
        async for _ in events:
            pass
    async with asyncio.timeout(PATIENCE):
        async for _ in manager.events():
            raise AssertionError("nothing comes over a link that is closed")


async def test_events_of_a_nanny_that_is_gone(way: Way) -> None:
    """An iteration over the events of a nanny that is gone ends."""
    manager = RemoteKernelManager(way.info, link=way.link)
    events = manager.events()
    assert await events.listening(PATIENCE)
    await asyncio.to_thread(way.nanny.ask, "stop", timeout=0)
    await asyncio.to_thread(way.nanny.ended)
    way.tunnel.refuse()
    async with asyncio.timeout(PATIENCE):
        assert [event.name async for event in events][-1] in ("died", "stopping")


def test_a_kernel_that_dies_while_nobody_looks() -> None:
    """A kernel that crashes during a cut, and is started again by its nanny, is followed."""
    with way_to_nanny(options=NannyOptions(journal_limit=None)) as way:
        manager = RemoteKernelManager(way.info, link=way.link)
        with BlockingKernelClient(way.info, manager=manager) as client:
            client.wait_for_ready(PATIENCE)
            (pid,) = texts(list(client.execute("pid").outputs(PATIENCE)))
            way.lose()
            os.kill(int(pid), 9)
            eventually_sync(lambda: is_gone(int(pid)))
            eventually_sync(lambda: way.nanny.state == "idle", PATIENCE)
            way.restore()

            def runs() -> bool:
                try:
                    client.wait_for_ready(PATIENCE)
                    return texts(list(client.execute("print x").outputs(PATIENCE))) == ["x"]
                except (KernelDied, KernelRestarted):
                    return False

            eventually_sync(runs, PATIENCE)
