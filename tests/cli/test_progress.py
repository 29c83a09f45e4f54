"""The display of a launch that takes long."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from command_line import InTerminal, Start
from kernel_mgmt_cli.progress import LaunchDisplay

HIDE_CURSOR, SHOW_CURSOR = r"\x1b\[\?25l", r"\x1b\[\?25h"


def gate(path: Path, **more: object) -> list[str]:
    """Give the options for a launch that waits for a file."""
    params = {"gate": str(path), **more}
    return [
        word
        for name, value in params.items()
        for word in ("--param", f"{name}={json.dumps(value)}")
    ]


def test_a_long_launch_is_shown(in_terminal: InTerminal, gated: str, tmp_path: Path) -> None:
    """Phase, message and time are one line, which is gone when the code's output comes."""
    with in_terminal("run", gated, *gate(tmp_path / "gate"), "-c", "print on") as terminal:
        terminal.expect(HIDE_CURSOR)
        terminal.expect(r"pull.*Waiting.*[0-9] s")
        (tmp_path / "gate").touch()
        terminal.expect(SHOW_CURSOR)
        terminal.expect("on\r\n")
        assert terminal.wait() == 0


def test_a_fraction_is_a_bar(in_terminal: InTerminal, gated: str, tmp_path: Path) -> None:
    """Where the provider tells how much is done, it is shown."""
    options = gate(tmp_path / "gate", fraction=0.42)
    with in_terminal("run", gated, *options, "-c", "print on") as terminal:
        terminal.expect(r"━.* 42%")
        (tmp_path / "gate").touch()
        assert terminal.wait() == 0


def test_a_narrow_terminal_has_one_line(
    in_terminal: InTerminal, gated: str, tmp_path: Path
) -> None:
    """A message that is too long is cut, so that the line can be erased again."""
    options = gate(tmp_path / "gate", message="a long message " * 10, fraction=0.42)
    with in_terminal("run", gated, *options, "-c", "print on", columns=40) as terminal:
        terminal.expect("…")
        (tmp_path / "gate").touch()
        terminal.expect("on\r\n")
        assert terminal.wait() == 0
        assert r"\x1b[1A" not in terminal.output  # no second line was ever drawn


def test_a_quick_launch_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that has ended when the display is due leaves the terminal alone."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    with LaunchDisplay() as display:
        display.end()
        display.show()
    assert not terminal.getvalue()
    with LaunchDisplay() as display:
        display.show()
    assert "resolve" in terminal.getvalue()


def test_nothing_is_shown_where_no_terminal_is(start: Start, gated: str, tmp_path: Path) -> None:
    """Standard error in a pipe or file has no display in it."""
    process = start("run", gated, *gate(tmp_path / "gate"), "-c", "print on")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    (tmp_path / "gate").touch()
    output, errors = process.communicate(timeout=30)
    assert (output, errors) == (b"on\n", b"")


def test_a_question_replaces_the_display(
    in_terminal: InTerminal, gated: str, tmp_path: Path
) -> None:
    """Nothing is drawn over a question of the provider, and the display comes back after it."""
    options = [*gate(tmp_path / "gate"), "--param", "ask=User:"]
    with in_terminal("run", gated, *options, "-c", "env ANSWER") as terminal:
        terminal.expect("User: ")
        terminal.send("Ada\n")
        terminal.expect(r"pull.*Waiting.*[0-9] s")
        (tmp_path / "gate").touch()
        terminal.expect("Ada\r\n")
        assert terminal.wait() == 0


def test_verbose_replaces_the_display(in_terminal: InTerminal, gated: str, tmp_path: Path) -> None:
    """With --verbose the log is shown, and no display over it."""
    (tmp_path / "gate").touch()
    with in_terminal(
        "--verbose", "run", gated, *gate(tmp_path / "gate"), "-c", "print on"
    ) as terminal:
        assert terminal.wait() == 0
        assert "\x1b[?25l" not in terminal.output
