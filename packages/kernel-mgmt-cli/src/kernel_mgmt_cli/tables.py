"""What is listed: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from .errors import wants_colour

__all__ = ["printable", "write_json", "write_line", "write_table"]


def write_json(value: Any) -> None:
    """Write a value as JSON; what JSON does not know is shown as Python shows it."""
    if sys.stdout is not None:
        sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns, the longest last; no line is broken, whatever reads it."""
    if sys.stdout is None:
        return
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    title, *lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    sys.stdout.write(f"\x1b[1m{title}\x1b[0m\n" if wants_colour(sys.stdout) else f"{title}\n")
    sys.stdout.writelines(f"{line}\n" for line in lines)


def write_line(text: str) -> None:
    """Write a line that somebody may wait for."""
    if sys.stdout is not None:
        sys.stdout.write(f"{printable(text)}\n")
        sys.stdout.flush()


def printable(text: str) -> str:
    """Give one line that does nothing to a terminal but show itself."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())
    )
