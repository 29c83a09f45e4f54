"""The relay's end on this machine: Unix sockets whose connections are streams of the relay."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from kernel_mgmt.background import in_background, in_thread, result_of

from .far_end import CLOSE, CREDIT, DATA, LONGEST, NUMBER, OPEN, PING, SILENCE, WINDOW
from .link import Connection, Link, LinkError, open_link

__all__ = ["Relay"]

logger = logging.getLogger("kernel_mgmt.docker")

#: How long a connection is held when the program cannot be run, in seconds: its client tries again as
#: soon as it is dropped.
_PATIENCE = 1.0
#: How many times what was received at once may wait for the loop.
_AHEAD = 8


class Relay:
    """Local sockets, and the program in the container that connects them to the kernel.

    It runs on the shared background loop, so that a busy application keeps nobody waiting.  A
    program that has ended while the container runs is started again with the next connection.

    Args:
        run: starts a command in the container and gives its streams; it may block.
        sockets: the port in the container for each path of a local socket, whose directory is there.
        pythons: the Pythons of the container to try.
    """

    def __init__(
        self,
        run: Callable[[Sequence[str]], Connection],
        sockets: Mapping[Path, int],
        pythons: Sequence[str],
    ) -> None:
        self._run = run
        self._sockets = dict(sockets)
        self._pythons = tuple(pythons)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: _Streams | None = None
        self._linking = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Listen, and start the program.

        Raises:
            LinkError: it does not run.
            OSError: the engine cannot be reached, or a socket cannot be made.
        """
        await in_background(self._start())

    async def close(self) -> None:
        """Drop all connections, remove the sockets and end the program; safe to call twice."""
        await in_background(self._close())

    # -- on the background loop ----------------------------------------------------------------

    async def _start(self) -> None:
        if sys.platform == "win32":
            raise OSError("this system has no Unix sockets")
        try:
            await self._streams()
            for path, port in self._sockets.items():
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                self._servers.append(await asyncio.start_unix_server(self._accept(port), path))
                path.chmod(0o600)
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        self._closed = True
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._link is not None:
            self._link.close()
            await self._link.ended.wait()
        for path in self._sockets:
            with contextlib.suppress(OSError):
                os.unlink(path)

    async def _streams(self) -> _Streams:
        """Give the streams of the program, which is started when it does not run."""
        async with self._linking:
            if self._closed:
                raise LinkError("it was closed")
            if self._link is None or self._link.ended.is_set():
                future = in_thread("relay", lambda: open_link(self._run, self._pythons))
                try:
                    link = await result_of(future)
                except asyncio.CancelledError:
                    future.add_done_callback(_close_late)
                    raise
                self._link = _Streams(link)
            return self._link

    def _accept(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _serve(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            streams = await self._streams()
            await streams.carry(port, reader, writer)
        except Exception as error:  # noqa: BLE001 - docker-py's, when the container has ended
            logger.debug("The relay cannot reach the kernel: %s", error)
            await asyncio.sleep(_PATIENCE)
        finally:
            # Not close: that would wait for a client that does not read.
            writer.transport.abort()


def _close_late(future: Future[Link]) -> None:
    """End a program that nobody waits for any more."""
    if future.exception() is None:
        future.result().close()


class _Streams:
    """The streams of one run of the program; made and used on the background loop.

    Args:
        link: the program, which has answered.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self.ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        room = threading.BoundedSemaphore(_AHEAD)

        def take(frames: list[tuple[int, int, bytes]]) -> None:
            try:
                self._take(frames)
            finally:
                room.release()

        def hand_over(frames: list[tuple[int, int, bytes]]) -> None:
            room.acquire()
            loop.call_soon_threadsafe(take, frames)

        link.start(hand_over, lambda: loop.call_soon_threadsafe(self._end))
        self._pings = loop.create_task(self._ping())

    async def carry(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry a connection to a port of the container until one end drops it."""
        self._last += 1
        number, stream = self._last, _Stream()
        self._streams[number] = stream
        self._link.send(OPEN, number, b"%d" % port)
        loop = asyncio.get_running_loop()
        ways = {
            loop.create_task(self._outward(number, stream, reader)),
            loop.create_task(self._inward(number, stream, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            if self._streams.pop(number, None) is not None:
                self._link.send(CLOSE, number)

    def close(self) -> None:
        """End the program."""
        self._link.close()

    # -- its own --------------------------------------------------------------------------------

    async def _outward(self, number: int, stream: _Stream, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(LONGEST):
            while stream.credit <= 0:
                stream.changed.clear()
                await stream.changed.wait()
            stream.credit -= len(data)
            self._link.send(DATA, number, data)

    async def _inward(self, number: int, stream: _Stream, writer: asyncio.StreamWriter) -> None:
        consumed = 0
        while data := await stream.incoming.get():
            writer.write(data)
            await writer.drain()
            consumed += len(data)
            stream.waiting -= len(data)
            if consumed >= WINDOW // 4:
                self._link.send(CREDIT, number, NUMBER.pack(consumed))
                consumed = 0
        # All that the kernel sent before it ended is the client's.
        writer.transport.set_write_buffer_limits(0)
        await writer.drain()

    def _take(self, frames: list[tuple[int, int, bytes]]) -> None:
        for kind, number, payload in frames:
            stream = self._streams.get(number)
            if stream is None:
                continue
            if kind == DATA:
                stream.waiting += len(payload)
                # Nobody trusts what is in a container with this machine's memory.
                if stream.waiting > 2 * WINDOW:
                    self._drop("sends without credit")
                    return
                if not payload:
                    self._drop("sends nothing, and says so")
                    return
                stream.incoming.put_nowait(payload)
            elif kind == CREDIT and len(payload) == NUMBER.size:
                stream.credit += NUMBER.unpack(payload)[0]
                if stream.credit > WINDOW:
                    self._drop("gives credit for what it was never sent")
                    return
                stream.changed.set()
            elif kind == CLOSE:
                del self._streams[number]
                stream.incoming.put_nowait(b"")

    def _drop(self, why: str) -> None:
        logger.warning("The relay's program in the container %s.", why)
        self._link.close()

    async def _ping(self) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), SILENCE / 4)
            self._link.send(PING, 0)

    def _end(self) -> None:
        self.ended.set()
        for stream in self._streams.values():
            stream.incoming.put_nowait(b"")
        self._streams.clear()


class _Stream:
    """What is known of one connection."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        #: How many bytes of those are there.
        self.waiting = 0
        self.credit = WINDOW
        self.changed = asyncio.Event()
