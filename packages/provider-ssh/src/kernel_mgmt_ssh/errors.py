"""What goes wrong between this machine and a host, in a form that crosses processes.

It is raised in the process that holds the connection and by the agent on the host, travels as JSON,
and becomes a :class:`~kernel_mgmt.errors.LaunchError` where a kernel is launched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernel_mgmt import ExitStatus, LaunchError

__all__ = ["SshError"]


class SshError(Exception):
    """A step on the way to a kernel on another machine failed.

    Args:
        cause: why, one sentence.
        kind: which of the things that can go wrong it is, one word for programs: ``unknown-host``,
            ``unreachable``, ``unknown-host-key``, ``changed-host-key``, ``authentication``, ….
        advice: what to do about it, one sentence; may be empty.
        phase: of the launch: ``resolve``, ``connect`` or ``start``.
        log_tail: the last lines that a process on the host wrote.
        exit_status: how that ended, as :meth:`kernel_mgmt.ExitStatus.to_dict` gives it.
    """

    def __init__(
        self,
        cause: str,
        *,
        kind: str,
        advice: str = "",
        phase: str = "connect",
        log_tail: str = "",
        exit_status: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.kind = kind
        self.advice = advice
        self.phase = phase
        self.log_tail = log_tail
        self.exit_status = exit_status

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form."""
        return {
            "cause": self.cause,
            "kind": self.kind,
            "advice": self.advice,
            "phase": self.phase,
            "log_tail": self.log_tail,
            "exit_status": None if self.exit_status is None else dict(self.exit_status),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SshError:
        """Read what :meth:`to_dict` gave; what is missing is left empty."""
        status = content.get("exit_status")
        return cls(
            str(content.get("cause", "It failed, and did not say why.")),
            kind=str(content.get("kind", "protocol")),
            advice=str(content.get("advice", "")),
            phase=str(content.get("phase", "connect")),
            log_tail=str(content.get("log_tail", "")),
            exit_status=status if isinstance(status, Mapping) else None,
        )

    def to_launch_error(self, host: str = "") -> LaunchError:
        """Give it as the error of a launch; what went wrong on the host itself names that."""
        status = self.exit_status
        there = f"On {host}: " if host and self.phase != "connect" else ""
        return LaunchError(
            f"{there}{self.cause}",
            phase=self.phase,
            advice=self.advice,
            exit_status=None if status is None else ExitStatus.from_dict(dict(status)),
            log_tail=self.log_tail,
        )
