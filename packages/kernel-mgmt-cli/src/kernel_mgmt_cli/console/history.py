"""What was typed in earlier sittings: one file a language, shared by all consoles."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from prompt_toolkit.history import History

__all__ = ["KernelHistory", "history_file"]

logger = logging.getLogger("kernel_mgmt.console")

_VERSION = 1
#: As many entries are kept at least; when a file has twice as many it is cut to these.
_KEPT = 5000


def history_file(language: str) -> Path:
    """Give the path of a language's history, in Jupyter's data directory."""
    from jupyter_core.paths import jupyter_data_dir

    name = quote(language.lower(), safe="+# ")[:100] or "unknown"
    return Path(jupyter_data_dir()) / "kernel-mgmt" / "history" / f"{name}.jsonl"


class KernelHistory(History):
    """Keeps each input as a line of JSON, in a file that nobody else can read (0600).

    Consoles append at the same time: each takes the file's lock.  A line that is no entry, because
    a disk was full or a later version wrote it, is skipped.  A file that cannot be read or written
    costs the history and nothing else.
    """

    def __init__(self, path: Path, *, kept: int = _KEPT) -> None:
        super().__init__()
        self._path = path
        self._kept = kept
        self._broken = False

    def load_history_strings(self) -> Iterable[str]:
        """Give the inputs of earlier sittings, the latest first."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
            if len(lines) > 2 * self._kept:
                self._shorten()
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain("read", error)
            return []
        entries = [_entry(line) for line in lines[-self._kept :]]
        return [code for code in reversed(entries) if code is not None]

    def store_string(self, string: str) -> None:
        """Add an input."""
        entry = {"version": _VERSION, "time": round(time.time(), 3), "code": string}
        line = json.dumps(entry).encode() + b"\n"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked() as file:
                file.write(line if _ends_line(file) else b"\n" + line)
        except OSError as error:
            self._complain("written", error)

    def _shorten(self) -> None:
        with self._locked() as file:
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
            if len(lines) <= 2 * self._kept:
                return  # another console was quicker
            new = self._path.with_suffix(".new")
            with _open_private(new, os.O_TRUNC) as shorter:
                shorter.writelines(lines[-self._kept :])
            new.replace(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file for reading and appending; no other console has it meanwhile."""
        while True:
            with _open_private(self._path, os.O_APPEND) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_at(file, self._path):
                    continue  # it was shortened while we waited: this is the old one
                yield file
                return

    def _complain(self, what: str, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            logger.warning(
                "The history %s cannot be %s: %s; check the path and its rights.",
                str(self._path),
                what,
                error.strerror or error,
            )


def _open_private(path: Path, flags: int) -> BinaryIO:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    return open(descriptor, "r+b")


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _ends_line(file: BinaryIO) -> bool:
    """Tell whether the file ends with a whole line, unlike one that a full disk has cut."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _entry(line: bytes) -> str | None:
    try:
        code = json.loads(line)["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) else None
