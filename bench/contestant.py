"""What a contestant can be asked to do; each lives in a worker process of its own."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

import psutil


class Flood(TypedDict):
    """How a burst of messages arrived: the clock runs from the first to the last."""

    seconds: float
    received: int


class Footprint(TypedDict):
    """What one further client costs."""

    threads: float
    descriptors: float


class Contestant(Protocol):
    """The tasks; a contestant may leave out those that no row asks it for."""

    def launch(self, count: int) -> float:
        """Launch ipykernels at once; seconds until all are ready. Stops them off the clock."""

    def attach(self, info: dict[str, Any], count: int) -> list[float]:
        """Attach to a live kernel several times, one after another; seconds until ready."""

    def connect(self, info: dict[str, Any]) -> None:
        """Make the client for the tasks below; returns when it is ready."""

    def round_trips(self, count: int) -> list[float]:
        """Run empty cells one after another; seconds until reply and idle of each."""

    def flood(self, count: int, *, read: bool) -> Flood:
        """Have messages of 200 bytes sent in a burst, and read their text or only take them."""

    def prepare_payload(self, size: int) -> None:
        """Make the buffer for :meth:`echo`."""

    def echo(self) -> float:
        """Send the buffer to the kernel's comm and have it back; seconds."""

    def encode_rate(self, count: int) -> float:
        """Serialise and sign ready-made execute_requests; messages per second."""

    def make_rate(self, count: int) -> float:
        """Make execute_requests, headers and all, serialise and sign them; per second."""

    def decode_rate(self, count: int, *, read: bool) -> float:
        """Verify and deserialise stream messages, with or without their content; per second."""

    def footprint(self, info: dict[str, Any], count: int, *, used: bool) -> Footprint:
        """Make clients beyond the first, with all five channels in use or only made ready."""

    def close(self) -> None:
        """Let go of everything."""


def peak_memory() -> int:
    """Give the most memory that this process ever had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def threads_and_descriptors() -> tuple[int, int]:
    """Give how many of each this process has, once connections under way have settled."""
    time.sleep(0.5)
    process = psutil.Process()
    return process.num_threads(), process.num_fds()


def per_client(before: tuple[int, int], after: tuple[int, int], count: int) -> Footprint:
    """Give the difference of two counts, per client."""
    return {
        "threads": (after[0] - before[0]) / count,
        "descriptors": (after[1] - before[1]) / count,
    }


def rate(function: Callable[[Any], object], items: list[Any]) -> float:
    """Call a function on each item; calls per second."""
    started = time.perf_counter()
    for item in items:
        function(item)
    return len(items) / (time.perf_counter() - started)
