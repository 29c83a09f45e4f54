"""``kernel-mgmt start``: a kernel that runs on."""

from __future__ import annotations

import functools
import signal
import sys
from typing import Any

from kernel_mgmt import KernelRecord, RestartPolicy
from kernel_mgmt.detached import start_detached

from ..errors import say
from ..followed import FollowedWork
from ..progress import LaunchDisplay
from ..signals import EndedBySignal, Signals
from ..tables import write_line

__all__ = ["start"]


def start(type_id: str, *, restarts: bool, **options: Any) -> None:
    """Start a kernel that outlives this process, and print its id.

    Args:
        type_id: the kernel type.
        restarts: whether it is started again when it dies.
        options: further arguments of :func:`kernel_mgmt.start_detached`.

    Raises:
        KernelMgmtError: it could not be started; nothing was left behind.
        EndedBySignal: a signal ended the launch; likewise.
    """
    policy = RestartPolicy() if restarts else None
    with Signals() as signals, LaunchDisplay() as display:
        work: FollowedWork[KernelRecord] = FollowedWork(signals, display)
        launch = functools.partial(
            start_detached, type_id, restart_policy=policy, **work.launch_hooks(), **options
        )
        work.start(launch)
        try:
            record = work.follow()
        except BaseException as error:
            started = work.stop()
            if started is None:
                if isinstance(error, EndedBySignal) and error.signum == signal.SIGINT:
                    say("interrupted", "the launch was given up.")
                raise
            record = started  # the signal came too late
    write_line(record.kernel_id)
    if sys.stdout is not None and sys.stdout.isatty():
        known_as = record.name or record.kernel_id
        say(
            "hint",
            f"'kernel-mgmt attach {known_as}' talks to it, 'kernel-mgmt stop {known_as}' ends it.",
        )
