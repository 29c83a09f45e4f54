"""What a stand-in is told to launch, and how it tells that this failed.

A stand-in is what a nanny takes for the kernel when that is in a container: see :mod:`.stand_in`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kernel_mgmt import ExitStatus, LaunchError

__all__ = ["VARIABLE", "Order", "failure_in", "told"]

#: The variable of the stand-in's environment that has the order.  It is neither on a command line, which
#: all users can read, nor in a file, which would be left when the machine goes down.
VARIABLE = "KERNEL_MGMT_DOCKER_ORDER"

#: The longest variable that Linux passes on, in bytes (execve(2), "Limits on size of arguments").
_LONGEST = 120_000

#: A failure is one line of a stand-in's output: this, and JSON.
_MARK = "kernel-mgmt-docker cannot launch: "
#: How much of a container's own output such a line has, in characters.
_LONGEST_TAIL = 20_000


@dataclass(frozen=True)
class Order:
    """A container to be launched.

    Attributes:
        kernel_id: the kernel's id.
        type_id: the id of its type.
        kernel: its table, as :meth:`.config.DockerKernel.to_dict` gives it.
        engine: where the engine listens, as in ``DOCKER_HOST``.
        whose: the owner that its labels name.
        name: what people call the kernel.
        cwd: the working directory in the container; empty for that of the table.
        env: variables of this launch; None removes one.
    """

    kernel_id: str
    type_id: str
    kernel: Mapping[str, Any]
    engine: str
    whose: str = ""
    name: str = ""
    cwd: str = ""
    # No repr: tokens are found in such places.
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    def to_text(self) -> str:
        """Give the value of :data:`VARIABLE`.

        Raises:
            LaunchError: it is longer than a variable can be, or has no such form (phase ``resolve``).
        """
        try:
            text = json.dumps(asdict(self))
        except (TypeError, ValueError) as error:
            raise LaunchError(
                f"What is to be launched has no JSON form: {error}.", phase="resolve"
            ) from None
        if len(text) > _LONGEST:
            raise LaunchError(
                f"The kernel's table and env have {len(text):,} characters together, and a kernel with "
                f"a nanny may have {_LONGEST:,}.",
                phase="resolve",
                advice="Mount a file in place of the longest variable, or set 'journal' to false.",
            )
        return text

    @classmethod
    def from_text(cls, text: str) -> Order:
        """Read what :meth:`to_text` gave."""
        return cls(**json.loads(text))


# -- how it failed ----------------------------------------------------------------------------------


def told(error: LaunchError) -> str:
    """Give a failed launch as a line of the stand-in's output."""
    status = error.exit_status
    content = {
        "cause": error.cause,
        "phase": error.phase,
        "advice": error.advice,
        "exit_status": None if status is None else status.to_dict(),
        "log_tail": error.log_tail[-_LONGEST_TAIL:],
    }
    return _MARK + json.dumps(content)


def failure_in(log: str) -> LaunchError | None:
    """Give the failure that a stand-in has told last; None when it has told none."""
    for line in reversed(log.splitlines()):
        _, mark, text = line.partition(_MARK)
        if mark:
            try:
                return _failure(json.loads(text))
            except (ValueError, TypeError, KeyError, AttributeError):  # the container's own words
                continue
    return None


def _failure(content: Mapping[str, Any]) -> LaunchError:
    status = content["exit_status"]
    return LaunchError(
        str(content["cause"]),
        phase=str(content["phase"]),
        advice=str(content["advice"]),
        exit_status=None if status is None else ExitStatus.from_dict(status),
        log_tail=str(content["log_tail"]),
    )
