"""How often, and how soon, a kernel that dies is started again: rules without clock or loop.

Shared by the restarter and the nanny, which runs on hosts that have nothing of ours: only the
standard library is imported.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["RestartHistory", "RestartPolicy"]


@dataclass(frozen=True)
class RestartPolicy:
    """When to start a kernel again that has died, and when to give up.

    The first restart comes at once, the second after ``backoff``, and each further one after twice
    the time of the one before it.

    Attributes:
        limit: how many deaths within the window are answered by a restart; one more is the end.
            0 for none.
        window: seconds after which a death is forgotten, counted while the kernel is up: a kernel
            that dies on each start reaches the limit however long each start takes.
        backoff: seconds to wait before the second restart.
        max_backoff: seconds to wait at most.

    Raises:
        ValueError: a value that makes no sense.
    """

    limit: int = 5
    window: float = 60.0
    backoff: float = 0.1
    max_backoff: float = 10.0

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"limit is {self.limit!r}; it must be 0 or more.")
        if not self.window > 0:  # nor NaN
            raise ValueError(f"window is {self.window!r}; it must be a positive number of seconds.")
        for name in ("backoff", "max_backoff"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; it must be seconds, 0 or more.")

    def wait_before(self, restart: int) -> float:
        """Give the seconds to wait before a restart.

        Args:
            restart: 0 for the first within the window.
        """
        if restart == 0:
            return 0.0
        # The exponent is bounded for the sake of float, long after the wait has reached its own.
        return min(self.backoff * 2.0 ** min(restart - 1, 1000), self.max_backoff)


class RestartHistory:
    """Remembers when one kernel died, and says what its policy makes of it.

    Times are seconds of any clock that never goes back.

    Args:
        policy: the rules.
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        #: How long the kernel was up in all, not counting since when it is up now.
        self._uptime = 0.0
        self._up_since: float | None = None
        #: The uptime at each death within the window.
        self._deaths: deque[float] = deque()

    def up(self, now: float) -> None:
        """Note that the kernel is up."""
        if self._up_since is None:
            self._up_since = now

    def died(self, now: float) -> float | None:
        """Note that the kernel died, or that its start failed.

        Returns:
            The seconds to wait before it is started again; None to give up.
        """
        if self._up_since is not None:
            self._uptime += now - self._up_since
            self._up_since = None
        while self._deaths and self._uptime - self._deaths[0] >= self._policy.window:
            self._deaths.popleft()
        if len(self._deaths) >= self._policy.limit:
            return None
        self._deaths.append(self._uptime)
        return self._policy.wait_before(len(self._deaths) - 1)

    def forget(self) -> None:
        """Forget all deaths, as after a restart that somebody asked for."""
        self._deaths.clear()
