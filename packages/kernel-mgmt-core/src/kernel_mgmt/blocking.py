"""The same client and manager for code without an event loop of its own.

Everything runs on one shared loop in a background thread; there is no second implementation.
Works below a running loop, from several threads at once, and after ``asyncio.run``.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from .background import acquire, background_loop, call_blocking, refuse_to_block, take
from .client import ChangeHandler, KernelClient, MessageHandler
from .connection import ConnectionInfo
from .errors import RequestTimeout
from .journal.replay import Replay
from .kernel_events import KernelEvent
from .launch import Prompt, PromptHandler
from .manager import ExitStatus, KernelManager
from .nanny_client.manager import RemoteKernelManager
from .output import print_output
from .protocol import JSONObject, Message
from .request import Request
from .request_methods import RequestMethods

__all__ = [
    "BlockingKernelClient",
    "BlockingKernelManager",
    "BlockingRemoteKernelManager",
    "BlockingRequest",
    "blocking_manager",
]


class BlockingRequest:
    """What the blocking client gives for each request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._request)[1:]}"

    @property
    def message(self) -> Message:
        """What was sent."""
        return self._request.message

    @property
    def msg_id(self) -> str:
        """The id of the message that was sent."""
        return self._request.msg_id

    @property
    def answered(self) -> bool:
        """Whether the reply has come, or the request has failed."""
        return self._request.answered

    @property
    def finished(self) -> bool:
        """Whether reply and idle status have come, or the request has failed."""
        return self._request.finished

    def reply(self, timeout: float | None = None) -> Message:
        """Wait for the reply.

        Args:
            timeout: seconds to wait at most; None for no limit.

        Raises:
            RequestTimeout: it did not come in time; ask again, it may yet come.
            KernelDied: the kernel died; likewise the other ends of a request.
        """
        self._wait("reply", lambda: self._request.has("reply"), _deadline(timeout), timeout)
        return self._request.reply()

    def wait_until_finished(self, timeout: float | None = None) -> Message:
        """Wait for the reply and for the last of the output; returns the reply.

        Args:
            timeout: seconds to wait at most; None for no limit.

        Raises:
            RequestTimeout: not all came in time.
            KernelDied: the kernel died; likewise the other ends of a request.
        """
        deadline = _deadline(timeout)
        self._wait("idle", lambda: self._request.has("idle"), deadline, timeout)
        self._wait("reply", lambda: self._request.has("reply"), deadline, timeout)
        return self._request.reply()

    def __iter__(self) -> Iterator[Message]:
        return self.outputs()

    def outputs(self, timeout: float | None = None) -> Iterator[Message]:
        """Iterate over exactly this request's iopub messages, from the first to idle.

        Args:
            timeout: seconds for all of them together; None for no limit.

        Raises:
            RequestTimeout: they did not all come in time.
            KernelDied: the kernel died; likewise the other ends of a request.
        """
        request, deadline, index = self._request, _deadline(timeout), 0
        while True:
            while (message := request.output_at(index)) is not None:
                yield message
                index += 1
            if request.has("idle"):
                # What came between the two looks.
                while (message := request.output_at(index)) is not None:
                    yield message
                    index += 1
                request.raise_unless_idle()
                return
            self._wait(
                "output",
                lambda: request.has("idle") or request.output_at(index) is not None,  # noqa: B023
                deadline,
                timeout,
            )

    def _wait(
        self, event: str, come: Callable[[], bool], deadline: float | None, timeout: float | None
    ) -> None:
        if come():
            return
        refuse_to_block(f"waiting for the {event} of {self.message.msg_type}")
        lock = threading.Lock()
        lock.acquire()
        wake = lock.release
        self._request.when(event, wake)
        try:
            if come():  # just before the line above
                return
            patience = None if deadline is None else max(0, deadline - time.monotonic())
            if not acquire(lock, patience):
                raise RequestTimeout(
                    f"The kernel did not answer {self.message.msg_type} within {timeout:g} s.",
                    phase=event,
                    seconds=timeout or 0,
                )
        finally:
            self._request.forget_waiter(event, wake)


class BlockingKernelManager:
    """A :class:`~kernel_mgmt.manager.KernelManager` for code without an event loop.

    Each method waits at most ``timeout`` seconds, without limit for None, and then raises
    ``RequestTimeout``.

    Args:
        manager: the manager to wrap.
    """

    def __init__(self, manager: KernelManager) -> None:
        #: The manager inside, for asynchronous code.
        self.manager = manager

    def __repr__(self) -> str:
        return f"<BlockingKernelManager {self.manager!r}>"

    @property
    def kernel_id(self) -> str:
        """The kernel's id."""
        return self.manager.kernel_id

    def is_alive(self, timeout: float | None = 10) -> bool:
        """Tell whether the kernel's process exists; not whether it answers."""
        return call_blocking(self.manager.is_alive(), timeout, "is_alive")

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until the kernel has ended, at once when it has."""
        return call_blocking(self.manager.wait(), timeout, "wait")

    def signal(self, signum: int, timeout: float | None = 10) -> None:
        """Send a signal to the kernel and its children; nothing happens to a dead kernel."""
        call_blocking(self.manager.signal(signum), timeout, "signal")

    def interrupt(self, timeout: float | None = 10) -> None:
        """Interrupt what the kernel runs."""
        call_blocking(self.manager.interrupt(), timeout, "interrupt")

    def terminate(self, timeout: float | None = 10) -> None:
        """Ask the kernel's process to end."""
        call_blocking(self.manager.terminate(), timeout, "terminate")

    def kill(self, timeout: float | None = 10) -> None:
        """End the kernel and its children by force; returns when they are gone."""
        call_blocking(self.manager.kill(), timeout, "kill")

    def cleanup(self, timeout: float | None = 10) -> None:
        """Remove what the launch created."""
        call_blocking(self.manager.cleanup(), timeout, "cleanup")

    def log_tail(self, lines: int = 50, timeout: float | None = 10) -> str:
        """Give the last lines of the kernel's own output."""
        return call_blocking(self.manager.log_tail(lines), timeout, "log_tail")

    def record(self) -> dict[str, Any] | None:
        """Give what ``attach`` in another process needs; None when it cannot be."""
        return self.manager.record()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.cleanup()


class BlockingRemoteKernelManager(BlockingKernelManager):
    """A :class:`~kernel_mgmt.nanny_client.manager.RemoteKernelManager` for code without an event loop.

    Args:
        manager: the manager to wrap.
    """

    manager: RemoteKernelManager

    def __init__(self, manager: RemoteKernelManager) -> None:
        super().__init__(manager)

    def __repr__(self) -> str:
        return f"<BlockingRemoteKernelManager {self.manager!r}>"

    def next_kernel(self, timeout: float | None = None) -> bool:
        """Wait until another kernel answers in place of one that has ended, if one will."""
        return call_blocking(self.manager.next_kernel(), timeout, "next_kernel")

    def restart(self, grace: float = 0, timeout: float | None = 60) -> None:
        """Have the nanny replace the kernel; see ``RemoteKernelManager.restart``.

        Args:
            grace: seconds that the old kernel may take to end when it was asked; with 0 it is killed.
            timeout: seconds to wait at most.
        """
        call_blocking(self.manager.restart(grace), timeout, "restart")

    def info(self, timeout: float | None = 10) -> dict[str, Any]:
        """Ask the nanny what it knows."""
        return call_blocking(self.manager.info(), timeout, "info")

    def renew_lease(self, seconds: float | None, timeout: float | None = 10) -> None:
        """Have the kernel shut down so many seconds from now, unless this is called again."""
        call_blocking(self.manager.renew_lease(seconds), timeout, "renew_lease")

    def stop(self, grace: float = 5, timeout: float | None = 30) -> None:
        """End the kernel and its nanny.

        Args:
            grace: seconds that the kernel may take to end when it was asked; with 0 it is killed.
            timeout: seconds to wait at most.
        """
        call_blocking(self.manager.stop(grace), timeout, "stop")

    def events(self, timeout: float | None = None) -> Iterator[KernelEvent]:
        """Iterate over what the nanny tells, from now on and until it is gone.

        Args:
            timeout: seconds to wait for each event at most; None for no limit.
        """
        return _iterate(self.manager.events(), timeout)


def _iterate(events: AsyncIterator[KernelEvent], timeout: float | None) -> Iterator[KernelEvent]:
    async def take() -> KernelEvent | None:
        return await anext(events, None)

    while (event := call_blocking(take(), timeout, "events")) is not None:
        yield event


def blocking_manager(manager: KernelManager) -> BlockingKernelManager:
    """Wrap a manager in the blocking one of its kind."""
    if isinstance(manager, RemoteKernelManager):
        return BlockingRemoteKernelManager(manager)
    return BlockingKernelManager(manager)


@dataclass
class _Question:
    """A prompt of the kernel on its way to the thread that is to answer it."""

    prompt: Prompt
    answer: asyncio.Future[str]

    def settle(self, value: str | None, error: BaseException | None = None) -> None:
        """Hand the answer back, from any thread."""

        def deliver() -> None:
            if self.answer.done():
                return
            if error is not None:
                self.answer.set_exception(error)
            else:
                self.answer.set_result(value or "")

        self.answer.get_loop().call_soon_threadsafe(deliver)


class BlockingKernelClient(RequestMethods[BlockingRequest]):
    """A :class:`~kernel_mgmt.client.KernelClient` for code without an event loop.

    Args:
        connection_info: where the kernel is and how to sign messages.
        manager: watches the kernel's process, blocking or not.
        resume_after: see ``KernelClient``.
        on_message: likewise; called on the background thread.
        counts_as_reader: see ``KernelClient``.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        *,
        manager: KernelManager | BlockingKernelManager | None = None,
        resume_after: int | None = None,
        on_message: MessageHandler | None = None,
        counts_as_reader: bool = True,
    ) -> None:
        if isinstance(manager, BlockingKernelManager):
            manager = manager.manager

        async def make() -> KernelClient:
            return KernelClient(
                connection_info,
                manager=manager,
                resume_after=resume_after,
                on_message=on_message,
                counts_as_reader=counts_as_reader,
            )

        self._adopt(call_blocking(make(), 10, "KernelClient"))

    @classmethod
    def wrap(cls, client: KernelClient) -> BlockingKernelClient:
        """Make a blocking client of one that lives on the shared background loop."""
        blocking = cls.__new__(cls)
        blocking._adopt(client)
        return blocking

    def _adopt(self, client: KernelClient) -> None:
        self._client = client
        self._loop = background_loop()

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._client)[1:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connection_info(self) -> ConnectionInfo:
        """Where the kernel is."""
        return self._client.connection_info

    @property
    def manager(self) -> BlockingKernelManager | None:
        """The manager, blocking; None when there is none."""
        manager = self._client.manager
        return None if manager is None else blocking_manager(manager)

    @property
    def kernel_info_content(self) -> JSONObject:
        """Content of the latest kernel_info reply; empty before."""
        return self._client.kernel_info_content

    @property
    def dropped_messages(self) -> int:
        """How many messages were dropped as malformed, unsigned, forged or replayed."""
        return self._client.dropped_messages

    @property
    def responsive(self) -> bool:
        """Whether the kernel answers heartbeats; see ``KernelClient.responsive``."""

        async def ask() -> bool:
            return self._client.responsive

        return call_blocking(ask(), 10, "responsive")

    def close(self, timeout: float | None = 10) -> None:
        """Close the sockets; the kernel lives on."""

        async def close() -> None:
            self._client.close()

        call_blocking(close(), timeout, "close")

    def reconnect(
        self,
        connection_info: ConnectionInfo,
        manager: KernelManager | BlockingKernelManager | None = None,
        timeout: float | None = 10,
    ) -> None:
        """Go on with the kernel that replaced this one; handlers stay."""
        if isinstance(manager, BlockingKernelManager):
            manager = manager.manager
        call_blocking(self._client.reconnect(connection_info, manager), timeout, "reconnect")

    def wait_for_ready(self, timeout: float | None = 60) -> JSONObject:
        """Wait until the kernel answers; see ``KernelClient.wait_for_ready``."""
        return call_blocking(self._client.wait_for_ready(timeout), None, "wait_for_ready")

    def interrupt(self, timeout: float | None = 10) -> None:
        """Interrupt what the kernel runs; see ``KernelClient.interrupt``."""
        call_blocking(self._client.interrupt(timeout), None, "interrupt")

    def shutdown_or_terminate(self, timeout: float = 5) -> None:
        """End the kernel; see ``KernelClient.shutdown_or_terminate``."""
        call_blocking(self._client.shutdown_or_terminate(timeout), None, "shutdown_or_terminate")

    def send(self, message: Message, channel: str = "shell") -> BlockingRequest:
        """Send any message; see ``KernelClient.send``."""
        self._client._check_usable()
        request, frames = self._client._prepare(message, channel)
        self._loop.call_soon_threadsafe(self._client._post, request, frames)
        return BlockingRequest(request)

    def _require_feature(self, feature: str) -> None:
        self._client._require_feature(feature)

    def send_input(
        self, value: str, parent: Message | None = None, timeout: float | None = 10
    ) -> None:
        """Answer an ``input_request``; see ``KernelClient.send_input``."""

        async def send() -> None:
            self._client.send_input(value, parent)

        call_blocking(send(), timeout, "send_input")

    def add_handler(
        self, handler: MessageHandler, channels: Collection[str] = frozenset({"iopub"})
    ) -> None:
        """Hand every message of some channels to a function, on the background thread."""
        self._client.add_handler(handler, channels)

    def remove_handler(
        self,
        handler: MessageHandler,
        channels: Collection[str] = frozenset({"iopub", "shell", "control", "stdin", "nanny"}),
    ) -> None:
        """Take a handler away from some channels, by default from all."""
        self._client.remove_handler(handler, channels)

    def on_connection_change(self, handler: ChangeHandler) -> Callable[[], None]:
        """Have a function told of losses of the connection, on the background thread.

        See ``KernelClient.on_connection_change``.
        """
        return self._client.on_connection_change(handler)

    @property
    def journal_position(self) -> int:
        """The number of the last message that was handed on; see ``KernelClient.journal_position``."""
        return self._client.journal_position

    def count_as_reader(self) -> None:
        """Have what this client is told from now on count as read; see ``counts_as_reader``."""

        async def count() -> None:
            self._client.count_as_reader()

        call_blocking(count(), 10, "count_as_reader")

    def replay(
        self,
        after: int = 0,
        *,
        until: int | None = None,
        since: float | None = None,
        timeout: float | None = None,
    ) -> Iterator[Message]:
        """Iterate over what the kernel has said; see ``KernelClient.replay``.

        Args:
            after: the number after which to begin.
            until: the number of the last message; by default the last one that there is now.
            since: the moment from which on to read, in place of ``after``.
            timeout: seconds to wait for more at most; None for no limit.

        Raises:
            RequestTimeout: nothing came in time.
            NannyError: there is no journal, or it does not reach up to ``after``.
        """

        async def begin() -> Replay:
            return self._client._begin_replay(after, until=until, since=since)

        async def take() -> list[Message] | None:
            batch = await replay.next_batch()
            return None if batch is None else list(batch)

        async def end() -> None:
            replay.close()

        replay = call_blocking(begin(), 10, "replay")
        try:
            while (batch := call_blocking(take(), timeout, "replay")) is not None:
                yield from batch
        finally:
            call_blocking(end(), 10, "replay")

    def request(
        self, msg_id: str, stdin_hook: PromptHandler | None = None, timeout: float | None = 10
    ) -> BlockingRequest:
        """Give the handle of a request by its id; see ``KernelClient.request``.

        The hook is called on the background thread.
        """

        async def find() -> Request:
            return self._client.request(msg_id, stdin_hook)

        return BlockingRequest(call_blocking(find(), timeout, "request"))

    def execute_interactive(
        self,
        code: str,
        *,
        output_hook: Callable[[Message], object] | None = None,
        stdin_hook: Callable[[Prompt], str] | None = None,
        timeout: float | None = None,
        silent: bool = False,
        store_history: bool | None = None,
        user_expressions: Mapping[str, str] | None = None,
        stop_on_error: bool = True,
        subshell_id: str | None = None,
    ) -> Message:
        """Run code, handing on its output as it comes; see ``KernelClient.execute_interactive``.

        The hooks are called in the calling thread.  Ctrl-C interrupts the kernel and goes on
        until the code has ended; a second one gives up at once.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the code, or was pressed twice.
        """
        events: queue.SimpleQueue[Message | _Question | None] = queue.SimpleQueue()

        async def ask(prompt: Prompt) -> str:
            question = _Question(prompt, asyncio.get_running_loop().create_future())
            events.put(question)
            return await question.answer

        run = asyncio.run_coroutine_threadsafe(
            self._client.execute_interactive(
                code,
                output_hook=events.put,
                stdin_hook=ask if stdin_hook is not None else None,
                timeout=timeout,
                silent=silent,
                store_history=store_history,
                user_expressions=user_expressions,
                stop_on_error=stop_on_error,
                subshell_id=subshell_id,
            ),
            self._loop,
        )
        run.add_done_callback(lambda _: events.put(None))
        show = output_hook or print_output
        interrupted = False
        try:
            while True:
                try:
                    event = take(events)
                    if event is None:
                        if run.done() and events.empty():
                            break
                    elif isinstance(event, _Question):
                        assert stdin_hook is not None
                        _answer(event, stdin_hook)
                    else:
                        show(event)
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted = True
                    events.put(None)  # Ctrl-C may just have cost the one that ends the loop
                    asyncio.run_coroutine_threadsafe(self._client.interrupt(), self._loop)
        finally:
            with suppress(RuntimeError):
                run.cancel()  # nothing when it has ended
        reply = run.result()
        if interrupted and reply.content.get("status") != "ok":
            raise KeyboardInterrupt
        return reply


def _answer(question: _Question, hook: Callable[[Prompt], str]) -> None:
    try:
        question.settle(hook(question.prompt))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the asynchronous client tells them apart
        question.settle(None, error)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
