"""Messages through ZeroMQ's sockets, with fewer steps than pyzmq's own multipart functions.

Two things make those slow: they combine enum flags anew for each frame, and they look up an enum
to ask whether a frame follows.  Together that is half the time of a small message.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import zmq

from ...protocol import DELIMITER, Buffer

__all__ = ["receive", "send"]

_MORE = int(zmq.SNDMORE)
_NOBLOCK = int(zmq.NOBLOCK)
#: Frames between the delimiter and the buffers: signature, two headers, metadata, content.
_FIXED_FRAMES = 5
#: Below this many bytes copying a frame is cheaper than keeping it alive until it is sent.
_COPY_BELOW = 65_536


def send(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    """Send a message; large frames are not copied."""
    *head, last = frames
    for frame in head:
        socket.send(frame, _MORE, copy=len(frame) < _COPY_BELOW)
    socket.send(last, 0, copy=len(last) < _COPY_BELOW)


def receive(socket: zmq.Socket[bytes]) -> list[Any]:
    """Take one message: bytes, except the buffers, which stay where ZeroMQ has them.

    Raises:
        zmq.Again: there is none.
    """
    frame = socket.recv(_NOBLOCK, copy=False)
    frames: list[Any] = [frame.bytes]
    buffers_from = sys.maxsize
    while frame.more:
        frame = socket.recv(0, copy=False)
        if frames[-1] == DELIMITER:
            buffers_from = len(frames) + _FIXED_FRAMES
        frames.append(frame.bytes if len(frames) < buffers_from else frame)
    return frames
