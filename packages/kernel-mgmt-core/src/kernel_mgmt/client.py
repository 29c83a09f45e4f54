"""Talking to a kernel: requests, their replies and their output, on a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

import zmq

from .background import finish
from .connection import ConnectionInfo
from .dialect import Dialect
from .errors import (
    ClientClosed,
    ConnectionLost,
    KernelDied,
    KernelMgmtError,
    KernelRestarted,
    NannyError,
    ProtocolError,
    RequestTimeout,
)
from .handlers import HandlerCalls
from .journal.adoption import AdoptedRequest, adopt
from .journal.line import JournalLine
from .journal.reader import Reader
from .journal.replay import Replay
from .journal.side import JournalSide
from .launch import Prompt, PromptHandler
from .line import Line
from .link import ConnectionChange
from .lost_replies import LostReplies
from .manager import KernelManager
from .output import print_output
from .protocol import Buffer, JSONObject, Message, Session, requests
from .readiness import Readiness, last_output
from .request import Request
from .request_methods import RequestMethods

__all__ = ["ChangeHandler", "KernelClient", "MessageHandler"]

logger = logging.getLogger("kernel_mgmt")

#: Is called with each message of the channels it was added for; may be a coroutine function.
MessageHandler = Callable[[Message], Any]
#: Is called with each change of the connection; may be a coroutine function.
ChangeHandler = Callable[[ConnectionChange], Any]
OutputHook = Callable[[Message], Any]

#: Dropped messages are logged up to this many, then each thousandth.
_LOGGED_DROPS = 10
#: How long a dead kernel must have been silent before its requests end, in seconds: what it sent
#: last may still be on its way through the sockets.
_LAST_WORDS = 0.05
#: How long they may take at most where something else waits for them, in seconds.
_LAST_WORDS_LIMIT = 1.0
#: How long a kernel may take to end after SIGTERM, in seconds.
_TERMINATE_PATIENCE = 2.0
#: How soon a request is sent again that ZeroMQ did not take, in seconds.
_RESEND_PAUSE = 0.01
#: The channels that carry messages.
_CHANNELS = frozenset({"iopub", "shell", "control", "stdin", "nanny"})
#: What ends input in a kernel, as Ctrl-D does in a terminal.
_END_OF_INPUT = "\x04"


class KernelClient(RequestMethods[Request]):
    """Talks to one kernel; make it on the running loop that shall carry it.

    Any number of requests may be under way from any number of tasks.  Each ends: with its reply,
    or with ``KernelDied``, ``KernelRestarted``, ``ReplyLost``, ``ConnectionLost`` or
    ``ClientClosed``.  Nothing is ever thrown away in order to wait for something else.

    A kernel whose nanny keeps a journal is read from that: when the connection is lost, requests
    under way and those made meanwhile wait until it is back, and all that the kernel has said is
    handed on in order, once.

    Another kernel on another machine is reached by a connection that may be lost: its manager has a
    ``link``.  When it is lost, requests under way end with ``ConnectionLost``; those made from then
    on wait, and are sent in order when it is back and no output can be missed any more.

    Args:
        connection_info: where the kernel is and how to sign messages.
        manager: watches the kernel's process; without one, only messages tell of the kernel.
        resume_after: the :attr:`journal_position` of a former client: what the kernel has said after
            that is handed on first.  By default it begins with what is said from now on.
        on_message: called with each message of any channel, from the first on; may be a coroutine
            function.
        counts_as_reader: whether what this client is told counts as read by somebody, so that it is not
            missed by whoever comes next. Programs that nobody watches give False.

    Raises:
        RuntimeError: no event loop is running; use ``BlockingKernelClient``.
        ConnectionFileError: the connection info cannot be used.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        *,
        manager: KernelManager | None = None,
        resume_after: int | None = None,
        on_message: MessageHandler | None = None,
        counts_as_reader: bool = True,
    ) -> None:
        self._loop = _running_loop()
        self._counts_as_reader = counts_as_reader
        #: How many received messages were dropped because they were malformed, unsigned, forged
        #: or replayed.
        self.dropped_messages = 0
        self._handlers: dict[str, tuple[MessageHandler, ...]] = {}
        #: Requests without a reply, then those with one that somebody still holds.
        self._pending: dict[str, Request] = {}
        self._answered: WeakValueDictionary[str, Request] = WeakValueDictionary()
        self._change_handlers: dict[object, ChangeHandler] = {}
        self._dialect = Dialect(self._request)
        self._lost_replies = LostReplies(self._pending, self._ask_kernel_info)
        self._readiness = Readiness(self)
        self._calls = HandlerCalls()
        self._closed = False
        #: Are awaited before this client ends its kernel: who would start it again must let it go.
        self._before_ending: list[Callable[[], Awaitable[object]]] = []
        if on_message is not None:
            self.add_handler(on_message, _CHANNELS)
        self._connect(connection_info, manager, resume_after)

    def _connect(
        self,
        info: ConnectionInfo,
        manager: KernelManager | None,
        resume_after: int | None = None,
    ) -> None:
        self.connection_info = info
        self.manager = manager
        #: Is set unless a kernel that is gone may yet be replaced behind the same address.
        self._settled = asyncio.Event()
        self._settled.set()
        #: Is set when the requests of a kernel that has ended have ended, too.
        self._mourned = asyncio.Event()
        #: Watches the kernel, and each that replaces it.
        self._watch: asyncio.Task[None] | None = None
        #: How many kernels have ended since.
        self._ends = 0
        self._greet()
        link = None if manager is None else manager.link
        #: What there is only where a nanny keeps a journal.
        self._journal: JournalSide | None = None
        self._line: Line | JournalLine
        if info.nanny_journal_port:
            self._journal = JournalSide(
                self, info, link, resume_after, reads=self._counts_as_reader
            )
            self._line = self._journal.line
        else:
            self._line = Line(
                info,
                link,
                on_frames=self._on_frames,
                on_lost=self._on_lost,
                on_restored=self._on_restored,
                on_closed=self._on_link_closed,
                tell=self._tell_of_change,
            )
        self._line.begin()
        if manager is not None and self._gone is None:
            self._watch = self._loop.create_task(self._follow(manager))
            manager.followed_by(self._watch)

    def _greet(self) -> None:
        """Turn to a kernel that this client has not talked to."""
        #: Why nothing can be asked of the kernel any more: it has died, or is being replaced.
        self._gone: KernelMgmtError | None = None
        self._mourned.clear()
        #: Whether this client has asked the kernel to end, and not to be started again.
        self.asked_to_end = False
        self._dialect.unlearn()

    def _disconnect(self, *, unsent: bool = True) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._line.close(unsent=unsent)
        if self._journal is not None:
            self._journal.close()
        self._settled.set()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "dead" if self._gone else "open"
        if self._line.is_cut and state == "open":
            state = "cut off"
        count = len(self._pending) + len(self._line.held)
        return f"<KernelClient {state} {self.connection_info!r} {count} pending>"

    # -- life ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; the kernel lives on.  Pending requests end with ClientClosed."""
        if self._closed:
            return
        self._closed = True
        self._disconnect()
        self._lost_replies.close()
        self._calls.cancel()
        self._fail_requests(
            ClientClosed("The client was closed before the kernel answered; make a new client.")
        )

    async def reconnect(
        self, connection_info: ConnectionInfo, manager: KernelManager | None = None
    ) -> None:
        """Go on with the kernel that replaced this one; handlers stay.

        Requests under way end with ``KernelRestarted``.

        Args:
            connection_info: where the new kernel is.
            manager: watches the new kernel.

        Raises:
            ClientClosed: the client was closed.
        """
        if self._closed:
            raise ClientClosed("The client was closed; make a new one.")
        await self.let_go(
            KernelRestarted("The kernel was restarted before it answered; send the request again.")
        )
        self._connect(connection_info, manager)

    async def let_go(self, error: KernelMgmtError) -> None:
        """Leave a kernel that is about to be replaced, or is dead and will be, until `reconnect`.

        What was sent to it and has not gone out yet never will: its successor at the same address
        would take it for its own.

        Args:
            error: how requests under way end, and what those made meanwhile raise.
        """
        if self._closed:
            return
        if isinstance(error, KernelDied) and self._watch is not None:
            # The kernel's last words come first. Bounded, lest the manager is another kernel's.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_LIMIT):
                    await self._mourned.wait()
        self._disconnect(unsent=False)
        self._gone = error
        self._fail_requests(error)

    async def _follow(self, manager: KernelManager) -> None:
        """Watch the kernel, and go on with each that replaces it behind the same address."""
        try:
            await self._see_the_end(manager)
            while not self.asked_to_end and await manager.next_kernel():
                await self._go_on(manager)
                self._settled.set()
                await self._ready_or_dead(manager)
                await self._see_the_end(manager)
        except KernelMgmtError as error:
            # Of a connection that is closed for good its link tells as well.
            if not (isinstance(error, ConnectionLost) and error.final):
                logger.warning("The manager tells of its kernel no more: %s", error)
        except Exception:
            logger.exception("The manager %r tells of its kernel no more", manager)
        self._mourned.set()
        self._settled.set()
        if self._journal is not None and self._gone is not None and self._line.is_cut:
            self._line.close()

    async def _see_the_end(self, manager: KernelManager) -> None:
        """Wait until the kernel has ended, and end what is under way with it."""
        status = await manager.wait()
        # Before the last words: meanwhile the manager may go on to the next kernel.
        error = (
            KernelRestarted("The kernel was restarted before it answered; send the request again.")
            if manager.restarting
            else KernelDied(status, await last_output(manager))
        )
        if self._journal is not None:
            if await self._journal.until_end_is_told(manager):
                return
        else:
            await self._hear_last_words()
        self._on_death(error)
        self._fail_requests(error)

    async def _hear_last_words(self) -> None:
        before = -1
        while (count := sum(request.output_count for request in self._under_way())) != before:
            before = count
            await asyncio.sleep(_LAST_WORDS)

    async def _go_on(self, manager: KernelManager) -> None:
        """Turn to the kernel that came in place of one that has ended."""
        if self._journal is not None:
            await self._journal.until_return_is_told(manager)
        else:
            assert isinstance(self._line, Line)
            self._line.close_sockets(unsent=False)
            self._greet()
            self._line.open()

    def _on_death(self, error: KernelMgmtError) -> None:
        """Take notice that the kernel has ended; another may come in its place."""
        if self._gone is None:
            self._settled.clear()
        self._gone = error
        self._ends += 1
        self._mourned.set()

    def _on_return(self) -> None:
        """Take notice of the journal's word that a kernel answers."""
        if isinstance(self._gone, (KernelDied, KernelRestarted)):
            self._greet()
            self._settled.set()

    def _on_refused(self, error: KernelMgmtError) -> None:
        """End all: the nanny does not send its journal."""
        self._gone = error
        self._disconnect()
        self._fail_requests(error)
        self._mourned.set()

    async def _ready_or_dead(self, manager: KernelManager) -> None:
        """Wait until nothing of the kernel's output is missed any more, or the kernel has ended."""
        either = {
            self._loop.create_task(self._readiness.until_ready()),
            self._loop.create_task(manager.wait()),
        }
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in either:
                task.cancel()
            await asyncio.wait(either)
            for task in either:
                _ = task.cancelled() or task.exception()  # looked at, or asyncio complains

    def _under_way(self) -> list[Request]:
        return [*self._pending.values(), *self._answered.values()]

    def _fail_requests(self, error: KernelMgmtError) -> None:
        under_way = [*self._under_way(), *(request for request, _ in self._line.take_held())]
        self._pending.clear()
        for request in under_way:
            request.fail(error)

    # -- the connection to another machine -------------------------------------------------

    def on_connection_change(self, handler: ChangeHandler) -> Callable[[], None]:
        """Have a function told when the connection to the kernel is lost, and when it is back.

        It is back when requests work again and none of their output is missed: with a journal when
        all was handed on that the kernel said meanwhile.  A kernel of this machine that has no
        nanny with a journal has no such connection, and nothing is ever told.

        Args:
            handler: called with each :class:`~kernel_mgmt.link.ConnectionChange`, on the client's
                loop; may be a coroutine function.  What it raises is logged.

        Returns:
            A function that ends this; it may be called twice.
        """
        key = object()
        self._change_handlers[key] = handler

        def end() -> None:
            self._change_handlers.pop(key, None)

        return end

    def _tell_of_change(self, change: ConnectionChange) -> None:
        for handler in tuple(self._change_handlers.values()):
            self._calls.call(handler, change)

    def _on_lost(self) -> None:
        """Give up what is under way; what is made from now on waits."""
        self._fail_for_loss(self._under_way())

    # -- the journal -----------------------------------------------------------------------

    @property
    def journal_position(self) -> int:
        """The number of the last message that was handed on; 0 when the kernel has no journal.

        Stored, it is what another client goes on from; see ``resume_after``.
        """
        return self._line.position if isinstance(self._line, JournalLine) else 0

    def count_as_reader(self) -> None:
        """Have what this client is told from now on count as read; see ``counts_as_reader``."""
        self._counts_as_reader = True
        if isinstance(self._line, JournalLine):
            self._line.count_as_reader()

    async def replay(
        self, after: int = 0, *, until: int | None = None, since: float | None = None
    ) -> AsyncGenerator[Message]:
        """Iterate over what the kernel has said, as its nanny's journal has kept it.

        That has a connection of its own, and changes nothing for this client.  What the journal could
        not keep is told by a message ``journal_gap`` of channel ``nanny``.

        Args:
            after: the number after which to begin.
            until: the number of the last message; by default the last one that there is now.
            since: the moment from which on to read, in seconds since the epoch, in place of ``after``.

        Yields:
            Each message, with its ``channel`` and ``journal_number``.

        Raises:
            NannyError: there is no journal, or it does not reach up to ``after``.
            ConnectionLost: the nanny cannot be reached.
        """
        replay = self._begin_replay(after, until=until, since=since)
        try:
            while (batch := await replay.next_batch()) is not None:
                for message in batch:
                    yield message
        finally:
            replay.close()

    def _begin_replay(
        self, after: int = 0, *, until: int | None = None, since: float | None = None
    ) -> Replay:
        return Replay(
            self.connection_info,
            Reader(after if since is None else None, since=since, reads=False),
            link=None if self.manager is None else self.manager.link,
            until=until,
            on_bad=self._drop,
        )

    def request(self, msg_id: str, stdin_hook: PromptHandler | None = None) -> Request:
        """Give the handle of a request by its id, also of one that another process has sent.

        Its messages are read from its beginning on, as far as the nanny's journal has them.

        Args:
            msg_id: the id of the request.
            stdin_hook: answers what the kernel asks for, or has asked and nobody has answered.

        Raises:
            ClientClosed: the client is closed.
            NannyError: the kernel has no nanny that keeps a journal.  The request ends with it when
                the nanny knows no such request.
        """
        known = self._request(msg_id)
        if known is None:
            if self._closed:
                raise ClientClosed("The client is closed; make a new one.")
            if not isinstance(self._line, JournalLine):
                raise NannyError(
                    "The kernel has no nanny that keeps a journal; only who has sent a request has"
                    " its handle."
                )
            known = self._pending[msg_id] = AdoptedRequest(msg_id)
            self._line.adopt(msg_id, known.channel)
            _ = self._calls.start(adopt(self, known))
        if stdin_hook is not None:
            known.stdin_hook = stdin_hook
        return known

    def _on_link_closed(self) -> None:
        held = [request for request, _ in self._line.take_held()]
        if not isinstance(self._gone, KernelDied):
            self._gone = self._line.error("the request")
        self._disconnect(unsent=False)
        self._line.drop()
        self._fail_for_loss([*self._under_way(), *held])
        self._mourned.set()

    def _fail_for_loss(self, requests: Sequence[Request]) -> None:
        self._pending.clear()
        for request in requests:
            error = self._line.error(request.message.msg_type)
            assert error is not None
            request.fail(error)

    async def _on_restored(self) -> None:
        """Work again: with open sockets, and no output missed; then send what has waited."""
        try:
            assert isinstance(self._line, Line)
            self._line.open()
            await self._become_ready_again()
        except KernelMgmtError as error:
            # It has ended meanwhile: so have the requests that waited.
            logger.debug("The kernel is not there when the connection is: %s", error)
        except Exception:
            logger.exception("The client could not be connected again")
        for request, frames in self._line.take_held():
            self._post_now(request, frames)

    async def _become_ready_again(self) -> None:
        """Wait until nothing of the output of a kernel is missed that had been there before.

        It may be busy, and so is not waited for; what matters is whether it is still the same.
        """
        ends = self._ends
        await self._readiness.until_heard(
            [self._readiness.ask_who_it_is(), self._readiness.ask_who_it_is("control")]
        )
        manager = self.manager
        assert manager is not None
        try:
            same = await manager.is_alive()
        except KernelMgmtError as error:
            logger.warning("Whether the kernel is still the same is not known: %s", error)
            return
        watched = self._watch is not None and not self._watch.done()
        if not same and watched and self._ends == ends:
            await self._mourned.wait()

    def _check_usable(self) -> None:
        if self._closed:
            raise ClientClosed("The client is closed; make a new one.")
        if self._gone is not None:
            raise self._gone

    @property
    def kernel_info_content(self) -> JSONObject:
        """What the kernel has said of itself: content of its kernel_info reply; empty before.

        After ``reconnect`` it is that of the old kernel until the new one has answered.
        """
        return self._dialect.info

    @property
    def responsive(self) -> bool:
        """Whether the kernel answers heartbeats, which begin when this is first asked.

        True until a kernel has had three seconds to answer, and false as long as the connection to
        its machine is lost.  A kernel can be alive and not responsive (stopped, or its machine is
        too busy); for alive, ask the manager.
        """
        self._check_usable()
        return self._line.responsive

    async def wait_for_ready(self, timeout: float | None = 60) -> JSONObject:
        """Wait until the kernel answers and its output reaches this client.

        When the connection to its machine is lost, until that is back, too.

        Args:
            timeout: seconds to wait at most; None for no limit.

        Returns:
            The content of the kernel's kernel_info reply.

        Raises:
            KernelDied: its process ended, with exit status and last output; at once.
            RequestTimeout: it did not answer in time.
            ConnectionLost: the connection to its machine is closed for good.
        """
        try:
            async with asyncio.timeout(timeout):
                self._dialect.info = await self._readiness.until_ready()
        except TimeoutError:
            raise await self._readiness.explain(timeout or 0) from None
        return self.kernel_info_content

    async def interrupt(self, timeout: float | None = 10) -> None:
        """Interrupt what the kernel runs, by message or by signal as its type wants it.

        Args:
            timeout: seconds that the kernel may take to answer a message; None for no limit.

        Raises:
            RequestTimeout: it did not answer the message in time.
            ConnectionLost: the connection to its machine is lost; it is not interrupted later.
        """
        if self.connection_info.interrupt_mode == "signal" and self.manager is not None:
            await self.manager.interrupt()
            return
        self._check_usable()
        # Whoever waits for the connection to come back does not want it to interrupt what runs then.
        self._line.check("interrupt_request")
        await self._reply_within(
            self.send(requests.interrupt_request(), "control"), timeout, "interrupt"
        )

    async def shutdown_or_terminate(self, timeout: float = 5) -> None:
        """End the kernel: ask it, then SIGTERM, then SIGKILL; then remove what its launch made.

        The client stays open; requests under way end with ``KernelDied``.

        Args:
            timeout: seconds that the kernel may take to end when it was asked.

        Raises:
            RequestTimeout: there is no manager, and the kernel did not answer.
        """
        for let_go in tuple(self._before_ending):
            await let_go()
        manager = self.manager
        if manager is None:
            await self._reply_within(self.shutdown(), timeout, "shutdown")
            return
        try:
            if await manager.is_alive() and not self._closed and self._gone is None:
                _ = self.shutdown()
            for ask, patience in ((None, timeout), (manager.terminate, _TERMINATE_PATIENCE)):
                if ask is not None:
                    await ask()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await manager.wait()
                    break
        finally:
            await finish(_end(manager))

    async def _reply_within(self, request: Request, timeout: float | None, phase: str) -> Message:
        try:
            async with asyncio.timeout(timeout):
                return await request
        except TimeoutError:
            raise RequestTimeout(
                f"The kernel did not answer {request.message.msg_type} within {timeout:g} s.",
                phase=phase,
                seconds=timeout or 0,
            ) from None

    # -- requests --------------------------------------------------------------------------

    def send(self, message: Message, channel: str = "shell") -> Request:
        """Send any message; :class:`RequestMethods` has one method per request.

        Args:
            message: from :mod:`kernel_mgmt.protocol.requests`, or made by hand.
            channel: ``shell`` or ``control``.

        Raises:
            ClientClosed: the client is closed.
            KernelDied: the kernel is dead.
            MalformedMessage: the message has no JSON form.
            UnsupportedFeature: the kernel speaks protocol 4, which does not have this request.
        """
        self._check_usable()
        request, frames = self._prepare(message, channel)
        self._post(request, frames)
        return request

    def _prepare(self, message: Message, channel: str) -> tuple[Request, Sequence[Buffer]]:
        """Make and sign a request; may be called from any thread."""
        frames = self._frames_of(message)
        has_reply = not message.msg_type.startswith("comm_") or message.msg_type.endswith("request")
        return Request(message, channel, has_reply=has_reply), frames

    @property
    def session(self) -> Session:
        """Signs what this client sends, and verifies what it receives; a new one for each connection."""
        return self._line.session

    def _frames_of(self, message: Message) -> Sequence[Buffer]:
        frames = self.session.serialize(message)  # completes the header
        if self._dialect.is_4:
            frames = self.session.serialize(self._dialect.to_4(message))
        return frames

    def _post(self, request: Request, frames: Sequence[Buffer]) -> None:
        """Send a prepared request, on the loop, or once the connection is back."""
        if self._line.takes_requests:
            self._post_now(request, frames)
        elif self._gone is not None:
            request.fail(self._gone)
        else:
            self._line.held[request.msg_id] = request, frames

    def _post_now(self, request: Request, frames: Sequence[Buffer]) -> None:
        """Send a prepared request, on the loop; what prevents it becomes the request's end."""
        try:
            self._check_usable()
            self._pending[request.msg_id] = request
            if request.message.msg_type == "shutdown_request":
                self.asked_to_end = not request.message.content.get("restart")
            self._line.post(request, frames)
        except zmq.Again:
            # For a moment after a connection was refused ZeroMQ keeps nothing for the next one.
            self._loop.call_later(_RESEND_PAUSE, self._post_again, request, frames)
        except (KernelMgmtError, zmq.ZMQError) as error:
            self._pending.pop(request.msg_id, None)
            self._line.forget(request.msg_id)
            request.fail(error)

    def _post_again(self, request: Request, frames: Sequence[Buffer]) -> None:
        if self._pending.get(request.msg_id) is request:  # else it has ended meanwhile
            self._post_now(request, frames)

    async def execute_interactive(
        self,
        code: str,
        *,
        output_hook: OutputHook | None = None,
        stdin_hook: PromptHandler | None = None,
        timeout: float | None = None,
        silent: bool = False,
        store_history: bool | None = None,
        user_expressions: Mapping[str, str] | None = None,
        stop_on_error: bool = True,
        subshell_id: str | None = None,
    ) -> Message:
        """Run code, handing on its output as it comes; returns the reply when all has come.

        Args:
            code: source in the kernel's language.
            output_hook: called with each iopub message of this code and no other; may be a
                coroutine function.  By default output is printed.
            stdin_hook: answers a :class:`~kernel_mgmt.launch.Prompt` when the code asks for
                input; without one the code is told that there is no input.  A
                KeyboardInterrupt in it interrupts the kernel, an EOFError ends the input.
            timeout: seconds for all of it; None for no limit.  The code runs on afterwards.
            silent: see :func:`~kernel_mgmt.protocol.requests.execute_request`.
            store_history: likewise.
            user_expressions: likewise.
            stop_on_error: likewise.
            subshell_id: see :meth:`execute`.

        Returns:
            The reply, with status ok or error.

        Raises:
            RequestTimeout: it took longer than ``timeout``.
            KernelDied: the kernel died; likewise the other ends of a request.
            UnsupportedFeature: the kernel has no subshells.
            Exception: whatever a hook raised.
        """
        request = self.execute(
            code,
            silent=silent,
            store_history=store_history,
            user_expressions=user_expressions,
            allow_stdin=stdin_hook is not None,
            stop_on_error=stop_on_error,
            subshell_id=subshell_id,
        )
        request.stdin_hook = stdin_hook
        show = output_hook or print_output
        try:
            async with asyncio.timeout(timeout):
                async for message in request.take_outputs():
                    shown = show(message)
                    if inspect.isawaitable(shown):
                        await shown
                reply = await request
        except TimeoutError:
            if timeout is None:  # a hook's own
                raise
            raise RequestTimeout(
                f"The code did not finish within {timeout:g} s; it still runs: interrupt the kernel"
                " or wait longer.",
                phase="execute",
                seconds=timeout,
            ) from None
        if request._hook_error is not None:
            raise request._hook_error
        return reply

    def send_input(self, value: str, parent: Message | None = None) -> None:
        """Answer an ``input_request``.

        Args:
            value: what was typed.
            parent: the input_request.

        Raises:
            KernelDied: the kernel is gone, and with it the question.
            ConnectionLost: the connection to its machine is lost, and the question with it.
        """
        self._check_usable()
        message = requests.input_reply(value)
        if parent is not None:
            message.parent_header = parent.header
        frames = self._frames_of(message)
        if isinstance(self._line, JournalLine):
            question, asked = ("", "") if parent is None else (parent.msg_id, parent.parent_id)
            if asked not in self._pending:  # whoever asked for that is another client
                asked = ""
            self._line.post_answer(message.msg_id, frames, question=question, request=asked)
            return
        self._line.check("input_request")
        try:
            self._line.send("stdin", frames)
        except zmq.Again:
            # Over a link, which may not be known to be lost yet, the kernel lives on.
            raise self._line.error("input_request") or KernelDied() from None

    # -- what comes in ---------------------------------------------------------------------

    def add_handler(
        self, handler: MessageHandler, channels: Collection[str] = frozenset({"iopub"})
    ) -> None:
        """Hand every message of some channels to a function, whoever's request it answers.

        A handler that raises is logged, and the others still run.

        Args:
            handler: called with the :class:`Message`; may be a coroutine function.
            channels: of ``iopub``, ``shell``, ``control``, ``stdin``, and ``nanny`` for what a nanny
                that keeps a journal tells of its kernels in between.
        """
        _check_channels(channels)
        for name in channels:
            self._handlers[name] = (*self._handlers.get(name, ()), handler)

    def remove_handler(
        self,
        handler: MessageHandler,
        channels: Collection[str] = _CHANNELS,
    ) -> None:
        """Take a handler away from some channels, by default from all."""
        _check_channels(channels)
        for name in channels:
            kept = tuple(other for other in self._handlers.get(name, ()) if other != handler)
            self._handlers[name] = kept

    def _on_frames(self, channel: str, frames: list[Any]) -> None:
        try:
            message = self.session.deserialize(frames, channel)
            if "nanny" in message.header:
                self._on_nannys_word(message)
                return
        except ProtocolError as error:
            self._drop(channel, error)
            return
        if channel == "iopub":
            self._line.iopub_heard.set()  # type: ignore[union-attr]
        self._handle(message)

    def _handle(self, message: Message) -> None:
        """Hand on a message that the kernel has sent."""
        channel = message.channel
        try:
            translate = self._dialect.translate
            if translate is not None:
                message = translate(message)
            parent_id = message.parent_id
            request = self._request(parent_id)
            if channel == "iopub":
                if request is not None and request.on_output(message) and not request.answered:
                    self._lost_replies.expect(request)
            elif channel == "stdin":
                self._on_input_request(message, request)
            elif request is not None:
                request.on_reply(message)
        except ProtocolError as error:
            self._drop(channel, error)
            return
        if request is not None and request.answered and parent_id in self._pending:
            self._release(request)
        self._call_handlers(message)

    def _call_handlers(self, message: Message) -> None:
        for handler in self._handlers.get(message.channel, ()):
            self._calls.call(handler, message)

    def _on_nannys_word(self, message: Message) -> None:
        """Take what a nanny answers in place of a kernel that is gone."""
        if self._watch is not None and not self._watch.done():
            return  # the manager tells, too, and how the kernel ended
        request = self._pending.get(message.parent_id)
        if request is None or message.channel == "iopub":
            return
        del self._pending[request.msg_id]
        request.fail(self._end_said_by_nanny(message))

    @staticmethod
    def _end_said_by_nanny(message: Message) -> KernelMgmtError:
        if message.content.get("ename") == "KernelRestarted":
            return KernelRestarted("The kernel was restarted; send the request again.")
        return KernelDied()

    def _request(self, msg_id: str) -> Request | None:
        return self._pending.get(msg_id) or self._answered.get(msg_id)

    def _ask_kernel_info(self, channel: str) -> Request:
        return self.kernel_info(channel=channel)

    def _release(self, request: Request) -> None:
        """Hold an answered request only as long as somebody else does."""
        del self._pending[request.msg_id]
        self._line.forget(request.msg_id)
        if not request.finished:
            self._answered[request.msg_id] = request

    def _drop(self, channel: str, error: ProtocolError) -> None:
        self.dropped_messages += 1
        count = self.dropped_messages
        if count <= _LOGGED_DROPS or count % 1000 == 0:
            logger.warning("Dropped message number %d, on %s: %s", count, channel, error)

    def _on_input_request(self, message: Message, request: Request | None) -> None:
        if request is not None and request.stdin_hook is not None:
            if request.wants(message):
                self._have_answered(message, request)
        elif not self._handlers.get("stdin"):
            logger.warning("The kernel asks for input, and there is no stdin_hook or handler.")

    def _have_answered(self, message: Message, request: Request) -> None:
        """Have the hook of a request answer its question, if it has one."""
        if request.stdin_hook is not None:
            request._asking = self._calls.start(self._ask(message, request, request.stdin_hook))

    async def _ask(self, message: Message, request: Request, hook: PromptHandler) -> None:
        """Have a hook answer an input_request; whatever happens in it, the kernel goes on."""
        content = message.content
        prompt = Prompt(str(content.get("prompt", "")), bool(content.get("password", False)))
        try:
            answer = hook(prompt)
            value = await answer if inspect.isawaitable(answer) else answer
        except EOFError:
            value = _END_OF_INPUT
        except KeyboardInterrupt:
            await self.interrupt()
            return
        except Exception as error:  # noqa: BLE001 - raised by execute_interactive when the kernel has answered
            request._hook_error = error
            await self.interrupt()
            return
        if request.answered:
            return  # the kernel was replaced, and a late answer is not for the new one
        with contextlib.suppress(KernelMgmtError):  # then the request itself ends with the error
            self.send_input(value, message)

    def _require_feature(self, feature: str) -> None:
        self._check_usable()
        self._dialect.require(feature)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "A KernelClient needs a running event loop; without one use BlockingKernelClient."
        ) from None


async def _end(manager: KernelManager) -> None:
    await manager.kill()
    await manager.cleanup()


def _check_channels(channels: Collection[str]) -> None:
    if isinstance(channels, str) or not _CHANNELS.issuperset(channels):
        raise ValueError(
            f"channels is {channels!r}; it must be a set of 'iopub', 'shell', 'control', 'stdin', 'nanny'."
        )
