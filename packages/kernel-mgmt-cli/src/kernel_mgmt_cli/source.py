"""What the user typed for ``run``: the code, and NAME=VALUE options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import CommandError

__all__ = ["STDIN", "read_assignments", "read_code", "read_parameters"]

#: The file name that means standard input.
STDIN = "-"


def read_code(file: str | None, code: str | None) -> str:
    """Give the code to run.

    Args:
        file: a path, or ``-`` for standard input.
        code: the code itself.

    Raises:
        CommandError: not exactly one of both is given, or the file is no readable text.
    """
    if (file is None) == (code is None):
        what = "nothing to run" if file is None else "both a file and -c CODE"
        raise CommandError(f"there is {what}; give a FILE, or - for standard input, or -c CODE.")
    if file is None:
        assert code is not None
        return code
    name = "standard input" if file == STDIN else repr(file)
    try:
        return _decode(_read(file))
    except OSError as error:
        why = error.strerror or str(error)
        raise CommandError(f"cannot read {name}: {why}; check the path and its rights.") from error
    except ValueError as error:
        raise CommandError(
            f"{name} is not text in UTF-8 ({error}); give a file of source code."
        ) from error


def _read(file: str) -> bytes:
    if file != STDIN:
        return Path(file).read_bytes()
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise ValueError("it has null bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"byte 0x{data[error.start]:02x} in line {line}") from None


def read_assignments(option: str, values: Iterable[str]) -> dict[str, str]:
    """Give what the ``NAME=VALUE`` of an option say.

    Raises:
        CommandError: one has no ``=``, or no name.
    """
    assignments = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise CommandError(f"{option} {text!r} is not NAME=VALUE; write for example A=1.")
        assignments[name] = value
    return assignments


def read_parameters(option: str, values: Iterable[str]) -> dict[str, Any]:
    """Give what the ``NAME=JSON`` of an option say; what is not JSON is a string.

    Raises:
        CommandError: as for :func:`read_assignments`.
    """
    return {name: _json(text) for name, text in read_assignments(option, values).items()}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
