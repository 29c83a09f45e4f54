"""The application's end of a tunnel: the process that holds a connection, asked and heard.

What they say to each other is described in :mod:`.tunnel.service`.  All of this happens on the background
loop, but for two threads: reading from a pipe takes as long as it takes, and so may writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kernel_mgmt.background import background_loop, finish, in_thread, result_of
from kernel_mgmt.endpoints import private_directory

from .errors import SshError

__all__ = ["TunnelProcess"]

logger = logging.getLogger("kernel_mgmt.ssh")

#: How long the process may take to end, or the host to give something up, in seconds.
_END_PATIENCE = 5.0
#: How much of what the process wrote is told when it failed, in characters.
_KEPT_ERRORS = 4000


class TunnelProcess:
    """Starts the process, and speaks with it until either ends.

    Args:
        on_event: called with what it tells unasked.
        on_end: called when it has ended.
    """

    def __init__(
        self, on_event: Callable[[Mapping[str, Any]], object], on_end: Callable[[], object]
    ) -> None:
        self._on_event = on_event
        self._on_end = on_end
        #: A private directory for local sockets, which goes with the process.
        self.directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        #: What is to be said, None at the end.
        self._to_say: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Start the process.

        Raises:
            LaunchError: there is no room for its directory.
        """
        # To its end also when this is cancelled: a process that nobody knows could not be ended.
        await finish(result_of(in_thread("ssh-start", self._spawn)))
        in_thread("ssh-hear", self._hear)
        in_thread("ssh-say", self._write)

    def _spawn(self) -> None:
        self.directory = private_directory()
        command = [sys.executable, "-P", "-m", f"{__package__}.tunnel", str(self.directory)]
        with open(self.directory / "log", "xb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                # Signals of a terminal are meant for us.
                start_new_session=True,
            )

    # -- asking -------------------------------------------------------------------------------

    async def request(self, op: str, /, **args: Any) -> dict[str, Any]:
        """Ask the process; one of the agent's requests is given up when this is cancelled.

        Raises:
            SshError: what was asked failed, or the process has ended (kind ``lost``).
        """
        if self._closed:
            raise SshError("The connection to the host was closed.", kind="lost")
        number = next(self._numbers)
        asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self._put({"id": number, "op": op, **args})
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            if op == "agent":
                self.tell("cancel", of=number)
                await finish(_end_of(asked))
            # Nobody waits for it any more, so nobody minds how it ends.
            asked.add_done_callback(lambda future: future.cancelled() or future.exception())
            raise

    def tell(self, op: str, **args: Any) -> None:
        """Ask the process for what needs no answer."""
        self._put({"id": 0, "op": op, **args})

    def answer(self, prompt: int, text: str | None) -> None:
        """Answer one of the process's questions; None when nobody does."""
        self._put({"answer": prompt, "text": text})

    def _put(self, message: Mapping[str, Any]) -> None:
        if not self._closed:
            self._to_say.put(json.dumps(message).encode() + b"\n")

    def _write(self) -> None:
        """Say what is to be said; on a thread of its own."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as pipe:  # else it has ended
            while (line := self._to_say.get()) is not None:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(pipe.fileno(), rest) :]

    # -- hearing ------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Take what the process says until it ends; on a thread of its own."""
        assert self._process is not None
        assert self._process.stdout is not None
        loop = background_loop()
        with self._process.stdout as pipe, open(pipe.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                loop.call_soon_threadsafe(self._take, json.loads(line))
        try:
            self._process.wait(_END_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        loop.call_soon_threadsafe(self._bury)

    def _take(self, message: Mapping[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        asked = self._asked.pop(message["id"], None)
        if asked is None or asked.done():
            return
        if message["ok"]:
            asked.set_result(message["result"])
        else:
            asked.set_exception(SshError.from_dict(message["error"]))

    # -- ending -------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the process, which lets go of the host; returns when it is gone."""
        self.begin_close()
        await self._ended.wait()

    def begin_close(self) -> None:
        """End the process soon."""
        self._closed = True
        self._to_say.put(None)
        if self._process is None:
            self._clear_away()

    def _bury(self) -> None:
        """Take notice of the end of the process."""
        written = ""
        if self.directory is not None:
            with contextlib.suppress(OSError):
                written = (self.directory / "log").read_text(errors="replace")[-_KEPT_ERRORS:]
        if not self._closed:
            logger.warning("The process that held a connection has ended. %s", written)
        self._closed = True
        self._to_say.put(None)
        self._clear_away()
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(
                    SshError("The connection was closed.", kind="lost", log_tail=written)
                )
        self._on_end()

    def _clear_away(self) -> None:
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
        self._ended.set()


async def _end_of(asked: asyncio.Future[dict[str, Any]]) -> None:
    """Wait until the host has given up what it was asked, if it still can tell."""
    await asyncio.wait({asked}, timeout=_END_PATIENCE)
    _ = asked.done() and not asked.cancelled() and asked.exception()
