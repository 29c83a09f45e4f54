"""The file of one record: ``kernel-ID.json``, with a format version and the record's fields."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..connection import ConnectionInfo, write_private
from ..endpoints import file_errors_as_launch_errors
from ..errors import ConnectionFileError, KernelMgmtError, one_line
from ..launch import KernelRecord

__all__ = [
    "RECORD_FORMAT",
    "BadRecord",
    "journal_directory",
    "read_record",
    "record_path",
    "remove_record",
    "write_record",
]

logger = logging.getLogger("kernel_mgmt")

#: The version of the files' format. It rises when older readers would misunderstand a file; a
#: field more is none.
RECORD_FORMAT = 1

#: More than any record has, in bytes: what is larger is none.
_MAX_SIZE = 1_000_000

#: The names of records. Others are not looked at: a file that is being written, or newer things.
FILE_NAME = re.compile(r"kernel-([A-Za-z0-9._-]{1,128})\.json")

#: The last moment that is taken for one, in seconds since the epoch: in the year 5138.
_LATEST = 1e11


class BadRecord(KernelMgmtError):
    """A file cannot be used as the record of a kernel; it says which and why."""


def journal_directory(directory: Path, kernel_id: str) -> Path:
    """Give the path of the directory with a kernel's journal, where its nanny has one on disk.

    Args:
        directory: where the records are.
        kernel_id: the kernel's id.
    """
    return directory / f"journal-{kernel_id}"


def record_path(directory: Path, kernel_id: str) -> Path:
    """Give the path of a kernel's record."""
    return directory / f"kernel-{kernel_id}.json"


# -- writing --------------------------------------------------------------------------------


def write_record(directory: Path, record: KernelRecord) -> Path:
    """Write a record that nobody else can read (0600), in one step; an older one is replaced.

    Args:
        directory: where the records are; it is made if need be.
        record: what to write.

    Returns:
        The record's path.

    Raises:
        LaunchError: it cannot be written; nothing was left behind (phase ``start``).
    """
    with file_errors_as_launch_errors():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = record_path(directory, record.kernel_id)
        return write_private(path, _content(record), replace=True, what="record")


def _content(record: KernelRecord) -> dict[str, Any]:
    return {
        "format": RECORD_FORMAT,
        "kernel_id": record.kernel_id,
        "type_id": record.type_id,
        "name": record.name,
        "started": record.started,
        "cwd": record.cwd,
        "machine": dict(record.machine),
        "manager": dict(record.manager),
        "connection_file": None if record.connection_file is None else str(record.connection_file),
        "connection_info": record.connection_info.to_dict(),
    }


def remove_record(directory: Path, kernel_id: str) -> None:
    """Remove a kernel's record; safe to call twice."""
    try:
        record_path(directory, kernel_id).unlink()
    except FileNotFoundError:
        pass  # removed already
    except OSError as error:
        logger.warning("Left behind after a kernel: %s", error)


# -- reading --------------------------------------------------------------------------------


def read_record(path: Path) -> KernelRecord:
    """Read a record; fields that are not known are left out.

    Raises:
        FileNotFoundError: there is no such file (any more).
        BadRecord: it is no record, or one that cannot be used.
    """
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise BadRecord(
            f"The record {str(path)!r} is not JSON; was it written completely?"
        ) from None
    try:
        return _record(path, content)
    except (ConnectionFileError, ValueError) as error:
        raise BadRecord(f"The record {str(path)!r} cannot be used: {one_line(error)}.") from None


def _read(path: Path) -> bytes:
    # A link may lead anywhere, and the open of a pipe would wait.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            _check_file(path, os.fstat(descriptor))
            text = os.read(descriptor, _MAX_SIZE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadRecord(f"The record {str(path)!r} cannot be read: {error.strerror}.") from None
    if not text.strip():
        raise BadRecord(f"The record {str(path)!r} is empty; was it written completely?")
    return text


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadRecord(f"The record {str(path)!r} is no regular file.")
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        raise BadRecord(
            f"The record {str(path)!r} belongs to another user (uid {status.st_uid}), whose "
            "kernel would see your code."
        )
    if status.st_size > _MAX_SIZE:
        raise BadRecord(f"The record {str(path)!r} is larger than any record of a kernel.")


def _record(path: Path, content: object) -> KernelRecord:
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise ValueError("it is no JSON object with a format")
    if content["format"] != RECORD_FORMAT:
        raise ValueError(
            f"it has format {_shown(content['format'])} and format {RECORD_FORMAT} is known; "
            "update kernel-mgmt-core"
        )
    match = FILE_NAME.fullmatch(path.name)
    if match is None or content.get("kernel_id") != match[1]:
        raise ValueError("its name is not that of the kernel in it")
    info = _mapping(content, "connection_info")
    connection_file = content.get("connection_file")
    return KernelRecord(
        kernel_id=match[1],
        type_id=_text(content, "type_id"),
        connection_info=ConnectionInfo.from_dict(info),
        manager=_mapping(content, "manager"),
        name=_text(content, "name"),
        started=_moment(content, "started"),
        cwd=_text(content, "cwd"),
        machine=_mapping(content, "machine"),
        connection_file=(
            None if connection_file is None else Path(_text(content, "connection_file"))
        ),
    )


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} is no text")
    value.encode()  # raises for what cannot be shown or be part of a path
    return value


def _mapping(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object")  # noqa: TRY004 - it is the file's, not a caller's
    return value


def _moment(content: Mapping[str, Any], name: str) -> float | None:
    value = content.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < _LATEST:
        raise ValueError(f"{name} is no number of seconds since the epoch")
    return float(value)


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**6 else "very large"
