"""What a container writes, handed on to this process's own output as it comes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from docker.errors import NotFound

__all__ = ["LogFollower"]

logger = logging.getLogger("kernel_mgmt.docker")

#: How often an engine that went is asked again, in seconds.
_AGAIN = 0.25
#: How long an ended container's last words may take, in seconds.
_LAST_WORDS = 2.0

_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class LogFollower:
    """Hands on a container's log from its beginning, in a thread for each of the two streams.

    Args:
        api: docker-py's ``APIClient``.
        container: the container's id.
    """

    def __init__(self, api: Any, container: str) -> None:
        self._api = api
        self._container = container
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(name,), name=f"log-{name}", daemon=True)
            for name in _DESCRIPTORS
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Hand on the last words of a container that has ended; blocks for a bounded time."""
        self._ended.set()
        deadline = time.monotonic() + _LAST_WORDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _follow(self, name: str) -> None:
        since: float | None = None
        while True:
            heard = False
            try:
                for piece in self._pieces(name, since):
                    heard = True
                    _write(_DESCRIPTORS[name], piece)
            except NotFound:
                return
            except Exception as error:  # noqa: BLE001 - whatever docker-py makes of a cut stream
                logger.debug("The log of %s was cut: %r", self._container[:12], error)
            if heard:
                # Where the engine was lost, what the container wrote meanwhile came after this.
                since = time.time()
            if self._ended.wait(_AGAIN):
                return

    def _pieces(self, name: str, since: float | None) -> Iterator[bytes]:
        """Give what the container writes on a stream after some moment, until the engine is lost."""
        wanted = {stream: stream == name for stream in _DESCRIPTORS}
        stream = self._api.logs(self._container, stream=True, follow=True, since=since, **wanted)
        with contextlib.closing(stream):
            yield from stream


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
