"""What is read from a journal: stretches of it that are there, and stretches that are not."""

from __future__ import annotations

import threading
from typing import NamedTuple

from ...protocol import Buffer

__all__ = ["Delivery", "Gap", "Losses"]


class Delivery(NamedTuple):
    """Records that follow each other, ready to be sent."""

    first: int
    last: int
    #: One frame of several packed records; or, of a large one, its head with the table, then the
    #: message's frames.
    frames: list[Buffer]
    #: Bytes of all frames.
    size: int


class Gap(NamedTuple):
    """Records that cannot be had any more."""

    first: int
    last: int
    #: What they had in bytes, as far as that is known.
    bytes: int


class Losses:
    """Counts what a journal has lost, and remembers roughly where; for several threads.

    Attributes:
        messages: how many records.
        bytes: their size.
    """

    #: Stretches that are told apart.  When there are more, neighbours become one.
    _MOST = 512

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self._stretches: list[Gap] = []
        self._lock = threading.Lock()

    def add(self, gap: Gap, messages: int) -> None:
        """Count a stretch, of which so many records had not been lost before."""
        with self._lock:
            self.messages += messages
            self.bytes += gap.bytes
            stretches = [*self._stretches, gap]
            if len(stretches) > self._MOST:
                stretches.sort()
                stretches = [
                    Gap(one.first, max(one.last, other.last), one.bytes + other.bytes)
                    for one, other in zip(stretches[::2], stretches[1::2])
                ] + stretches[len(stretches) & ~1 :]
            # Replaced, not changed: another thread may be adding up.
            self._stretches = stretches

    def between(self, first: int, last: int) -> int:
        """Estimate the bytes lost of the records with these numbers and between them."""
        total = 0
        for gap in self._stretches:
            common = min(gap.last, last) - max(gap.first, first) + 1
            if common > 0:
                total += gap.bytes * common // (gap.last - gap.first + 1)
        return total
