"""Where a notebook is written to: a file that appears as a whole, or standard output."""

from __future__ import annotations

import os
import stat
import sys
import uuid
from pathlib import Path
from typing import Any

from ..errors import KERNEL_MGMT_FAILED, CommandError

__all__ = ["NotebookFile"]

#: The path that means standard output.
_STDOUT = "-"


class NotebookFile:
    """A notebook to be written.

    Args:
        path: where; ``-`` for standard output.
        replace: whether a file that is there is replaced.

    Raises:
        CommandError: there is one, and it is not to be replaced; or it is no file.
    """

    def __init__(self, path: str, *, replace: bool) -> None:
        self._name = path
        self._replace = replace
        # Where a link leads to is replaced, and not the link.
        self._target = Path(os.path.realpath(path))
        #: The rights of the file that is replaced.
        self._mode: int | None = None
        if path != _STDOUT:
            self._look_at_target()

    def _look_at_target(self) -> None:
        try:
            status = self._target.stat()
        except OSError:
            return
        if not stat.S_ISREG(status.st_mode):
            raise CommandError(f"{self._name!r} is no file; give the path of a notebook.")
        if not self._replace:
            raise self._exists()
        self._mode = stat.S_IMODE(status.st_mode)

    def _exists(self) -> CommandError:
        return CommandError(
            f"{self._name!r} is there already; give another path, or --force to replace it."
        )

    def write(self, notebook: dict[str, Any]) -> None:
        """Write it, or nothing.

        Args:
            notebook: its JSON.

        Raises:
            CommandError: it cannot be written.
            BrokenPipeError: nobody reads standard output any more.
        """
        data = _content(notebook)
        try:
            if self._name != _STDOUT:
                self._write_file(data)
            elif sys.stdout is not None:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
        except (BrokenPipeError, FileExistsError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise self._exists() from None
        except OSError as error:
            where = "to standard output" if self._name == _STDOUT else repr(self._name)
            raise CommandError(
                f"cannot write {where}: {error.strerror or error}; check the path, its rights, and "
                "whether there is room.",
                KERNEL_MGMT_FAILED,
            ) from error

    def _write_file(self, data: bytes) -> None:
        target = self._target
        temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666 if self._mode is None else self._mode)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            if self._replace:
                os.replace(temporary, target)
            else:
                _publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _publish(temporary: Path, target: Path) -> None:
    """Give a file its name, unless there is one of that name.

    Raises:
        FileExistsError: there is.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # the file system has no links
        if target.exists():
            raise FileExistsError from None
        os.rename(temporary, target)


def _content(notebook: dict[str, Any]) -> bytes:
    import nbformat  # takes as long to import as all the rest

    node = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    text = nbformat.writes(node)  # type: ignore[no-untyped-call]
    # A lone surrogate, which is no UTF-8, is written as JSON writes it.
    return f"{text}\n".encode("utf-8", "backslashreplace")
