"""Images: shown where the terminal can, saved where it cannot."""

from __future__ import annotations

import base64
import binascii
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .mime import IMAGE_SUFFIXES
from .sixel import sixel
from .terminal import TerminalWidth

__all__ = ["PROTOCOLS", "Images", "detect_protocol"]

#: How many characters of base64 the kitty protocol takes at once.
_KITTY_CHUNK = 4096
#: The first bytes of a PNG, up to its width.
_PNG_START = struct.Struct(">8s4x4sI")
#: How wide an image may be where the terminal does not say how wide it is.
_USUAL_PIXELS = 800

_KITTY_TERMS = frozenset({"xterm-kitty", "xterm-ghostty"})
_ITERM_PROGRAMS = frozenset({"iTerm.app", "WezTerm", "mintty"})


def detect_protocol(environ: Mapping[str, str]) -> str | None:
    """Tell from the environment alone how the terminal shows images.

    The terminal itself is not asked: one that does not understand, or a slow line, would leave
    parts of the question or the answer on the screen.

    Returns:
        A key of :data:`PROTOCOLS`, or None.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or environ.get("STY") or term.startswith(("screen", "tmux")):
        return None  # they hand on no image, whatever terminal they are in
    if program in _ITERM_PROGRAMS or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if term in _KITTY_TERMS or program == "ghostty" or environ.get("KITTY_WINDOW_ID"):
        return "kitty"
    if term.startswith(("foot", "mlterm")) or "sixel" in term:
        return "sixel"
    return None


#: Gives the escape sequences for an image, from its MIME type, its bytes and the terminal; None: it
#: cannot.
Protocol = Callable[[str, bytes, TerminalWidth], "str | None"]


class Images:
    """Makes text of images: escape sequences that show them, or a hint where they are.

    Args:
        protocol: one of :data:`PROTOCOLS`; None to save them all.
        terminal: tells how wide the terminal is.
    """

    def __init__(
        self, protocol: Protocol | None, terminal: Callable[[], TerminalWidth] = TerminalWidth.now
    ) -> None:
        self._protocol = protocol
        self._terminal = terminal
        self._directory: Path | None = None
        self._count = 0

    def show(self, mime: str, content: str) -> str:
        """Give the text that shows an image, or says where it is.

        Args:
            mime: one of :data:`~kernel_mgmt_cli.console.mime.IMAGE_SUFFIXES`.
            content: text for SVG, base64 for the rest.
        """
        try:
            data = content.encode() if mime == "image/svg+xml" else base64.b64decode(content)
        except (binascii.Error, ValueError):
            return f"[an image ({mime}) that cannot be read]"
        if self._protocol is not None:
            shown = self._protocol(mime, data, self._terminal())
            if shown is not None:
                return shown
        try:
            return f"[image: {self._save(mime, data)}]"
        except OSError as error:
            return f"[an image ({mime}) that cannot be saved: {error.strerror}]"

    def _save(self, mime: str, data: bytes) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="kernel-mgmt-images-"))
        self._count += 1
        path = self._directory / f"{self._count}{IMAGE_SUFFIXES[mime]}"
        path.write_bytes(data)
        return path

    def close(self) -> None:
        """Remove the files."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _kitty(mime: str, data: bytes, terminal: TerminalWidth) -> str | None:
    """Show a PNG by the kitty graphics protocol."""
    if mime != "image/png":
        return None
    width = _png_width(data)
    if width is None:
        return None
    # f=100: PNG; a=T: show it; q=2: no answer, which would be taken for something typed.
    control = "a=T,f=100,q=2"
    if 0 < terminal.pixels < width:
        control += f",c={terminal.columns}"
    return "".join(_kitty_chunks(control, base64.b64encode(data).decode()))


def _kitty_chunks(control: str, text: str) -> Iterator[str]:
    for start in range(0, len(text), _KITTY_CHUNK):
        more = int(start + _KITTY_CHUNK < len(text))
        yield f"\x1b_G{control},m={more};{text[start : start + _KITTY_CHUNK]}\x1b\\"
        control = "q=2"


def _png_width(data: bytes) -> int | None:
    if len(data) < _PNG_START.size:
        return None
    signature, chunk, width = _PNG_START.unpack_from(data)
    return width if signature == b"\x89PNG\r\n\x1a\n" and chunk == b"IHDR" else None


def _iterm(mime: str, data: bytes, _terminal: TerminalWidth) -> str | None:
    """Show an image in iTerm2, which scales one that is too wide, and its like."""
    if not mime.startswith("image/") or mime == "image/svg+xml":
        return None
    content = base64.b64encode(data).decode()
    return f"\x1b]1337;File=inline=1;preserveAspectRatio=1;size={len(data)}:{content}\x07"


def _sixel(mime: str, data: bytes, terminal: TerminalWidth) -> str | None:
    return sixel(data, terminal.pixels or _USUAL_PIXELS) if mime.startswith("image/") else None


PROTOCOLS: dict[str, Protocol] = {
    "kitty": _kitty,
    "iterm": _iterm,
    "sixel": _sixel,
}
