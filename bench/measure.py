"""How repeated measurements are taken: interleaved, and summed up by their median."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleave(
    rounds: int, tasks: Mapping[str, Callable[[], T]], *, pause: float = 0
) -> dict[str, list[T]]:
    """Do every task once in each round, so that all of them meet the same disturbances.

    Each round begins with another task, so that none always follows the same one.

    Args:
        rounds: how often.
        tasks: by name.
        pause: seconds before each task, for what the one before has left to the system to do.

    Returns:
        What each task gave, in order.
    """
    results: dict[str, list[T]] = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            time.sleep(pause)
            results[name].append(tasks[name]())
    return results
