"""Images as sixels, for which Pillow must be there: the extra ``kernel-mgmt-cli[sixel]``."""

from __future__ import annotations

import base64
import io

from command_line import InTerminal
from kernel_mgmt_cli.console.sixel import encode, sixel
from PIL import Image


def png(width: int, height: int) -> bytes:
    """Make a red PNG."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def test_strips() -> None:
    """Each strip of six rows is drawn in one colour after the other, equal columns counted."""
    pixels = bytes([0] * 5 + [1]) * 7
    assert encode(6, pixels, [(255, 0, 0), (0, 0, 0)]) == (
        '\x1bP0;1q"1;1;6;7#0;2;100;0;0#1;2;0;0;0#0!5~?$#1!5?~-#0!5@?$#1!5?@-\x1b\\'
    )


def test_a_wide_image() -> None:
    """It is made as small as the terminal."""
    shown = sixel(png(1000, 100), 100)
    assert shown is not None
    assert shown.startswith('\x1bP0;1q"1;1;100;10#0;2;100;0;0')


def test_no_image() -> None:
    """What Pillow cannot read is left to be saved."""
    assert sixel(b"no png", 100) is None


def test_in_a_terminal(console: InTerminal, echo: str) -> None:
    """The console shows an image so when it is told to."""
    image = base64.b64encode(png(2, 2)).decode()
    with console(echo, "--images", "sixel") as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send(f"display image/png {image}\r")
        terminal.expect(r"\x1bP0;1q\"1;1;2;2#0;2;100;0;0")
        terminal.send("exit\r")
        assert terminal.wait() == 0
