"""Kernels started by hand: a connection file, a Popen, and nothing to wait for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

ECHO = "kernel_mgmt.testing.echo_kernel"
IPYKERNEL = "ipykernel_launcher"


class RawKernel:
    """A kernel on Unix sockets in a directory of its own.

    Args:
        module: what to run, with ``python -m``.
        env: its environment, by default this process's.
    """

    def __init__(self, module: str, env: Mapping[str, str] = os.environ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="raw-", dir=env.get("TMPDIR")))
        self.info: dict[str, Any] = {
            "transport": "ipc",
            "ip": str(self._directory / "k"),
            **{f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)},
            "key": uuid.uuid4().hex,
            "signature_scheme": "hmac-sha256",
        }
        file = self._directory / "connection.json"
        file.write_text(json.dumps(self.info))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "-f", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # It ends itself when this process is gone.
            env={**env, "JPY_PARENT_PID": str(os.getpid())},
        )

    def close(self) -> None:
        """Kill the kernel and remove what it had."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
