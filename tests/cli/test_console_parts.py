"""The parts of the console that need neither terminal nor kernel."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt.errors import ConnectionFileError
from kernel_mgmt_cli.console.completion import completions_of
from kernel_mgmt_cli.console.existing import find_connection_file
from kernel_mgmt_cli.console.history import KernelHistory, history_file
from kernel_mgmt_cli.console.images import PROTOCOLS, Images, detect_protocol
from kernel_mgmt_cli.console.lexing import choose_lexer
from kernel_mgmt_cli.console.mime import text_of
from kernel_mgmt_cli.console.screen import Screen
from kernel_mgmt_cli.console.terminal import TerminalWidth
from prompt_toolkit.lexers import PygmentsLexer, SimpleLexer

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


# -- history ---------------------------------------------------------------------------------------


def test_history_comes_back(tmp_path: Path) -> None:
    """Inputs of any text come back, the latest first, from a private file."""
    path = tmp_path / "private" / "history.jsonl"
    for code in ("one", "two\nlines", "\N{SNOWMAN}\ud800\x00"):
        KernelHistory(path).store_string(code)
    loaded = list(KernelHistory(path).load_history_strings())
    assert loaded == ["\N{SNOWMAN}\ud800\x00", "two\nlines", "one"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_history_with_broken_lines(tmp_path: Path) -> None:
    """What is no entry is skipped, and what comes after a line that was cut is kept."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"code": "one"}\n[]\n{"code": 7}\n\xff\n{"code": "cut o')
    KernelHistory(path).store_string("two")
    assert list(KernelHistory(path).load_history_strings()) == ["two", "one"]


def test_history_is_shortened(tmp_path: Path) -> None:
    """A file that has become too long keeps its latest entries, and is as private as before."""
    path = tmp_path / "history.jsonl"
    history = KernelHistory(path, kept=10)
    for number in range(21):
        history.store_string(str(number))
    assert next(iter(history.load_history_strings())) == "20"
    assert len(path.read_bytes().splitlines()) == 10
    assert path.stat().st_mode & 0o777 == 0o600
    history.store_string("more")
    assert list(history.load_history_strings())[:2] == ["more", "20"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kept", [1000, 20], ids=["all", "shortened"])
def test_consoles_share_a_history(tmp_path: Path, kept: int) -> None:
    """Several processes write, and shorten, at once: no line is torn, and none is lost between."""
    path = tmp_path / "history.jsonl"
    code = """
import sys
from pathlib import Path
from kernel_mgmt_cli.console.history import KernelHistory
history = KernelHistory(Path(sys.argv[1]), kept=int(sys.argv[2]))
for number in range(60):
    history.store_string(f"{sys.argv[3]} {number} " + "x" * 20_000)
    if number % 5 == 0:
        history.load_history_strings()
"""
    argv = [sys.executable, "-c", code, path, str(kept)]
    writers = [subprocess.Popen([*argv, name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    entries = list(KernelHistory(path).load_history_strings())
    assert len(entries) == 180 if kept == 1000 else 20 <= len(entries) < 180
    for name in "abc":
        own = [int(entry.split()[1]) for entry in reversed(entries) if entry.startswith(name)]
        assert own == list(range(60))[60 - len(own) :]


def test_history_that_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, and nothing else is lost."""
    (tmp_path / "file").write_text("")
    history = KernelHistory(tmp_path / "file" / "history.jsonl")
    history.append_string("one")
    history.append_string("two")
    assert history.get_strings() == ["one", "two"]
    assert [record.getMessage()[:12] for record in caplog.records] == ["The history "]


def test_history_of_a_language(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each has a file of its own in Jupyter's data directory, whatever its name."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    names = ["Python", "c++", "../..", "", "a" * 1000]
    files = [history_file(name) for name in names]
    assert {file.parent for file in files} == {tmp_path / "kernel-mgmt" / "history"}
    assert files[0].name == "python.jsonl"
    assert len(set(files)) == len(names)


# -- lexers and completions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "lexer"),
    [
        ({"name": "python", "pygments_lexer": "ipython3"}, "IPython3Lexer"),
        ({"name": "python", "pygments_lexer": "no such"}, "PythonLexer"),
        ({"name": "R"}, "SLexer"),
        (
            {"name": "?", "mimetype": "text/x-typescript", "file_extension": ".ts"},
            "TypeScriptLexer",
        ),
        ({"name": "?", "mimetype": "text/x-nothing", "file_extension": ".jl"}, "JuliaLexer"),
    ],
)
def test_a_lexer_is_chosen(language: dict[str, Any], lexer: str) -> None:
    """By pygments' own name first, then by the language's, MIME type and file extension."""
    chosen = choose_lexer(language)
    assert isinstance(chosen, PygmentsLexer)
    assert chosen.pygments_lexer_cls.__name__ == lexer


@pytest.mark.parametrize("language", [{}, {"name": 7, "pygments_lexer": None}, {"name": "?"}])
def test_no_lexer_fits(language: dict[str, Any]) -> None:
    """Text then has no colours."""
    assert isinstance(choose_lexer(language), SimpleLexer)


def test_completions_are_read() -> None:
    """They replace what the kernel says, and show type and signature where IPython tells them."""
    plain = {"status": "ok", "matches": ["print"], "cursor_start": 2, "cursor_end": 5}
    [completion] = completions_of(plain, 5)
    assert (completion.text, completion.start_position) == ("print", -3)
    typed = {"start": 2, "end": 5, "text": "print", "type": "function", "signature": "(x)"}
    content = {**plain, "metadata": {"_jupyter_types_experimental": [typed]}}
    [completion] = completions_of(content, 5)
    assert (completion.text, completion.start_position) == ("print", -3)
    assert (completion.display_text, completion.display_meta_text) == ("print(x)", "function")


@pytest.mark.parametrize(
    "content",
    [
        {"status": "error"},
        {},
        {"status": "ok", "matches": ["x"], "cursor_start": 9},
        {"status": "ok", "matches": [7], "cursor_start": 0},
        {"status": "ok", "matches": None, "metadata": {"_jupyter_types_experimental": {}}},
    ],
)
def test_completions_that_make_no_sense(content: dict[str, Any]) -> None:
    """They are left out."""
    assert list(completions_of(content, 5)) == []


# -- rich output -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text/plain": "42", "text/html": "<b>42</b>"}, "42"),
        ({"text/plain": "<IPython.core.display.Latex object>", "text/latex": "$x$"}, "$x$"),
        ({"text/plain": "<x.Markdown object>", "text/markdown": "# x"}, "# x"),
        ({"text/plain": "<x.HTML object>", "text/html": "<b>x</b>"}, "<x.HTML object>"),
        ({"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": ""}, ""),
        ({"text/html": "<b>x</b>"}, "<b>x</b>"),
        ({"application/json": {"a": 1}}, '{\n  "a": 1\n}'),
        ({"application/x-thing": "…"}, "[application/x-thing]"),
        ({}, ""),
    ],
)
def test_rich_output_as_text(data: dict[str, Any], text: str) -> None:
    """Plain text comes first, unless it only names an object of which something says more."""
    assert text_of(data) == text


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({}, None),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
    ],
)
def test_the_terminal_is_known_by_its_environment(
    environ: dict[str, str], protocol: str | None
) -> None:
    """Terminals tell their kind in variables, and multiplexers hide them."""
    assert detect_protocol(environ) == protocol


def test_a_large_image_for_kitty() -> None:
    """It goes in pieces, of which the first says that it is as wide as the terminal at most."""
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sI", 13, b"IHDR", 900)
    shown = PROTOCOLS["kitty"]("image/png", start + bytes(8000), TerminalWidth(80, 800))
    assert shown is not None
    first, *middle, last = shown.split("\x1b\\")[:-1]
    assert first.startswith("\x1b_Ga=T,f=100,q=2,c=80,m=1;")
    assert [piece[:13] for piece in middle] == ["\x1b_Gq=2,m=1;" + piece[11:13] for piece in middle]
    assert last.startswith("\x1b_Gq=2,m=0;")


@pytest.mark.parametrize(
    ("protocol", "mime", "data"),
    [
        ("kitty", "image/jpeg", b"x"),
        ("kitty", "image/png", b"no png"),
        ("iterm", "image/svg+xml", b"<svg/>"),
    ],
)
def test_an_image_that_the_terminal_cannot_show(protocol: str, mime: str, data: bytes) -> None:
    """It is left to be saved."""
    assert PROTOCOLS[protocol](mime, data, TerminalWidth(80, 0)) is None


def test_images_that_cannot_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint says so, and for which reason."""
    monkeypatch.setattr("tempfile.tempdir", "/proc/none")
    images = Images(None)
    assert "cannot be saved: No such file" in images.show("image/svg+xml", "<svg/>")
    assert "cannot be read" in images.show("image/png", "é")


# -- the screen ------------------------------------------------------------------------------------


class Terminal:
    """What a screen has written, and how large it is."""

    def __init__(self) -> None:
        self.text = ""
        self.size = (10, 5)
        self.screen = Screen(self.write, lambda: self.size)

    def write(self, text: str) -> None:
        """Take text."""
        self.text += text


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("one\ntwo\n", 2),
        ("x" * 10, 0),
        ("x" * 11, 1),
        ("x" * 10 + "\n", 1),
        ("x" * 25 + "\r", 2),
        ("\N{SNOWMAN}" * 2 + "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 5, 1),
        ("a\tb\tc\x1b[1;31mred\x1b[0m\n", 2),
        ("\x1b]0;title\x07\b\n", 1),
    ],
)
def test_what_was_written_is_taken_back(text: str, rows: int) -> None:
    """The cursor goes up as many rows as the text took, and the rest is erased."""
    terminal = Terminal()
    mark = terminal.screen.mark()
    terminal.screen.write(text)
    assert terminal.screen.erase_to(mark)
    up = f"\x1b[{rows}A" if rows else ""
    assert terminal.text == f"{text}\r{up}\x1b[J"
    assert not terminal.screen.in_line


@pytest.mark.parametrize(
    "text", ["\n" * 5, "\x1b[2J", "\x1b[3A", "\x1b]1337;File=x\x07", "\x1bP0q-\x1b\\"]
)
def test_what_cannot_be_taken_back(text: str) -> None:
    """What has left the screen, or moved the cursor anywhere, is left alone."""
    terminal = Terminal()
    mark = terminal.screen.mark()
    terminal.screen.write(text)
    assert not terminal.screen.erase_to(mark)
    assert terminal.text == text


def test_a_new_size_ends_all_marks() -> None:
    """Lines are broken elsewhere then, so that nobody knows how many there are."""
    terminal = Terminal()
    mark = terminal.screen.mark()
    terminal.size = (20, 5)
    assert not terminal.screen.erase_to(mark)


# -- connection files ------------------------------------------------------------------------------


def test_a_connection_file_is_found_by_its_name(tmp_path: Path) -> None:
    """A path is that path; a name, a part of it or a pattern means the newest in Jupyter's place."""
    files = [RUNTIME_DIR / f"kernel-{name}.json" for name in ("abc-1", "abc-2", "x")]
    for age, file in enumerate(files):
        file.write_text("")
        os.utime(file, (1000 - age, 1000 - age))
    try:
        assert find_connection_file("kernel-abc-2.json") == files[1]
        assert find_connection_file("abc") == files[0]
        assert find_connection_file("kernel-*-2*") == files[1]
        assert find_connection_file("kernel-abc") == files[0]
        assert find_connection_file(str(files[2])) == files[2]
        assert find_connection_file(str(tmp_path / "none")) == tmp_path / "none"
        with pytest.raises(ConnectionFileError, match="'zzz'"):
            find_connection_file("zzz")
    finally:
        for file in files:
            file.unlink()
