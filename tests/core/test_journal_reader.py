"""The client's end of a journal without sockets: what is read, and what is sent again."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_mgmt import NannyError, Session
from kernel_mgmt.journal.connection import message_of
from kernel_mgmt.journal.outbox import Outbox
from kernel_mgmt.journal.reader import Gap, Reader, Subscribed, gap_in, is_delivery
from kernel_mgmt.nanny.journal.records import MalformedRecord, Record, head_of, pack

KEY = "the key"


def record(number: int, text: str = "x", *, channel: str = "iopub", **message: Any) -> Record:
    """Give a record with a signed message."""
    session = Session(KEY)
    made = session.message("stream", {"text": text}, **message)
    return Record(number, 1.5 * number, channel, list(session.serialize(made)[1:]))


def gap(first: int, last: int, size: int) -> Record:
    """Give the record that tells of a gap."""
    session = Session(KEY)
    made = session.message("journal_gap", {"first": first, "last": last, "bytes": size})
    return Record(last, 0.0, "nanny", list(session.serialize(made)[1:]))


def packed(*records: Record) -> list[Any]:
    """Give a delivery of some records in one frame."""
    return [b"".join(map(pack, records))]


def numbers(reader: Reader, frames: list[Any]) -> list[Any]:
    """Read a delivery; gives the numbers, and what is missing."""
    return [item if isinstance(item, Gap) else item.number for item in reader.take(frames)]


def reader_at(after: int, following: int = 100, **options: Any) -> Reader:
    """Give a reader that has subscribed."""
    reader = Reader(after, **options)
    reader.begin(Subscribed(after, following))
    return reader


# -- reading -------------------------------------------------------------------------------


def test_each_record_once() -> None:
    """What comes again after a cut is not given again, and the position is that of the last."""
    reader = reader_at(0)
    assert numbers(reader, packed(record(1), record(2))) == [1, 2]
    assert numbers(reader, packed(record(2), record(3))) == [3]
    assert reader.position == 3


def test_the_position_when_a_record_is_given() -> None:
    """Whoever is given a record, and stores the position, does not get that record again."""
    reader = reader_at(0)
    for item in reader.take(packed(record(1), record(2))):
        assert isinstance(item, Record)
        assert reader.position == item.number


def test_a_large_record_comes_in_frames() -> None:
    """A record whose frames follow its head is read without a copy of its buffers."""
    reader = reader_at(6)
    large = record(7, buffers=[b"b" * 70_000])
    frames = [head_of(large, body_crc=0), *large.frames]
    (item,) = reader.take(frames)
    assert isinstance(item, Record)
    assert (item.number, item.channel) == (7, "iopub")
    assert item.frames[5] is frames[6]
    message = message_of(item, Session(KEY))
    assert (message.journal_number, message.content) == (7, {"text": "x"})


@pytest.mark.parametrize("cut", [slice(0, 60), slice(0, 40), slice(4, None)])
def test_damaged_deliveries(cut: slice) -> None:
    """Bytes that are no records are refused."""
    with pytest.raises(MalformedRecord):
        numbers(reader_at(0), [packed(record(1))[0][cut]])


def test_a_large_record_that_lacks_a_frame() -> None:
    """A head with other frames than its own is refused."""
    large = record(1, buffers=[b"b"])
    with pytest.raises(MalformedRecord):
        numbers(reader_at(0), [head_of(large, body_crc=0), *large.frames[:-1]])


def test_gaps_are_told() -> None:
    """What the journal could not keep is given as a gap, in front of the record that tells of it."""
    reader = reader_at(2)
    assert numbers(reader, packed(gap(1, 9, 500), record(10))) == [Gap(3, 9, 500), 9, 10]


def test_a_hole_is_a_gap() -> None:
    """Numbers that are left out without a word are a gap all the same."""
    assert numbers(reader_at(2), packed(record(5))) == [Gap(3, 4, 0), 5]


def test_a_message_that_looks_like_a_gap() -> None:
    """A record of the nanny that says something else tells of no gap, however it is made."""
    assert gap_in(record(1, channel="nanny")) is None
    strange = gap(1, 2, 3)
    strange.frames[4] = b"[]"
    assert gap_in(strange) is None
    assert gap_in(Record(1, 0.0, "nanny", [b""])) is None


def test_two_gaps_as_one() -> None:
    """Gaps that were met on the way are told together."""
    assert Gap(5, 6, 10).with_(Gap(1, 2, 3)) == Gap(1, 6, 13)
    assert Gap(5, 6, 10).with_(None).as_tuple() == (5, 6, 10)


def test_is_delivery() -> None:
    """Records are told from signed messages by their beginning."""
    assert is_delivery(packed(record(1)))
    assert not is_delivery([b"<IDS|MSG>", b"", b"{}"])
    assert not is_delivery([b""])


# -- subscribing ---------------------------------------------------------------------------


def test_subscription() -> None:
    """Before anything was read a reader asks for what it was made for, then for what follows."""
    reader = Reader(since=3.5, window=1000, reads=False)
    asked = reader.subscription(identity="me", requests=["a", "b"], withdrawn=["b"])
    assert asked == {
        "after": None,
        "since": 3.5,
        "request": None,
        "window": 1000,
        "identity": "me",
        "reads": False,
        "requests": ["a", "b"],
        "withdrawn": ["b"],
    }
    reader.begin(Subscribed(4, 9))
    assert not reader.has_caught_up
    _ = numbers(reader, packed(*(record(number) for number in range(5, 9))))
    assert reader.has_caught_up
    asked = reader.subscription()
    assert (asked["after"], asked["since"]) == (8, None)
    assert Reader(request="r").subscription()["request"] == "r"


@pytest.mark.parametrize(
    "content",
    [
        {"status": "error", "ename": "JournalPosition", "evalue": "There is no record 7."},
        {"status": "ok", "after": "1", "next": 2},
        {"status": "ok", "after": 1, "next": 2, "requests": []},
        {"status": "ok", "after": 1, "next": 2, "asking": {}},
        {},
    ],
)
def test_refusals(content: dict[str, Any]) -> None:
    """What is no answer to a subscription is an error that says what the nanny said."""
    with pytest.raises(NannyError, match=content.get("evalue", "nanny")):
        Subscribed.from_content(content)


def test_acknowledgement() -> None:
    """Each position is acknowledged once, at once when much was handled."""
    reader = reader_at(0, window=4 * len(packed(record(1))[0]))
    assert reader.acknowledgement() is None
    delivery = reader.take(packed(record(1)))
    _ = next(delivery)
    assert not reader.is_due
    assert next(delivery, None) is None
    assert reader.is_due
    assert reader.acknowledgement() == 1
    assert not reader.is_due
    assert reader.acknowledgement() is None


# -- what is sent again --------------------------------------------------------------------


def unsent(outbox: Outbox) -> list[str]:
    """Send what waits; gives the ids."""
    return [sent.msg_id for sent in outbox.unsent()]


def outbox_with(*msg_ids: str, kernel: int = 1) -> Outbox:
    """Give an outbox that has sent some requests over a connection."""
    outbox = Outbox()
    outbox.kernel = kernel
    outbox.begin()
    for msg_id in msg_ids:
        outbox.add(msg_id, "shell", [msg_id.encode()])
    assert unsent(outbox) == list(msg_ids)
    return outbox


def reply(asking: tuple[str, ...] = (), kernel: int = 1, **requests: str) -> Subscribed:
    """Give a nanny's answer."""
    return Subscribed(0, 1, kernel=kernel, requests=requests, asking=frozenset(asking))


def test_what_is_unknown_is_sent_again() -> None:
    """After a cut all that the nanny has not seen is sent again, in order, and nothing else."""
    outbox = outbox_with("a", "b", "c", "d", "e")
    outbox.begin()
    outbox.add("f", "shell", [b"f"])
    settled = outbox.settle(reply(a="unknown", b="accepted", c="answered", d="gone"))
    assert (settled.gone, settled.answered) == (("d",), ("c",))
    assert unsent(outbox) == ["a", "e", "f"]
    assert unsent(outbox) == []
    assert outbox.ids() == ["a", "b", "c", "e", "f"]


def test_what_is_on_its_way_is_not_sent_again() -> None:
    """On a connection that holds what the nanny has not seen is on its way."""
    outbox = outbox_with("a")
    assert outbox.settle(reply(kernel=2)).gone == ()
    assert unsent(outbox) == []


def test_requests_of_a_kernel_that_was_replaced() -> None:
    """What was for one kernel, and has not reached it, never reaches its successor: it may still be
    on its way, so the nanny is told not to take it, and asked once more.
    """
    outbox = outbox_with("a")
    outbox.begin()
    outbox.add("b", "shell", [b"b"])
    settled = outbox.settle(reply(kernel=2))
    assert (settled.gone, settled.withdrawn) == ((), ("a", "b"))
    assert outbox.withdrawn() == ["a", "b"]
    outbox.add("c", "shell", [b"c"])
    assert unsent(outbox) == ["c"]
    settled = outbox.settle(reply(kernel=2, a="accepted", b="gone"))
    assert (settled.gone, settled.withdrawn) == (("b",), ())
    assert outbox.ids() == ["a", "c"]
    outbox.begin()
    assert outbox.settle(reply(kernel=2, c="accepted")).gone == ("a",)


def test_requests_made_before_any_kernel_is_known() -> None:
    """What is made before the first subscription is for whatever kernel is there."""
    outbox = Outbox()
    outbox.add("a", "shell", [b"a"])
    outbox.begin()
    assert outbox.settle(reply(kernel=3)).gone == ()
    assert unsent(outbox) == ["a"]


def test_answers_to_questions() -> None:
    """An answer that was lost is sent again as long as its question waits, and kept no longer."""
    outbox = outbox_with()
    for msg_id in ("a", "b", "c"):
        outbox.add(msg_id, "stdin", [b""], question=f"{msg_id}?", request="r")
    assert unsent(outbox) == ["a", "b", "c"]
    outbox.begin()
    _ = outbox.settle(reply(("a?", "b?"), a="accepted"))
    assert unsent(outbox) == ["b"]
    assert outbox.ids() == ["b"]
    outbox.prune(lambda msg_id: msg_id != "r")
    assert len(outbox) == 0


def test_what_others_have_sent() -> None:
    """A request of another process is asked about and never sent; one that is unknown is gone."""
    outbox = outbox_with()
    outbox.add("theirs", "shell", ())
    assert unsent(outbox) == []
    outbox.begin()
    assert outbox.settle(reply(theirs="accepted")).gone == ()
    outbox.begin()
    assert outbox.settle(reply()).gone == ("theirs",)


def test_what_nobody_waits_for_is_forgotten() -> None:
    """Requests that have ended in the meantime are not sent again."""
    outbox = outbox_with("a", "b")
    outbox.forget("a")
    outbox.forget("a")
    outbox.prune(lambda msg_id: False)
    assert "b" not in outbox
