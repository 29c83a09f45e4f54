"""One client's sockets to a kernel whose nanny keeps a journal: a cut is a pause.

What is sent goes over the kernel's own channels; what the kernel says comes from the journal, in
order and once.  When any one connection is lost all are made anew, what the nanny has not seen is
sent again, and what was said meanwhile is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import zmq

from ..channels import Channel, Heartbeat
from ..connection import ConnectionInfo
from ..errors import ConnectionLost, KernelMgmtError, ProtocolError
from ..link import ConnectionChange, Link, connection_lost
from ..link_follower import LinkFollower
from ..nanny.journal.records import Record
from ..protocol import Buffer, Message, Session
from ..request import Request
from .connection import JournalConnection, message_of
from .outbox import Outbox
from .reader import Gap, Reader, Subscribed

__all__ = ["JournalLine", "LineUser"]

logger = logging.getLogger("kernel_mgmt")

#: How many records are handled in one turn of the loop, so that other tasks get theirs too.
_RECORDS_PER_TURN = 500
#: How long to wait before connections are made anew, in seconds: not at first, then more each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
#: How long the nanny may take to answer a subscription, in seconds, before all is made anew.
_PATIENCE = 5.0
#: How soon a message is sent again that ZeroMQ did not take, in seconds.
_RESEND_PAUSE = 0.01
#: How long a link may take to tell why the sockets that it carries were closed, in seconds.
_REASON_PATIENCE = 0.5


class LineUser(Protocol):
    """What a line tells, on its loop: a client."""

    def on_frames(self, channel: str, frames: list[Any]) -> None:
        """Take a message that came over the channel itself."""

    def on_message(self, message: Message) -> None:
        """Take a message of the journal."""

    def on_bad(self, channel: str, error: ProtocolError) -> None:
        """Take notice of a message that was dropped."""

    def on_gap(self) -> None:
        """Take notice that messages are missing."""

    def on_gone(self, msg_ids: Sequence[str]) -> None:
        """End requests whose kernel is not there any more."""

    def on_overdue(self, msg_ids: Sequence[str]) -> None:
        """End those of some requests whose reply has not come, and cannot any more."""

    def on_refused(self, error: KernelMgmtError) -> None:
        """End all: the nanny does not send its journal."""

    def on_link_closed(self) -> None:
        """End all: the connection to the other machine does not come back."""

    def is_open(self, msg_id: str) -> bool:
        """Tell whether a request still waits for its reply."""

    def is_over(self) -> bool:
        """Tell whether the kernel is gone, and none comes in its place as far as anybody knows."""

    def tell_of_change(self, change: ConnectionChange) -> None:
        """Tell others what has become of the connection."""


class JournalLine:
    """The sockets of one client; made on the running loop.

    Args:
        info: where the kernel is and how to sign messages.
        link: the connection that leads to its machine; None for a kernel that is here.
        user: is told what comes.
        resume_after: the number of the last message that was handled; None for what is said from
            now on.
        reads: whether what is acknowledged counts as read by somebody.
    """

    #: Whether all that the kernel says is read, also what it said while nobody was connected.
    keeps_all = True

    def __init__(
        self,
        info: ConnectionInfo,
        link: Link | None,
        user: LineUser,
        resume_after: int | None,
        *,
        reads: bool = True,
    ) -> None:
        self._info = info
        self._user = user
        self._loop = asyncio.get_running_loop()
        self.session = Session(info.key, info.signature_scheme)
        #: Verifies what the journal brings, which may have come over its own channel before.
        self._record_session = Session(info.key, info.signature_scheme)
        self.outbox = Outbox()
        self._reader = Reader(resume_after, reads=reads)
        self._journal: JournalConnection | None = None
        self._channels: dict[str, Channel] = {}
        self.heartbeat: Heartbeat | None = None
        #: Is set when what is sent goes out now, and when it never will again.
        self._usable = asyncio.Event()
        self._closed = False
        #: The kernel's questions that waited for an answer at the last subscription.
        self._asking: frozenset[str] = frozenset()
        #: Deliveries that were not handled yet, and the rest of the one that is being handled.
        self._deliveries: deque[list[Any]] = deque()
        self._records: Iterator[Record | Gap] | None = None
        self._working = False
        #: Ids of requests that have ended without a reply, or have it in what is still to be read.
        self._gone: list[str] = []
        self._overdue: list[str] = []
        #: Why and since when the connection is lost, in seconds since the epoch; None if it is not.
        self._loss: tuple[str, float] | None = None
        #: Whether the user is still to be told of it.
        self._loss_untold = False
        #: What is to be told when all that was missed is read.
        self._news: str | None = None
        self._lost_at: float | None = None
        self._caught_up = 0
        self._gap: Gap | None = None
        self._pause = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._resend_timer: asyncio.TimerHandle | None = None
        self._subscribed_once = False
        self._follower: LinkFollower | None = None
        if link is not None:
            self._follower = LinkFollower(
                link,
                on_lost=lambda: self._lose(link.reason),
                on_restored=self._resume,
                on_closed=user.on_link_closed,
                tell=self._tell_of_link,
            )

    def begin(self) -> None:
        """Open the connection: the user may be told of it from now on."""
        if self._follower is not None:
            self._follower.begin()
        self._open_soon()

    def close(self, *, unsent: bool = True) -> None:
        """Close all for good.

        Args:
            unsent: see :meth:`Channel.close`.
        """
        if self._closed:
            return
        self._closed = True
        if self._follower is not None:
            self._follower.close()
        if self._journal is not None:
            self._journal.close()
        self._close_sockets(unsent=unsent)
        if self._resend_timer is not None:
            self._resend_timer.cancel()
        self._usable.set()

    # -- the connections -------------------------------------------------------------------

    def _open_soon(self) -> None:
        if self._closed or self._is_far_away:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._pause:
            self._timer = self._loop.call_later(self._pause, self._open)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE
            self._open()

    def _open(self) -> None:
        """Open the sockets, and subscribe after what was read."""
        if self._deliveries or self._records is not None:
            return  # what came before the loss comes first, and calls this again
        self._close_sockets(unsent=False)
        # Whatever still holds the last connection does not know this one for the same.
        self._identity = uuid.uuid4().hex
        self.outbox.begin()
        self._journal = JournalConnection(
            self._info,
            self._reader,
            self.session,
            on_delivery=self._on_delivery,
            on_subscribed=self._on_subscribed,
            on_refused=self._on_refused,
            on_lost=self._on_lost,
            on_bad=lambda error: self._user.on_bad("nanny_journal", error),
            identity=self._identity,
        )
        self._ask()
        self._timer = self._loop.call_later(_PATIENCE, self._on_lost)

    def _ask(self) -> None:
        assert self._journal is not None
        self.outbox.prune(self._user.is_open)
        self._journal.subscribe(self.outbox.ids(), self.outbox.withdrawn())

    def ask_again(self) -> None:
        """Learn what has become of the requests that are under way, on the same connection."""
        if self.is_usable and self._journal is not None:
            self._finish_delivery()
            if self._journal is not None:
                self._ask()

    def count_as_reader(self) -> None:
        """Have what is acknowledged from now on count as read by somebody."""
        if not self._reader.reads:
            self._reader.reads = True
            self.ask_again()

    def _close_sockets(self, *, unsent: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.heartbeat is not None:
            self.heartbeat.close()
            self.heartbeat = None
        if self._journal is not None:
            self._journal.drop()
            self._journal = None
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close(unsent=unsent)

    def _channel(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(
                self._info,
                name,
                self._identity.encode(),
                self._user.on_frames,
                on_link=self._on_link_event,
                heartbeats=True,
            )
        return channel

    def _on_link_event(self, event: str) -> None:
        if event == "lost":
            self._on_lost()

    def _on_lost(self) -> None:
        """Make all connections anew: one was lost, or the nanny does not answer."""
        if self._closed:
            return
        self._lose("A connection to its nanny was lost.")
        if self._user.is_over():
            self.close()
        else:
            self._open_soon()

    def _lose(self, reason: str) -> None:
        """Close all; whoever calls this opens them again."""
        self._close_sockets(unsent=False)
        if self._resend_timer is not None:
            self._resend_timer.cancel()
        if self._loss is None:
            self._loss = reason, time.time()
            # Who was told of no return since the last time need not hear it again.
            self._loss_untold = self._usable.is_set() and self._news is None
            self._usable.clear()
        elif self._loss_untold:
            self._loss = reason, self._loss[1]
        if self._follower is None or self._is_far_away:
            self._tell_of_loss()
        else:
            self._loop.call_later(_REASON_PATIENCE, self._tell_of_loss)

    def _tell_of_loss(self) -> None:
        if self._loss is not None and self._loss_untold and not self._closed:
            self._loss_untold = False
            self._user.tell_of_change(ConnectionChange("lost", *self._loss))

    async def _resume(self) -> None:
        self._pause = 0.0
        self._open_soon()
        await self._usable.wait()

    def _tell_of_link(self, change: ConnectionChange) -> None:
        """Tell of the end; of losses and returns the connections themselves tell."""
        if change.state == "closed":
            self._user.tell_of_change(change)

    # -- the subscription ------------------------------------------------------------------

    def _on_subscribed(self, subscribed: Subscribed) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pause = 0.0
        self._asking = subscribed.asking
        settled = self.outbox.settle(subscribed)
        self._gone += settled.gone
        self._overdue += settled.answered
        if settled.withdrawn:
            self._loop.call_soon(self.ask_again)
        if self._news is None:
            self._caught_up = 0
        if not self._subscribed_once:
            self._news = "connected"
        elif self._loss is not None and self._news is None:
            self._news, self._lost_at = "resumed", self._loss[1]
        self._subscribed_once = True
        self._tell_of_loss()
        self._loss = None
        self._usable.set()
        self._send_unsent()
        self._look_whether_caught_up()

    def _on_refused(self, error: KernelMgmtError) -> None:
        self._user.on_refused(error)

    def _look_whether_caught_up(self) -> None:
        if not self._reader.has_caught_up or self._loss is not None:
            return
        gone, self._gone = self._gone, []
        overdue, self._overdue = self._overdue, []
        if gone:
            self._user.on_gone(gone)
        if overdue:
            self._user.on_overdue(overdue)
        if self._news is not None:
            gap, state = self._gap, self._news
            self._news = self._gap = None
            self._user.tell_of_change(
                ConnectionChange(
                    state,
                    "" if gap is None else "The journal could not keep all that was said.",
                    self._lost_at,
                    self._caught_up,
                    None if gap is None else gap.as_tuple(),
                )
            )
            self._lost_at = None

    # -- what comes ------------------------------------------------------------------------

    def _on_delivery(self, frames: list[Any]) -> None:
        self._deliveries.append(frames)
        if not self._working:
            self._work()

    def _work(self) -> None:
        """Handle what has come, up to a share of the loop's time."""
        self._working = True
        budget = _RECORDS_PER_TURN
        while budget > 0 and not self._closed:
            if self._records is None:
                if not self._deliveries:
                    break
                self._records = self._take(self._deliveries.popleft())
            for item in self._records:
                budget -= 1
                self._on_record(item)
                if isinstance(item, Gap):
                    continue  # the record that tells of it follows
                if budget <= 0 or self._closed:
                    break
            else:
                self._records = None
        self._working = False
        if self._closed:
            return
        if self._records is not None or self._deliveries:
            self._working = True
            self._loop.call_soon(self._work)
        elif self._loss is not None and self._journal is None:
            self._open_soon()

    def _take(self, frames: list[Any]) -> Iterator[Record | Gap]:
        return self._reader.take(frames) if self._journal is None else self._journal.records(frames)

    def _finish_delivery(self) -> None:
        """Forget what was not handled yet: the next subscription brings it again."""
        self._deliveries.clear()
        self._records = None

    def _on_record(self, item: Record | Gap) -> None:
        if isinstance(item, Gap):
            self._on_gap(item)
            return
        try:
            message = message_of(item, self._record_session)
        except ProtocolError as error:
            self._user.on_bad(item.channel, error)
        else:
            self._user.on_message(message)
        if self._news is not None or self._gone or self._overdue:
            self._caught_up += 1
            self._look_whether_caught_up()

    def _on_gap(self, gap: Gap) -> None:
        logger.warning(
            "Messages %d to %d of the kernel (%d bytes) are lost: its journal could not keep them.",
            *gap.as_tuple(),
        )
        self._gap = gap.with_(self._gap)
        if self._news is None:
            self._news = "resumed"
            self._caught_up = 0
        self._user.on_gap()
        # What has become of the requests whose replies may be among them?
        self._loop.call_soon(self.ask_again)

    @property
    def position(self) -> int:
        """The number of the last message that was handled; 0 as long as none is known."""
        return self._reader.position or 0

    def is_asked(self, question: Message) -> bool:
        """Tell whether a question for input may still wait for an answer."""
        return (
            not question.journal_number
            or question.journal_number > self._reader.target
            or question.msg_id in self._asking
        )

    # -- for the client --------------------------------------------------------------------

    @property
    def _is_far_away(self) -> bool:
        return self._follower is not None and self._follower.is_cut

    @property
    def is_cut(self) -> bool:
        """Whether nothing reaches the kernel now."""
        return self._loss is not None or self._is_far_away

    @property
    def is_usable(self) -> bool:
        """Whether what is sent goes out now."""
        return self._usable.is_set()

    @property
    def takes_requests(self) -> bool:
        """Whether requests may be posted: always, they wait here."""
        return True

    async def until_usable(self) -> None:
        """Wait until what is sent goes out, or never will."""
        await self._usable.wait()

    @property
    def leads_to(self) -> str:
        """What the connection leads to."""
        return "the kernel's nanny" if self._follower is None else self._follower.link.name

    def check(self, what: str) -> None:
        """Make sure that the connection is not lost.

        Args:
            what: what is to be done.

        Raises:
            ConnectionLost: it is.
        """
        if self.is_cut:
            raise self.error(what)

    def error(self, what: str) -> ConnectionLost:
        """Give the error for what cannot be done because of the last loss."""
        if self._follower is not None and self._follower.is_cut:
            return self._follower.error(what)
        reason = self._loss[0] if self._loss is not None else ""
        return connection_lost(self.leads_to, what, reason, final=False)

    def post(self, request: Request, frames: Sequence[Buffer]) -> None:
        """Send a request, now or when the connection is back, and again when that is needed."""
        self.outbox.add(request.msg_id, request.channel, frames)
        if self.is_usable:
            self._send_unsent()

    def post_answer(
        self, msg_id: str, frames: Sequence[Buffer], *, question: str, request: str
    ) -> None:
        """Send an answer to a question for input, likewise; see :class:`Sent`."""
        self.outbox.add(msg_id, "stdin", frames, question=question, request=request)
        if self.is_usable:
            self._send_unsent()

    def expect(self, msg_ids: Sequence[str]) -> None:
        """Have the user look at some requests when all was read that has been said by now."""
        self._overdue += msg_ids

    def adopt(self, msg_id: str, channel: str) -> None:
        """Mind a request that somebody else has sent."""
        self.outbox.add(msg_id, channel, ())

    def forget(self, msg_id: str) -> None:
        """Mind a request no more: it has its reply, or nobody waits for that."""
        self.outbox.forget(msg_id)

    def take_held(self) -> list[tuple[Request, Sequence[Buffer]]]:
        """Give the requests that the client is to post again: none."""
        return []

    @property
    def held(self) -> dict[str, Any]:
        """The requests that wait outside the client's own: none."""
        return {}

    def _send_unsent(self) -> None:
        try:
            for sent in self.outbox.unsent():
                self._channel(sent.channel).send(sent.frames)
        except zmq.Again:
            # For a moment after a connection was refused ZeroMQ keeps nothing for the next one.
            self._resend_timer = self._loop.call_later(_RESEND_PAUSE, self._resend)

    def _resend(self) -> None:
        if self.is_usable and not self._closed:
            self._send_unsent()

    @property
    def responsive(self) -> bool:
        """Whether the kernel answers heartbeats, which begin when this is first asked."""
        if self.is_cut:
            return False
        if self.heartbeat is None:
            self.heartbeat = Heartbeat(self._info)
        return self.heartbeat.responsive

    def drop(self) -> None:
        """Close the sockets; what was not sent never will be."""
        with contextlib.suppress(KernelMgmtError):
            self._close_sockets(unsent=False)
