"""Both ends of a journal without sockets: whatever is cut, restarted and resumed, and whenever."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kernel_mgmt import Session
from kernel_mgmt.journal.outbox import Outbox
from kernel_mgmt.journal.reader import Gap, Reader, Subscribed, is_delivery
from kernel_mgmt.nanny.journal.accepted import Accepted
from kernel_mgmt.nanny.journal.desk import JournalDesk
from kernel_mgmt.nanny.journal.records import Record
from kernel_mgmt.nanny.journal.store import Journal
from kernel_mgmt.protocol.message import load_json

#: So small that readers must wait for their own acknowledgements.
WINDOW = 64 * 2**10
KERNEL = Session("secret")


class Nanny:
    """A nanny and its kernel, which prints as often as a request says, and then replies."""

    def __init__(self) -> None:
        accepted = Accepted()
        journal = Journal(None, 0, memory=64 * 2**20)
        self.desk = JournalDesk(journal, Session("secret"), accepted=accepted)
        self.number = 0
        #: What the kernel was given and has not finished: ids, and how much each is still to print.
        self.work: deque[list[Any]] = deque()
        #: Which kernel was given each request, in order.
        self.given: list[tuple[str, int]] = []
        self.start()

    def start(self) -> None:
        """Start a kernel."""
        self.number += 1
        self.desk.meet(self.number)
        self.say("nanny", "ready", kernel=self.number)

    def say(self, channel: str, msg_type: str, parent: str = "", **content: Any) -> None:
        """Have something said."""
        message = KERNEL.message(msg_type, content)
        message.parent_header = {"msg_id": parent} if parent else {}
        self.desk.append(channel, KERNEL.serialize(message)[1:])

    def take(self, msg_id: str, prints: int) -> None:
        """Take a request of a client."""
        if self.desk.accept(msg_id, msg_id.encode()):
            self.given.append((msg_id, self.number))
            self.work.append([msg_id, prints])

    def go_on(self) -> None:
        """Have the kernel do a little."""
        if not self.work:
            return
        msg_id, left = self.work[0]
        if left:
            self.work[0][1] -= 1
            self.say("iopub", "stream", msg_id, left=left, text="x" * 5000)
        else:
            self.work.popleft()
            self.say("shell", "execute_reply", msg_id, by=self.number)

    def restart(self) -> None:
        """Have another kernel in place of this one, and answer what it did not."""
        self.say("nanny", "died", kernel=self.number)
        self.desk.part()
        work, self.work = self.work, deque()
        for msg_id, _ in work:
            self.say("shell", "execute_reply", msg_id, by=0)
        self.start()


class Client:
    """A client: what it has sent, read, and been told of its requests."""

    def __init__(self) -> None:
        self.reader = Reader(0, window=WINDOW)
        self.outbox = Outbox()
        self.sent: list[str] = []
        self.numbers: list[int] = []
        #: What was printed for each request; and which kernel has replied, 0 for none.
        self.printed: dict[str, list[int]] = {}
        self.expected: dict[str, list[int]] = {}
        self.ends: dict[str, int] = {}
        #: Requests that the nanny has told to be over, to be looked at when all is read.
        self.gone: list[str] = []
        self.answered: list[str] = []

    def request(self, prints: int) -> None:
        """Make a request, which waits until it can be sent."""
        msg_id = f"{len(self.sent)}"
        self.sent.append(msg_id)
        self.printed[msg_id] = []
        self.expected[msg_id] = list(range(prints, 0, -1))
        self.outbox.add(msg_id, "shell", [b"%d" % prints])

    def take(self, record: Record | Gap) -> None:
        """Take what the journal brings."""
        assert isinstance(record, Record), "nothing is ever lost here"
        self.numbers.append(record.number)
        header, parent, content = (load_json(record.frames[place]) for place in (1, 2, 4))
        msg_id = parent.get("msg_id", "")
        if header["msg_type"] == "ready":
            self.outbox.kernel = max(self.outbox.kernel, content["kernel"])
        elif header["msg_type"] == "stream":
            self.printed[msg_id].append(content["left"])
        elif header["msg_type"] == "execute_reply":
            assert msg_id not in self.ends, "a reply came twice"
            self.ends[msg_id] = content["by"]
            self.outbox.forget(msg_id)
        self.look_whether_caught_up()

    def look_whether_caught_up(self) -> None:
        """End what was told to be over, when all is read that had been said by then."""
        if self.reader.has_caught_up:
            assert all(msg_id in self.ends for msg_id in self.answered), "a reply is lost"
            for msg_id in self.gone:
                self.ends.setdefault(msg_id, 0)
            self.gone, self.answered = [], []


class BothEnds(RuleBasedStateMachine):
    """A client, a nanny, and connections that deliver when hypothesis wants them to."""

    def __init__(self) -> None:
        super().__init__()
        self.nanny = Nanny()
        self.client = Client()
        self.connections = 0
        self.requests: deque[tuple[str, int]] = deque()
        #: What is still on its way on connections that the client has given up.
        self.late: deque[tuple[str, int]] = deque()
        self.disconnect()

    def disconnect(self, late: int = 0) -> None:
        """Lose the connection, with all that is on its way but for some requests."""
        self.late += list(self.requests)[:late]
        self.route = b""
        self.is_subscribed = False
        self.requests = deque()
        self.asked: deque[dict[str, Any]] = deque()
        self.deliveries: deque[Any] = deque()

    # -- what happens ----------------------------------------------------------------------

    @rule(prints=st.integers(0, 12))
    def request(self, prints: int) -> None:
        """The user asks for something."""
        self.client.request(prints)
        self.send_unsent()

    @rule(times=st.integers(1, 8))
    def kernel_goes_on(self, times: int) -> None:
        """The kernel does its work."""
        for _ in range(times):
            self.nanny.go_on()

    @rule()
    def kernel_restarts(self) -> None:
        """The kernel is replaced."""
        self.nanny.restart()

    @precondition(lambda self: self.route)
    @rule(late=st.integers(0, 3))
    def cut(self, late: int) -> None:
        """The connection breaks; the nanny may notice it later, or never."""
        self.disconnect(late)

    @rule()
    def nanny_notices_cuts(self) -> None:
        """The nanny finds out which readers are gone."""
        for route in self.nanny.desk.routes:
            if route != self.route:
                self.nanny.desk.lose(route)

    @precondition(lambda self: not self.route)
    @rule()
    def connect(self) -> None:
        """The client connects, and subscribes after what it has read."""
        self.connections += 1
        self.route = b"%d" % self.connections
        self.client.outbox.begin()
        self.subscribe()

    @precondition(lambda self: self.requests)
    @rule()
    def request_arrives(self) -> None:
        """The nanny gets a request."""
        self.nanny.take(*self.requests.popleft())

    @precondition(lambda self: self.late)
    @rule()
    def late_request_arrives(self) -> None:
        """The nanny gets a request that the client does not know to have arrived."""
        self.nanny.take(*self.late.popleft())

    @precondition(lambda self: self.asked)
    @rule()
    def question_arrives(self) -> None:
        """The nanny gets a subscription or an acknowledgement."""
        content = self.asked.popleft()
        if "number" in content:
            self.nanny.desk.acknowledge(self.route, content)
        else:
            self.deliveries.append(self.nanny.desk.subscribe(self.route, content))

    @rule()
    def nanny_delivers(self) -> None:
        """The nanny sends readers their share."""
        for route, frames in self.nanny.desk.take():
            if route == self.route:
                self.deliveries.append(frames)

    @precondition(lambda self: self.deliveries)
    @rule(upto=st.integers(1, 30))
    def delivery_arrives(self, upto: int) -> None:
        """The client gets something, and may be cut off in the middle of it."""
        what = self.deliveries.popleft()
        if isinstance(what, dict):
            self.take_answer(Subscribed.from_content(what))
            return
        assert is_delivery(what)
        if self.is_subscribed:
            for record in self.client.reader.take(what):
                self.client.take(record)
                upto -= 1
                if not upto:
                    self.disconnect()  # what is left of it comes again
                    return

    @precondition(lambda self: self.is_subscribed)
    @rule()
    def acknowledge(self) -> None:
        """The client tells how far it has read."""
        number = self.client.reader.acknowledgement()
        if number is not None:
            self.asked.append({"number": number})

    @precondition(lambda self: self.is_subscribed)
    @rule()
    def ask_again(self) -> None:
        """The client wants to know what has become of its requests."""
        self.is_subscribed = False  # what comes before the answer will come again
        self.subscribe()

    # -- the client's part -----------------------------------------------------------------

    def subscribe(self) -> None:
        """Ask for what was not read, and what has become of the requests."""
        outbox, reader = self.client.outbox, self.client.reader
        self.asked.append(reader.subscription(requests=outbox.ids(), withdrawn=outbox.withdrawn()))

    def take_answer(self, subscribed: Subscribed) -> None:
        """Do with an answer to a subscription what a client does."""
        client = self.client
        client.reader.begin(subscribed)
        settled = client.outbox.settle(subscribed)
        client.gone += settled.gone
        client.answered += settled.answered
        self.is_subscribed = True
        self.send_unsent()
        client.look_whether_caught_up()
        if settled.withdrawn:
            self.ask_again()

    def send_unsent(self) -> None:
        """Send what waits."""
        if self.is_subscribed:
            for sent in self.client.outbox.unsent():
                assert sent.kernel in (0, self.client.outbox.kernel), "meant for one that is gone"
                self.requests.append((sent.msg_id, int(bytes(sent.frames[0]))))

    # -- what must be true -----------------------------------------------------------------

    @invariant()
    def nothing_twice_and_in_order(self) -> None:
        """Every message comes once, in order, and no request is done twice."""
        numbers = self.client.numbers
        assert numbers == list(range(1, len(numbers) + 1))
        given = [msg_id for msg_id, _ in self.nanny.given]
        assert len(given) == len(set(given))

    @invariant()
    def bounded(self) -> None:
        """No more is on its way than the window, and one delivery."""
        size = sum(len(frame) for what in self.deliveries if type(what) is list for frame in what)
        assert size <= 2 * WINDOW + 2**17

    def teardown(self) -> None:
        """When all is well again at last, everything has come."""
        while self.late:
            self.late_request_arrives()
        for _ in range(10_000):
            if not self.route:
                self.connect()
            for happens in (self.question_arrives, self.request_arrives, self.delivery_arrives):
                while getattr(self, _QUEUES[happens.__name__]):
                    happens(upto=10**9) if happens == self.delivery_arrives else happens()
            if self.is_subscribed:
                self.acknowledge()
            self.nanny.go_on()
            self.nanny_delivers()
            if self.is_quiet():
                break
        assert self.is_quiet()
        client, given = self.client, dict(self.nanny.given)
        assert set(client.ends) == set(client.sent)
        for msg_id, by in client.ends.items():
            printed, expected = client.printed[msg_id], client.expected[msg_id]
            assert printed == expected[: len(printed)]
            if by:
                assert given[msg_id] == by
                assert printed == expected

    def is_quiet(self) -> bool:
        """Tell whether nothing is to be done any more."""
        return (
            not (self.requests or self.asked or self.deliveries or self.nanny.work)
            and self.is_subscribed
            and len(self.client.numbers) == self.nanny.desk.journal.next - 1
        )


_QUEUES = {
    "question_arrives": "asked",
    "request_arrives": "requests",
    "delivery_arrives": "deliveries",
}

BothEnds.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBothEnds = BothEnds.TestCase
