"""The kernel's output, byte for byte."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from kernel_mgmt import Message
from kernel_mgmt.output import output_text

from .errors import CODE_FAILED, INTERRUPTED, KERNEL_MGMT_FAILED, CommandError, wants_colour

__all__ = ["OutputWriter", "without_colours", "write_text"]

# Colours and cursor movements (CSI), and titles and links (OSC).
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")

# IPython says this of each sys.exit, which is for people at its own prompt.
_EXIT_WARNING = re.compile(r"[^\n]*UserWarning: To exit: use[^\n]*\n(?:  warn\([^\n]*\n)?")

#: What ``str`` makes of the arguments of SystemExit that are no numbers and yet mean one.
_EXIT_WORDS = {"": 0, "None": 0, "False": 0, "True": 1}


class OutputWriter:
    """Writes iopub messages to this process's standard output and error.

    Streams and results are written as the kernel sent them.  Tracebacks lose their colours where
    there is no terminal to show them.
    """

    def __init__(self) -> None:
        self._error_shown = False
        self._exiting = False

    def write(self, message: Message) -> None:
        """Write a message, if it is one that shows something.

        Raises:
            BrokenPipeError: nobody reads the output any more.
            CommandError: it cannot be written.
        """
        if message.msg_type == "error":
            self._write_error(message.content, output_text(message)[1])
            return
        stream, text = output_text(message)
        if self._exiting and stream == "stderr":
            text = _EXIT_WARNING.sub("", text)
        write_text(stream, text)

    def _write_error(self, content: Mapping[str, Any], text: str) -> None:
        self._error_shown = True
        if content.get("ename") == "SystemExit":
            # Not an error but a wish, which the exit code fulfils.
            self._exiting = True
            if _exit_code(content) is None:
                write_text("stderr", f"{content.get('evalue')}\n")
            return
        write_text("stderr", text if wants_colour(sys.stderr) else without_colours(text))

    def finish(self, reply: Message, *, interrupted: bool = False) -> int:
        """Look at the reply, after all output.

        Args:
            reply: the kernel's.
            interrupted: whether an error is what Ctrl-C has caused.

        Returns:
            The exit code: 0, what the code gave to ``sys.exit``, 130 for Ctrl-C, or 1.
        """
        content = reply.content
        if content.get("status") == "ok":
            return _asked_exit(content)
        if not self._error_shown and content.get("ename"):
            traceback = content.get("traceback") or [f"{content['ename']}: {content.get('evalue')}"]
            self._write_error(content, "\n".join(traceback) + "\n")
        if content.get("ename") == "SystemExit":
            code = _exit_code(content)
            return CODE_FAILED if code is None else code
        return INTERRUPTED if interrupted else CODE_FAILED


def _exit_code(content: Mapping[str, Any]) -> int | None:
    """Read the argument of Python's SystemExit; None for one that is a message."""
    value = str(content.get("evalue", ""))
    if value in _EXIT_WORDS:
        return _EXIT_WORDS[value]
    try:
        return int(value) & 0xFF
    except ValueError:
        return None


def _asked_exit(content: Mapping[str, Any]) -> int:
    """Read IPython's own ``exit(4)``, which is no exception; it takes the 4 for something else."""
    for payload in content.get("payload") or ():
        code = payload.get("keepkernel") if payload.get("source") == "ask_exit" else None
        if isinstance(code, int):
            return code & 0xFF
    return 0


def without_colours(text: str) -> str:
    """Give text without its escape sequences."""
    return _ANSI.sub("", text)


def write_text(stream: str, text: str) -> None:
    """Write text to ``stdout`` or ``stderr`` at once.

    Raises:
        BrokenPipeError: nobody reads it any more.
        CommandError: it cannot be written.
    """
    file: TextIO | None = sys.stderr if stream == "stderr" else sys.stdout
    if file is None or not text:  # None: it was closed before we began
        return
    try:
        # Past the text layer, which would refuse what the terminal's encoding does not have.
        file.buffer.write(text.encode(file.encoding, "backslashreplace"))
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(
            f"cannot write the kernel's output to {file.name}: {error.strerror}; check what is "
            "there, and whether it has room.",
            KERNEL_MGMT_FAILED,
        ) from error
