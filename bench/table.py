"""The table: rows of figures, what was aimed at, and how it is written."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_SIGNS = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Target:
    """What a row shall reach: a ratio to the floor, or a figure in the row's own unit.

    Attributes:
        sign: ``≤`` or ``≥``.
        limit: the bound.
        of: what the row's floor is, whose multiple the bound is; empty for a bound in the row's own
            unit.
    """

    sign: str
    limit: float
    of: str = "floor"

    def text(self, unit: str) -> str:
        """Write it for people."""
        if self.of:
            return f"{self.sign} {self.limit:g} × {self.of}"
        return f"{self.sign} {number(self.limit, unit)}"

    def met(self, ours: float, floor: float | None) -> bool:
        """Tell whether a figure of ours reaches it, to the two decimals that are shown."""
        value = round(ours / floor, 2) if self.of and floor else ours
        return bool(_SIGNS[self.sign](value, self.limit))


@dataclass(frozen=True)
class Row:
    """One line: a figure of each contestant, all in the same unit.

    Attributes:
        what: what was measured.
        unit: ``ms``, ``/s``, or empty for a count, which is not compared with the floor's.
        ours: the figure of kernel-mgmt.
        floor: the figure of the floor, or of whatever else the target compares with.
        peer: the figure of jupyter_client.
        target: what was aimed at; a row without one is for information.
    """

    what: str
    unit: str
    ours: float
    floor: float | None = None
    peer: float | None = None
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``; empty without a target."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self.ours, self.floor) else "missed"

    def cells(self) -> list[str]:
        """Give the texts of the line."""
        return [
            self.what,
            self.target.text(self.unit) if self.target else "",
            number(self.floor, self.unit),
            number(self.ours, self.unit),
            self._ratio(self.ours),
            number(self.peer, self.unit),
            self._ratio(self.peer),
            self.verdict,
        ]

    def _ratio(self, value: float | None) -> str:
        if value is None or not self.floor or not self.unit:
            return ""
        return f"{value / self.floor:.2f} ×"

    def to_dict(self) -> dict[str, Any]:
        """Give the line for a JSON file."""
        return {**asdict(self), "verdict": self.verdict}


_HEADINGS = ["what", "target", "floor", "ours", "÷ floor", "jupyter_client", "÷ floor", ""]


def number(value: float | None, unit: str) -> str:
    """Write a figure with its unit."""
    if value is None:
        return ""
    match unit:
        case "/s":
            return f"{value:,.0f} /s"
        case "":
            return f"{value:g}"
        case _:
            return f"{value:,.{0 if value >= 1000 else 2}f} {unit}"


def render(rows: Sequence[Row]) -> str:
    """Give the table in Markdown, its columns aligned."""
    lines = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )
