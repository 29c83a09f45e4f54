"""Kernels started by hand: a connection file, a Popen, and nothing to wait for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import zmq

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

ECHO = "kernel_mgmt.testing.echo_kernel"
IPYKERNEL = "ipykernel_launcher"


class RawKernel:
    """A kernel with a directory of its own, on Unix sockets in it or on the loopback interface.

    Args:
        module: what to run, with ``python -m``.
        env: its environment, by default this process's.
        transport: ``ipc`` or ``tcp``.
        curve: whether its channels are encrypted.
    """

    def __init__(
        self,
        module: str,
        env: Mapping[str, str] = os.environ,
        *,
        transport: str = "ipc",
        curve: bool = False,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="raw-", dir=env.get("TMPDIR")))
        tcp = transport == "tcp"
        ports = _free_ports(len(CHANNELS)) if tcp else range(1, len(CHANNELS) + 1)
        self.info: dict[str, Any] = {
            "transport": transport,
            "ip": "127.0.0.1" if tcp else str(self._directory / "k"),
            **{f"{channel}_port": port for channel, port in zip(CHANNELS, ports, strict=True)},
            "key": uuid.uuid4().hex,
            "signature_scheme": "hmac-sha256",
        }
        if curve:
            public, secret = zmq.curve_keypair()
            self.info.update(curve_publickey=public.decode(), curve_secretkey=secret.decode())
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


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
