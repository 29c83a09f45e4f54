"""Sizes and times as people type them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import CommandError

__all__ = ["read_duration", "read_size"]

#: A number of plain digits, and what it counts.
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", re.ASCII)

_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
#: No size has as many: they are no 64-bit number.
_MOST_BYTES = 2**63
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def read_size(option: str, text: str) -> int:
    """Give the bytes that an option says: ``65536``, ``64K``, ``256M``, ``1.5G``; also ``MiB``.

    Raises:
        CommandError: that is no size.
    """
    # B alone would leave open what 1 MB has.
    value = _read(text, {**_BYTES, **{f"{unit}ib": n for unit, n in _BYTES.items() if unit}})
    if value is None or value >= _MOST_BYTES:
        raise CommandError(
            f"{option} {text!r} is no size; give bytes, as in 65536, or K, M, G or T of them, as "
            "in 256M."
        )
    return int(value)


def read_duration(option: str, text: str) -> float:
    """Give the seconds that an option says: ``90``, ``90s``, ``10m``, ``2h``, ``3d``.

    Raises:
        CommandError: that is no time.
    """
    value = _read(text, _SECONDS)
    if value is None:
        raise CommandError(
            f"{option} {text!r} is no time; give seconds, as in 90 or 90s, or minutes, hours or "
            "days, as in 10m, 2h or 3d."
        )
    return value


def _read(text: str, units: Mapping[str, int]) -> float | None:
    match = _QUANTITY.fullmatch(text.strip())
    unit = None if match is None else units.get(match[2].lower())
    return None if match is None or unit is None else float(match[1]) * unit
