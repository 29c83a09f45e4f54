"""What a plain supervisor is asked: one connection to its socket for each question."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Mapping
from typing import Any

from .failing import AgentError
from .tasks import Task

__all__ = ["ask_plain"]

#: How long a connection within the host may take, in seconds.
_CONNECT_PATIENCE = 5.0


def ask_plain(task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a plain supervisor, and wait for its reply as long as it takes.

    Args:
        task: ends the wait when it is cancelled.
        asked: ``control``, the path of its socket, and ``request``.

    Raises:
        AgentError: it is gone (kind ``gone``), or refuses.
        Cancelled: nobody waits for the reply any more.
    """
    control, question = asked.get("control"), asked.get("request")
    if not isinstance(control, str) or not control.startswith("/"):
        raise AgentError("control must be the path of a socket.", kind="protocol")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_PATIENCE)
        try:
            connection.connect(control)
            connection.sendall(json.dumps(question).encode("ascii") + b"\n")
            line = _line(connection, task)
        except (OSError, ValueError) as error:
            raise _gone(str(error)) from error
    try:
        reply = json.loads(line)
    except ValueError:
        raise _gone("it ended before it answered") from None
    if reply.get("ok"):
        result: dict[str, Any] = reply["result"]
        return result
    refusal = reply.get("error") or {}
    raise AgentError(
        str(refusal.get("cause", "The supervisor refuses.")),
        kind=str(refusal.get("kind", "protocol")),
    )


def _line(connection: socket.socket, task: Task) -> bytes:
    """Read up to the end of the line, or of the connection."""
    text = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(task.wake_end, selectors.EVENT_READ)
        while not text.endswith(b"\n"):
            ready = [key.fileobj for key, _ in selector.select()]
            task.check()
            if connection in ready:
                data = connection.recv(65536)
                if not data:
                    break
                text += data
    return bytes(text)


def _gone(reason: str) -> AgentError:
    return AgentError(
        f"What kept the kernel is gone from the host: {reason}.",
        kind="gone",
        advice="Start the kernel again.",
    )
