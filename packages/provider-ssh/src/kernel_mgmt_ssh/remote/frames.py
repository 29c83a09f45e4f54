"""What goes over the pipes between the tunnel and the agent: frames with a kind and a stream.

Stream 0 carries the requests and replies, one JSON object a frame; the others carry what is relayed.
A frame of a stream's own is one of OPEN, OPENED, REFUSED, DATA, EOF, CLOSE and CREDIT.
"""

from __future__ import annotations

import struct

__all__ = [
    "CLOSE",
    "CREDIT",
    "CREDIT_SIZE",
    "DATA",
    "EOF",
    "FRAME",
    "JSON",
    "LONGEST",
    "OPEN",
    "OPENED",
    "REFUSED",
    "WINDOW",
    "BadFrame",
    "FrameReader",
    "frame",
]

#: The header: kind, stream, length of the payload.
FRAME = struct.Struct("!BII")
JSON, OPEN, OPENED, REFUSED, DATA, EOF, CLOSE, CREDIT = range(8)

#: The payload of CREDIT: how many bytes were consumed.
CREDIT_SIZE = struct.Struct("!I")
#: How many bytes each side of a stream may send before it is given credit.
WINDOW = 1024 * 1024
#: No payload is longer, in bytes; the longest is the nanny's archive.
LONGEST = 64 * 1024 * 1024


class BadFrame(ValueError):
    """What came is no frame; nothing that follows can be understood."""


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """Give the bytes of a frame."""
    return FRAME.pack(kind, stream, len(payload)) + payload


class FrameReader:
    """Takes bytes as they come, and gives the frames that are complete."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Take bytes.

        Returns:
            Kind, stream and payload of each frame that they complete.

        Raises:
            BadFrame: they are no frames.
        """
        rest = self._rest
        rest += data
        frames: list[tuple[int, int, bytes]] = []
        start = 0
        while len(rest) - start >= FRAME.size:
            kind, stream, length = FRAME.unpack_from(rest, start)
            if kind > CREDIT or length > LONGEST:
                raise BadFrame(f"a frame of kind {kind} with {length} bytes")
            end = start + FRAME.size + length
            if len(rest) < end:
                break
            frames.append((kind, stream, bytes(rest[start + FRAME.size : end])))
            start = end
        del rest[:start]
        return frames
