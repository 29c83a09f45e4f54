"""What a journal means to a client: which requests end, when the kernel does, and what is heard twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..connection import ConnectionInfo
from ..errors import KernelDied, KernelMgmtError, KernelRestarted, ProtocolError, ReplyLost
from ..link import ConnectionChange, Link
from ..manager import ExitStatus, KernelManager
from ..protocol import Message
from .line import JournalLine

if TYPE_CHECKING:
    from ..client import KernelClient

__all__ = ["JournalSide"]

#: How long the journal may be silent about what a manager has told already, in seconds; and about
#: the end of a kernel in whose place the nanny has answered.
_PATIENCE = 1.0
#: How many replies on control are remembered, which come over their channel and by the journal.
_HEARD = 1000


class JournalSide:
    """Takes for a client what its line tells, on its loop.

    Args:
        client: the client.
        info: where the kernel is.
        link: the connection that leads to its machine, if any.
        resume_after: see :class:`JournalLine`.
        reads: likewise.
    """

    def __init__(
        self,
        client: KernelClient,
        info: ConnectionInfo,
        link: Link | None,
        resume_after: int | None,
        *,
        reads: bool = True,
    ) -> None:
        self._client = client
        self.line = JournalLine(info, link, self, resume_after, reads=reads)
        #: The highest numbers of kernels that were told to have died, and to be ready.
        self._died = 0
        self._ready = 0
        #: How the last one ended.
        self._end: KernelDied | KernelRestarted | None = None
        #: Is set when a kernel was told of.
        self._told = asyncio.Event()
        #: Ids of requests that the nanny has answered in place of a kernel whose end is not told yet.
        self._marked: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: Ids of replies on control that came once, by either way.
        self._heard: dict[str, None] = {}
        #: Ids of requests with a reply, but perhaps without all of their output.
        self._holed: set[str] = set()

    def close(self) -> None:
        """Tell no more."""
        if self._timer is not None:
            self._timer.cancel()

    # -- messages --------------------------------------------------------------------------

    def on_frames(self, channel: str, frames: list[Any]) -> None:
        """Take what comes over a channel itself: replies on control, which do not wait in a row."""
        try:
            message = self.line.session.deserialize(frames, channel)
        except ProtocolError as error:
            self._client._drop(channel, error)
            return
        if channel == "control" and self._is_news(message):
            self._take(message)

    def on_message(self, message: Message) -> None:
        """Take a message of the journal."""
        channel = message.channel
        if channel == "nanny":
            self._on_event(message)
            self._client._call_handlers(message)
        elif channel == "control":
            if self._is_news(message):
                self._take(message)
        elif channel == "stdin" and not self.line.is_asked(message):
            self._client._call_handlers(message)
        else:
            self._take(message)

    def _take(self, message: Message) -> None:
        if "nanny" in message.header:
            self._on_nannys_word(message)
        else:
            self._client._handle(message)

    def _is_news(self, message: Message) -> bool:
        """Tell whether a reply on control comes for the first time."""
        heard, msg_id = self._heard, message.msg_id
        if msg_id in heard:
            del heard[msg_id]
            return False
        heard[msg_id] = None
        if len(heard) > _HEARD:
            del heard[next(iter(heard))]
        return True

    def on_bad(self, channel: str, error: ProtocolError) -> None:
        """Take notice of a message that was dropped."""
        self._client._drop(channel, error)

    # -- ends of requests ------------------------------------------------------------------

    def is_open(self, msg_id: str) -> bool:
        """Tell whether a request still waits for its reply."""
        return msg_id in self._client._pending

    def on_gap(self) -> None:
        """Take notice that messages are missing: perhaps the last output of some requests."""
        self._holed.update(
            request.msg_id
            for request in list(self._client._answered.values())
            if not request.finished
        )
        self.line.expect(list(self._holed))

    def on_gone(self, msg_ids: Sequence[str]) -> None:
        """End requests whose kernel is not there any more."""
        error = self._end or KernelRestarted(
            "The kernel was restarted before it answered; send the request again."
        )
        for msg_id in msg_ids:
            request = self._client._pending.pop(msg_id, None)
            if request is not None:
                request.fail(error)

    def on_overdue(self, msg_ids: Sequence[str]) -> None:
        """End those of some requests whose reply has not come, and cannot any more."""
        for msg_id in msg_ids:
            request = self._client._request(msg_id)
            holed = msg_id in self._holed
            self._holed.discard(msg_id)
            if request is None or msg_id in self._marked or request.finished:
                continue
            if holed or not request.answered:
                self._client._pending.pop(msg_id, None)
                request.fail(
                    ReplyLost(
                        f"The reply to {request.message.msg_type}, or the last of its output, came "
                        "while nobody read, and the journal could not keep it; go on, or send the "
                        "request again."
                    )
                )

    def _on_nannys_word(self, message: Message) -> None:
        """Take what the nanny answers in the kernel's place; how that ended is told soon."""
        msg_id = message.parent_id
        if message.channel == "iopub" or msg_id not in self._client._pending:
            return
        self.line.forget(msg_id)
        self._marked.add(msg_id)
        if self._died >= self.line.outbox.kernel:
            self._end_marked()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_PATIENCE, self._end_marked)
        if message.content.get("ename") == "KernelRestarted" and self._end is None:
            self._end = KernelRestarted("The kernel was restarted; send the request again.")

    def _end_marked(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        marked, self._marked = self._marked, set()
        error = self._end or KernelDied()
        for msg_id in marked:
            request = self._client._pending.pop(msg_id, None)
            if request is not None:
                request.fail(error)

    # -- kernels ---------------------------------------------------------------------------

    def _on_event(self, message: Message) -> None:
        content = message.content
        kernel = content.get("kernel")
        if type(kernel) is not int:
            return
        outbox = self.line.outbox
        is_present = kernel >= outbox.kernel
        if message.msg_type == "died":
            self._died = max(self._died, kernel)
            self._end = _end_in(content)
            self._end_marked()
            if is_present:
                # Without a manager nobody knows whether another kernel comes; the nanny answers.
                if self._client.manager is not None:
                    self._client._on_death(self._end)
                # Which of the requests had it, and which are on their way to the next?
                asyncio.get_running_loop().call_soon(self.line.ask_again)
        elif message.msg_type == "ready":
            self._ready = max(self._ready, kernel)
            if is_present:
                outbox.kernel = kernel
                self._client._on_return()
        self._told.set()

    async def until_end_is_told(self, manager: KernelManager) -> bool:
        """Wait until the journal has told of the end of a manager's kernel; False when it does not."""
        kernel = manager.kernel_number
        if not await self._until(lambda: self._died >= kernel > 0):
            # That was said before this began to read; another kernel may be there.
            return 0 < kernel < self.line.outbox.kernel
        return True

    async def until_return_is_told(self, manager: KernelManager) -> None:
        """Wait until the journal has told that a manager's kernel answers, if it does."""
        kernel = manager.kernel_number
        outbox = self.line.outbox
        await self._until(lambda: self._ready >= kernel > 0 or outbox.kernel > kernel > 0)
        if isinstance(self._client._gone, (KernelDied, KernelRestarted)) and self._died < kernel:
            outbox.kernel = max(outbox.kernel, kernel)
            self._client._on_return()

    async def _until(self, is_told: Any) -> bool:
        """Wait until something is told, as long as anything is."""
        while not is_told():
            position = self.line.position
            self._told.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._told.wait()
            if not is_told() and self.line.position == position:
                return False
        return True

    def is_over(self) -> bool:
        """Tell whether the kernel is gone, and none comes in its place as far as anybody knows."""
        watch = self._client._watch
        return self._client._gone is not None and watch is not None and watch.done()

    # -- the connection --------------------------------------------------------------------

    def on_refused(self, error: KernelMgmtError) -> None:
        """End all: the nanny does not send its journal."""
        self._client._on_refused(error)

    def on_link_closed(self) -> None:
        """End all: the connection to the other machine does not come back."""
        self._client._on_link_closed()

    def tell_of_change(self, change: ConnectionChange) -> None:
        """Tell others what has become of the connection."""
        self._client._tell_of_change(change)


def _end_in(content: dict[str, Any]) -> KernelDied | KernelRestarted:
    if content.get("restarting") is True:
        return KernelRestarted(
            "The kernel was restarted before it answered; send the request again."
        )
    tail = content.get("log_tail")
    return KernelDied(
        ExitStatus.from_dict(content.get("exit_status")), tail if isinstance(tail, str) else ""
    )
