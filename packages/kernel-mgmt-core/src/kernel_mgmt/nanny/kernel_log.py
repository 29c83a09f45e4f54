"""What one kernel's process writes: told as it comes, and the last of it kept."""

from __future__ import annotations

import codecs
from typing import Any, Callable

from ..process import KernelProcess

__all__ = ["KernelLog"]


class KernelLog:
    """Follows one process from its first line.

    Args:
        number: the kernel's number.
        process: its process, which has written nothing yet.
        tell: tells managers of it.
    """

    def __init__(
        self, number: int, process: KernelProcess, tell: Callable[[str, dict[str, Any]], object]
    ) -> None:
        self.number = number
        #: How many bytes it has written in all.
        self.position = 0
        self._process = process
        self._tell = tell
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder("replace") for name in ("stdout", "stderr")}
        process.forward_output(self._take)

    def tail(self, lines: int) -> str:
        """Give the last lines."""
        return self._process.log_tail(lines)

    def _take(self, stream: str, data: bytes) -> None:
        self.position += len(data)
        text = self._decoders[stream].decode(data)
        if text:
            content = {"stream": stream, "text": text, "position": self.position}
            self._tell("output", {"kernel": self.number, **content})
