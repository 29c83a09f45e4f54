"""Whether a parameter of a launch would give a kernel more than its table does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Mount

__all__ = ["widens"]

#: Keys that give no rights: a launch may set them to anything.
_HARMLESS = frozenset({"language", "display_name", "cwd", "interrupt_mode", "connect", "journal"})
#: Limits, of which 0 is none at all.
_LIMITS = frozenset({"cpus", "pids", "lease"})


def widens(key: str, old: Any, new: Any) -> str:
    """Tell why a value is more than the one it takes the place of; empty when it is not.

    Args:
        key: of a table of the configuration.
        old: what the table has.
        new: what a launch wants.
    """
    if new == old or key in _HARMLESS:
        return ""
    if key in _LIMITS:
        return _less_limit(old, new)
    if key == "memory":
        from .config import memory_bytes

        return _less_limit(memory_bytes(old), memory_bytes(new))
    if key == "mounts":
        wider = [mount.target for mount in new if not _is_within(mount, old)]
        return f"the mount at {wider[0]} is none of the configuration's" if wider else ""
    if key == "network":
        return "" if new == "none" else f"{new!r} is another network than {old!r}"
    if key == "read_only":
        return "" if new else "its file system would be writable"
    if key == "gpus":
        return _more_gpus(old, new)
    if key == "pull":
        return "" if new == "never" else f"the configuration says {old!r}"
    return "the configuration decides it"


def _less_limit(old: float, new: float) -> str:
    if not old or (new and new <= old):
        return ""
    return "that is more than the configuration allows"


def _is_within(mount: Mount, allowed: tuple[Mount, ...]) -> bool:
    """Tell whether a mount shows no more than one of the allowed ones does."""
    source = os.path.normpath(mount.source)
    for one in allowed:
        # Below it, a link could lead anywhere, which the engine would follow.
        same = source == os.path.normpath(one.source) and mount.target == one.target
        if same and (mount.read_only or not one.read_only):
            return True
    return False


def _more_gpus(old: str, new: str) -> str:
    if not new or old == "all":
        return ""
    if old.isdigit() and new.isdigit():
        return "" if int(new) <= int(old) else "those are more GPUs"
    if new.isdigit():
        return "a number is any of all GPUs, and the configuration names some"
    return "" if set(new.split(",")) <= set(old.split(",")) else "those are other GPUs"
