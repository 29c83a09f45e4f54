"""The nanny as one file, to be run on hosts that have nothing of ours but a Python with pyzmq."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from ..errors import NannyError, one_line

__all__ = ["TRAVELS", "nanny_archive", "write_nanny_archive"]

#: What travels: these modules of this package, and packages with all that is in them. They run on
#: Python 3.9, and import the standard library, pyzmq, each other, and orjson where it is.
TRAVELS = (
    "background",
    "connection",
    "curve",
    "encryption",
    "endpoints",
    "errors",
    "launch",
    "local",
    "machine",
    "manager",
    "nanny",
    "process",
    "protocol",
    "records",
    "registration",
    "restart_policy",
)

#: The program in the archive, which also a Python understands that could not read the rest.
_MAIN = b"""\
import json, sys

if sys.version_info < (3, 9):
    print(json.dumps({
        "status": "error",
        "ename": "NannyError",
        "cause": "The nanny needs Python 3.9 or later, and %s is %s."
        % (sys.executable, sys.version.split()[0]),
        "phase": "start",
        "advice": "Run it with another Python of that host.",
    }))
    sys.exit(1)

from kernel_mgmt.nanny.__main__ import main

sys.exit(main())
"""

#: What the archive holds a part of.
_PACKAGE = "kernel_mgmt"

#: The date of every file in the archive, the first that there is: nothing but the sources counts.
_DATE = (1980, 1, 1, 0, 0, 0)


def nanny_archive() -> bytes:
    """Give the nanny of this version as the bytes of a zip file that Python runs.

    One version of this package gives the same bytes wherever and whenever it is asked.
    """
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, content in sorted(_contents().items()):
            # Not compressed, which other versions of zlib do to other bytes.
            archive.writestr(ZipInfo(name, _DATE), content)
    return buffer.getvalue()


def write_nanny_archive(path: Path | str) -> Path:
    """Write the nanny of this version as a zip file that Python runs.

    ``python3 nanny.pyz`` then does what ``python3 -m kernel_mgmt.nanny`` does, by any Python from 3.9
    on that has pyzmq.  One version of this package gives the same bytes wherever and whenever it is
    asked.

    Args:
        path: the file; one that is there is replaced, in one step.

    Returns:
        The file's absolute path.

    Raises:
        NannyError: it cannot be written.
    """
    path = Path(os.path.abspath(path))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(nanny_archive())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise NannyError(
            f"The nanny's archive {str(path)!r} cannot be written: {one_line(error)}; "
            "check the directory's path, room and rights."
        ) from error
    return path


def _contents() -> dict[str, bytes]:
    """Give the files of the archive by their names."""
    contents = {"__main__.py": _MAIN}
    for entry in files(__package__.rpartition(".")[0]).iterdir():
        if entry.name.removesuffix(".py") in {"__init__", *TRAVELS}:
            contents.update(_sources(entry, f"{_PACKAGE}/{entry.name}"))
    return contents


def _sources(entry: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    if entry.is_dir():
        for inner in entry.iterdir():
            yield from _sources(inner, f"{name}/{inner.name}")
    elif name.endswith(".py"):
        yield name, entry.read_bytes()
