"""Other Pythons of this machine: the oldest that the nanny must run with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["pythons", "pythons_3_9"]


def pythons_3_9() -> list[str]:
    """Give each Python 3.9 that is there and starts: on PATH, or pyenv's, active or not."""
    return pythons(3, 9)


def pythons(major: int, minor: int) -> list[str]:
    """Give each Python of a version that is there and starts: on PATH, or pyenv's, active or not."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    version = f"{major}.{minor}"
    found = []
    installed = map(str, pyenv.glob(f"{version}.*/bin/python{version}"))
    for python in [shutil.which(f"python{version}"), *installed]:
        if python is None:
            continue
        # pyenv's shims are there even when they lead nowhere.
        command = [python, "-c", "import sys; print(tuple(sys.version_info[:2]))"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.stdout.strip() == str((major, minor)):
            found.append(python)
    return found
