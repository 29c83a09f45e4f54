"""A way to a nanny that can be cut, stalled or broken off: sockets here that lead to those of the nanny."""

from __future__ import annotations

import asyncio
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kernel_mgmt import ConnectionInfo
from kernel_mgmt.connection import CHANNELS, NANNY_CHANNELS
from kernel_mgmt.link import Link
from nannies import PATIENCE, RunningNanny, running_nanny

__all__ = ["Tunnel", "Way", "way_to_nanny"]

_CHUNK = 65536


class Tunnel:
    """Forwards Unix sockets, or TCP ports of the loopback interface, on a thread of its own.

    A context manager.  While it is cut it accepts connections and holds them, as long as the other
    end waits.

    Args:
        info: where it leads to.
    """

    def __init__(self, info: ConnectionInfo) -> None:
        self._far = info
        self._directory = Path(tempfile.mkdtemp(prefix="tunnel-"))
        self._listening = {
            channel: _listen(info, self._directory / "k", channel)
            for channel in (*CHANNELS, *NANNY_CHANNELS)
            if getattr(info, f"{channel}_port")
        }
        #: Where clients and managers are to connect to.
        self.connection_info = (
            info.replace(ip=str(self._directory / "k"))
            if info.transport == "ipc"
            else info.replace(
                ip="127.0.0.1",
                **{
                    f"{channel}_port": listener.getsockname()[1]
                    for channel, listener in self._listening.items()
                },
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunnel")
        self._is_up = asyncio.Event()
        self._is_up.set()
        #: Is set unless nothing comes through although all connections are there.
        self._flows = asyncio.Event()
        self._flows.set()
        #: What carries a connection, and of which channel that is.
        self._carrying: dict[asyncio.Task[None], str] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._accept_all())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        shutil.rmtree(self._directory)

    # -- from any other thread -------------------------------------------------------------

    def cut(self) -> None:
        """End all connections; new ones are held."""
        self._call(self._cut())

    def restore(self) -> None:
        """Let those that are held, and new ones, pass again; and what is stalled."""

        async def restore() -> None:
            self._is_up.set()
            self._flows.set()

        self._call(restore())

    def stall(self) -> None:
        """Let nothing through from now on, while all connections stay, and new ones are held."""

        async def stall() -> None:
            self._is_up.clear()
            self._flows.clear()

        self._call(stall())

    def break_off(self, channel: str) -> None:
        """End the connections of one channel; new ones pass."""

        async def break_off() -> None:
            await _end({task for task, of in self._carrying.items() if of == channel})

        self._call(break_off())

    def refuse(self) -> None:
        """End all connections, and listen no more: for the far end is gone."""
        self._call(self._refuse())

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    # -- on the loop -----------------------------------------------------------------------

    async def _accept_all(self) -> None:
        for channel, listener in self._listening.items():
            # No task that awaits it: one that is cancelled may have just accepted something.
            self._loop.add_reader(listener, self._accept, listener, channel)

    def _accept(self, listener: socket.socket, channel: str) -> None:
        with suppress(BlockingIOError):
            near, _ = listener.accept()
            task = self._loop.create_task(self._carry(near, channel))
            self._carrying[task] = channel
            task.add_done_callback(self._carrying.pop)
            # Here as well: a task that is cancelled before it has begun closes nothing.
            task.add_done_callback(lambda _: near.close())

    async def _carry(self, near: socket.socket, channel: str) -> None:
        with near, socket.socket(near.family) as far:
            near.setblocking(False)
            far.setblocking(False)
            await self._is_up.wait()
            if _has_hung_up(near):
                return
            with suppress(OSError):
                await self._loop.sock_connect(far, _address(self._far, channel))
                await self._pump_both(near, far)

    async def _pump_both(self, near: socket.socket, far: socket.socket) -> None:
        tasks = {
            self._loop.create_task(self._pump(near, far)),
            self._loop.create_task(self._pump(far, near)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)

    async def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := await self._loop.sock_recv(source, _CHUNK):
                await self._flows.wait()
                await self._loop.sock_sendall(target, data)

    async def _cut(self) -> None:
        self._is_up.clear()
        self._flows.set()
        await _end(set(self._carrying))

    async def _refuse(self) -> None:
        while self._listening:
            channel, listener = self._listening.popitem()
            self._loop.remove_reader(listener)
            listener.close()
            if listener.family == socket.AF_UNIX:
                self.connection_info.socket_path(channel).unlink(missing_ok=True)
        await _end(set(self._carrying))


def _listen(info: ConnectionInfo, path: Path, channel: str) -> socket.socket:
    """Listen for one channel: at a Unix socket below a path, or at any port."""
    if info.transport == "ipc":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(info.replace(ip=str(path)).socket_path(channel)))
    else:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    listener.setblocking(False)
    listener.listen(100)
    return listener


def _address(info: ConnectionInfo, channel: str) -> str | tuple[str, int]:
    """Give where a channel listens, for :meth:`socket.socket.connect`."""
    if info.transport == "ipc":
        return str(info.socket_path(channel))
    return info.ip, getattr(info, f"{channel}_port")


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have closed what they have."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _has_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


class Way:
    """A nanny, the tunnel to it, and the link that tells of it.

    Args:
        nanny: the nanny.
        tunnel: the tunnel.
    """

    def __init__(self, nanny: RunningNanny, tunnel: Tunnel) -> None:
        self.nanny = nanny
        self.tunnel = tunnel
        self.link = Link("me@far")
        self.info = tunnel.connection_info

    def lose(self, reason: str = "The cable was cut.") -> None:
        """Lose the connection."""
        self.tunnel.cut()
        self.link.lose(reason)

    def restore(self) -> None:
        """Have it back."""
        self.tunnel.restore()
        self.link.restore()


@contextmanager
def way_to_nanny(**options: Any) -> Iterator[Way]:
    """Have a nanny with an echo kernel that is reached through a tunnel.

    Args:
        **options: those of :func:`nannies.running_nanny`.
    """
    with running_nanny(**options) as nanny, Tunnel(nanny.connection_info) as tunnel:
        yield Way(nanny, tunnel)
