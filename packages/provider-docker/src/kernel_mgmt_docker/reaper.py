"""A second process that removes a container when the one that it belongs to was killed.

It is forked off before that one has threads, and waits at a pipe, which the system closes whatever the
other process died of.  It is in a session of its own, so that what kills the other's group spares it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time

from docker.errors import DockerException, NotFound

from .containers import remove
from .engine import Engine
from .errors import DockerProblem

__all__ = ["Reaper"]

logger = logging.getLogger("kernel_mgmt.docker")

#: How long an engine that does not answer is tried, in seconds, and how often.
_PATIENCE = 600.0
_PAUSE = 0.5
#: How long a container that is not there may still come, in seconds: its maker was killed in the middle
#: of asking for it.
_LATE = 3.0


class Reaper:
    """The living process's end of the pipe.

    Args:
        host: the engine, as in ``DOCKER_HOST``.
    """

    def __init__(self, host: str) -> None:
        self._pipe, self._pid = _fork(host)
        self._expects = False

    def expect(self, name: str) -> None:
        """Have a container removed when this process ends.

        Args:
            name: of the container, which need not be there yet.
        """
        self._expects = True
        self._say(name)

    def forget(self) -> None:
        """Have nothing removed: the container is gone."""
        self._expects = False
        self._say("")

    def close(self) -> None:
        """Let it do what is left to be done, and end."""
        os.close(self._pipe)
        if not self._expects:  # else it may take long
            with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
                os.waitpid(self._pid, 0)

    def _say(self, line: str) -> None:
        try:
            os.write(self._pipe, line.encode() + b"\n")
        except OSError:
            logger.warning("Somebody has killed the process that would remove the container.")


def _fork(host: str) -> tuple[int, int]:
    """Make the reaper; gives the write end of its pipe, and its process id."""
    if sys.platform == "win32":
        raise NotImplementedError(
            "There are no nannies on Windows, and so nothing to stand in for."
        )
    else:  # noqa: RET506 - the type checker wants to see it
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid:
            os.close(read_end)
            return write_end, pid
        try:
            os.close(write_end)
            os.setsid()
            os.chdir("/")
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            _let_go_of_streams()
            _wait_and_remove(read_end, host)
        finally:
            os._exit(0)


def _let_go_of_streams() -> None:
    # Who waits for the end of the other's output must not wait for us.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _wait_and_remove(pipe: int, host: str) -> None:
    name = ""
    with open(pipe, "rb") as lines:
        for line in lines:
            name = line.decode().strip()
    if name:
        remove_in_time(host, name)


def remove_in_time(host: str, name: str) -> bool:
    """Remove a container that may be about to be made, by an engine that may be down; tells whether.

    Args:
        host: the engine.
        name: of the container.
    """
    deadline = time.monotonic() + _PATIENCE
    late = time.monotonic() + _LATE
    while time.monotonic() < deadline:
        try:
            if _remove(host, name) or time.monotonic() >= late:
                return True
            time.sleep(0.05)
        except (DockerException, DockerProblem, OSError):
            time.sleep(_PAUSE)
            late = time.monotonic() + _LATE
    return False


def _remove(host: str, name: str) -> bool:
    """Remove a container; tells whether it was there."""
    engine = Engine.connect_now(host)
    try:
        engine.api.inspect_container(name)
        remove(engine.api, name)
    except NotFound:
        return False
    finally:
        engine.close()
    return True
