"""The journal over the plain wire: real nannies, real kernels, and readers that have no help."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from journal_readers import RawReader
from kernel_mgmt import ConnectionInfo, Message, RestartPolicy
from kernel_mgmt.launch import NannyOptions
from kernel_mgmt.nanny.journal.store import Gap, read_spool
from kernel_mgmt.records import gc, journal_directory
from nannies import PATIENCE, RECORDS, RunningNanny, echo, is_gone, running_nanny
from waiting import eventually_sync

POLICY = RestartPolicy(backoff=0.01)


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny whose kernel is ready."""
    with running_nanny(options=NannyOptions(restart_policy=POLICY)) as nanny:
        nanny.ask("wait_ready")
        yield nanny


class Sender:
    """Sends requests, and hears what comes back directly.

    Args:
        nanny: to whom.
        identity: of its socket.
        channel: on which it sends.
    """

    def __init__(self, nanny: RunningNanny, identity: str = "", channel: str = "shell") -> None:
        self.session = nanny.new_session()
        self.socket = nanny.open(channel, zmq.DEALER) if not identity else None
        if self.socket is None:
            from kernel_mgmt.channels import shared_context
            from nannies import connect

            self.socket = nanny._sockets.enter_context(shared_context().socket(zmq.DEALER))
            self.socket.linger = 0
            self.socket.set(zmq.ROUTING_ID, identity.encode())
            connect(self.socket, nanny.connection_info, channel)

    def send(self, message: Message) -> Message:
        """Send a message, or send it again."""
        assert self.socket is not None
        self.socket.send_multipart(self.session.serialize(message))
        return message

    def execute(self, code: str, **content: Any) -> Message:
        """Run code."""
        fields = {"code": code, "silent": False, **content}
        return self.send(self.session.message("execute_request", fields))

    def is_answered(self, timeout: float = 0.0) -> bool:
        """Tell whether something has come directly."""
        assert self.socket is not None
        return bool(self.socket.poll(timeout * 1000))


# --- reading -------------------------------------------------------------------------------------


def test_all_in_order(nanny: RunningNanny) -> None:
    """A reader that comes late gets everything, once and in order, with the nanny's own events."""
    sender = Sender(nanny)
    request = sender.execute("flood 5000 200")
    assert sender.is_answered(PATIENCE)
    reader = RawReader(nanny)
    assert reader.subscribe(after=0)["status"] == "ok"
    reader.read_until("status", request, "idle")
    eventually_sync(lambda: reader.take(0) or "execute_reply" in types(reader), PATIENCE)
    assert reader.numbers == list(range(1, len(reader.numbers) + 1))
    assert [int(text.split()[0]) for text in reader.texts()] == list(range(5000))
    assert {"started", "ready"} <= set(types(reader))
    assert "iopub_welcome" not in types(reader)
    times = [record.time for record in reader.records]
    assert times == sorted(times)


def types(reader: RawReader) -> list[str]:
    """The types of all that a reader has got."""
    return [message.msg_type for message in reader.messages()]


def test_a_stalled_and_a_quick_reader(nanny: RunningNanny) -> None:
    """A reader that never acknowledges is sent its window; another one gets all meanwhile."""
    stalled, quick = RawReader(nanny), RawReader(nanny)
    stalled.subscribe(window=65536)
    quick.subscribe()
    Sender(nanny).execute("flood 3000 1000")
    eventually_sync(lambda: is_read(quick, 3000), PATIENCE)
    while stalled.take(0.3):
        pass
    assert 0 < sum(stalled.sizes) < 2 * 2**20
    assert nanny.ask("nanny_info")["clients"] == 2
    last = quick.records[-1].number
    stalled.acknowledge()
    # What came together with the last may have been said after it.
    numbers = [record.number for record in stalled.read_to(last)]
    assert numbers[: len(quick.numbers)] == quick.numbers


def is_read(reader: RawReader, count: int) -> bool:
    """Take what has come for a reader; tells whether it has so many lines."""
    if reader.take(0.1):
        reader.acknowledge()
    return len(reader.texts()) == count


def test_large_messages(nanny: RunningNanny) -> None:
    """A buffer of several megabytes comes as it is, larger than the window though it is."""
    reader = RawReader(nanny)
    reader.subscribe(window=65536)
    buffers = [os.urandom(5_000_000), b"", b"small"]
    sender = Sender(nanny)
    fields = {"comm_id": "c", "data": {}}
    sender.send(sender.session.message("comm_msg", fields, buffers=buffers))
    echoed = reader.read_until("comm_msg")
    assert [bytes(buffer) for buffer in echoed.buffers] == buffers


@pytest.mark.parametrize("limit", [0, 300_000])
def test_what_was_pushed_out_is_told(limit: int) -> None:
    """Of what the bound has pushed out a late reader learns the numbers and the size."""
    with running_nanny(options=NannyOptions(journal_limit=limit)) as nanny:
        nanny.ask("wait_ready")
        sender = Sender(nanny)
        sender.execute("flood 12000 1000")
        assert sender.is_answered(PATIENCE)

        def state() -> dict[str, Any]:
            journal = nanny.ask("nanny_info")["journal"]
            assert isinstance(journal, dict)
            return journal

        eventually_sync(lambda: state()["first"] > 1000, PATIENCE)
        reader = RawReader(nanny)
        reader.subscribe(after=0)
        gap = reader.read_until("journal_gap")
        assert gap.content["bytes"] > 1_000_000
        reader.read_to(state()["next"] - 1)
        number = 0
        for record, message in zip(reader.records, reader.messages(), strict=True):
            is_gap = message.msg_type == "journal_gap"
            assert (message.content["first"] if is_gap else record.number) == number + 1
            number = record.number


def test_only_the_journal(nanny: RunningNanny) -> None:
    """What is for a reader's own sockets comes in the journal alone, until the reader is gone."""
    reader = RawReader(nanny)
    reader.subscribe(identity="me")
    mine, other = Sender(nanny, "me"), Sender(nanny)
    control = Sender(nanny, "me", "control")
    request = mine.execute("print 1")
    reader.read_until("execute_reply", request)
    other.execute("print 2")
    assert other.is_answered(PATIENCE)
    assert not mine.is_answered()
    control.send(control.session.message("kernel_info_request"))
    assert control.is_answered(PATIENCE)
    reader.close()
    eventually_sync(lambda: nanny.ask("nanny_info")["clients"] == 0, 5)
    mine.execute("print 3")
    assert mine.is_answered(PATIENCE)


# --- requests ------------------------------------------------------------------------------------


def test_sent_again_it_is_done_once(nanny: RunningNanny) -> None:
    """A request that comes again, over whatever connection, is executed once."""
    first, second = Sender(nanny), Sender(nanny)
    request = first.execute("print once")
    assert first.is_answered(PATIENCE)
    second.send(request)
    second.execute("print twice")
    assert second.is_answered(PATIENCE)
    reader = RawReader(nanny)
    never = "0_0"
    reply = reader.subscribe(after=0, requests=[request.msg_id, never])
    assert reply["requests"] == {request.msg_id: "answered", never: "unknown"}
    eventually_sync(lambda: reader.take(0) or reader.texts()[-1:] == ["twice"], PATIENCE)
    assert reader.texts() == ["once", "twice"]


def test_it_is_executed_once_after_a_restart(nanny: RunningNanny) -> None:
    """A request to a kernel that was replaced is gone, and is not executed by the next one."""
    sender = Sender(nanny)
    request = sender.execute("sleep 100")
    reader = RawReader(nanny)
    reader.subscribe(after=0)
    reader.read_until("execute_input", request)
    reader.close()
    assert nanny.ask("restart")["kernel"] == 2
    sender.send(request)
    later = sender.execute("print later")
    reader = RawReader(nanny)
    reply = reader.subscribe(after=0, requests=[request.msg_id])
    assert (reply["kernel"], reply["requests"]) == (2, {request.msg_id: "gone"})
    reader.read_until("execute_reply", later)
    replies = [m for m in reader.messages() if m.msg_type == "execute_reply"]
    assert [(m.parent_id, m.content["status"]) for m in replies] == [
        (request.msg_id, "error"),
        (later.msg_id, "ok"),
    ]
    assert replies[0].content["ename"] == "KernelRestarted"
    events = [m.msg_type for m in reader.messages() if m.channel == "nanny"]
    assert events == ["started", "ready", "died", "restarting", "started", "ready"]


def test_while_no_kernel_answers() -> None:
    """What is sent before the kernel answers, and again, is executed once when it does."""
    with running_nanny(echo("--answer-delay", 1)) as nanny:
        sender = Sender(nanny)
        request = sender.execute("print once")
        sender.send(request)
        reader = RawReader(nanny)
        assert reader.subscribe(requests=[request.msg_id])["requests"] == {
            request.msg_id: "unknown"
        }
        reader.read_until("execute_reply", request)
        reader.read_until("status", request, "idle")
        assert reader.texts() == ["once"]


def test_questions(nanny: RunningNanny) -> None:
    """An open question is told to whoever subscribes; an answer that comes twice counts once."""
    shell, stdin = Sender(nanny, "me"), Sender(nanny, "me", "stdin")
    reader = RawReader(nanny)
    reader.subscribe(identity="me")
    request = shell.execute("input name?\ninput again?", allow_stdin=True)
    question = reader.read_until("input_request", request)
    assert not stdin.is_answered()
    assert RawReader(nanny).subscribe()["asking"] == [question.msg_id]
    answer = stdin.session.message("input_reply", {"value": "Ann"}, parent=question)
    stdin.send(answer)
    eventually_sync(lambda: reader.take(0) or len(questions(reader)) == 2, PATIENCE)
    stdin.send(answer)
    stdin.send(stdin.session.message("input_reply", {"value": "Bob"}))
    reader.read_until("execute_reply", request)
    eventually_sync(lambda: reader.take(0) or len(reader.texts()) == 2, PATIENCE)
    assert reader.texts() == ["Ann", "Bob"]
    assert RawReader(nanny).subscribe()["asking"] == []


def questions(reader: RawReader) -> list[Message]:
    """The questions that a reader has got."""
    return [message for message in reader.messages() if message.msg_type == "input_request"]


# --- on disk -------------------------------------------------------------------------------------


def test_what_a_killed_nanny_leaves() -> None:
    """The journal of a nanny that was killed can be read, privately, and goes after a day."""
    kernel_id = "journal-of-the-killed"
    directory = journal_directory(RECORDS, kernel_id)
    with running_nanny(kernel_id=kernel_id) as nanny:
        sender = Sender(nanny)
        sender.execute("flood 1000 100")
        assert sender.is_answered(PATIENCE)
        eventually_sync(lambda: on_disk(directory) >= 1000, PATIENCE)
        assert directory.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
        nanny.kill()
        eventually_sync(lambda: is_gone(nanny.pid) and not nanny.connection_file.exists(), PATIENCE)
    records = list(read_spool(directory))
    assert not any(isinstance(record, Gap) for record in records)
    gc(RECORDS)
    assert directory.exists()
    long_ago = time.time() - 100_000
    for path in (*directory.iterdir(), directory):
        os.utime(path, (long_ago, long_ago))
    gc(RECORDS)
    assert not directory.exists()


def on_disk(directory: Path) -> int:
    """How many records are on disk."""
    return sum(1 for _ in read_spool(directory)) if directory.exists() else 0


def test_it_goes_with_the_kernel() -> None:
    """A nanny that ends in order leaves no journal, when that is told."""
    kernel_id = "journal-that-goes"
    directory = journal_directory(RECORDS, kernel_id)
    with running_nanny(kernel_id=kernel_id) as nanny:
        eventually_sync(lambda: on_disk(directory) > 0, PATIENCE)
        assert nanny.ask("stop", timeout=0)["status"] == "ok"
        assert not directory.exists()
        nanny.ended()


def test_a_full_disk() -> None:
    """With a disk that takes nothing kernel and live readers go on, and it is told."""
    kernel_id = "journal-without-room"
    directory = journal_directory(RECORDS, kernel_id)
    RECORDS.mkdir(parents=True, exist_ok=True)
    directory.touch()  # where a directory should be made
    try:
        with running_nanny(kernel_id=kernel_id) as nanny:
            nanny.ask("wait_ready")
            reader = RawReader(nanny)
            reader.subscribe()
            sender = Sender(nanny)
            for portion in range(1, 10):  # each less than may wait for the disk
                sender.execute("flood 5000 1000")
                # Counted by their records: to verify all would take longer.
                deadline = time.monotonic() + PATIENCE
                while len(reader.records) < 5000 * portion and time.monotonic() < deadline:
                    reader.take(1)
                    reader.acknowledge()
            first = reader.numbers[0]
            assert reader.numbers == list(range(first, first + len(reader.numbers)))
            assert len(reader.records) >= 45_000
            assert nanny.ask("nanny_info")["journal"]["lost"]["messages"] > 0
            late = RawReader(nanny)
            late.subscribe(after=0)
            assert late.read_until("journal_gap").content["first"] == 1
    finally:
        directory.unlink(missing_ok=True)


# --- without one, and without manners ------------------------------------------------------------


def test_none_is_kept() -> None:
    """Without a journal there is no port for one, also when one was given."""
    options = NannyOptions(journal_limit=None)
    info = ConnectionInfo.for_ipc(Path(os.environ["TMPDIR"]) / "km-none", nanny_journal_port=9)
    with running_nanny(options=options, connection_info=info) as nanny:
        assert nanny.connection_info.nanny_journal_port is None
        assert nanny.ask("nanny_info")["journal"] is None
        sender = Sender(nanny)
        sender.execute("print 1")
        assert sender.is_answered(PATIENCE)


@pytest.mark.parametrize("limit", [-1, 2**63])
def test_limits_that_make_no_sense(limit: int) -> None:
    """A limit that is no number of bytes is refused at once."""
    with pytest.raises(ValueError, match=r"journal_limit is .* must be a number of bytes"):
        NannyOptions(journal_limit=limit)


def test_hostile_readers(nanny: RunningNanny) -> None:
    """What is unsigned, forged, replayed, absurd or huge harms nobody, and is not served."""
    good = RawReader(nanny)
    hostile = RawReader(nanny)
    message = hostile.session.message("subscribe_request", {"after": 0})
    frames = hostile.session.serialize(message)
    for bad in (
        [b""],
        [b"x" * 1000] * 100,
        frames[:4],
        [frames[0], b"", *frames[2:]],
        [frames[0], b"0" * 64, *frames[2:]],
        [b"another step", *frames],
    ):
        hostile.socket.send_multipart(bad)
    for content in ({}, {"number": -1}, {"number": 2**70}, {"number": "1"}, {"number": [[]]}):
        hostile.send("acknowledge", **content)
    hostile.send("something_else")
    assert not hostile.socket.poll(300)
    hostile.socket.send_multipart([b"<IDS|MSG>", b"x" * (9 * 2**20)])
    good.subscribe()
    request = Sender(nanny).execute("print fine")
    good.read_until("execute_reply", request)
    assert nanny.ask("nanny_info")["clients"] == 1


def test_readers_count_as_clients() -> None:
    """A nanny that ends when nobody is there does not while somebody reads its journal."""
    options = NannyOptions(unattended_timeout=0.7)
    with running_nanny(options=options) as nanny:
        reader = RawReader(nanny)
        reader.subscribe()
        time.sleep(1.2)
        assert not is_gone(nanny.pid)
        reader.close()
        nanny.ended(10)
