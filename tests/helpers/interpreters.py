"""Other Pythons of this machine: the oldest that the nanny must run with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["pythons_3_9"]


def pythons_3_9() -> list[str]:
    """Give each Python 3.9 that is there and starts: on PATH, or pyenv's, active or not."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = []
    for python in [shutil.which("python3.9"), *map(str, pyenv.glob("3.9.*/bin/python3.9"))]:
        if python is None:
            continue
        # pyenv's shims are there even when they lead nowhere.
        command = [python, "-c", "import sys; print(sys.version_info[:2])"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.stdout.strip() == "(3, 9)":
            found.append(python)
    return found
