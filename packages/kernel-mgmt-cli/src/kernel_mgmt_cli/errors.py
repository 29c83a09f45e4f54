"""Every error is a sentence on standard error and an exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable

from kernel_mgmt.errors import KernelDied, KernelMgmtError, KernelRestarted

__all__ = [
    "CODE_FAILED",
    "INTERRUPTED",
    "KERNEL_DIED",
    "KERNEL_MGMT_FAILED",
    "NOBODY_READS",
    "CommandError",
    "LogToUser",
    "report",
    "say",
    "wants_colour",
]

# The exit codes that are not the code's own. 125 is what env, timeout and docker use for their own
# failures, too; 128 and a signal's number is a shell's for that signal.
CODE_FAILED = 1
WRONG_USAGE = 2
KERNEL_MGMT_FAILED = 125
KERNEL_DIED = 126
INTERRUPTED = 130
NOBODY_READS = 141  # 128 + SIGPIPE

#: What core says to programmers, and what that is here.
_IN_OUR_WORDS = {
    "startup_timeout": "--timeout",
    "another cwd.": "another --cwd.",
    "Pass on_prompt=,": "Run the command in a terminal,",
    "on_prompt raised EOFError": "there was no answer",
}


class CommandError(Exception):
    """The command cannot do what it was asked to.

    Args:
        message: one sentence: what is wrong and what to do.
        exit_code: what the process ends with.
    """

    def __init__(self, message: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def report(error: Exception) -> int:
    """Tell the user of an error.

    Returns:
        The exit code for it.
    """
    verbose = logging.getLogger("kernel_mgmt").isEnabledFor(logging.DEBUG)
    if verbose and sys.stderr is not None:
        sys.stderr.write("".join(traceback.format_exception(error)))
    if isinstance(error, CommandError):
        say("error", str(error))
        return error.exit_code
    if isinstance(error, KernelMgmtError):
        say("error", _in_our_words(str(error)))
        died = isinstance(error, (KernelDied, KernelRestarted))
        return KERNEL_DIED if died else KERNEL_MGMT_FAILED
    what = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    say(
        "error",
        f"kernel-mgmt has a defect ({what}); run it as 'kernel-mgmt --verbose ...' to see the "
        "traceback, and report that.",
    )
    return KERNEL_MGMT_FAILED


def _in_our_words(message: str) -> str:
    first, newline, log_tail = message.partition("\n")
    for theirs, ours in _IN_OUR_WORDS.items():
        first = first.replace(theirs, ours)
    return first + newline + log_tail


def say(kind: str, message: str) -> None:
    """Write a line for the user to standard error.

    Args:
        kind: ``error``, ``warning``, ``hint`` and the like.
        message: for people; plain text.
    """
    if sys.stderr is None:  # it was closed
        return
    label = f"{kind}:"
    if wants_colour(sys.stderr):
        colour = {"error": 31, "warning": 33}.get(kind, 36)
        label = f"\x1b[1;{colour}m{label}\x1b[0m"
    with contextlib.suppress(OSError):  # the terminal was closed
        sys.stderr.write(f"{label} {message}\n")
        sys.stderr.flush()


class LogToUser(logging.Handler):
    """Writes log records as lines for the user.

    Args:
        verbose: with their time and origin, and with tracebacks.
    """

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        #: Where the lines go: to standard error, unless a command has its own way to show them.
        self.tell: Callable[[str, str], object] = say
        self._verbose = verbose
        self.setFormatter(logging.Formatter("%(relativeCreated)6.0f ms  %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        text = self.format(record) if self._verbose else record.getMessage()
        self.tell(record.levelname.lower(), text)


def wants_colour(stream: object) -> bool:
    """Tell whether a stream is a terminal whose user has nothing against colours."""
    isatty = getattr(stream, "isatty", None)
    return (
        isatty is not None
        and isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
