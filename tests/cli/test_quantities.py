"""Sizes and times are read as people type them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt_cli.errors import CommandError
from kernel_mgmt_cli.quantities import read_duration, read_size
from strategies import quickly


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 65536),
        ("256M", 268435456),
        ("1g", 1073741824),
        ("1.5G", 1610612736),
        ("2T", 2199023255552),
        ("3 MiB", 3145728),
        (" 7KIB ", 7168),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Bytes are plain, and units are powers of 1024, in whichever case."""
    assert read_size("--limit", text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "-1",
        "+1",
        "1MB",
        "1B",
        "1P",
        "1e9",
        "nan",
        "inf",
        "1,5G",
        "1_0",
        "\u0661",
        "1 2M",
        "8388608T",
    ],
)
def test_what_is_no_size(text: str) -> None:
    """The sentence says which option, what was typed, and what would do."""
    with pytest.raises(CommandError, match=r"^--limit '.*' is no size; give bytes.*256M\.$"):
        read_size("--limit", text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259200), ("1.5 H", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    """Seconds are plain, and each unit has its letter."""
    assert read_duration("--since", text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5w", "yesterday", "1h30m", "10 minutes", "nan"])
def test_what_is_no_duration(text: str) -> None:
    """The sentence says which option, what was typed, and what would do."""
    with pytest.raises(CommandError, match=r"^--since '.*' is no time; give seconds.*3d\.$"):
        read_duration("--since", text)


@quickly
@given(
    st.text(max_size=8)
    | st.from_regex(r"[0-9]{0,20}\.?[0-9]{0,12} ?[kmgtsdh]?(ib)?", fullmatch=True)
)
def test_whatever_is_typed(text: str) -> None:
    """It is a finite number that is not negative, or a sentence."""
    for read in (read_size, read_duration):
        with contextlib.suppress(CommandError):
            assert 0 <= read("--option", text) < 1e30
