"""Watching and stopping a kernel: the interface that every place a kernel can live implements."""

from __future__ import annotations

import signal as _signal
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType
    from typing import Self

    from .link import Link

__all__ = ["ExitStatus", "KernelManager"]


@dataclass(frozen=True)
class ExitStatus:
    """How a kernel's process ended.

    Attributes:
        code: its exit code; None when a signal ended it, or nobody knows.
        signal: the number of the signal that ended it.
        reason: what else is known, such as ``out of memory: limit 512 MiB``.
    """

    code: int | None = None
    signal: int | None = None
    reason: str = ""

    @classmethod
    def from_returncode(cls, returncode: int) -> ExitStatus:
        """Read a return code of :mod:`subprocess`, which is negative for signals."""
        if returncode < 0:
            return cls(signal=-returncode)
        return cls(code=returncode)

    @classmethod
    def from_dict(cls, content: object) -> ExitStatus:
        """Read what :meth:`to_dict` gave; what makes no sense in it counts as not known."""
        if not isinstance(content, dict):
            return cls()
        code, number, reason = (content.get(name) for name in ("code", "signal", "reason"))
        return cls(
            code if type(code) is int else None,
            number if type(number) is int else None,
            reason if isinstance(reason, str) else "",
        )

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form."""
        return {"code": self.code, "signal": self.signal, "reason": self.reason}

    def __str__(self) -> str:
        if self.signal is not None:
            text = f"killed by {_signal_name(self.signal)}"
        elif self.code is not None:
            text = f"exit code {self.code}"
        else:
            text = "exit status unknown"
        return f"{text} ({self.reason})" if self.reason else text


def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class KernelManager(ABC):
    """Watches and stops one kernel that was launched already.

    A manager never launches and never sends messages.  Every method is safe to call twice, on a
    dead kernel, and to cancel.  As an asynchronous context manager it kills the kernel and
    cleans up at the end.
    """

    kernel_id: str

    @abstractmethod
    async def is_alive(self) -> bool:
        """Tell whether the kernel's process exists; not whether it answers."""

    @abstractmethod
    async def wait(self) -> ExitStatus:
        """Wait until the kernel has ended, at once when it has; bound it with asyncio.timeout."""

    @abstractmethod
    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and its children; nothing happens to a dead kernel.

        Raises:
            ValueError: the kernel's system has no such signal: Windows has SIGINT and SIGTERM.
        """

    async def interrupt(self) -> None:
        """Interrupt what the kernel runs: SIGINT, or the platform's event."""
        await self.signal(_signal.SIGINT)

    async def terminate(self) -> None:
        """Ask the kernel's process to end: SIGTERM."""
        await self.signal(_signal.SIGTERM)

    @abstractmethod
    async def kill(self) -> None:
        """End the kernel and its children by force; returns when they are gone."""

    @abstractmethod
    async def cleanup(self) -> None:
        """Remove what the launch created: files, sockets, containers, left-over children.

        Call it when the kernel has ended; a kernel that still runs is killed first.
        """

    async def log_tail(self, lines: int = 50) -> str:
        """Give the last lines of the kernel's own output, empty when it is not captured."""
        return ""

    @property
    def link(self) -> Link | None:
        """The connection by which a kernel on another machine is reached; None for one that is here.

        When it is lost clients wait until it is back.  So do :meth:`wait` and :meth:`next_kernel`,
        without limit; the other methods do so for some seconds, and then raise ``ConnectionLost``.
        """
        return None

    @property
    def kernel_number(self) -> int:
        """Which of its nanny's kernels this is about, from 1; 0 where that is not known."""
        return 0

    @property
    def restarting(self) -> bool:
        """Whether the kernel that :meth:`wait` told the end of was ended to be started again."""
        return False

    async def next_kernel(self) -> bool:
        """Wait until another kernel answers at the same address, in place of one that has ended.

        Where something beside this process starts kernels again, as a nanny does, clients go on
        with the new one.

        Returns:
            Whether there is one, which this manager now manages; False when none will come.
        """
        return False

    def followed_by(self, task: asyncio.Task[None]) -> None:  # noqa: B027 - most need not know
        """Take note of a task that awaits :meth:`wait` and :meth:`next_kernel` in turn.

        It goes from kernel to kernel, as each client's does.  A manager that can restart its kernel
        has done so when all these tasks wait for the end of the new one.
        """

    @property
    def lease_ends(self) -> float | None:
        """When ``collect_dead`` is to end the kernel, in seconds since the epoch; None for never.

        For kernels that nothing else ends in time: a nanny keeps its lease itself.
        """
        return None

    def record(self) -> dict[str, Any] | None:
        """Give, as JSON, what ``attach`` in another process needs; None when it cannot be."""
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.kill()
        await self.cleanup()
