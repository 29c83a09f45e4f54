"""Times, sizes and ids in as few characters as people need."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kernel_mgmt import KernelRecord

__all__ = ["ago", "duration", "label", "percent", "quantity", "short_ids", "size"]

#: So many characters of an id are shown at least.
_SHORT = 8

#: The units of time, and how many seconds each has.
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def duration(seconds: float | None) -> str:
    """Give a time in the two largest units that it has; empty for None."""
    if seconds is None:
        return ""
    rest = max(0, int(seconds))
    counts = []
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        counts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts) - 1)
    (count, unit), *smaller = counts[first : first + 2]
    return " ".join([f"{count} {unit}", *(f"{c} {u}" for c, u in smaller if c)])


def ago(moment: float | None) -> str:
    """Give how long ago a moment was, in seconds since the epoch; empty for None."""
    return "" if moment is None else f"{duration(time.time() - moment)} ago"


def size(count: int | None) -> str:
    """Give a number of bytes in a unit that suits it; empty for None."""
    if count is None:
        return ""
    if count < 1024**3:
        return f"{count / 1024**2:.0f} MiB"
    return f"{count / 1024**3:.1f} GiB"


def quantity(count: int) -> str:
    """Give a number of bytes, which may be few, in a unit that suits it."""
    if count < 1024:
        return f"{count} bytes" if count != 1 else "1 byte"
    return f"{count / 1024:.0f} KiB" if count < 1024**2 else size(count)


def percent(value: float | None) -> str:
    """Give a number of percent; empty for None."""
    return "" if value is None else f"{value:.0f} %"


def short_ids(ids: Sequence[str]) -> list[str]:
    """Give a beginning of each id that no other one has, all of one length where ids are long."""
    length = _SHORT
    longest = max(map(len, ids), default=0)
    while length < longest and len({kernel_id[:length] for kernel_id in ids}) < len(ids):
        length += 1
    return [kernel_id[:length] for kernel_id in ids]


def label(record: KernelRecord) -> str:
    """Give what a kernel is called in a sentence."""
    return f"{record.kernel_id} ({record.name})" if record.name else record.kernel_id
