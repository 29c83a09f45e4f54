"""A real nanny with an echo kernel, in the processes that it has in earnest."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from kernel_mgmt import ConnectionInfo, RestartPolicy
from kernel_mgmt.launch import KernelType, NannyOptions
from kernel_mgmt.nanny.request import CONNECTION_FILE, NannyRequest

__all__ = ["QUICK", "RealNanny", "real_nanny"]

#: Starts a kernel again at once, and gives up after three.
QUICK = RestartPolicy(limit=3, backoff=0.01)
#: How long a nanny may take to start or to end, in seconds.
_PATIENCE = 20.0


class RealNanny:
    """A nanny that has answered.

    Attributes:
        info: where it and its kernel are.
        pid: its process.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self.info = ConnectionInfo.from_dict(answer["connection_info"])
        self.pid: int = answer["pid"]

    def kill(self) -> None:
        """Kill its process from outside."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Tell whether its process is gone; whoever adopted it may take a while to bury it."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@contextlib.contextmanager
def real_nanny(
    *arguments: str, policy: RestartPolicy | None = QUICK, **options: Any
) -> Iterator[RealNanny]:
    """Start a nanny with an echo kernel; at the end of the block neither is there any more.

    Args:
        *arguments: command-line options of the kernel.
        policy: when the kernel is started again.
        **options: further fields of the nanny's options.
    """
    argv = (sys.executable, "-m", "kernel_mgmt.testing.echo_kernel", "-f", CONNECTION_FILE)
    request = NannyRequest(
        kernel_id="real",
        kernel_type=KernelType("echo", provider="echo"),
        argv=(*argv, *arguments),
        runtime_dir=Path(os.environ["JUPYTER_RUNTIME_DIR"]),
        transport="ipc",
        options=NannyOptions(restart_policy=policy, **options),
        startup_timeout=_PATIENCE,
    )
    started = subprocess.run(
        [sys.executable, "-m", "kernel_mgmt.nanny"],
        input=request.to_json(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=_PATIENCE,
    )
    nanny = RealNanny(json.loads(started.stdout))
    try:
        yield nanny
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(nanny.pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while not nanny.ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        nanny.kill()
