"""Records of kernels that there are none of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kernel_mgmt import ConnectionInfo, KernelRecord
from kernel_mgmt.machine import process_identity, this_machine

__all__ = ["alive", "gone", "make_record"]


def make_record(kernel_id: str = "one", **changes: Any) -> KernelRecord:
    """A record with something in every field."""
    fields: dict[str, Any] = {
        "kernel_id": kernel_id,
        "type_id": "test/echo",
        "connection_info": ConnectionInfo.for_tcp(),
        "manager": {"nanny": {"pid": os.getpid(), "identity": "x"}},
        "name": "näme",
        "started": 1_700_000_000.5,
        "cwd": "/somewhere",
        "machine": this_machine(),
        "connection_file": Path("/run/kernel-one.json"),
        **changes,
    }
    return KernelRecord(**fields)


def alive() -> dict[str, Any]:
    """What the record of a kernel says whose nanny is this process."""
    return {"nanny": {"pid": os.getpid(), "identity": process_identity(os.getpid())}}


def gone() -> dict[str, Any]:
    """What the record of a kernel says whose nanny has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return {"nanny": {"pid": ended.pid, "identity": "1"}}
