"""What goes wrong with an engine, an image or a container: one class, with a word for programs."""

from __future__ import annotations

from kernel_mgmt import ExitStatus, KernelMgmtError, LaunchError

__all__ = ["DockerProblem"]


class DockerProblem(KernelMgmtError):
    """Something that a kernel in a container needs cannot be had.

    Args:
        cause: why, one sentence.
        kind: which of the things that can go wrong it is, one word for programs: ``engine-down``,
            ``no-permission``, ``bad-host``, ``timeout``, ``no-image``, ``registry``, ``refused``,
            ``no-program``, ``no-ipykernel``, ``exited``, ``gone``, ….
        advice: what to do about it, one sentence; may be empty.
        phase: of the launch: ``resolve``, ``connect``, ``pull`` or ``start``.
        log_tail: the last lines that the container wrote.
        exit_status: how the container ended, when it did.
    """

    def __init__(
        self,
        cause: str,
        *,
        kind: str,
        advice: str = "",
        phase: str = "connect",
        log_tail: str = "",
        exit_status: ExitStatus | None = None,
    ) -> None:
        super().__init__(f"{cause} {advice}".rstrip())
        self.cause = cause
        self.kind = kind
        self.advice = advice
        self.phase = phase
        self.log_tail = log_tail
        self.exit_status = exit_status

    def to_launch_error(self) -> LaunchError:
        """Give it as the error of a launch."""
        return LaunchError(
            self.cause,
            phase=self.phase,
            advice=self.advice,
            exit_status=self.exit_status,
            log_tail=self.log_tail,
        )
