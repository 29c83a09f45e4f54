"""How long imports take, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from .measure import interleave

_STATEMENTS = {
    "bare": "pass",
    "zmq": "import zmq",
    "ours": "import kernel_mgmt",
    "ours, used": "from kernel_mgmt import KernelClient, KernelFinder",
    "peer": "import jupyter_client",
}


def import_times(rounds: int, env: dict[str, str]) -> dict[str, float]:
    """Give the median milliseconds of each import, without those that Python takes to start."""
    tasks = {name: lambda code=code: _run(code, env) for name, code in _STATEMENTS.items()}
    interleave(1, tasks)  # fills the bytecode caches
    times = {name: median(taken) * 1000 for name, taken in interleave(rounds, tasks).items()}
    bare = times.pop("bare")
    return {name: max(taken - bare, 0.0) for name, taken in times.items()}


def _run(code: str, env: dict[str, str]) -> float:
    started = time.perf_counter()
    # In a session of its own, Ctrl-C does not make it print a traceback.
    subprocess.run([sys.executable, "-c", code], check=True, env=env, start_new_session=True)
    return time.perf_counter() - started
