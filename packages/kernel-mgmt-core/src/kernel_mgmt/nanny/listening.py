"""The sockets that a nanny listens at: of what type each is, and what it is spared."""

from __future__ import annotations

import zmq

from ..connection import ConnectionInfo
from ..curve import encrypt_server
from .back import SEND_BUFFER

__all__ = ["listen", "listened_channels"]

#: How many messages a client that does not read its iopub socket may fall behind, before it loses
#: some: without a limit it would take the nanny's memory, and with it the kernel.
_OUTPUT_LIMIT = 100_000
#: How many events a manager may fall behind; one of output may have 64 KiB.
_EVENTS_LIMIT = 1000
#: The longest request of a manager, in bytes: whoever sends more is cut off before it is stored.
_CONTROL_LIMIT = 1024 * 1024
#: Likewise of a journal's reader, who may ask after many requests at once.
_JOURNAL_LIMIT = 8 * 1024 * 1024
#: The longest topic of a subscription, in bytes: ZeroMQ takes a hundred times as much to keep it.
_TOPIC_LIMIT = 4096
#: How long the last messages may take to leave, in milliseconds.
_LINGER = 1000
#: How often a journal's reader is asked for a sign of life, how long it may take, and how long TCP
#: may wait for it to take what was sent, in milliseconds.
_HEARTBEAT, _HEARTBEAT_TIMEOUT, _TCP_TIMEOUT = 1000, 3000, 5000

_TYPES = {
    "shell": zmq.ROUTER,
    "control": zmq.ROUTER,
    "stdin": zmq.ROUTER,
    "hb": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "nanny_control": zmq.ROUTER,
    # What subscribers send that is no subscription piles up in a PUB, which cannot be read.
    "nanny_events": zmq.XPUB,
    "nanny_journal": zmq.ROUTER,
}


def listened_channels(info: ConnectionInfo) -> list[str]:
    """Give the channels to listen at: all, but for the journal's where none is kept."""
    return [name for name in _TYPES if name != "nanny_journal" or info.nanny_journal_port]


def listen(
    context: zmq.Context[zmq.Socket[bytes]], info: ConnectionInfo, channel: str
) -> zmq.Socket[bytes]:
    """Bind the socket of a channel.

    Args:
        context: makes it.
        info: where to listen.
        channel: one of :func:`listened_channels`.

    Raises:
        zmq.ZMQError: it cannot listen there.
    """
    socket = context.socket(_TYPES[channel])
    try:
        socket.set_hwm(0)
        socket.set(zmq.LINGER, _LINGER)
        socket.set(zmq.SNDBUF, SEND_BUFFER)
        if socket.type == zmq.ROUTER:
            # A client that connects again under its identity takes over from its old connection.
            socket.set(zmq.ROUTER_HANDOVER, 1)
        elif socket.type == zmq.XPUB:
            socket.set(zmq.MAXMSGSIZE, _TOPIC_LIMIT)
            # Every subscriber is told of, also the second to a topic, and each that leaves.
            socket.set(zmq.XPUB_VERBOSER, 1)
        if channel == "iopub":
            socket.set(zmq.SNDHWM, _OUTPUT_LIMIT)
        elif channel == "nanny_events":
            socket.set(zmq.SNDHWM, _EVENTS_LIMIT)
        elif channel == "nanny_control":
            socket.set(zmq.MAXMSGSIZE, _CONTROL_LIMIT)
        elif channel == "nanny_journal":
            _mind_readers(socket)
        encrypt_server(socket, info)
        socket.bind(info.endpoint(channel))
    except BaseException:
        socket.close(0)
        raise
    return socket


def _mind_readers(socket: zmq.Socket[bytes]) -> None:
    """Have a socket tell of readers that are gone, or cannot be heard any more."""
    socket.set(zmq.MAXMSGSIZE, _JOURNAL_LIMIT)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.HEARTBEAT_IVL, _HEARTBEAT)
    socket.set(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT)
    socket.set(zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT)
    socket.set(zmq.TCP_MAXRT, _TCP_TIMEOUT)
