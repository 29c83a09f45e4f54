"""Frames as they pass through the nanny: moved without a copy, looked at no more than needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from ..errors import MalformedMessage
from ..protocol import DELIMITER, Buffer
from ..protocol.message import load_json

__all__ = ["Envelope", "Frames", "is_idle", "receive", "send"]

# Plain integers: to combine pyzmq's enum members takes longer than to move a small frame.
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
#: More frames than any client puts in front of the delimiter.
_LONGEST_ROUTE = 8
#: A frame of so many bytes is kept where ZeroMQ holds it.
_LARGE = 65536
#: Longer than the content of any status message of an idle kernel.
_LONGEST_IDLE = 48

#: The frames of one message.
Frames = Sequence[Any]


def receive(socket: zmq.Socket[bytes]) -> list[Any]:
    """Take one message, its frames left where ZeroMQ holds them.

    Raises:
        zmq.Again: there is none.
    """
    take = socket.recv
    frame = take(_NOBLOCK, False)
    frames: list[Any] = [frame]
    while frame.more:
        frame = take(_NOBLOCK, False)
        frames.append(frame)
    return frames


def send(socket: zmq.Socket[bytes], frames: Frames) -> None:
    """Send a message, without waiting and without copying what is large.

    Raises:
        zmq.Again: it cannot be sent now.
    """
    put = socket.send
    for frame in frames[:-1]:
        put(frame, _NOBLOCK_MORE, False)
    put(frames[-1], _NOBLOCK, False)


def is_idle(frames: Frames) -> bool:
    """Tell, quickly, whether an iopub message may be the status of a kernel that is idle again."""
    content = frames[-1]
    return len(content) <= _LONGEST_IDLE and b'"idle"' in content.bytes


class Envelope:
    """What is written on a message that passes: where it goes, and its two headers.

    Args:
        frames: the message's frames, as :func:`receive` gave them.
    """

    __slots__ = ("_delimiter", "frames")

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        #: Where the delimiter is; None when the frames are those of no message.
        self._delimiter = self._find_delimiter()

    def _find_delimiter(self) -> int | None:
        for position, frame in enumerate(self.frames[:_LONGEST_ROUTE]):
            if len(frame) == len(DELIMITER) and frame.bytes == DELIMITER:
                # Signature, header, parent header, metadata and content must follow.
                return position if len(self.frames) > position + 5 else None
        return None

    @property
    def route(self) -> list[bytes]:
        """The frames in front of the delimiter."""
        return [frame.bytes for frame in self.frames[: self._delimiter]]

    def header(self) -> dict[str, Any]:
        """Give the header; empty when it cannot be read."""
        return self._object(2)

    def parent_id(self) -> str:
        """Give the id of the message that this one answers; empty when it answers none."""
        parent_id = self._object(3).get("msg_id")
        return parent_id if isinstance(parent_id, str) else ""

    def content(self) -> dict[str, Any]:
        """Give the content; empty when it cannot be read."""
        return self._object(5)

    def message(self) -> list[Buffer]:
        """Give the signature and all that follows, large frames uncopied; nothing of no message."""
        position = self._delimiter
        if position is None:
            return []
        return [
            frame.bytes if len(frame) < _LARGE else frame.buffer
            for frame in self.frames[position + 1 :]
        ]

    def signature(self) -> bytes:
        """Give what should be the signature of :meth:`signed`; empty when there is none."""
        position = self._delimiter
        return b"" if position is None else self.frames[position + 1].bytes

    def signed(self) -> list[bytes]:
        """Give the four frames that are signed."""
        position = self._delimiter
        if position is None:
            return []
        return [frame.bytes for frame in self.frames[position + 2 : position + 6]]

    def _object(self, offset: int) -> dict[str, Any]:
        if self._delimiter is None:
            return {}
        try:
            value = load_json(self.frames[self._delimiter + offset].bytes)
        except MalformedMessage:
            return {}
        return value if isinstance(value, dict) else {}
