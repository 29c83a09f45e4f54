"""What goes wrong on the host, in the form in which it travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["AgentError"]


class AgentError(Exception):
    """A request cannot be done; the fields are those of ``kernel_mgmt_ssh.errors.SshError``.

    Args:
        cause: why, one sentence.
        kind: one word for programs.
        advice: what to do about it, one sentence; may be empty.
        phase: of the launch.
        log_tail: the last lines that a process wrote.
        exit_status: how that ended.
    """

    def __init__(
        self,
        cause: str,
        *,
        kind: str,
        advice: str = "",
        phase: str = "start",
        log_tail: str = "",
        exit_status: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(cause)
        self.kind = kind
        self._content = {
            "cause": cause,
            "kind": kind,
            "advice": advice,
            "phase": phase,
            "log_tail": log_tail,
            "exit_status": None if exit_status is None else dict(exit_status),
        }

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form."""
        return dict(self._content)
