"""The journal's counter without sockets: who is sent what, and what is known of requests."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mgmt import Session
from kernel_mgmt.nanny.journal.accepted import Accepted
from kernel_mgmt.nanny.journal.desk import JournalDesk
from kernel_mgmt.nanny.journal.questions import Questions
from kernel_mgmt.nanny.journal.records import MAGIC, Record, unpack
from kernel_mgmt.nanny.journal.store import Journal

KERNEL = Session("secret")


class Desk(JournalDesk):
    """A desk with a journal in memory, that is read by hand.

    Args:
        memory: how many bytes the journal keeps.
    """

    def __init__(self, memory: int = 8 * 2**20) -> None:
        self.now = 1000.0
        journal = Journal(None, 0, memory=memory, clock=lambda: self.now)
        super().__init__(journal, Session("secret"), clock=lambda: self.now)

    def say(self, text: str = "", channel: str = "iopub", **fields: Any) -> str:
        """Have the kernel say something; gives the id."""
        message = KERNEL.message("stream", {"text": text}, **fields)
        self.append(channel, KERNEL.serialize(message)[1:])
        return message.msg_id

    def sent(self, route: bytes = b"me") -> list[Record]:
        """Give what a reader is sent now, until it is sent nothing more."""
        records: list[Record] = []
        while self.is_due:
            for to, frames in self.take():
                if to == route:
                    records += unpack(b"".join(frames))
        return records

    def numbers(self, route: bytes = b"me") -> list[int]:
        """Give the numbers of that."""
        return [record.number for record in self.sent(route)]


# --- positions -----------------------------------------------------------------------------------


def test_from_a_number_on() -> None:
    """A reader gets all after its number, in order and once, also what is said later."""
    desk = Desk()
    for _ in range(5):
        desk.say()
    reply = desk.subscribe(b"me", {"after": 2})
    assert (reply["status"], reply["after"], reply["first"], reply["next"]) == ("ok", 2, 1, 6)
    assert desk.numbers() == [3, 4, 5]
    desk.say()
    assert desk.numbers() == [6]
    assert not desk.is_due


def test_from_now_on() -> None:
    """A reader that names no place gets what is said from now on."""
    desk = Desk()
    desk.say()
    assert desk.subscribe(b"me", {})["after"] == 1
    desk.say()
    assert desk.numbers() == [2]


def test_from_a_moment_on() -> None:
    """A reader may begin at a moment."""
    desk = Desk()
    for desk.now in (1000.0, 1001.0, 1002.0):
        desk.say()
    assert desk.subscribe(b"me", {"since": 1001})["after"] == 1
    assert desk.numbers() == [2, 3]


def test_from_a_request_on() -> None:
    """A reader may begin at what can only be an answer to a request."""
    desk = Desk()
    desk.say()
    desk.accept("r", b"1")
    desk.say()
    assert desk.subscribe(b"me", {"request": "r"})["after"] == 1
    reply = desk.subscribe(b"me", {"request": "another"})
    assert (reply["status"], reply["ename"]) == ("error", "JournalPosition")


def test_a_number_that_is_not_there_yet() -> None:
    """Who has read more than there is has read another journal, and is told."""
    desk = Desk()
    desk.say()
    reply = desk.subscribe(b"me", {"after": 2})
    assert (reply["status"], reply["ename"]) == ("error", "JournalPosition")
    assert not desk.readers


@pytest.mark.parametrize(
    "content",
    [
        {"after": -1},
        {"after": "1"},
        {"after": True},
        {"after": 2**64},
        {"after": 10**5000},
        {"since": float("nan")},
        {"since": 1e300},
        {"request": 5},
        {"window": 1.5},
        {"identity": "x" * 256},
        {"identity": "\ud800"},
        {"identity": 1},
        {"reads": 1},
        {"requests": "r"},
        {"requests": [1]},
        {"after": 0, "since": 1},
    ],
    ids=lambda content: (
        " ".join(f"{k}={v!r}"[:20] for k, v in content.items())
        if content.get("after") != 10**5000
        else "huge"
    ),
)
def test_what_cannot_be_asked_for(content: dict[str, Any]) -> None:
    """A subscription with a value that makes no sense is refused, with a sentence."""
    desk = Desk()
    reply = desk.subscribe(b"me", content)
    assert (reply["status"], reply["ename"]) == ("error", "BadRequest")
    assert reply["evalue"].endswith(".")
    assert not desk.readers


def test_what_was_pushed_out_is_a_gap() -> None:
    """Of what is not there any more a reader is told first and last number and size, signed."""
    desk = Desk(memory=100_000)
    for _ in range(200):
        desk.say("x" * 2000)
    desk.subscribe(b"me", {"after": 3, "window": 2**20})
    gap, *others = desk.sent()
    assert gap.channel == "nanny"
    message = Session("secret").deserialize([b"<IDS|MSG>", *gap.frames])
    first = desk.journal.first
    assert (message.msg_type, message.content["first"], message.content["last"]) == (
        *("journal_gap", 4),
        first - 1,
    )
    assert message.content["bytes"] > 2000 * (first - 4)
    assert [gap.number, *(record.number for record in others)] == list(range(first - 1, 201))


# --- windows -------------------------------------------------------------------------------------


def test_a_window() -> None:
    """A reader that acknowledges nothing is sent its window and no more, and then goes on."""
    desk = Desk()
    for _ in range(100):
        desk.say("x" * 5000)
    desk.subscribe(b"me", {"after": 0, "window": 65536})
    first = desk.sent()
    # What is packed together may exceed it by a record.
    assert 40_000 < sum(record.size for record in first) <= 65536 + 6000
    desk.say()
    assert not desk.sent()
    desk.acknowledge(b"me", {"number": first[-1].number})
    assert desk.numbers()[0] == first[-1].number + 1


def test_what_is_larger_than_the_window_goes_alone() -> None:
    """A record larger than the window comes, when all before it is acknowledged."""
    desk = Desk()
    for size in (10, 300_000, 10):
        desk.say("x" * size)
    desk.subscribe(b"me", {"after": 0, "window": 65536})
    for number in (1, 2, 3):
        assert desk.numbers() == [number]
        desk.acknowledge(b"me", {"number": number})


def test_two_readers_have_two_positions() -> None:
    """One reader that reads nothing takes nothing from another."""
    desk = Desk()
    for _ in range(100):
        desk.say("x" * 5000)
    desk.subscribe(b"slow", {"after": 0, "window": 65536})
    desk.subscribe(b"me", {"after": 50})
    assert desk.numbers() == list(range(51, 101))
    assert desk.readers == 2


@pytest.mark.parametrize("number", [0, 7, 10**9, 2**64 - 1])
def test_acknowledgements_of_anything(number: int) -> None:
    """What was not sent cannot be acknowledged, nor what was taken back."""
    desk = Desk()
    desk.say()
    desk.subscribe(b"me", {"after": 0, "reads": True})
    assert desk.numbers() == [1]
    desk.acknowledge(b"me", {"number": 1})
    desk.acknowledge(b"me", {"number": number})
    assert desk.read == 1


def test_what_counts_as_read() -> None:
    """What a reader acknowledges counts as read when it says so, the furthest one's."""
    desk = Desk()
    for _ in range(3):
        desk.say()
    for route, reads in ((b"a", True), (b"b", False)):
        desk.subscribe(route, {"after": 0, "reads": reads})
    desk.sent()
    desk.acknowledge(b"b", {"number": 3})
    assert desk.read == 0
    desk.acknowledge(b"a", {"number": 2})
    assert desk.read == desk.subscribe(b"c", {})["read"] == 2


def test_one_that_is_lost_in_the_middle() -> None:
    """A reader that cannot be reached gets nothing more, and its identity is free again."""
    desk = Desk()
    for size in (100_000, 100_000):
        desk.say("x" * size)
    desk.subscribe(b"me", {"after": 0, "identity": "i"})
    assert desk.identities == {b"i"}
    sent = 0
    for route, _ in desk.take():
        sent += 1
        desk.lose(route)
    assert sent == 1
    assert not desk.readers
    assert not desk.identities


def test_a_second_subscription_replaces_the_first() -> None:
    """Who subscribes again begins anew."""
    desk = Desk()
    for _ in range(3):
        desk.say()
    desk.subscribe(b"me", {"after": 0})
    desk.sent()
    desk.subscribe(b"me", {"after": 1})
    assert desk.numbers() == [2, 3]
    assert desk.readers == 1


def test_buffers_stay_as_they_are() -> None:
    """Large buffers are handed on, one frame each."""
    desk = Desk()
    buffers = [b"a" * 100_000, b"", b"b"]
    desk.say(buffers=buffers)
    desk.subscribe(b"me", {"after": 0})
    ((_, frames),) = desk.take()
    assert bytes(frames[0][:4]) == MAGIC
    assert frames[-3:] == buffers


# --- what was accepted ---------------------------------------------------------------------------


def test_the_same_message_once() -> None:
    """A message is taken once; with its id and another signature it is another one."""
    desk = Desk()
    assert desk.accept("r", b"1")
    assert not desk.accept("r", b"1")
    assert desk.accept("r", b"2")


def test_what_has_become_of_requests() -> None:
    """A reader learns of each of its requests what to do with it."""
    desk = Desk()
    for msg_id in ("answered", "late", "waits"):
        if msg_id == "waits":
            desk.say(channel="shell", parent={"msg_id": "answered"})
            desk.part()
            desk.say(channel="shell", parent={"msg_id": "late"})  # by the nanny
        desk.accept(msg_id, b"1")
    states = desk.subscribe(b"me", {"requests": ["answered", "late", "waits", "never"]})["requests"]
    assert states == {
        "answered": "answered",
        "late": "gone",
        "waits": "accepted",
        "never": "unknown",
    }


def test_a_withdrawn_message_is_never_taken() -> None:
    """What a client has given up is not done when it arrives late, unless it had arrived before."""
    desk = Desk()
    assert desk.accept("before", b"1")
    ids = ["before", "late"]
    reply = desk.subscribe(b"me", {"requests": ids, "withdrawn": ids})
    assert reply["requests"] == {"before": "accepted", "late": "gone"}
    assert not desk.accept("late", b"1")


def test_the_memory_of_requests_is_bounded() -> None:
    """The oldest are forgotten, and absurd ids are not kept at all."""
    accepted = Accepted(limit=3)
    for number in range(5):
        assert accepted.accept(str(number), b"1", number)
    assert accepted.accept("x" * 10_000, b"1", 0)
    assert len(accepted) == 3
    assert [accepted.position_of(str(number)) for number in range(5)] == [None, None, 2, 3, 4]


def test_questions() -> None:
    """A question is open until it is answered, its request is, or the kernel is gone."""
    desk = Desk()

    def asking() -> list[str]:
        waiting = desk.subscribe(b"me", {})["asking"]
        assert isinstance(waiting, list)
        return waiting

    def ask(parent: str) -> str:
        return desk.say(channel="stdin", parent={"msg_id": parent})

    first, second = ask("a"), ask("b")
    assert asking() == [first, second]
    desk.answer_question(second)
    assert asking() == [first]
    desk.say(channel="shell", parent={"msg_id": "a"})
    assert asking() == []
    ask("c")
    desk.part()
    assert asking() == []


def test_an_answer_that_names_no_question() -> None:
    """An answer without a parent is for one question, the first."""
    questions = Questions()
    questions.ask("q1", "a")
    questions.ask("q2", "b")
    questions.answer("")
    assert questions.waiting() == ["q2"]
    questions.answer("something else")
    assert questions.waiting() == ["q2"]


# --- anything in any order -----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.integers(0, 90_000)),
            st.tuples(st.just("send"), st.just(0)),
            st.tuples(st.just("acknowledge"), st.integers(0, 40)),
            st.tuples(st.just("again"), st.integers(0, 40)),
            st.tuples(st.just("lose"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_each_record_once_in_order(steps: list[tuple[str, int]]) -> None:
    """Whatever a reader does, what it is sent follows its position without holes."""
    desk = Desk()
    position = 0
    assert desk.subscribe(b"me", {"after": 0, "window": 65536})["status"] == "ok"
    for step, value in steps:
        if step == "say":
            desk.say("x" * value)
        elif step == "send":
            for number in desk.numbers():
                assert number == position + 1
                position = number
        elif step == "acknowledge":
            desk.acknowledge(b"me", {"number": value})
        else:
            if step == "lose":
                desk.lose(b"me")
            after = min(value, desk.journal.next - 1)
            assert desk.subscribe(b"me", {"after": after, "window": 65536})["after"] == after
            position = after
    for _ in range(200):
        desk.acknowledge(b"me", {"number": position})
        for number in desk.numbers():
            assert number == position + 1
            position = number
    assert position == desk.journal.next - 1


def test_an_hour_of_output_is_quick() -> None:
    """An hour of 100 messages a second is read by somebody who comes now and then, all of it."""
    began = time.monotonic()
    desk = Desk(memory=512 * 2**20)
    frames = KERNEL.serialize(KERNEL.message("stream", {"name": "stdout", "text": "x" * 50}))[1:]
    position = 0
    for minute in range(60):
        for second in range(60):
            desk.now = 1000.0 + 60 * minute + second
            for _ in range(100):
                desk.append("iopub", frames)
        if minute % 7 == 0:
            desk.subscribe(b"me", {"after": position})
            while numbers := desk.numbers():
                assert numbers == list(range(position + 1, position + 1 + len(numbers)))
                position = numbers[-1]
                desk.acknowledge(b"me", {"number": position})
            desk.lose(b"me")
    assert position == 57 * 6000
    assert time.monotonic() - began < 60
