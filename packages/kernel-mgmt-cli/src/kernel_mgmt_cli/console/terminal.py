"""The terminal itself: how wide it is, and what becomes of keys that nobody waits for."""

from __future__ import annotations

import contextlib
import fcntl
import struct
import sys
import termios
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["TerminalWidth", "keys_kept"]

#: struct winsize of ioctl_tty(2): rows, columns, and the pixels of both ways.
_WINSIZE = struct.Struct("HHHH")
# Places in what tcgetattr gives.
_IFLAG, _LFLAG, _CC = 0, 3, 6


class TerminalWidth(NamedTuple):
    """How wide the terminal is."""

    columns: int
    #: 0 when it does not say.
    pixels: int

    @classmethod
    def now(cls) -> TerminalWidth:
        """Ask the system, which asks nobody."""
        size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(_WINSIZE.size))
        _, columns, pixels, _ = _WINSIZE.unpack(size)
        return cls(columns, pixels)


@contextlib.contextmanager
def keys_kept() -> Iterator[None]:
    """Keep what is typed while there is no prompt for the next one, as long as a block lasts.

    It is not shown amid the kernel's output, and no key has the meaning that it has for a terminal
    that collects lines; but Ctrl-C, Ctrl-Z and the like still send their signals.
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    mode = termios.tcgetattr(descriptor)
    mode[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
    mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
    mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
    termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
