"""The program on the host that does what the tunnel asks, and ends when the connection ends.

It reads frames from standard input and writes frames to standard output, which is all that it has of
the tunnel.  Kernels are not its children: their nannies have left it, and outlive it.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from .frames import JSON, BadFrame, FrameReader
from .loop import Loop
from .relay import Relay
from .tasks import Tasks

__all__ = ["Agent", "main"]


class Agent:
    """Everything put together; it says at once what host this is.

    Args:
        read_end: the descriptor of what the tunnel writes.
        write_end: the one of what it reads.
    """

    def __init__(self, read_end: int = 0, write_end: int = 1) -> None:
        self._frames = FrameReader()
        self._loop = Loop(read_end, write_end, self._take)
        self._tell({"hello": hello()})
        # Its imports take most of the start: while that is on its way.
        from .operations import Operations

        self._relay = Relay(self._loop)
        self._operations = Operations()
        self._tasks = Tasks(self._operations.table, self._reply)

    def run(self, first: bytes = b"") -> None:
        """Serve until the tunnel is gone, and undo what is unfinished.

        Args:
            first: what was read already.
        """
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._leave)
        if first:
            self._take(first)
        self._loop.run()
        self._relay.close()
        self._tasks.close()
        self._operations.close()

    def _leave(self, *_: object) -> None:
        self._loop.stop()
        self._loop.wake()

    def _take(self, data: bytes) -> None:
        """Take what the tunnel wrote."""
        if not data:
            self._loop.stop()
            return
        try:
            for kind, stream, payload in self._frames.feed(data):
                if kind == JSON:
                    self._take_request(payload)
                else:
                    self._relay.take(kind, stream, payload)
        except BadFrame as error:
            sys.stderr.write(f"The agent cannot understand the tunnel: {error}.\n")
            self._loop.stop()

    def _take_request(self, payload: bytes) -> None:
        try:
            request = json.loads(payload)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, Mapping):
            raise BadFrame("a request that is no JSON object")
        if "cancel" in request:
            self._tasks.cancel(request["cancel"])
        else:
            self._tasks.begin(request)

    def _reply(self, reply: Mapping[str, Any]) -> None:
        self._loop.call_soon(self._tell_reply, reply)

    def _tell_reply(self, reply: Mapping[str, Any]) -> None:
        self._tell(reply)
        if not self._loop.is_broken:
            self._tasks.note_told(reply["id"])

    def _tell(self, content: Mapping[str, Any]) -> None:
        self._loop.send(JSON, 0, json.dumps(content).encode("ascii"))


def hello() -> dict[str, Any]:
    """Tell what this host is."""
    user = ""
    with contextlib.suppress(Exception):  # of no account, or a number without a name
        user = getpass.getuser()
    return {
        "python": "{}.{}.{}".format(*sys.version_info),
        "executable": sys.executable,
        "platform": sys.platform,
        "host": socket.gethostname(),
        "user": user,
        "home": os.path.expanduser("~"),
    }


def main() -> None:
    """Run the agent on standard input and output; does not return."""
    try:
        os.write(1, f"\n{sys.argv[1]} ok\n".encode())
        agent = Agent()
        # What was read together with this program; the pipe does not make it wait any more.
        rest: Any = sys.stdin.buffer
        agent.run(rest.read1(1 << 20) or b"")
    except BaseException:  # noqa: BLE001 - this is the end
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        # Threads that still wait for something must not keep the process; another code would have
        # the next Python tried.
        os._exit(0)
