"""Which of pygments' lexers colours a kernel's language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prompt_toolkit.lexers import Lexer, PygmentsLexer, SimpleLexer
from pygments.lexers import (
    find_lexer_class_by_name,
    get_lexer_by_name,
    get_lexer_for_filename,
    get_lexer_for_mimetype,
)
from pygments.util import ClassNotFound

__all__ = ["choose_lexer"]


def choose_lexer(language_info: Mapping[str, Any]) -> Lexer:
    """Choose by what a kernel says of its language; without a match text has no colours.

    Args:
        language_info: of the kernel_info reply.
    """
    for find, key in _attempts(language_info):
        try:
            found = find(key)
        except (ClassNotFound, ImportError):  # ImportError: a broken plugin of pygments
            continue
        return PygmentsLexer(found if isinstance(found, type) else type(found))
    return SimpleLexer()


def _attempts(language_info: Mapping[str, Any]) -> Iterator[tuple[Callable[[str], Any], str]]:
    def text(key: str) -> str:
        value = language_info.get(key)
        return value if isinstance(value, str) else ""

    # "ipython3" is one that IPython's own package adds; without it the name does.
    for key in ("pygments_lexer", "name"):
        if text(key):
            yield find_lexer_class_by_name, text(key)
            yield get_lexer_by_name, text(key).lower()
    if text("mimetype"):
        yield get_lexer_for_mimetype, text("mimetype")
    if text("file_extension"):
        yield get_lexer_for_filename, f"code{text('file_extension')}"
