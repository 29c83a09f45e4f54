"""The connection to another machine, as those see it who depend on it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt.errors import ConnectionLost
from kernel_mgmt.link import ConnectionChange, Link
from waiting import eventually

LOST = ConnectionChange("lost", "No sign of life.")
RESTORED = ConnectionChange("restored")
CLOSED = ConnectionChange("closed", "Given up.")


@pytest.fixture
def link() -> Link:
    """A link that is up."""
    return Link("me@far")


def test_changes(link: Link) -> None:
    """Each change is told once, in order, with its reason, until the watch ends."""
    told: list[ConnectionChange] = []
    end = link.watch(told.append)
    assert (link.state, link.reason) == ("up", "")
    link.lose(LOST.reason)
    link.lose("Again.")
    assert (link.state, link.reason) == ("lost", LOST.reason)
    link.restore()
    link.restore()
    assert (link.state, link.reason) == ("up", "")
    assert told == [LOST, RESTORED]
    end()
    end()
    link.close(CLOSED.reason)
    assert told == [LOST, RESTORED]
    assert repr(link) == "<Link to me@far closed>"


def test_closed_is_final(link: Link) -> None:
    """A link that is closed stays so, with the first reason."""
    told: list[ConnectionChange] = []
    link.watch(told.append)
    link.close(CLOSED.reason)
    link.restore()
    link.lose("Later.")
    link.close("Later still.")
    assert (link.state, link.reason) == ("closed", CLOSED.reason)
    assert told == [CLOSED]


def test_one_that_raises(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    """Who raises when told is logged, and the others are told all the same, now and later."""
    told: list[ConnectionChange] = []

    def fail(_: ConnectionChange) -> None:
        raise RuntimeError("no")

    link.watch(fail)
    link.watch(told.append)
    link.lose(LOST.reason)
    link.restore()
    assert told == [LOST, RESTORED]
    assert len(caplog.records) == 2


def test_changes_made_by_who_is_told(link: Link) -> None:
    """Who is told may change the link, watch it and end watches; all hear of it in the same order."""
    first: list[str] = []
    second: list[str] = []
    ends: list[Callable[[], None]] = []

    def tell(change: ConnectionChange) -> None:
        first.append(change.state)
        if change.state == "lost":
            link.restore()
            ends.append(link.watch(lambda change: first.append(f"late {change.state}")))
        elif change.state == "restored":
            ends[0]()
            link.close("")

    link.watch(tell)
    link.watch(lambda change: second.append(change.state))
    link.lose("")
    assert first == second == ["lost", "restored", "closed"]


@given(st.lists(st.sampled_from(["lose", "restore", "close"]), max_size=12))
def test_any_changes(calls: list[str]) -> None:
    """Whatever is called, what is told leads to the state that there is, and repeats nothing."""
    link = Link("x")
    told = ["restored"]
    link.watch(lambda change: told.append(change.state))
    for call in calls:
        arguments = [] if call == "restore" else ["why"]
        getattr(link, call)(*arguments)
    assert told[-1] == {"up": "restored"}.get(link.state, link.state)
    assert all(one != other for one, other in itertools.pairwise(told))
    assert "closed" not in told[:-1]


def test_many_threads(link: Link) -> None:
    """Threads that change a link at once have it told in an order that makes sense."""
    told = ["restored"]
    link.watch(lambda change: told.append(change.state))

    def change() -> None:
        for _ in range(200):
            link.lose("why")
            link.restore()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    link.lose("why")
    assert told == [("restored", "lost")[number % 2] for number in range(len(told))]
    assert told[-1] == "lost"


# -- waiting -------------------------------------------------------------------------------


async def test_waiting(link: Link) -> None:
    """Who waits goes on at once when the link is up, else when another thread has it back."""
    await link.wait_until_up()
    link.lose("why")
    waiting = asyncio.create_task(link.wait_until_up())
    await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.to_thread(link.restore)
    async with asyncio.timeout(5):
        await waiting


async def test_waiting_for_what_is_closed(link: Link) -> None:
    """Who waits for a link that is closed gets an error that is final, also later."""
    link.lose("why")
    waiting = asyncio.create_task(link.wait_until_up())
    await asyncio.sleep(0)
    link.close("It is over.")
    for awaitable in (waiting, link.wait_until_up()):
        with pytest.raises(ConnectionLost, match=r"closed before the question .* It is over;"):
            await awaitable


async def test_waiting_is_given_up(link: Link) -> None:
    """Who is cancelled while waiting watches no more."""
    link.lose("why")
    waiting = asyncio.create_task(link.wait_until_up())
    await asyncio.sleep(0)
    waiting.cancel()
    await eventually(waiting.done)
    assert not link._watchers


# -- the error -----------------------------------------------------------------------------


def test_error_when_lost(link: Link) -> None:
    """The error of a link that is lost says what was asked, of whom, why, and what to do."""
    link.lose("No sign of\nlife.")
    error = link.error("execute_request")
    assert (error.host, error.reason, error.final) == ("me@far", "No sign of\nlife.", False)
    assert str(error) == (
        "The connection to me@far was lost before execute_request was answered: No sign of life; it "
        "may be done all the same, and the connection comes back by itself: then look, and send "
        "it again."
    )


def test_error_when_closed(link: Link) -> None:
    """The error of a link that is closed says that one has to attach again."""
    link.close("")
    error = link.error("wait")
    assert (error.host, error.reason, error.final) == ("me@far", "", True)
    assert "was closed before wait was answered; it does not come back" in str(error)
    assert "attach to the kernel again" in str(error)
