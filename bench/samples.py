"""Messages for measuring without sockets."""

from __future__ import annotations

from .wire import Wire, stream_content

KEY = "5f0c6f0e-b54b-4b3f-a9d4-2a8c0a6b1d0e"


def signed_streams(count: int) -> list[list[bytes]]:
    """Give the frames of stream messages of 200 bytes, as iopub delivers them; no two alike."""
    wire = Wire(KEY)
    parent = wire.header("execute_request")
    return [
        [b"stream", *wire.encode(wire.header("stream"), parent, stream_content(number))]
        for number in range(count)
    ]
