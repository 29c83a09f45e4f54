"""ZeroMQ sockets on an event loop: one generic channel for all of them, and the heartbeat.

A ZeroMQ socket's descriptor is edge-triggered: it becomes readable once, not as long as there is
something to read.  So a channel drains its socket at each wake-up, and looks again after each
send, because sending takes notice of what has arrived.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from tornado.ioloop import IOLoop
from zmq.utils.monitor import parse_monitor_message

from .connection import ConnectionInfo
from .curve import encrypt_client
from .protocol import DELIMITER, Buffer

__all__ = ["Channel", "Heartbeat", "shared_context"]

#: How many messages are taken in one turn of the loop, so that other tasks get theirs too.
_MESSAGES_PER_TURN = 200
#: Before so many of them the socket is asked whether there is one: to receive in vain raises, which
#: takes longer.  In a burst the asking would add up.
_LOOKS_PER_TURN = 4
# Plain integers: to combine pyzmq's enum members takes longer than to copy a small frame.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
#: Below this many bytes copying a frame is cheaper than keeping it alive until it is sent.
_COPY_BELOW = 65_536
#: How long a closed socket may go on sending the requests made just before, in milliseconds.
_LINGER = 1000
_LINGERING = ("shell", "control", "nanny_journal")
#: How often a connection to a nanny is tried whether it still carries, and for how long it may be
#: silent then, in milliseconds.
_HEARTBEAT_INTERVAL = 1000
_HEARTBEAT_PATIENCE = 3000
#: Delimiter, or the head of a journal's record; signature, header, parent header, metadata, content.
_FRAMES_BEFORE_BUFFERS = 6
#: What the head of a journal's record begins with.
_RECORD = b"\x93KMJ"

_SOCKET_TYPES = {
    "shell": zmq.DEALER,
    "control": zmq.DEALER,
    "stdin": zmq.DEALER,
    "iopub": zmq.SUB,
    "hb": zmq.DEALER,
    "nanny_control": zmq.DEALER,
    "nanny_events": zmq.SUB,
    "nanny_journal": zmq.DEALER,
}
#: What a channel tells of its connection.
_LINK_EVENTS = {int(zmq.EVENT_DISCONNECTED): "lost", int(zmq.EVENT_CONNECT_RETRIED): "failed"}

_context: zmq.Context[zmq.Socket[bytes]] | None = None
_context_pid = 0
_context_lock = threading.Lock()


def shared_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Give the one ZeroMQ context of this process, which all clients of all loops share."""
    global _context, _context_pid
    with _context_lock:
        if _context is None or _context.closed or _context_pid != os.getpid():
            _context = zmq.Context()
            # The default limit of 1023 sockets would end at some 200 clients.
            _context.set(zmq.MAX_SOCKETS, _context.get(zmq.SOCKET_LIMIT))
            _context_pid = os.getpid()
        return _context


def connect(
    info: ConnectionInfo, channel: str, identity: bytes = b"", *, heartbeats: bool = False
) -> zmq.Socket[bytes]:
    """Make a socket that is connected to a channel, encrypted when the kernel has CURVE keys.

    Args:
        info: where the kernel is.
        channel: which of its channels.
        identity: the routing id.
        heartbeats: whether a connection that has gone silent counts as lost after some seconds, which
            only a nanny's other end is asked for.
    """
    socket = shared_context().socket(_SOCKET_TYPES[channel])
    try:
        # The client loses nothing: no limit on what waits to be read or sent.
        socket.set_hwm(0)
        socket.set(zmq.LINGER, _LINGER if channel in _LINGERING else 0)
        if identity:
            socket.set(zmq.ROUTING_ID, identity)
        encrypt_client(socket, info)
        if channel in ("iopub", "nanny_events"):
            socket.subscribe(b"")
        elif heartbeats:
            socket.set(zmq.HEARTBEAT_IVL, _HEARTBEAT_INTERVAL)
            socket.set(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_PATIENCE)
            socket.set(zmq.HEARTBEAT_TTL, _HEARTBEAT_PATIENCE)
        elif channel == "stdin":
            # No pipe before the connection is up: POLLOUT then tells that it is.
            socket.set(zmq.IMMEDIATE, 1)
        socket.connect(info.endpoint(channel))
    except BaseException:
        socket.close(linger=0)
        raise
    return socket


def _option(socket: zmq.Socket[bytes], option: zmq.SocketOption) -> int:
    """Give an integer option: the attribute of the same name costs three times as much."""
    return socket.getsockopt(option)  # type: ignore[return-value]


def _receive(socket: zmq.Socket[bytes]) -> list[Any]:
    """Take one message: buffers as memoryviews of what ZeroMQ holds, the rest as bytes."""
    # A zmq.Frame knows whether another follows; asking the socket takes longer than the copy.
    receive = socket.recv
    frame = receive(_NOBLOCK, False)
    frames: list[Any] = [frame.bytes]
    while frame.more:
        count = len(frames)
        if count >= _FRAMES_BEFORE_BUFFERS and (
            frames[-_FRAMES_BEFORE_BUFFERS] == DELIMITER
            or (count == _FRAMES_BEFORE_BUFFERS and frames[0][:4] == _RECORD)
        ):
            break
        frame = receive(_NOBLOCK, False)
        frames.append(frame.bytes)
    while frame.more:
        frame = receive(_NOBLOCK, False)
        frames.append(frame.buffer)
    return frames


class Channel:
    """One socket of a client, watched by the running loop.

    Args:
        info: where the kernel is.
        name: ``shell``, ``iopub``, ``stdin``, ``control``, ``nanny_control``, ``nanny_events`` or
            ``nanny_journal``.
        identity: the routing id; shell and stdin of a client share one.
        on_frames: called with the frames of each message, on the loop.
        on_link: called with ``lost`` when the connection is lost, and with ``failed`` when an
            attempt to connect has failed, on the loop, after the frames that had come before.
            ZeroMQ goes on trying in either case.
        heartbeats: see :func:`connect`.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        name: str,
        identity: bytes,
        on_frames: Callable[[str, list[Any]], None],
        *,
        on_link: Callable[[str], object] | None = None,
        heartbeats: bool = False,
    ) -> None:
        self.name = name
        self._on_frames = on_frames
        self._on_link = on_link
        self._socket = connect(info, name, identity, heartbeats=heartbeats)
        self._loop = asyncio.get_running_loop()
        self._io_loop = IOLoop.current()
        self._descriptor = _option(self._socket, zmq.FD)
        self._io_loop.add_handler(self._descriptor, self._on_readable, IOLoop.READ)
        self._link: _Link | None = None
        if on_link is not None:
            self._link = _Link(self._socket, self._io_loop, self._on_link_event)
        self._drain_soon()

    def send(self, frames: Sequence[Buffer]) -> None:
        """Queue a message to be sent; never blocks, large frames are not copied.

        Raises:
            zmq.Again: the stdin channel is not connected.
        """
        send = self._socket.send
        last = len(frames) - 1
        for index, frame in enumerate(frames):
            size = len(frame) if type(frame) is bytes else memoryview(frame).nbytes
            send(frame, _NOBLOCK if index == last else _NOBLOCK_MORE, copy=size < _COPY_BELOW)
        if _option(self._socket, zmq.EVENTS) & zmq.POLLIN:
            self._drain_soon()

    def is_connected(self) -> bool:
        """Tell whether a message could be sent now (for stdin: whether the kernel is there)."""
        events = _option(self._socket, zmq.EVENTS)
        if events & zmq.POLLIN:
            self._drain_soon()
        return bool(events & zmq.POLLOUT)

    def close(self, *, unsent: bool = True) -> None:
        """Stop watching and close the socket.

        Args:
            unsent: whether to send what has not gone out yet; not where another kernel may come
                to this address, which would take it for its own.
        """
        if not self._socket.closed:
            if self._link is not None:
                self._link.close()
            self._io_loop.remove_handler(self._descriptor)
            self._socket.close(None if unsent else 0)

    def drain(self) -> None:
        """Take what has arrived, up to a share of the loop's time, and hand it on."""
        socket, on_frames, name = self._socket, self._on_frames, self.name
        try:
            for taken in range(_MESSAGES_PER_TURN):
                if socket.closed:  # by a handler
                    return
                if taken < _LOOKS_PER_TURN and not _option(socket, zmq.EVENTS) & zmq.POLLIN:
                    return
                on_frames(name, _receive(socket))
        except zmq.Again:
            return
        self._drain_soon()

    def _drain_soon(self) -> None:
        self._loop.call_soon(self.drain)

    def _on_readable(self, fd: Any, events: int) -> None:
        self.drain()

    def _on_link_event(self, event: str) -> None:
        # Both descriptors may be readable in one turn of the loop.
        self.drain()
        if self._on_link is not None:
            self._on_link(event)


class _Link:
    """Watches the connection of a socket; what it was before this was made is not told.

    Args:
        socket: the socket.
        io_loop: on which to watch.
        on_link: see :class:`Channel`.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], io_loop: IOLoop, on_link: Callable[[str], object]
    ) -> None:
        self._socket = socket
        self._io_loop = io_loop
        self._on_link = on_link
        self._monitor = socket.get_monitor_socket(sum(_LINK_EVENTS))
        self._descriptor = _option(self._monitor, zmq.FD)
        io_loop.add_handler(self._descriptor, self._on_readable, IOLoop.READ)
        io_loop.add_callback(self._drain)

    def close(self) -> None:
        """Stop watching, before the socket itself is closed."""
        self._io_loop.remove_handler(self._descriptor)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)

    def _drain(self) -> None:
        while not self._monitor.closed and _option(self._monitor, zmq.EVENTS) & zmq.POLLIN:
            event = parse_monitor_message(self._monitor.recv_multipart(_NOBLOCK))["event"]
            if event in _LINK_EVENTS:  # the end of the monitoring is an event, too
                self._on_link(_LINK_EVENTS[event])

    def _on_readable(self, fd: Any, events: int) -> None:
        self._drain()


class Heartbeat:
    """Asks the kernel for a sign of life each second, apart from whatever it runs.

    Source: *Messaging in Jupyter*, section "Heartbeat for kernels".

    Args:
        info: where the kernel is.
        interval: seconds between two questions.
        patience: seconds without any answer after which the kernel counts as not responsive.
        on_change: called with each new value of :attr:`responsive`.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        interval: float = 1.0,
        patience: float = 3.0,
        on_change: Callable[[bool], object] | None = None,
    ) -> None:
        #: Whether the kernel has answered lately; true until it has had time to.
        self.responsive = True
        self._interval = interval
        self._on_change = on_change
        # Questions are counted and not seconds: while this loop is blocked it asks nothing, and
        # the kernel is not to blame.
        self._allowed_silence = max(1, round(patience / interval))
        self._unanswered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(info, "hb", b"", self._on_frames)
        self._ask()

    def close(self) -> None:
        """Stop asking."""
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()

    def _ask(self) -> None:
        if self._unanswered >= self._allowed_silence:
            self._set_responsive(False)
        self._unanswered += 1
        # A DEALER with the empty frame of a REQ: it may ask again without having been answered.
        self._channel.send((b"", b"ping"))
        self._timer = self._loop.call_later(self._interval, self._ask)

    def _on_frames(self, channel: str, frames: list[Any]) -> None:
        self._unanswered = 0
        self._set_responsive(True)

    def _set_responsive(self, responsive: bool) -> None:
        if responsive != self.responsive:
            self.responsive = responsive
            if self._on_change is not None:
                self._on_change(responsive)
