"""Telling a process from another that had, or will have, the same number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["has_ended", "is_process", "process_identity"]


def process_identity(pid: int) -> str | None:
    """Give what no other process with this number has had or will have: when it started.

    Args:
        pid: the number of a process of this machine.

    Returns:
        A text that is only good for comparing; empty when there is such a process and the system
        does not tell when it started. None when there is none, or nothing but its exit status.
    """
    if not 0 < pid < 2**31:
        return None
    if sys.platform == "win32":
        from .windows import process_start

        return process_start(pid)
    if sys.platform == "linux":
        return _start_from_proc(pid)
    return _start_from_ps(pid)


def is_process(pid: int, identity: object) -> bool:
    """Tell whether a process still runs; in doubt it does.

    Args:
        pid: its number.
        identity: what :func:`process_identity` gave of it; anything else means not known.
    """
    present = process_identity(pid)
    if present is None:
        return False
    return not present or not identity or not isinstance(identity, str) or present == identity


def _start_from_proc(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # pid (command) state …; the command may hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.exists("/proc/self/stat") else _start_unknown(pid)
    except OSError:
        return _start_unknown(pid)
    # Of proc(5)'s fields number 3, the state, is the first one here, and starttime is 22.
    return None if has_ended(fields) else fields[19].decode()


def has_ended(fields: Sequence[bytes]) -> bool:
    """Tell of a process whether nothing of it runs any more.

    Its first thread may be a zombie while others are still dying, and hold its sockets open.

    Args:
        fields: those of ``/proc/PID/stat`` (proc(5)) from the third, the state, on.
    """
    state, threads = fields[0], fields[17]
    return state == b"X" or (state == b"Z" and int(threads) <= 1)


def _start_from_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    try:
        process = subprocess.run(command, env=environment, capture_output=True, check=False)
    except OSError:
        return _start_unknown(pid)
    state, _, started = process.stdout.decode("ascii", "replace").strip().partition(" ")
    return None if not state or state.startswith("Z") else " ".join(started.split())


def _start_unknown(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # somebody else's
        pass
    return ""
