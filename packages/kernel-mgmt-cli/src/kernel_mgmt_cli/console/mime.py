"""Which form of rich output a terminal shows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["IMAGE_SUFFIXES", "image_of", "text_of"]

#: The images that can be shown or saved, the best first, and how their files' names end.
IMAGE_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/svg+xml": ".svg",
    "application/pdf": ".pdf",
}

#: Texts for people, the best first, where text/plain only names an object.
_READABLE = ("text/markdown", "text/latex")

# <IPython.core.display.Latex object>, <Figure size 640x480 with 1 Axes>
_PLACEHOLDER = re.compile(r"<[^<>\n]*\b(object|Axes)\b[^<>\n]*>")


def image_of(data: Mapping[str, Any]) -> tuple[str, str] | None:
    """Give the MIME type and the content of the image among the forms of an output."""
    for mime in IMAGE_SUFFIXES:
        if isinstance(data.get(mime), str):
            return mime, data[mime]
    return None


def text_of(data: Mapping[str, Any]) -> str:
    """Give the form of an output that can be read as text; it may be empty.

    A text/plain that only names an object gives way to whatever says more, and to an image.
    """
    plain = data.get("text/plain")
    if isinstance(plain, str) and not _PLACEHOLDER.fullmatch(plain.strip()):
        return plain
    for mime in _READABLE:
        if isinstance(data.get(mime), str):
            return str(data[mime])
    if image_of(data) is not None:
        return ""
    if isinstance(plain, str):
        return plain
    for mime, value in data.items():
        if mime.startswith("text/"):
            return str(value)
        if mime == "application/json":
            return json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(f"[{mime}]" for mime in data)
