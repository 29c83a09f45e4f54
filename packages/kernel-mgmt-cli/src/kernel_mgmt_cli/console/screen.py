"""The terminal as something to write to: where the cursor is, and what can be taken back."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

from prompt_toolkit.utils import get_cwidth

from ..output import write_text

__all__ = ["Mark", "Screen"]

# An escape sequence, a character that moves the cursor, or text that only fills the line.
_PIECE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b"
    r"|[\n\r\b\t]|[^\x1b\n\r\b\t]+"
)
#: Colours, erasing in a line, titles and links, but not iTerm2's images: the cursor stays.
_HARMLESS = re.compile(r"\x1b(\[[0-9;:]*[mK]|\](?!1337))")

_TAB = 8


class Mark(NamedTuple):
    """A place to come back to: a line of the output, as long as the count of lines is right."""

    row: int
    epoch: int


class Screen:
    """Writes to the terminal and follows the cursor.

    Args:
        write: takes the text.
        size: gives the terminal's columns and rows.
    """

    def __init__(
        self,
        write: Callable[[str], object] = lambda text: write_text("stdout", text),
        size: Callable[[], tuple[int, int]] = lambda: os.get_terminal_size(sys.stdout.fileno()),
    ) -> None:
        self._write = write
        self._get_size = size
        self._size = size()
        self._row = 0
        self._column = 0
        #: Grows when rows can no longer be compared with those of before.
        self._epoch = 0

    def write(self, text: str) -> None:
        """Write text as it is.

        Raises:
            BrokenPipeError: the terminal is gone.
            CommandError: likewise.
        """
        if text:
            self._write(text)
            self._notice_size()
            for piece in _PIECE.findall(text):
                self._follow(piece)

    @property
    def in_line(self) -> bool:
        """Whether the cursor is not at the beginning of a line."""
        return self._column > 0

    def end_line(self) -> None:
        """Go to the beginning of a line, unless the cursor is there."""
        if self._column:
            self.write("\n")

    def lose_track(self) -> None:
        """Take it that somebody else has written; the cursor is at the beginning of a line."""
        self._epoch += 1
        self._column = 0

    def mark(self) -> Mark:
        """Remember the line that the cursor is in."""
        self._notice_size()
        return Mark(self._row, self._epoch)

    def erase_to(self, mark: Mark) -> bool:
        """Take back what was written since a mark, where it can still be seen.

        Returns:
            Whether it could.
        """
        self._notice_size()
        up = self._row - mark.row
        if mark.epoch != self._epoch or not 0 <= up < self._size[1]:
            return False
        self._write(f"\r\x1b[{up}A\x1b[J" if up else "\r\x1b[J")
        self._row, self._column = mark.row, 0
        return True

    def is_at(self, mark: Mark) -> bool:
        """Tell whether nothing was written since a mark at the beginning of a line."""
        return mark == (self._row, self._epoch) and not self._column

    def _notice_size(self) -> None:
        size = self._get_size()
        if size != self._size:  # lines that were too long have been broken anew
            self._size = size
            self._epoch += 1

    def _follow(self, piece: str) -> None:
        if piece == "\n":
            self._row += 1
            self._column = 0
        elif piece == "\r":
            self._column = 0
        elif piece == "\b":
            self._column = max(0, self._column - 1)
        elif piece == "\t":
            self._column = min((self._column // _TAB + 1) * _TAB, self._size[0])
        elif piece[0] != "\x1b":
            self._fill(len(piece) if piece.isascii() else get_cwidth(piece))
        elif not _HARMLESS.match(piece):
            self._epoch += 1

    def _fill(self, width: int) -> None:
        columns = max(1, self._size[0])
        end = self._column + width
        # A full line is left with the next character only.
        if end > columns:
            self._row += (end - 1) // columns
            end = (end - 1) % columns + 1
        self._column = end
