"""Telling this machine from others that see the same files: a home directory may be shared.

A record of a running kernel says where it runs.  Its process ids mean something on that machine
alone, since its last start, and in its own namespace of them: a container that shares the home is
another machine in this sense.

Travels with the nanny: only the standard library is imported.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import is_process, process_identity

__all__ = ["is_process", "process_identity", "same_boot", "same_machine", "this_machine"]

#: Where Linux keeps what no other machine has (machine-id(5)).
_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
_PID_NAMESPACE = "/proc/self/ns/pid"


def this_machine() -> dict[str, str]:
    """Give what tells this machine from others, as JSON.

    Returns:
        ``host``, its name; ``machine_id``, the name again where it has no id of its own;
        ``boot_id``, another with each start, and ``pid_namespace``, both empty where the system
        does not tell.
    """
    host = socket.gethostname()
    ids = (_text(file) for file in _MACHINE_ID_FILES)
    return {
        "host": host,
        "machine_id": next(filter(None, ids), host),
        "boot_id": _text(_BOOT_ID_FILE),
        "pid_namespace": _pid_namespace(),
    }


def same_machine(machine: Mapping[str, Any]) -> bool:
    """Tell whether this is the machine that was described; also when it has started again since.

    Args:
        machine: what :func:`this_machine` gave there.
    """
    here = this_machine()
    if here["boot_id"] and here["boot_id"] == machine.get("boot_id"):
        # No other running system has it, whatever its name is by now; containers on it do.
        return here["pid_namespace"] == machine.get("pid_namespace")
    # Copies of one image may share an id, but then not the name.
    return all(here[name] == machine.get(name) for name in ("machine_id", "host"))


def same_boot(machine: Mapping[str, Any]) -> bool:
    """Tell whether a machine that is this one has not started again since; in doubt it has not.

    Args:
        machine: what :func:`this_machine` gave there.
    """
    boot_id = machine.get("boot_id")
    return not boot_id or this_machine()["boot_id"] in ("", boot_id)


def _text(file: str) -> str:
    try:
        text = Path(file).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    # What systemd writes while a machine starts for the first time.
    return "" if text == "uninitialized" else text


def _pid_namespace() -> str:
    try:
        return os.readlink(_PID_NAMESPACE)
    except OSError:
        return ""
