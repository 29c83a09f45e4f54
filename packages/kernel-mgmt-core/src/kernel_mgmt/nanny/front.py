"""The sockets that clients and managers see, and the passing of messages to and from the kernel.

One plain loop: a task of an event loop for each direction takes longer than the messages do.  It
belongs to one thread, and everything that others want of it goes through :meth:`Front.call`.

A ZeroMQ socket's descriptor tells that something has happened to it, once: whoever is woken by it
asks the socket what, and takes all of it.  To send takes notice of what has happened, too, so a
socket that was sent on is looked at again.
"""

from __future__ import annotations

import logging
import math
import selectors
import socket as _socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable

import zmq

from ..connection import ConnectionInfo
from ..errors import MalformedMessage
from ..protocol import Buffer, JSONObject, Message, Session
from .back import Back
from .frames import Envelope, Frames, is_idle, receive, send
from .incoming import fingerprint, request_in, verified_header
from .journal.accepted import Accepted
from .journal.desk import JournalDesk
from .journal.port import JournalPort
from .journal.store import Journal
from .listening import listen, listened_channels
from .memory import give_back
from .pending import PendingRequest, PendingRequests

__all__ = ["Front"]

logger = logging.getLogger("kernel_mgmt")

# Plain integers: pyzmq's enum members take longer.
_FD, _EVENTS, _POLLIN = int(zmq.FD), int(zmq.EVENTS), int(zmq.POLLIN)

#: How many messages of one socket are passed on before the others get their turn.
_BATCH = 100
#: How long nothing must have passed before memory is given back, in seconds: messages that follow
#: each other need it again.
_TIDY_AFTER = 1.0
#: How many requests are held for a kernel that is not there yet.
_HELD = 1000


class Front:
    """Listens for clients, and passes what they and the kernel say to each other.

    Args:
        info: where to listen, and the key.
        on_control: called with the frames of each message on ``nanny_control``.
        on_ready: called with the number of a kernel when it answers.
        on_shutdown: called when a client has asked the kernel to end, with whether it wants it
            started again.
        journal: where all that kernels say is written down; None to keep nothing.

    The three functions are called in the loop's thread and must be quick.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        on_control: Callable[[list[bytes]], object],
        on_ready: Callable[[int], object],
        on_shutdown: Callable[[bool], object],
        journal: Journal | None = None,
    ) -> None:
        self.info = info
        #: How many subscribers iopub has, and the events.
        self._subscribers = 0
        self._listeners = 0
        #: When a client or the kernel said something last, on the monotonic clock.
        self.heard_at = time.monotonic()
        #: When a client or manager said something, came or went last.
        self._attended_at = time.monotonic()
        #: How many messages of the kernel were passed on.
        self.passed = 0
        self._on_control = on_control
        self._on_ready = on_ready
        self._on_shutdown = on_shutdown
        self._session = Session(info.key, info.signature_scheme)
        self._back: Back | None = None
        #: Whether messages pass between clients and the kernel, which they do once it answers.
        self._open = False
        #: What is said of a kernel that is gone: the name of an error and a sentence.
        self._gone: tuple[str, str] | None = None
        self._pending = PendingRequests()
        #: Questions who the kernel is, for the next one to answer.
        self._held: deque[tuple[PendingRequest, Frames]] = deque(maxlen=_HELD)
        self._accepted = Accepted()
        self._journal: JournalPort | None = None
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ended = False
        #: What is done with a message, by its socket; and those that may have one.
        self._handlers: dict[zmq.Socket[bytes], Callable[[], object]] = {}
        self._to_look_at: set[zmq.Socket[bytes]] = set()
        self._selector = selectors.DefaultSelector()
        #: When memory is to be given back, on the monotonic clock.
        self._tidy_at = math.inf
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._wake_end, self._wakeup = _socket.socketpair()
        self._wake_end.setblocking(False)
        self._wakeup.setblocking(False)
        try:
            for channel in listened_channels(info):
                self._sockets[channel] = listen(self._context, info, channel)
            if journal is not None:
                session = Session(info.key, info.signature_scheme)
                desk = JournalDesk(journal, session, accepted=self._accepted)
                self._journal = JournalPort(self._sockets["nanny_journal"], session, desk)
        except BaseException:
            self.close()
            raise

    # -- for any thread --------------------------------------------------------------------

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop's thread, soon."""
        self._calls.append((function, args))
        try:
            self._wakeup.send(b"\0")
        except OSError:
            pass  # it is awake already, or ended

    @property
    def last_activity(self) -> float:
        """When a client or the kernel said something last, in seconds since the epoch."""
        return time.time() - (time.monotonic() - self.heard_at)

    @property
    def clients(self) -> int:
        """How many subscriptions iopub has, and how many readers the journal."""
        journal = self._journal
        return self._subscribers + (0 if journal is None else journal.desk.readers)

    def tell_of_journal(self, tell: Callable[[dict[str, Any]], object]) -> None:
        """Have a function called in the loop's thread with what people are told of the journal."""
        journal = self._journal
        if journal is not None:
            self.call(lambda: tell(journal.desk.state))

    @property
    def attended_at(self) -> float:
        """When there was a client or a manager last, on the monotonic clock."""
        if self.clients or self._listeners:
            return time.monotonic()
        return self._attended_at

    @property
    def runs_code(self) -> bool:
        """Whether the kernel runs code of a client, or is about to."""
        return self._pending.run_code

    # -- in the loop's thread --------------------------------------------------------------

    def run(self) -> None:
        """Pass messages on until :meth:`stop`."""
        self._rebuild()
        while not self._ended:
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._make_calls()
                else:
                    self._to_look_at.add(key.data)
            self._look()
            self._look()  # at those that were sent on
            self._serve_readers()
            self._ask_if_due()
            self._tidy_up_if_due()

    def _look(self) -> None:
        """Serve the sockets that may have something; what a kernel says on iopub goes first."""
        sockets, self._to_look_at = self._to_look_at, set()
        if not sockets:
            return
        self._tidy_at = time.monotonic() + _TIDY_AFTER
        for socket in (
            sockets if len(sockets) == 1 else filter(sockets.__contains__, self._handlers)
        ):
            self._serve(socket)

    def stop(self) -> None:
        """End the loop."""
        self._ended = True

    def close(self, *, keep_journal: bool = False) -> None:
        """Close the sockets, when the last messages have left or had time to.

        Args:
            keep_journal: whether what was written down of it stays on disk.
        """
        if self._back is not None:
            self._back.close()
        if self._journal is not None:
            self._journal.close(remove=not keep_journal)
        self._context.destroy()
        self._selector.close()
        self._wakeup.close()
        self._wake_end.close()

    def meet(self, info: ConnectionInfo, number: int) -> None:
        """Connect to a kernel; clients reach it once it answers."""
        self._back = Back(self._context, info, self._session, number)
        self._back.ask()
        self._open = False
        if self._journal is not None:
            self._journal.desk.meet(number)
        self._rebuild()

    def part(self, ename: str, evalue: str) -> None:
        """Leave a kernel that is gone, and answer what it did not.

        Args:
            ename: ``KernelDied`` or ``KernelRestarted``.
            evalue: a sentence for people.
        """
        self._gone = (ename, evalue)
        if self._back is not None:
            self._back.close()
            self._back = None
        self._open = False
        if self._journal is not None:
            self._journal.desk.part()
        self._rebuild()
        for request in self._pending.take():
            try:
                self._answer_for_kernel(request)
            except MalformedMessage:  # noqa: PERF203 - one that cannot be answered is its sender's fault
                logger.warning("A request has a header that no answer can hold.")

    def remove_journal(self, tell: Callable[[], object]) -> None:
        """Remove the journal's files, and call a function; the journal goes on in memory."""
        try:
            if self._journal is not None:
                self._journal.desk.journal.close(remove=True)
        finally:
            tell()

    def ask_to_end(self, restart: bool) -> None:
        """Ask the kernel to end, by a message."""
        if self._back is not None:
            self._back.ask_to_end(restart=restart)
            self._to_look_at.add(self._back.sockets["control"])

    def interrupt(self) -> None:
        """Interrupt what the kernel runs, by a message."""
        if self._back is not None:
            self._back.interrupt()
            self._to_look_at.add(self._back.sockets["control"])

    def reply(self, frames: Sequence[Buffer]) -> None:
        """Send a manager a reply."""
        self._send(self._sockets["nanny_control"], frames)

    def publish(self, frames: Sequence[Buffer]) -> None:
        """Send all managers an event."""
        if self._journal is not None:
            self._journal.note_event(frames)
        self._send(self._sockets["nanny_events"], frames)

    # -- the loop --------------------------------------------------------------------------

    def _rebuild(self) -> None:
        """Say which sockets are looked at, and what is done with each."""
        sockets, back = self._sockets, self._back
        handlers: dict[Any, Callable[[], object]] = {}
        if back is not None:
            handlers[back.sockets["iopub"]] = self._passer_of_output(back)
        handlers |= {
            sockets["nanny_control"]: self._take_question,
            sockets["iopub"]: self._take_subscriber,
            sockets["nanny_events"]: self._take_listener,
        }
        if self._journal is not None:
            handlers[self._journal.socket] = self._take_from_reader
            handlers[self._journal.monitor] = self._journal.take_loss
        if back is not None:
            for channel in ("shell", "control"):
                handlers[back.sockets[channel]] = self._passer_of_replies(back, channel)
        if back is not None and self._open:
            handlers[back.sockets["stdin"]] = self._passer_of_questions(back)
            handlers[back.sockets["hb"]] = self._passer(back.sockets["hb"], sockets["hb"])
            handlers[sockets["stdin"]] = self._passer_of_answers(back)
            handlers[sockets["hb"]] = self._passer_of_heartbeats(back)
        elif self._gone is not None:
            for channel in ("stdin", "hb"):
                handlers[sockets[channel]] = self._discarder(sockets[channel])
        # Before the first kernel answers what clients say waits in their sockets.
        if self._open or self._gone is not None:
            for channel in ("shell", "control"):
                handlers[sockets[channel]] = self._passer_of_requests(channel)
        self._handlers = handlers
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_end, selectors.EVENT_READ)
        for socket in handlers:
            self._selector.register(socket.getsockopt(_FD), selectors.EVENT_READ, socket)
        self._to_look_at = set(handlers)

    def _patience(self) -> float | None:
        """How long to wait for messages, in seconds."""
        if self._to_look_at:
            return 0
        due = self._tidy_at
        if self._back is not None and not self._open:
            due = min(due, self._back.ask_at)
        if self._journal is not None:
            if self._journal.desk.is_due:
                return 0
            due = min(due, self._journal.probe_at)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _tidy_up_if_due(self) -> None:
        """Give back the memory of messages that have passed, when there is nothing else to do."""
        now = time.monotonic()
        if not self._to_look_at and now >= self._tidy_at:
            give_back()
            # What still waits for the disk is free later.
            waits = self._journal is not None and self._journal.desk.journal.waiting
            self._tidy_at = now + _TIDY_AFTER if waits else math.inf

    def _ask_if_due(self) -> None:
        back = self._back
        if back is not None and not self._open and time.monotonic() >= back.ask_at:
            back.ask()
            self._to_look_at.add(back.sockets["shell"])
            self._open_when_ready(back)

    def _serve_readers(self) -> None:
        """Send the journal's readers what they lack: what came together goes together."""
        journal = self._journal
        if journal is None:
            return
        # To look again at a socket for nothing would cost another turn of the loop.
        if (journal.desk.is_due and journal.deliver()) or journal.probe_if_due():
            self._to_look_at.add(journal.socket)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        """Take what has come to a socket, up to its share of a turn."""
        handler = self._handlers.get(socket)
        if handler is None:  # its kernel was left in this very turn
            return
        option: Callable[[int], Any] = socket.getsockopt
        try:
            for number in range(_BATCH):
                # Where one follows another there are more: to ask each time takes a tenth of all.
                if number < 2 and not option(_EVENTS) & _POLLIN:
                    return
                handler()
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN and not option(_EVENTS) & _POLLIN:
                return
            if error.errno != zmq.ENOTSOCK:  # likewise
                logger.exception("The nanny could not pass on a message")
        except Exception:
            # One bad message is not the end of all others.
            logger.exception("The nanny could not pass on a message")
        self._to_look_at.add(socket)

    def _make_calls(self) -> None:
        try:
            self._wake_end.recv(4096)
        except BlockingIOError:
            pass
        while self._calls:
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                logger.exception("The nanny failed at %r", function)

    def _send(self, socket: zmq.Socket[bytes], frames: Sequence[Any]) -> None:
        try:
            send(socket, frames)
        except zmq.Again:
            logger.warning("A message was dropped: nobody takes it.")
        self._to_look_at.add(socket)

    # -- from clients ----------------------------------------------------------------------

    def _passer_of_requests(self, channel: str) -> Callable[[], None]:
        source = self._sockets[channel]

        def pass_request() -> None:
            self._pass_request(channel, receive(source))

        return pass_request

    def _pass_request(self, channel: str, frames: Frames) -> None:
        self.heard_at = self._attended_at = time.monotonic()
        envelope = Envelope(frames)
        header = verified_header(self._session, envelope)
        if header and not self._accept(header["msg_id"], envelope):
            return
        request = request_in(channel, envelope, header)
        if request is None:
            if self._back is not None and self._open:
                self._send(self._back.sockets[channel], frames)
            return  # it wants no answer, and there may be nobody to take it
        if header["msg_type"] == "shutdown_request":
            self._on_shutdown(bool(envelope.content().get("restart")))
        self._give_to_kernel(request, frames)

    def _accept(self, msg_id: str, message: Envelope) -> bool:
        """Take notice of a verified message; gives False when it has come before.

        A kernel that has just been started knows of none, and so would do it again.
        """
        if self._journal is not None:
            return self._journal.desk.accept(msg_id, fingerprint(message))
        return self._accepted.accept(msg_id, fingerprint(message), 0)

    def _give_to_kernel(self, request: PendingRequest, frames: Frames) -> None:
        if self._back is not None and self._open:
            self._pending.add(request)
            self._send(self._back.sockets[request.channel], frames)
        elif request.header["msg_type"] == "kernel_info_request":
            self._held.append((request, frames))
        else:
            self._answer_for_kernel(request)

    def _answer_for_kernel(self, request: PendingRequest) -> None:
        """Answer a request in the place of the kernel, which never will."""
        ename, evalue = self._gone or ("KernelDied", "The kernel died.")
        msg_type = request.header["msg_type"]
        reply_type = msg_type[: -len("request")] + "reply"
        error = {"status": "error", "ename": ename, "evalue": evalue, "traceback": []}
        self._say(request.channel, reply_type, error, request.header, request.route)
        idle = {"execution_state": "idle"}
        self._say("iopub", "status", idle, request.header, (b"status",))

    def _say(
        self,
        channel: str,
        msg_type: str,
        content: JSONObject,
        parent: JSONObject,
        route: Sequence[bytes],
    ) -> None:
        # The mark is for clients that learn of the kernel's end by a manager.
        header = {**self._session.header(msg_type), "nanny": True}
        frames = self._session.serialize(Message(header, parent, {}, content, (), route))
        if self._journal is not None:
            self._journal.note_own(channel, frames, route)
        self._send_to_client(channel, route, frames)

    def _send_to_client(self, channel: str, route: Sequence[bytes], frames: Frames) -> None:
        """Send a message, unless its client gets it from the journal.

        What is said on control goes both ways: an interrupt's reply does not wait behind a replay.
        """
        journal = self._journal
        if channel == "control" or journal is None or not journal.has_reader(route):
            self._send(self._sockets[channel], frames)

    def _take_from_reader(self) -> None:
        """Take what a reader of the journal says."""
        assert self._journal is not None
        self._attended_at = time.monotonic()
        self._journal.take()

    def _take_question(self) -> None:
        """Hand on what a manager asks."""
        self._attended_at = time.monotonic()
        self._on_control([frame.bytes for frame in receive(self._sockets["nanny_control"])])

    def _take_subscriber(self) -> None:
        """Welcome a subscriber of iopub (JEP 65), or take notice of one that leaves."""
        self._subscribers = max(0, self._subscribers + self._welcome("iopub", "iopub_welcome"))

    def _take_listener(self) -> None:
        """Tell a subscriber of events that it misses none from now on, or notice one that leaves."""
        self._listeners = max(0, self._listeners + self._welcome("nanny_events", "subscribed"))

    def _welcome(self, channel: str, msg_type: str) -> int:
        """Answer a subscription under its own topic; gives 1 for one, -1 for the end of one."""
        event = self._sockets[channel].recv(zmq.NOBLOCK)
        # Before the number changes, which another thread looks at first.
        self._attended_at = time.monotonic()
        if event[:1] == b"\x00":
            return -1
        if event[:1] != b"\x01":
            return 0
        topic = event[1:]
        content = {"subscription": topic.decode("utf-8", "replace")}
        message = self._session.message(msg_type, content, idents=(topic,))
        self._send(self._sockets[channel], self._session.serialize(message))
        return 1

    # -- from the kernel -------------------------------------------------------------------

    def _passer_of_replies(self, back: Back, channel: str) -> Callable[[], None]:
        source = back.sockets[channel]

        def pass_reply() -> None:
            frames = receive(source)
            reply = Envelope(frames)
            if back.is_own(reply):
                self._open_when_ready(back)
                return
            self._pending.remove(reply.parent_id())
            self._pass_to_client(channel, reply)

        return pass_reply

    def _passer_of_questions(self, back: Back) -> Callable[[], None]:
        source = back.sockets["stdin"]

        def pass_question() -> None:
            # What the kernel has printed before it asks belongs in front of the question.
            self._serve(back.sockets["iopub"])
            self._pass_to_client("stdin", Envelope(receive(source)))

        return pass_question

    def _pass_to_client(self, channel: str, message: Envelope) -> None:
        """Pass on a kernel's message to the one client that it is for.

        Some kernels (of zeromq.rs: Deno's) know the first step of a request's route alone, which is
        the one to us.
        """
        self.passed += 1
        if self._journal is not None:
            self._journal.note(channel, message)
        route: Sequence[bytes] = message.route
        if route:
            self._send_to_client(channel, route, message.frames)
        else:
            route = self._pending.route_of(message.parent_id())
            self._send_to_client(channel, route, [*route, *message.frames])

    def _passer_of_output(self, back: Back) -> Callable[[], None]:
        source, target = back.sockets["iopub"], self._sockets["iopub"]
        remove = self._pending.remove

        def pass_output() -> None:
            frames = receive(source)
            if not self._open:
                back.heard()
                self._open_when_ready(back)
            elif is_idle(frames):
                # Some lose a reply; a kernel that is idle again does not owe it any more.
                remove(Envelope(frames).parent_id())
                self.heard_at = time.monotonic()
            self.passed += 1
            # A subscriber that is not welcomed yet is promised nothing.
            if self._subscribers:
                self._send(target, frames)
            # Written down meanwhile, it does not keep them waiting.
            if self._journal is not None:
                self._journal.note("iopub", Envelope(frames))

        return pass_output

    def _open_when_ready(self, back: Back) -> None:
        """Let messages pass once the kernel answers."""
        if self._open or not back.ready:
            return
        self._open = True
        self._gone = None
        self._rebuild()
        self._on_ready(back.number)
        while self._held:
            self._give_to_kernel(*self._held.popleft())

    def _passer_of_answers(self, back: Back) -> Callable[[], None]:
        source, target = self._sockets["stdin"], back.sockets["stdin"]

        def pass_answer() -> None:
            frames = receive(source)
            self._attended_at = time.monotonic()
            self.passed += 1
            answer = Envelope(frames)
            header = verified_header(self._session, answer)
            if header and not self._accept(header["msg_id"], answer):
                return
            if header and self._journal is not None:
                self._journal.desk.answer_question(answer.parent_id())
            self._send(target, frames)

        return pass_answer

    def _passer_of_heartbeats(self, back: Back) -> Callable[[], None]:
        source, target = self._sockets["hb"], back.sockets["hb"]

        def pass_on() -> None:
            frames = receive(source)
            self._attended_at = time.monotonic()
            self.passed += 1
            self._send(target, frames)

        return pass_on

    def _passer(self, source: Any, target: Any) -> Callable[[], None]:
        def pass_on() -> None:
            frames = receive(source)
            self.passed += 1
            self._send(target, frames)

        return pass_on

    @staticmethod
    def _discarder(source: Any) -> Callable[[], None]:
        def discard() -> None:
            receive(source)

        return discard
