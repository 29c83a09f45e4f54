"""One client's sockets to its kernel: closed by a cut, opened after it, and what waits meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .channels import Channel, Heartbeat
from .connection import ConnectionInfo
from .errors import ConnectionLost
from .link import ConnectionChange, Link
from .link_follower import LinkFollower
from .protocol import Buffer, Session
from .request import Request

__all__ = ["Line"]


class Line:
    """The sockets of one client; made on the running loop, which is when they are opened.

    Args:
        info: where the kernel is and how to sign messages.
        link: the connection that leads to its machine; None for a kernel that is here.
        on_frames: called with the channel and the frames of each message.
        on_lost: called when the link is lost; the sockets are closed by then.
        on_restored: a coroutine function that makes the client work again when the link is back.
        on_closed: called when the link is closed for good.
        tell: told of each change that makes a difference to the client.

    Raises:
        ConnectionFileError: the connection info cannot be used.
    """

    #: Whether all that the kernel says is read, also what it said while nobody was connected.
    keeps_all = False

    def __init__(
        self,
        info: ConnectionInfo,
        link: Link | None,
        *,
        on_frames: Callable[[str, list[Any]], None],
        on_lost: Callable[[], object],
        on_restored: Callable[[], Awaitable[None]],
        on_closed: Callable[[], object],
        tell: Callable[[ConnectionChange], object],
    ) -> None:
        self._info = info
        self._on_frames = on_frames
        self._on_lost = on_lost
        #: Requests that wait for the connection to come back, in order, with their frames.
        self.held: dict[str, tuple[Request, Sequence[Buffer]]] = {}
        #: Follows the link; None for a kernel that is here.
        self._follower: LinkFollower | None = None
        if link is not None:
            self._follower = LinkFollower(
                link, on_lost=self._lose, on_restored=on_restored, on_closed=on_closed, tell=tell
            )
        self.open()

    def begin(self) -> None:
        """Take the link as it is: the functions that were given may be called from now on."""
        if self._follower is not None:
            self._follower.begin()

    def open(self) -> None:
        """Open the sockets anew, or leave it to the return of the connection."""
        # Whatever still holds the last connection does not know this one for the same.
        self.session = Session(self._info.key, self._info.signature_scheme)
        self._identity = self.session.session_id.encode()
        self.iopub_heard = asyncio.Event()
        self.heartbeat: Heartbeat | None = None
        self._channels: dict[str, Channel] = {}
        if self.is_cut:
            return
        try:
            # The others are opened when they are first used.
            for name in ("iopub", "stdin", "shell"):
                self._channel(name)
        except BaseException:
            self.close_sockets()
            raise

    def _channel(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            self.check(f"the opening of {name}")
            channel = self._channels[name] = Channel(
                self._info, name, self._identity, self._on_frames
            )
        return channel

    def close(self, *, unsent: bool = True) -> None:
        """Follow the link no more, and close the sockets.

        Args:
            unsent: see :meth:`Channel.close`.
        """
        if self._follower is not None:
            self._follower.close()
        self.close_sockets(unsent=unsent)

    def close_sockets(self, *, unsent: bool = True) -> None:
        """Close the sockets, perhaps to open them again.

        Args:
            unsent: see :meth:`Channel.close`.
        """
        if self.heartbeat is not None:
            self.heartbeat.close()
        for channel in self._channels.values():
            channel.close(unsent=unsent)

    # -- the connection to another machine -------------------------------------------------

    @property
    def leads_to(self) -> str:
        """The name of the machine where the kernel is; empty for a kernel that is here."""
        return "" if self._follower is None else self._follower.link.name

    @property
    def is_cut(self) -> bool:
        """Whether nothing reaches the kernel now."""
        return self._follower is not None and self._follower.is_cut

    @property
    def is_usable(self) -> bool:
        """Whether what is sent goes out now, and none of its output can be missed."""
        return self._follower is None or self._follower.usable.is_set()

    @property
    def takes_requests(self) -> bool:
        """Whether requests may be posted now."""
        return self.is_usable

    async def until_usable(self) -> None:
        """Wait until the client works again, or never will."""
        if self._follower is not None:
            await self._follower.usable.wait()

    def check(self, what: str) -> None:
        """Make sure that the connection is not lost.

        Args:
            what: what is to be done.

        Raises:
            ConnectionLost: it is.
        """
        if self.is_cut:
            error = self.error(what)
            assert error is not None
            raise error

    def error(self, what: str) -> ConnectionLost | None:
        """Give the error for what was not answered because of the last loss; None without a link."""
        return None if self._follower is None else self._follower.error(what)

    def take_held(self) -> list[tuple[Request, Sequence[Buffer]]]:
        """Give the requests that have waited, and their frames; they wait no more."""
        held, self.held = self.held, {}
        return list(held.values())

    def _lose(self) -> None:
        self.drop()
        self._on_lost()

    def drop(self) -> None:
        """Close the sockets; what was not sent never will be."""
        self.close_sockets(unsent=False)
        self._channels = {}

    # -- the channels ----------------------------------------------------------------------

    def send(self, channel: str, frames: Sequence[Buffer]) -> None:
        """Queue a message to be sent.

        Args:
            channel: ``shell``, ``control`` or ``stdin``.
            frames: the message's.

        Raises:
            zmq.Again: ZeroMQ takes nothing now.
            ConnectionLost: the connection is lost.
        """
        self._channel(channel).send(frames)

    def post(self, request: Request, frames: Sequence[Buffer]) -> None:
        """Send a request.

        Raises:
            zmq.Again: ZeroMQ takes nothing now.
            ConnectionLost: the connection is lost.
        """
        self.send(request.channel, frames)

    def forget(self, msg_id: str) -> None:
        """Mind a request no more; nothing was kept of it."""

    def is_connected(self, channel: str) -> bool:
        """Tell whether a message could be sent now on a channel."""
        return self._channel(channel).is_connected()

    @property
    def responsive(self) -> bool:
        """Whether the kernel answers heartbeats, which begin when this is first asked."""
        if self.is_cut:
            return False
        if self.heartbeat is None:
            self.heartbeat = Heartbeat(self._info)
        return self.heartbeat.responsive
