"""A command in a terminal of its own, as a person has it in front of them.

with PseudoTerminal([sys.executable, "-m", "kernel_mgmt_cli", "list"]) as terminal:
    terminal.expect("native/python3")
    assert terminal.wait() == 0
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

__all__ = ["PseudoTerminal"]

# The first terminal that the leader of a session opens becomes its controlling one, which Ctrl-C
# and /dev/tty need. Done by a program of its own: a function between fork and exec is unsafe in a
# process with threads.
_LEADER = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execvp(sys.argv[1], sys.argv[1:])"


class PseudoTerminal:
    """Runs a command in a new pseudo-terminal.

    Args:
        argv: the command.
        extra_env: variables beside those of this process.
        cwd: its working directory.
        columns: how wide the terminal is.
        stdout: where standard output goes instead of the terminal.
        stdin: where standard input comes from instead of the terminal.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        extra_env: Mapping[str, str] | None = None,
        columns: int = 100,
        stdout: int | None = None,
        stdin: int | None = None,
    ) -> None:
        #: All that the terminal was sent, from the start.
        self.output = ""
        self._seen = 0
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        environment |= extra_env or {}
        leader = _LEADER if stdin is None else _LEADER.replace("ttyname(0)", "ttyname(2)")
        self.process = subprocess.Popen(
            [sys.executable, "-c", leader, *argv],
            stdin=slave if stdin is None else stdin,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def expect(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Wait until the terminal shows something new that a regular expression matches.

        Raises:
            AssertionError: it did not in time, or the command ended without.
        """
        deadline = time.monotonic() + timeout
        while True:
            if found := re.compile(pattern).search(self.output, self._seen):
                self._seen = found.end()
                return found
            if not self._read(deadline):
                raise AssertionError(f"{pattern!r} did not come; the terminal shows {self.output}")

    def send(self, text: str) -> None:
        """Type something: Ctrl-C is character 3, Ctrl-D is 4, Enter is a newline."""
        os.write(self._master, text.encode())

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end of the command and of its output; returns its exit code.

        Raises:
            AssertionError: it goes on.
        """
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        if time.monotonic() >= deadline:
            raise AssertionError(f"the command goes on; the terminal shows {self.output}")
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Take what has come, waiting for some; false at the end of all output or the deadline."""
        if not select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: no process has the terminal open any more
            return False
        self.output += data.decode(errors="replace")
        return bool(data)
