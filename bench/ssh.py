"""A real OpenSSH server of this machine, and the tunnel that OpenSSH's own client makes to it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .kernels import CHANNELS, ECHO, IPYKERNEL

_NANNY_CHANNELS = ("nanny_control", "nanny_events", "nanny_journal")
#: How long a server or a tunnel may take to be there, in seconds.
_PATIENCE = 10.0


class SshServer:
    """A server with an account for whoever runs this, and ``ssh_kernels.toml`` that knows it.

    Args:
        env: the contestants' environment.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        program = shutil.which("sshd", path=f"{env['PATH']}:/usr/sbin")
        if program is None:
            raise SystemExit("There is no sshd: install openssh-server, or leave 'ssh' out.")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(prefix="sshd-", dir=env.get("TMPDIR")))
        self._port = _free_port()
        for name in ("host_key", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._directory / name]
            subprocess.run(command, check=True)
        host_key = (self._directory / "host_key.pub").read_text().split()[:2]
        known = f"[127.0.0.1]:{self._port} {' '.join(host_key)}\n"
        (self._directory / "known_hosts").write_text(known)
        self.config = self._directory / "ssh_config"
        self.config.write_text(self._client_settings())
        (self._directory / "sshd_config").write_text(self._server_settings(env))
        kernels = Path(env["JUPYTER_CONFIG_DIR"], "ssh_kernels.toml")
        kernels.write_text(self._table("echo", ECHO) + self._table("python3", IPYKERNEL))
        self._log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(
            [program, "-D", "-e", "-f", self._directory / "sshd_config"], stderr=self._log
        )
        _until(lambda: socket.create_connection(("127.0.0.1", self._port)).close() is None)

    def _server_settings(self, env: Mapping[str, str]) -> str:
        kept = ("TMPDIR", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        environment = " ".join(f'"{name}={env[name]}"' for name in kept)
        return (
            f"ListenAddress 127.0.0.1:{self._port}\n"
            f"HostKey {self._directory}/host_key\n"
            f"PidFile {self._directory}/pid\n"
            f"AuthorizedKeysFile {self._directory}/key.pub\n"
            f"SetEnv {environment}\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin yes\nLogLevel VERBOSE\n"
        )

    def _client_settings(self) -> str:
        return (
            "Host bench\n HostName 127.0.0.1\n"
            f" Port {self._port}\n User {getpass.getuser()}\n"
            f" IdentityFile {self._directory}/key\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self._directory}/known_hosts\n"
        )

    def _table(self, name: str, module: str) -> str:
        argv = [sys.executable, "-m", module, "-f", "{connection_file}"]
        return (
            f'[kernels.{name}]\nhost = "bench"\nargv = {argv!r}\nlanguage = "python"\n'
            f"ssh_config = '{self.config}'\npython = '{sys.executable}'\n"
        )

    def handshakes(self) -> int:
        """Give how often somebody has logged in."""
        return (self._directory / "log").read_text().count("Accepted publickey")

    def close(self) -> None:
        """End it, and remove what it wrote."""
        self._process.terminate()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class OpenSshTunnel:
    """``ssh -L`` for each socket of a kernel on a host, at its best: beside a session with a terminal.

    A tunnel alone (``-N``) has Nagle's algorithm wait for delayed acknowledgements at both ends, some 40
    ms for a message of a few frames.

    Args:
        server: the host.
        info: the connection info of the kernel, on Unix sockets there.
    """

    def __init__(self, server: SshServer, info: Mapping[str, Any]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="L-", dir=server.config.parent.parent))
        prefix = self._directory / "k"
        ports = [info[f"{channel}_port"] for channel in (*CHANNELS, *_NANNY_CHANNELS)]
        forwards = [word for p in ports for word in ("-L", f"{prefix}-{p}:{info['ip']}-{p}")]
        self._process = subprocess.Popen(
            ["ssh", "-F", server.config, "-tt", *forwards, "bench", "sleep 100000"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(lambda: all(Path(f"{prefix}-{port}").exists() for port in ports))
        #: The connection info of its local ends.
        self.info = {**info, "ip": str(prefix)}

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _until(is_there: Any) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            if is_there():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("a server or tunnel of ssh did not come up")
        time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
