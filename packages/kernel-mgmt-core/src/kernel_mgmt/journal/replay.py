"""Reading the past of a kernel from its nanny's journal, over a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..connection import ConnectionInfo
from ..errors import KernelMgmtError, NannyError, ProtocolError
from ..link import Link, connection_lost
from ..protocol import Message, Session
from .connection import JournalConnection, message_of
from .reader import Gap, Reader, Subscribed

__all__ = ["Replay"]

#: How long the nanny may not be reached, in seconds, while no link is known to be lost.
_PATIENCE = 30.0
#: How long to wait before a lost connection is made again, in seconds.
_PAUSE = 0.1


class Replay:
    """Reads messages in order, each once, across losses of the connection; on the running loop.

    Args:
        info: where the nanny is.
        reader: from where to read.
        link: the connection that leads to its machine, if any.
        until: the number of the last message; None for the last one that there is when this begins,
            -1 for no end.
        requests: ids of requests whose state is wanted.
        on_bad: called with the channel of each message that is dropped, and why.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        reader: Reader,
        *,
        link: Link | None,
        until: int | None,
        requests: tuple[str, ...] = (),
        on_bad: Callable[[str, ProtocolError], object],
    ) -> None:
        if not info.nanny_journal_port:
            raise NannyError(
                "The kernel has no nanny that keeps a journal; nothing can be replayed."
            )
        self._info = info
        self._reader = reader
        self._link = link
        self._until = until
        self._requests = requests
        self._on_bad = on_bad
        self._session = Session(info.key, info.signature_scheme)
        self._record_session = Session(info.key, info.signature_scheme)
        self._loop = asyncio.get_running_loop()
        #: What the nanny has answered last; None before.
        self.subscribed: Subscribed | None = None
        self._is_answered = False
        self._error: KernelMgmtError | None = None
        self._deliveries: deque[list[Any]] = deque()
        #: Is set when something has happened.
        self._news = asyncio.Event()
        self._connection: JournalConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Read no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def position(self) -> int:
        """The number of the last message that was given."""
        return self._reader.position or 0

    @property
    def has_caught_up(self) -> bool:
        """Whether all was given that had been said when this began, or was connected again."""
        return self._is_answered and self._reader.has_caught_up

    async def next_batch(self) -> Iterable[Message] | None:
        """Give the next messages, which may be none for now; None at the end.

        They are to be taken on the loop, and all of them before the next batch.  Each is made when it is
        asked for: many at once would keep the garbage collector busy.

        Raises:
            NannyError: the nanny refuses.
            ConnectionLost: it cannot be reached.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._is_at_end():
                return None
            if self._deliveries:
                return self._messages(self._deliveries.popleft())
            self._news.clear()
            was_answered = self._is_answered
            await self._wait()
            if self._is_answered and not was_answered and not self._deliveries:
                return None if self._is_at_end() else []

    def _is_at_end(self) -> bool:
        return self._until is not None and 0 <= self._until <= (self._reader.position or 0)

    async def _wait(self) -> None:
        if self._link is not None:
            await self._link.wait_until_up()
        try:
            async with asyncio.timeout(None if self._is_answered else _PATIENCE):
                await self._news.wait()
        except TimeoutError:
            name = "the kernel's nanny" if self._link is None else self._link.name
            raise connection_lost(name, "the replay", "It does not answer", final=False) from None

    def _messages(self, frames: list[Any]) -> Iterator[Message]:
        connection, session, until = self._connection, self._record_session, self._until
        take = self._reader.take if connection is None else connection.records
        for record in take(frames):
            if isinstance(record, Gap):
                continue  # the record that tells of it follows
            if until is not None and 0 <= until < record.number:
                break
            try:
                message = message_of(record, session)
            except ProtocolError as error:
                self._on_bad(record.channel, error)
            else:
                yield message

    # -- the connection --------------------------------------------------------------------

    def _open(self) -> None:
        self._timer = None
        self._connection = JournalConnection(
            self._info,
            self._reader,
            self._session,
            on_delivery=self._on_delivery,
            on_subscribed=self._on_subscribed,
            on_refused=self._on_refused,
            on_lost=self._on_lost,
            on_bad=lambda error: self._on_bad("nanny_journal", error),
        )
        self._connection.subscribe(self._requests)

    def _on_delivery(self, frames: list[Any]) -> None:
        self._deliveries.append(frames)
        self._news.set()

    def _on_subscribed(self, subscribed: Subscribed) -> None:
        self._is_answered = True
        self.subscribed = subscribed
        if self._until is None:
            self._until = subscribed.next - 1
        self._news.set()

    def _on_refused(self, error: KernelMgmtError) -> None:
        self._error = error
        self._news.set()

    def _on_lost(self) -> None:
        if self._connection is None:
            return
        self._connection.drop()
        self._connection = None
        self._is_answered = False
        self._deliveries.clear()  # they come again
        with contextlib.suppress(RuntimeError):
            self._timer = self._loop.call_later(_PAUSE, self._open)
