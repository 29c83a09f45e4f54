"""Images as sixels: strips of six rows, one colour after another.

Source: *VT330/VT340 Programmer Reference Manual*, volume 2, chapter 14.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence

__all__ = ["encode", "sixel"]

_COLOURS = 255
_STRIP = 6
#: A character stands for six pixels above each other, from this one on.
_FIRST = 63
#: From so many equal characters on a count is shorter.
_WORTH_COUNTING = 4


def sixel(data: bytes, max_width: int) -> str | None:
    """Give an image file as sixels, or None when Pillow is not there or cannot read it.

    Args:
        data: the file's content.
        max_width: in pixels; a wider image is made smaller.
    """
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGBA")
    except Exception:  # noqa: BLE001 - its readers raise what they like
        return None
    if image.width > max_width:
        image = image.resize((max_width, max(1, image.height * max_width // image.width)))
    page = Image.new("RGBA", image.size, "white")  # a plot's text is black, as a terminal may be
    indexed = Image.alpha_composite(page, image).convert("RGB").quantize(_COLOURS)
    palette = indexed.getpalette() or []
    return encode(indexed.width, indexed.tobytes(), list(zip(*[iter(palette)] * 3, strict=True)))


def encode(width: int, pixels: bytes, palette: Sequence[tuple[int, int, int]]) -> str:
    """Write sixels.

    Args:
        width: of the image.
        pixels: row by row, each a place in the palette.
        palette: red, green and blue, 0 to 255 each.
    """
    height = len(pixels) // width
    parts = ["\x1bP0;1q", f'"1;1;{width};{height}']
    for index, colour in enumerate(palette):
        red, green, blue = (round(part * 100 / 255) for part in colour)
        parts.append(f"#{index};2;{red};{green};{blue}")
    strips = (pixels[top * width : (top + _STRIP) * width] for top in range(0, height, _STRIP))
    parts += ["$".join(_strip(width, strip)) + "-" for strip in strips]
    return "".join(parts) + "\x1b\\"


def _strip(width: int, pixels: bytes) -> Iterable[str]:
    """Give a strip colour by colour."""
    colours: dict[int, bytearray] = {}
    for place, colour in enumerate(pixels):
        row, column = divmod(place, width)
        if colour not in colours:
            colours[colour] = bytearray(width)
        colours[colour][column] |= 1 << row
    for colour, sixels in colours.items():
        runs = ((chr(_FIRST + bits), len(list(same))) for bits, same in itertools.groupby(sixels))
        yield f"#{colour}" + "".join(
            f"!{count}{character}" if count >= _WORTH_COUNTING else character * count
            for character, count in runs
        )
