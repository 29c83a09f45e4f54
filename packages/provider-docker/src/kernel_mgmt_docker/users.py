"""Whom a kernel runs as in its container."""

from __future__ import annotations

import os
import sys

__all__ = ["UNPRIVILEGED", "default_user", "numeric_ids", "parse_user"]

#: Somebody that no image and no machine knows, and that owns nothing.
UNPRIVILEGED = "10001:10001"


def default_user(*, shares_files: bool) -> str:
    """Give whom a kernel runs as when its configuration names nobody; never root.

    Args:
        shares_files: whether the engine sees this process's files, under the same owners. Who is not
            root can give them to nobody else, so that such a kernel runs as this process's user: its
            sockets are that user's alone, and it can write to the mounts.
    """
    if sys.platform != "win32" and shares_files and os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    return UNPRIVILEGED


def numeric_ids(user: str) -> tuple[int, int | None] | None:
    """Give uid and gid of ``uid`` or ``uid:gid``; None where an image has to be asked."""
    uid, _, gid = user.partition(":")
    if not uid.isdigit() or (gid and not gid.isdigit()):
        return None
    return int(uid), int(gid) if gid else None


def parse_user(user: str, passwd: str, group: str) -> tuple[int, int] | None:
    """Give uid and gid as the engine reads ``user[:group]``, of names or numbers.

    Args:
        user: as the configuration has it.
        passwd: the image's ``/etc/passwd``.
        group: the image's ``/etc/group``.

    Returns:
        The ids; None when the image knows no such name, which the engine will tell, too.
    """
    name, _, group_name = user.partition(":")
    entry = _entry(passwd, name)
    if entry is not None and len(entry) > 3 and entry[2].isdigit() and entry[3].isdigit():
        uid, gid = int(entry[2]), int(entry[3])
    elif name.isdigit():
        uid, gid = int(name), 0
    else:
        return None
    if not group_name:
        return uid, gid
    entry = _entry(group, group_name)
    if entry is not None and len(entry) > 2 and entry[2].isdigit():
        return uid, int(entry[2])
    return (uid, int(group_name)) if group_name.isdigit() else None


def _entry(table: str, name: str) -> list[str] | None:
    """Give the line of a name, or else of a number."""
    lines = [line.split(":") for line in table.splitlines()]
    for column in (0, 2):
        for line in lines:
            if len(line) > column and line[column] == name:
                return line
    return None
