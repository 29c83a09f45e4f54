"""A real container engine with an image, and kernels started in it by hand: with ``docker run``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from .kernels import CHANNELS, ECHO, IPYKERNEL

_USER = 10001
_PLACE = "/run/kernel-mgmt"


class Containers:
    """The engine and the image of the tests, and ``docker_kernels.toml`` that knows the image.

    Args:
        env: the contestants' environment, which is told where the engine is.
    """

    def __init__(self, env: dict[str, str]) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
        import pytest
        from dockerds import SharedEngine, provide_image

        try:
            self._engine = SharedEngine()
        except pytest.skip.Exception as error:
            raise SystemExit(f"{error}; leave 'docker' out.") from None
        env["DOCKER_HOST"] = self._engine.host
        self.image = provide_image(self._engine.host)
        kernels = Path(env["JUPYTER_CONFIG_DIR"], "docker_kernels.toml")
        kernels.write_text(self._table("echo", ECHO) + self._table("python3", IPYKERNEL))

    def _table(self, name: str, module: str) -> str:
        argv = ["python3", "-m", module, "-f", "{connection_file}"]
        return f'[kernels.{name}]\nimage = "{self.image}"\nargv = {argv!r}\n'

    def close(self) -> None:
        """Use the engine no more; it ends when nobody else does."""
        self._engine.close()


class HandmadeContainer:
    """``docker run`` of an ipykernel on Unix sockets, as closed as ours, by somebody who is root.

    Args:
        image: the image.
    """

    def __init__(self, image: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="run-"))
        self._name = f"bench-{uuid.uuid4().hex[:12]}"
        numbers = {f"{channel}_port": n for n, channel in enumerate(CHANNELS, 1)}
        common = {"transport": "ipc", "key": uuid.uuid4().hex, "signature_scheme": "hmac-sha256"}
        inside = {**common, **numbers, "ip": f"{_PLACE}/k"}
        self.info: dict[str, Any] = {**inside, "ip": str(self._directory / "k")}
        file = self._directory / "connection.json"
        file.write_text(json.dumps(inside))
        for path in (file, self._directory):
            os.chown(path, _USER, _USER)
        home = f"/home/kernel:rw,exec,mode=0700,uid={_USER},gid={_USER}"
        options = {
            "--name": self._name,
            "--user": f"{_USER}:{_USER}",
            "--network": "none",
            "--cap-drop": "ALL",
            "--security-opt": "no-new-privileges",
            "--memory": "2g",
            "--memory-swap": "2g",
            "--cpus": "1",
            "--pids-limit": "512",
            "--tmpfs": home,
            "--env": "HOME=/home/kernel",
            "--workdir": "/home/kernel",
            "--volume": f"{self._directory}:{_PLACE}",
            "--label": "kernel-mgmt-test=1",
        }
        command = ["docker", "run", "--init", "--read-only", "--tmpfs", "/tmp"]
        command += [word for pair in options.items() for word in pair]
        command += [image, "python3", "-m", IPYKERNEL, "-f", f"{_PLACE}/{file.name}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """Remove the container."""
        subprocess.run(["docker", "rm", "-fv", self._name], capture_output=True, check=False)
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
