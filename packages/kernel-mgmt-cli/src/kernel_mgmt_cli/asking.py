"""Questions to the user: the running code's, and a provider's."""

from __future__ import annotations

import getpass
import os
import sys
from typing import BinaryIO

from kernel_mgmt import Prompt

from .output import write_text

__all__ = ["answer_code", "answer_provider", "has_terminal"]

# The terminal, wherever the standard streams go.
if sys.platform == "win32":
    _KEYBOARD, _SCREEN = "CONIN$", "CONOUT$"
else:
    _KEYBOARD = _SCREEN = "/dev/tty"


def answer_code(prompt: Prompt, *, no_input: bool) -> str:
    """Answer a question of the running code as Python's ``input`` and ``getpass`` would.

    Args:
        prompt: the question.
        no_input: whether there is nothing to read: the code itself came from standard input.

    Raises:
        EOFError: there is no (more) input.
    """
    if no_input or sys.stdin is None:
        raise EOFError
    if prompt.secret and has_terminal():
        return getpass.getpass(prompt.message)
    # Where the user sees it, and not in the file that the output goes to.
    visible = sys.stdout is not None and sys.stdout.isatty()
    write_text("stdout" if visible else "stderr", prompt.message)
    # Past the text layer: no byte of the input shall end the command.
    return _read_line(sys.stdin.buffer, sys.stdin.encoding)


def answer_provider(prompt: Prompt) -> str:
    """Answer a question of a provider on the terminal, wherever standard input comes from.

    Raises:
        EOFError: Ctrl-D was pressed.
    """
    message = f"{prompt.message.rstrip()} "
    if prompt.secret:
        return getpass.getpass(message)
    with open(_SCREEN, "wb", buffering=0) as screen:
        screen.write(message.encode())
    with open(_KEYBOARD, "rb") as keyboard:
        return _read_line(keyboard, "utf-8")


def has_terminal() -> bool:
    """Tell whether there is a terminal to ask on, wherever the standard streams go."""
    try:
        os.close(os.open(_KEYBOARD, os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


def _read_line(file: BinaryIO, encoding: str) -> str:
    line = file.readline()
    if not line:
        raise EOFError
    return line.decode(encoding, "replace").rstrip("\r\n")
