"""What kernels send, as the format of notebooks allows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["bundle_of", "count_of", "metadata_of", "plain", "text_of"]

#: The MIME types whose content is JSON, and not text.
_JSON = re.compile(r"application/(?:.*\+)?json")
#: What is nested deeper is left out: what reads notebooks follows it by recursion.
_DEPTH = 100


def text_of(value: object) -> str:
    """Give a text, which may come as a list of its lines; what is none is shown as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return "" if value is None else json.dumps(plain(value), ensure_ascii=False)


def count_of(value: object) -> int | None:
    """Give an execution count; None for what is none."""
    return value if type(value) is int and value >= 0 else None


def bundle_of(value: object) -> dict[str, Any]:
    """Give rich output by its MIME types: JSON as it is, and the rest as text."""
    if not isinstance(value, Mapping):
        return {}
    return {
        mime: plain(content) if _JSON.fullmatch(mime) else text_of(content)
        for mime, content in value.items()
    }


def metadata_of(value: object) -> dict[str, Any]:
    """Give the metadata of an output."""
    found = plain(value) if isinstance(value, Mapping) else {}
    return found if isinstance(found, dict) else {}


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """Give a value as JSON has it: kernels send NaN as well, which other programs do not read."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, (dict, list)):
        return value
    if depth == 0:
        return None
    if isinstance(value, dict):
        return {name: plain(item, depth - 1) for name, item in value.items()}
    return [plain(item, depth - 1) for item in value]
