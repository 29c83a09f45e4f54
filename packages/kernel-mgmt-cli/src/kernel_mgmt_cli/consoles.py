"""The console, on systems that have it."""

from __future__ import annotations

import sys
from typing import Any

from .errors import CommandError

__all__ = ["open_console"]


def open_console(**options: Any) -> int:
    """Run a console until its user leaves; see :func:`kernel_mgmt_cli.console.run_console`.

    Raises:
        CommandError: there is none on Windows.
    """
    if sys.platform == "win32":
        raise CommandError(
            "there is no console on Windows yet; 'kernel-mgmt run' works there, and so does "
            "'jupyter console --existing'."
        )
    from .console import run_console

    return run_console(**options)
