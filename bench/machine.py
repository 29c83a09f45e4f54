"""On what a table was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import zmq

_DISTRIBUTIONS = ("pyzmq", "tornado", "orjson", "ipykernel", "jupyter_client")


def describe() -> dict[str, str]:
    """Give versions, processor and load."""
    return {
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        **{name: version(name) for name in _DISTRIBUTIONS},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{os.cpu_count()} × {_processor()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
