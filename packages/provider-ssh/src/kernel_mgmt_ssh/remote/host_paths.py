"""Where things are on this host: home, Jupyter's directories, and room for sockets.

Source: Jupyter's documentation, *Common Directories and File Locations*.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import tempfile

from .failing import AgentError

__all__ = [
    "FULL",
    "check_room",
    "data_dir",
    "expand",
    "home",
    "is_full",
    "kernelspec_dirs",
    "records_dir",
    "runtime_dir",
    "socket_base",
]

#: Enough to need a block of its own on any file system, in bytes.
_PROBE_SIZE = 4096

#: Paths of sockets may have 103 bytes on macOS, and what the nanny puts below needs some.
_LONGEST_BASE = 72

#: What an operating system says when a disk is full.
FULL = {errno.ENOSPC, errno.EDQUOT}


def home() -> str:
    """Give the home directory."""
    return os.path.expanduser("~")


def expand(path: str) -> str:
    """Give an absolute path: ``~`` filled in, a relative one below the home directory."""
    return os.path.join(home(), os.path.expanduser(path))


def data_dir() -> str:
    """Give Jupyter's data directory of this user."""
    given = os.environ.get("JUPYTER_DATA_DIR")
    if given:
        return os.path.abspath(given)
    if sys.platform == "darwin":
        return os.path.join(home(), "Library", "Jupyter")
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(home(), ".local", "share")
    return os.path.join(base, "jupyter")


def runtime_dir() -> str:
    """Give Jupyter's runtime directory of this user."""
    given = os.environ.get("JUPYTER_RUNTIME_DIR")
    return os.path.abspath(given) if given else os.path.join(data_dir(), "runtime")


def records_dir() -> str:
    """Give where kernel-mgmt keeps its records."""
    return os.path.join(data_dir(), "kernel-mgmt")


def kernelspec_dirs(prefixes: list[str]) -> list[str]:
    """Give the directories that hold kernelspecs, in Jupyter's order.

    Args:
        prefixes: of Pythons, whose own kernelspecs come after the user's.
    """
    given = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path]
    shares = [os.path.join(prefix, "share", "jupyter") for prefix in prefixes]
    system = ["/usr/local/share/jupyter", "/usr/share/jupyter"]
    places = [path for path in given if os.path.isabs(path)] + [data_dir(), *shares, *system]
    return [os.path.join(path, "kernels") for path in dict.fromkeys(places)]


def socket_base() -> str:
    """Give the directory in which private directories for sockets are made, as the nanny chooses.

    Not XDG_RUNTIME_DIR: that goes with the user's last session, and kernels outlive it.

    Raises:
        AgentError: there is none that can be written to.
    """
    tempfile.tempdir = None  # what had room once may have none by now
    candidates = ["/tmp"]  # noqa: S108 - what is made there is private
    with contextlib.suppress(FileNotFoundError):  # it tried to write in each
        candidates.insert(0, tempfile.gettempdir())
    for base in map(os.path.abspath, candidates):
        if os.access(base, os.W_OK | os.X_OK) and len(os.fsencode(base)) <= _LONGEST_BASE:
            return base
    raise AgentError(
        "The host has no directory for temporary files that can be written to.",
        kind="no-space",
        advice="Free some space in /tmp there, or set TMPDIR to a directory with room.",
    )


def check_room(directory: str, what: str) -> None:
    """Make a directory if need be, and see that files can be written there.

    Args:
        directory: its path.
        what: what it is for, for the error.

    Raises:
        AgentError: it cannot be made, or no file can be written there.
    """
    probe = os.path.join(directory, f".km-{secrets.token_hex(4)}")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, bytes(_PROBE_SIZE))
        finally:
            os.close(descriptor)
            os.unlink(probe)
    except OSError as error:
        raise _no_room(directory, what, error) from error


def _no_room(directory: str, what: str, error: OSError) -> AgentError:
    if is_full(error):
        return AgentError(
            f"The host's disk has no room left in {directory!r}, {what}: {error.strerror}.",
            kind="no-space",
            advice="Free some space there.",
        )
    return AgentError(
        f"The host's directory {directory!r}, {what}, cannot be written to: {error.strerror}.",
        kind="no-space",
        advice="Make it writable there, or set JUPYTER_RUNTIME_DIR, JUPYTER_DATA_DIR and TMPDIR "
        "for that host.",
    )


def is_full(error: OSError) -> bool:
    """Tell whether an error is about the space that is left."""
    return error.errno in FULL
