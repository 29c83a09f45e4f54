"""Finding the connection file of a kernel that runs."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from kernel_mgmt import ConnectionInfo
from kernel_mgmt.endpoints import accepts
from kernel_mgmt.errors import ConnectionFileError

__all__ = ["check_that_it_listens", "find_connection_file"]

#: How long a connection may take, in seconds: the kernel may be on another machine.
_PATIENCE = 5.0


def find_connection_file(name: str) -> Path:
    """Find a connection file as ``jupyter console --existing`` does.

    Args:
        name: a path, or in Jupyter's runtime directory a file's name, a part of it, or a pattern
            with ``*``; of several the newest is meant.

    Raises:
        ConnectionFileError: there is none.
    """
    if os.path.exists(name) or os.path.basename(name) != name:
        return Path(name)
    from jupyter_core.paths import jupyter_runtime_dir

    directory = Path(jupyter_runtime_dir())
    if name and (directory / name).exists():
        return directory / name
    pattern = name if any(character in name for character in "*?[") else f"*{glob.escape(name)}*"
    found = [path for path in directory.glob("kernel-*.json") if path.match(pattern)]
    if not found:
        raise ConnectionFileError(
            f"No kernel's connection file has a name like {name!r} in {str(directory)!r}, and there "
            "is no such path; has the kernel ended?"
        )
    return max(found, key=_age)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def check_that_it_listens(info: ConnectionInfo, path: Path) -> None:
    """Tell a file that a kernel has left behind from one of a kernel that runs.

    Raises:
        ConnectionFileError: nobody listens.
    """
    if not accepts(info, "shell", _PATIENCE):
        raise ConnectionFileError(
            f"No kernel listens where {str(path)!r} says; it has ended, is only just starting, or "
            "runs on another machine.",
            path=str(path),
        )
