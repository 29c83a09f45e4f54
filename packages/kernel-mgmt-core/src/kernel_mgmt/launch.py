"""What the finder hands to a provider, and what it gets back."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

from .connection import ConnectionInfo
from .errors import KernelMgmtError, LaunchError
from .manager import KernelManager
from .restart_policy import RestartPolicy

__all__ = [
    "JOURNAL_LIMIT",
    "KernelProblem",
    "KernelRecord",
    "KernelType",
    "LaunchProgress",
    "LaunchRequest",
    "Launched",
    "NannyOptions",
    "ProgressHandler",
    "Prompt",
    "PromptHandler",
]

logger = logging.getLogger("kernel_mgmt")


@dataclass(frozen=True)
class KernelType:
    """A kind of kernel that a provider can launch.

    Attributes:
        name: unique within its provider.
        display_name: for people.
        language: the kernel's programming language, in lower case.
        interrupt_mode: ``signal`` or ``message``.
        resource_dir: a directory with the logos, when there is one.
        metadata: whatever else is known (a kernelspec's ``metadata``, an image's digest, …).
        provider: the provider's id; the finder fills it in.
    """

    name: str
    display_name: str = ""
    language: str = ""
    interrupt_mode: str = "signal"
    resource_dir: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    provider: str = ""

    @property
    def id(self) -> str:
        """What users launch it by: ``provider/name``."""
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True)
class KernelProblem:
    """What a find hook gives in place of a kernel type that cannot be offered.

    Attributes:
        name: the name that the type would have; empty when the problem is not one type's.
        message: what is wrong and what to do, one sentence.
    """

    name: str
    message: str


@dataclass(frozen=True)
class LaunchProgress:
    """How far a launch is.

    Attributes:
        phase: ``resolve``, ``connect``, ``pull``, ``queue``, ``start`` or ``ready``.
        message: for people, one line.
        fraction: how much of the phase is done, 0 to 1, when that can be told.
    """

    phase: str
    message: str = ""
    fraction: float | None = None


@dataclass(frozen=True)
class Prompt:
    """A question of a provider to its user.

    Attributes:
        message: for people, one line.
        secret: whether the answer must not be shown while it is typed.
    """

    message: str
    secret: bool = True


ProgressHandler = Callable[[LaunchProgress], object]
PromptHandler = Callable[[Prompt], Union[str, Awaitable[str]]]


#: How many bytes a nanny keeps on disk of what its kernel says, unless it is told otherwise.
JOURNAL_LIMIT = 256 * 2**20


@dataclass(frozen=True)
class NannyOptions:
    """How a nanny is to keep a kernel, which then outlives the process that launched it.

    Attributes:
        name: what people call this kernel, beside its id.
        restart_policy: when to start it again after it has died; None for never.
        lease: seconds after which the kernel is shut down, unless somebody renews the lease;
            None for no such limit.
        idle_timeout: seconds without any message or running code after which the kernel is shut
            down; None for no such limit.
        unattended_timeout: seconds without any client, after which the kernel is shut down, whatever
            it runs: nobody listens to its output or to the nanny's events, and nobody says
            anything; None for no such limit.
        journal_limit: how many bytes of what the kernel says are kept on disk, for clients that were
            away; 0 keeps the latest in memory alone, and None keeps nothing.

    Raises:
        ValueError: a limit that is no positive number of seconds, or of bytes.
    """

    name: str = ""
    restart_policy: RestartPolicy | None = field(default_factory=RestartPolicy)
    lease: float | None = None
    idle_timeout: float | None = None
    unattended_timeout: float | None = None
    journal_limit: int | None = JOURNAL_LIMIT

    def __post_init__(self) -> None:
        for limit in ("lease", "idle_timeout", "unattended_timeout"):
            seconds = getattr(self, limit)
            if seconds is not None and not 0 < seconds < math.inf:
                raise ValueError(
                    f"{limit} is {seconds!r}; it must be a positive number of seconds."
                )
        if self.journal_limit is not None and not 0 <= self.journal_limit < 2**63:
            raise ValueError(
                f"journal_limit is {self.journal_limit!r}; it must be a number of bytes."
            )


@dataclass(frozen=True)
class LaunchRequest:
    """All that a provider needs to launch one kernel; it grows fields over the years.

    Attributes:
        kernel_type: one of the types that the provider's find hook gave.
        kernel_id: a unique id for the new kernel.
        cwd: the kernel's working directory; the provider's default when None.
        env: environment variables to set for the kernel, beside those that it gets anyway;
            a value of None removes one.
        launch_params: parameters that only this provider understands.
        connection_info: the endpoints and the key that the kernel shall use; a provider that
            cannot use given ones raises :class:`LaunchError` with ``endpoints_refused=True``.
        nanny: the kernel shall outlive this process, kept by a nanny with these options; a provider
            that cannot do that raises :class:`LaunchError`. One that calls
            :func:`~kernel_mgmt.local.launch_local` can.
        on_progress: is told of each step.
        on_prompt: answers a :class:`Prompt`, at once or as an awaitable.
    """

    kernel_type: KernelType
    kernel_id: str
    cwd: Path | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)
    launch_params: Mapping[str, Any] = field(default_factory=dict)
    connection_info: ConnectionInfo | None = None
    nanny: NannyOptions | None = None
    on_progress: ProgressHandler | None = None
    on_prompt: PromptHandler | None = None

    def progress(self, phase: str, message: str = "", fraction: float | None = None) -> None:
        """Report a step to whoever asked for it; what they raise is logged."""
        if self.on_progress is None:
            return
        try:
            self.on_progress(LaunchProgress(phase, message, fraction))
        except Exception:
            logger.exception("A progress handler raised")

    def check_cwd(self) -> None:
        """Refuse a working directory that cannot be one on this machine.

        Raises:
            LaunchError: why it cannot (phase ``start``).
        """
        # Popen's own errors do not tell a directory from a command.
        cwd = self.cwd
        if cwd is None or (os.path.isdir(cwd) and os.access(cwd, os.X_OK)):
            return
        if not os.path.exists(cwd):
            reason = "does not exist"
        elif not os.path.isdir(cwd):
            reason = "is not a directory"
        else:
            reason = "may not be entered"
        raise LaunchError(
            f"The working directory {str(cwd)!r} {reason}.",
            phase="start",
            advice="Create it, or pass another cwd.",
        )

    async def prompt(self, message: str, *, secret: bool = True, phase: str = "connect") -> str:
        """Ask the user.

        Args:
            message: the question.
            secret: whether the answer must not be shown while it is typed.
            phase: what the launch is about, for the error.

        Raises:
            LaunchError: nobody is there to be asked, or there is no answer.
        """
        if self.on_prompt is None:
            raise LaunchError(
                f"{message!r} was asked, and nobody is there to answer.",
                phase=phase,
                advice="Pass on_prompt=, or set things up so that nothing needs to be asked.",
            )
        try:
            answer = self.on_prompt(Prompt(message, secret))
            if inspect.isawaitable(answer):
                answer = await answer
        except KernelMgmtError:
            raise
        except Exception as error:
            # Its text is left out: it may hold what was typed.
            raise LaunchError(
                f"{message!r} was asked, and on_prompt raised {type(error).__name__}.", phase=phase
            ) from error
        if not isinstance(answer, str):
            raise LaunchError(
                f"{message!r} was asked, and on_prompt gave no string.",
                phase=phase,
                advice="It must give the answer, or raise.",
            )
        return answer


class Launched(NamedTuple):
    """What a launch gives.

    Attributes:
        connection_info: how to reach the kernel, whose sockets accept connections.
        manager: watches and stops it; None when only messages can.
    """

    connection_info: ConnectionInfo
    manager: KernelManager | None


@dataclass(frozen=True)
class KernelRecord:
    """What is known of a running kernel, enough to find it again from another process.

    Attributes:
        kernel_id: the kernel's id.
        type_id: the id of its type, ``provider/name``.
        connection_info: how to reach it.
        manager: what its manager's ``record()`` gave; ``host`` in it is for people, where it runs.
        name: what people call it, beside its id; may be empty.
        started: when it was started first, in seconds since the epoch; None when nobody noted it.
        cwd: its working directory; empty when nobody noted it.
        machine: where it runs, as :mod:`kernel_mgmt.machine` tells machines apart; empty for a
            kernel that its provider reaches from any machine.
        connection_file: the file by which other clients find it; None when there is none.
    """

    kernel_id: str
    type_id: str
    connection_info: ConnectionInfo
    manager: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    started: float | None = None
    cwd: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    connection_file: Path | None = None

    @property
    def provider(self) -> str:
        """The id of the provider that launched it."""
        return self.type_id.partition("/")[0]
