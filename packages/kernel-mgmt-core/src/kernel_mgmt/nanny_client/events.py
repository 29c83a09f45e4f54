"""What a nanny tells of its kernels, unasked.

The wire format is described in ``docs/nanny.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from ..background import call_in_background, in_background
from ..channels import Channel
from ..connection import ConnectionInfo
from ..endpoints import refuses
from ..errors import KernelDied, KernelRestarted, NannyError, ProtocolError
from ..kernel_events import KernelEvent
from ..link import ConnectionChange, Link
from ..manager import ExitStatus, KernelManager
from ..nanny.protocol import EVENTS, count_in, text_in
from ..protocol import JSONObject, Message, Session

__all__ = ["NannyEvents"]

logger = logging.getLogger("kernel_mgmt")

#: How long to wait before looking again whether a nanny is gone, in seconds.
_PAUSE = 0.1


class NannyEvents:
    """An iteration over a nanny's events, from when it is made until the nanny is gone.

    It listens on the background loop, and stops when it is dropped.

    Args:
        connection_info: where the nanny is.
        manager: what the events say that they are about.
        link: the connection that leads there, if it is on another machine; when that is lost
            events are missed, and when it is closed no more come.
    """

    def __init__(
        self, connection_info: ConnectionInfo, manager: KernelManager, *, link: Link | None = None
    ) -> None:
        self._subscription = _Subscription(connection_info, link)
        self._connection_info = connection_info
        self._manager = manager
        call_in_background(self._subscription.open)
        weakref.finalize(self, call_in_background, self._subscription.close).atexit = False

    def __aiter__(self) -> Self:
        return self

    async def listening(self, timeout: float = 1.0) -> bool:
        """Wait until no event can be missed any more, which takes milliseconds.

        Args:
            timeout: seconds to wait at most; a nanny that tells of no subscription leaves it at that.

        Returns:
            Whether the nanny has told so.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await in_background(self._subscription.confirmed.wait())
        return self._subscription.confirmed.is_set()

    async def __anext__(self) -> KernelEvent:
        # Taken here and not there: a caller that is cancelled meanwhile loses none.
        messages = self._subscription.messages
        while not messages:
            if self._subscription.ended:
                raise StopAsyncIteration
            await in_background(self._subscription.wait())
        return self._event(messages.popleft())

    async def aclose(self) -> None:
        """Stop listening, at once."""
        call_in_background(self._subscription.close)

    def _event(self, message: Message) -> KernelEvent:
        name, content = message.msg_type, message.content
        details: dict[str, Any] = {"kernel": count_in(content, "kernel")}
        if name in ("died", "failed"):
            details |= _ending(name, content)
        elif name == "ready":
            details |= {"connection_info": self._connection_info, "manager": self._manager}
        elif name == "output":
            details |= {
                "stream": text_in(content, "stream"),
                "text": text_in(content, "text"),
                "position": count_in(content, "position"),
            }
        elif name == "stopping":
            details |= {"text": text_in(content, "reason")}
        return KernelEvent(name, **details)


def _ending(name: str, content: JSONObject) -> dict[str, Any]:
    status = content.get("exit_status")
    exit_status = None if status is None else ExitStatus.from_dict(status)
    tail = text_in(content, "log_tail")
    error: Exception
    if name == "failed":
        error = NannyError(
            f"The nanny does not start the kernel again: {text_in(content, 'reason')}"
        )
    elif content.get("restarting") is True:
        error = KernelRestarted("The kernel is being restarted.")
    else:
        error = KernelDied(exit_status, tail)
    return {"exit_status": exit_status, "log_tail": tail, "error": error}


class _Subscription:
    """The socket of an iteration, and what has come; lives on the background loop."""

    def __init__(self, connection_info: ConnectionInfo, link: Link | None) -> None:
        self._info = connection_info
        self._link = link
        self._unwatch: Callable[[], object] = bool
        # Each its own: two that share a memory would take each other's messages for replays.
        self._session = Session(connection_info.key, connection_info.signature_scheme)
        self._channel: Channel | None = None
        #: Events that were not taken yet; any thread may take one.
        self.messages: deque[Message] = deque()
        #: Set when the nanny knows of this subscription, or there is nothing to wait for.
        self.confirmed = asyncio.Event()
        #: Whether no more will come.
        self.ended = False
        self._changed = asyncio.Event()

    def open(self) -> None:
        """Begin to listen."""
        if self._link is not None:
            self._unwatch = self._link.watch(self._on_change)
        try:
            self._channel = Channel(
                self._info, "nanny_events", b"", self._on_frames, on_link=self._on_link
            )
        except BaseException:
            self.close()
            raise
        if self._link is not None and self._link.state == "closed":
            self.close()

    def close(self) -> None:
        """Listen no more."""
        self._unwatch()
        self.ended = True
        self._changed.set()
        self.confirmed.set()
        if self._channel is not None:
            self._channel.close()

    async def wait(self) -> None:
        """Wait until there is an event, or the end of them."""
        while not (self.messages or self.ended):
            self._changed.clear()
            await self._changed.wait()

    def _on_frames(self, channel: str, frames: list[Any]) -> None:
        try:
            message = self._session.deserialize(frames, channel)
            _ = message.content  # decoded here, where a malformed one is dropped
        except ProtocolError as error:
            logger.warning("Dropped an event of a nanny: %s", error)
            return
        if message.msg_type == "subscribed":
            self.confirmed.set()
        elif message.msg_type in EVENTS:  # a newer nanny may tell more
            self.messages.append(message)
            self._changed.set()

    def _on_change(self, change: ConnectionChange) -> None:
        if change.state == "closed":
            call_in_background(self.close)

    def _on_link(self, event: str) -> None:
        if event == "failed" and self._is_refused():
            if self._link is None:
                self.close()
            else:  # whoever carries the connection may see its loss after us
                asyncio.get_running_loop().call_later(_PAUSE, self._look_again)

    def _look_again(self) -> None:
        if not self.ended and self._is_refused():
            self.close()

    def _is_refused(self) -> bool:
        if self._link is not None and self._link.state != "up":
            return False
        return refuses(self._info, "nanny_events")
