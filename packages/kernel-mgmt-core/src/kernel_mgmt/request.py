"""One request under way: its reply, and the output that belongs to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from .launch import PromptHandler
from .protocol import Message

__all__ = ["Request"]

Wake = Callable[[], object]


class Request:
    """What a client gives for each request: await it for the reply, iterate it for the output.

    ``await request`` gives the reply, with status ok or error.  ``async for message in request``
    gives exactly this request's iopub messages, from its first to its idle status, also when it
    is begun later, and also a second time.  Both raise what ended the request early:
    ``KernelDied``, ``KernelRestarted``, ``ReplyLost`` or ``ClientClosed``.

    A request to which the protocol has no reply (comm messages) is answered by its idle status.
    Where a kernel of protocol 4 sends no idle status, the output ends with the reply.

    Attributes:
        message: what was sent.
        channel: on which channel.
    """

    def __init__(self, message: Message, channel: str, *, has_reply: bool = True) -> None:
        self.message = message
        self.channel = channel
        self._has_reply = has_reply
        #: Whether the reply is followed by an idle status.
        self._has_idle = True
        self._reply: Message | None = None
        self._error: BaseException | None = None
        self._idle = False
        self._outputs: deque[Message] = deque()
        #: How many iopub messages have come, also of those that were taken out again.
        self.output_count = 0
        #: Who waits for which event; taken out before it is called, so each is called once.
        self._waiters: dict[str, list[Wake]] = {"output": [], "reply": [], "idle": []}
        #: Answers the kernel's questions for input while this request runs.
        self.stdin_hook: PromptHandler | None = None
        self._asking: asyncio.Task[None] | None = None
        self._hook_error: BaseException | None = None

    @property
    def msg_id(self) -> str:
        """The id of the message that was sent."""
        return self.message.msg_id

    @property
    def answered(self) -> bool:
        """Whether the reply has come, or the request has failed."""
        return self._reply is not None or self._error is not None

    @property
    def finished(self) -> bool:
        """Whether reply and idle status have come, or the request has failed."""
        return (self._idle and self._reply is not None) or self._error is not None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answered" if self.answered else "pending"
        return f"<Request {self.message.msg_type} {self.msg_id} {state}>"

    # -- for users -------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Message]:
        return self._get_reply().__await__()

    async def __aiter__(self) -> AsyncIterator[Message]:
        index = 0
        while True:
            while index < len(self._outputs):
                yield self._outputs[index]
                index += 1
            if not await self._more_output(index):
                return

    async def _get_reply(self) -> Message:
        await self._wait("reply")
        return self.reply()

    async def wait_until_finished(self) -> Message:
        """Wait for the reply and for the last of the output; returns the reply.

        Raises:
            KernelDied: the kernel died; likewise the other ends of a request.
        """
        await self._wait("idle")
        return await self._get_reply()

    async def take_outputs(self) -> AsyncIterator[Message]:
        """Iterate like the request itself, but forget each message when it was given."""
        while True:
            while self._outputs:
                yield self._outputs.popleft()
            if not await self._more_output(0):
                return

    async def _more_output(self, index: int) -> bool:
        """Wait for output beyond an index; false when all of it has come."""
        if not self._idle and self._error is None:
            await self._wait("output")
        if index < len(self._outputs):
            return True
        if self._idle:
            return False
        if self._error is not None:
            raise self._error
        return True

    # -- for waiters in the loop or in a thread --------------------------------------------

    def reply(self) -> Message:
        """Give the reply that has come, or raise what ended the request."""
        if self._reply is not None:
            return self._reply
        assert self._error is not None
        raise self._error

    def has(self, event: str) -> bool:
        """Tell whether ``reply`` or ``idle`` has come, or the request has failed."""
        if self._error is not None:
            return True
        return self._idle if event == "idle" else self._reply is not None

    def output_at(self, index: int) -> Message | None:
        """Give one of the iopub messages that have come, or None."""
        return self._outputs[index] if index < len(self._outputs) else None

    def raise_unless_idle(self) -> None:
        """Raise what ended the request, if it was not its idle status."""
        if not self._idle and self._error is not None:
            raise self._error

    def when(self, event: str, wake: Wake) -> None:
        """Call a function once, on the client's loop, at the next ``output``, ``reply`` or ``idle``.

        Look at the state again after this, since the event may just have come.
        """
        self._waiters[event].append(wake)

    def forget_waiter(self, event: str, wake: Wake) -> None:
        """Take a function out again that is not needed any more."""
        with contextlib.suppress(ValueError):
            self._waiters[event].remove(wake)

    async def _wait(self, event: str) -> None:
        if event != "output" and self.has(event):
            return
        future = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        self.when(event, wake)
        try:
            await future
        finally:
            self.forget_waiter(event, wake)

    def _wake(self, event: str) -> None:
        waiters = self._waiters[event]
        if waiters:
            self._waiters[event] = []
            for wake in waiters:
                wake()

    # -- for the client --------------------------------------------------------------------

    def wants(self, message: Message) -> bool:
        """Tell whether a message is to be taken, as all are that come to the client in turn."""
        return True

    def on_output(self, message: Message) -> bool:
        """Take an iopub message of this request; tell whether it was the last."""
        if self._idle or self._error is not None:
            return False  # whatever comes after idle reaches the handlers
        self._outputs.append(message)
        self.output_count += 1
        if (
            message.header["msg_type"] == "status"
            and message.content.get("execution_state") == "idle"
        ):
            self._idle = True
            if not self._has_reply:
                self.on_reply(message)
            self._wake("idle")
        if self._waiters["output"]:
            self._wake("output")
        return self._idle

    def on_reply(self, message: Message) -> None:
        """Take the reply."""
        if not self.answered:
            self._reply = message
            self._end_asking()
            self._wake("reply")
            if not self._has_idle and not self._idle:
                self._idle = True
                self._wake("idle")
                self._wake("output")

    def expect_no_idle(self) -> None:
        """Take the reply for the end of the output, too: protocol 4 has not always an idle."""
        self._has_idle = False

    def fail(self, error: BaseException) -> None:
        """End what has not ended yet with an error."""
        if not self.finished:
            self._error = error
            self._end_asking()
            for event in self._waiters:
                self._wake(event)

    def _end_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
