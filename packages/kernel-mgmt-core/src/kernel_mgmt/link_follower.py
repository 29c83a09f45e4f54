"""A client's side of a link: its losses, on the client's loop, and the return to work after each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from .errors import ConnectionLost
from .link import ConnectionChange, Link, connection_lost

__all__ = ["LinkFollower"]


class LinkFollower:
    """Follows a link on the running loop, one change after the other.

    Args:
        link: what to follow.
        on_lost: called when it is lost, or was when this was made.
        on_restored: a coroutine function that makes the client work again.  It is cancelled when
            the link is lost once more, and begun again when that is over.
        on_closed: called when it is closed; nothing comes after that.
        tell: told of each change that makes a difference to the client: of ``restored`` when the
            client works again.
    """

    def __init__(
        self,
        link: Link,
        *,
        on_lost: Callable[[], object],
        on_restored: Callable[[], Awaitable[None]],
        on_closed: Callable[[], object],
        tell: Callable[[ConnectionChange], object],
    ) -> None:
        self.link = link
        #: Is set when the client can work, and when it never will again.
        self.usable = asyncio.Event()
        self.usable.set()
        #: The loss because of which nothing reaches the other end now; None when it does.
        self._cut: ConnectionChange | None = None
        self._on_lost = on_lost
        self._on_restored = on_restored
        self._on_closed = on_closed
        self._tell = tell
        self._resuming: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._unwatch = link.watch(self._note_elsewhere)

    def begin(self) -> None:
        """Take the link as it is, which those are not told who ask for changes."""
        # What has happened since it is watched comes once more, and is no news then.
        if self.link.state != "up":
            self._change(ConnectionChange(self.link.state, self.link.reason), told=True)

    @property
    def is_cut(self) -> bool:
        """Whether nothing reaches the other end now."""
        return self._cut is not None

    def close(self) -> None:
        """Follow no more; who waits for :attr:`usable` goes on."""
        self._ended = True
        self._unwatch()
        self._stop_resuming()
        self.usable.set()

    def error(self, what: str) -> ConnectionLost:
        """Give the error for something that was not answered because of the last loss."""
        cut = self._cut or ConnectionChange("lost")
        return connection_lost(self.link.name, what, cut.reason, final=cut.state == "closed")

    def _note_elsewhere(self, change: ConnectionChange) -> None:
        """Take a change, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed under its client
            self._loop.call_soon_threadsafe(self._change, change)

    def _change(self, change: ConnectionChange, *, told: bool = False) -> None:
        if self._ended:
            return
        if change.state == "lost":
            self._lose(change, told=told)
        elif change.state == "restored":
            self._resume(change)
        else:
            self.close()
            self._cut = change
            self._on_closed()
            if not told:
                self._tell(change)

    def _lose(self, change: ConnectionChange, *, told: bool) -> None:
        if self._cut is not None:
            return
        self._cut = change
        was_usable = self.usable.is_set()
        self.usable.clear()
        self._stop_resuming()
        self._on_lost()
        # Who was told of no return since the last time need not hear it again.
        if was_usable and not told:
            self._tell(change)

    def _resume(self, change: ConnectionChange) -> None:
        if self._cut is not None:
            self._cut = None
            self._resuming = self._loop.create_task(self._resume_and_tell(change))

    async def _resume_and_tell(self, change: ConnectionChange) -> None:
        await self._on_restored()
        self.usable.set()
        self._tell(change)

    def _stop_resuming(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
