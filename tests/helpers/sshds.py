"""Real OpenSSH servers on loopback, each with keys, a home and settings of its own."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from waiting import eventually_sync

__all__ = ["SshAgent", "Sshd", "install", "install_shells", "new_key"]

#: How long a server may take to start or to end, in seconds.
_PATIENCE = 10.0

#: What all servers of tests have in common.
_SETTINGS = {
    # Keys below a directory that all may write to would not do, and a root without a password.
    "StrictModes": "no",
    "UsePAM": "no",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "PermitRootLogin": "yes",
    "UseDNS": "no",
    "PrintMotd": "no",
    # The default refuses at random when many come at once.
    "MaxStartups": "100:30:200",
    "Subsystem": "sftp internal-sftp",
    "LogLevel": "VERBOSE",
}


@functools.cache
def install() -> str:
    """Give the path of sshd, installed before where it can be; else the test is skipped."""
    path = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "openssh-server", "openssh-client"]
        for prepare in (command, ["apt-get", "update"], command):
            subprocess.run(prepare, env=environment, capture_output=True, check=False)
            path = shutil.which("sshd", path="/usr/sbin")
            if path is not None:
                break
    if path is None:
        pytest.skip("there is no sshd on this machine, and it cannot be installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return path


@functools.cache
def install_shells() -> None:
    """Install login shells of other kinds where that can be done."""
    if shutil.which("fish") and shutil.which("tcsh"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "--no-install-recommends", "fish", "tcsh"]
        for prepare in (command, ["apt-get", "update"], command):
            subprocess.run(prepare, env=environment, capture_output=True, check=False)
            if shutil.which("fish") and shutil.which("tcsh"):
                return


class Sshd:
    """A server in which whoever runs the tests can log in with :attr:`key`.

    Sessions have a home, a TMPDIR, and Jupyter's directories below :attr:`directory`.

    Args:
        name: the alias of the server in :attr:`config`.
        settings: of sshd_config(5), beside the ones that all have.
        environment: further variables of sessions.
    """

    def __init__(
        self,
        name: str = "there",
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._program = install()
        self.name = name
        #: All that it and its sessions write is here.
        self.directory = Path(tempfile.mkdtemp(prefix="sshd-"))
        self.home = self.directory / "home"
        self.home.mkdir(mode=0o700)
        #: The TMPDIR of sessions: where the sockets of kernels are.
        self.tmp = self.directory / "t"
        self.tmp.mkdir(mode=0o700)
        self.port = _free_port()
        self.user = getpass.getuser()
        self.host_key = new_key(self.directory / "host_key")
        self.key = new_key(self.directory / "key")
        #: Public keys that may log in, one a line.
        self.authorized_keys = self.directory / "authorized_keys"
        shutil.copy(f"{self.key}.pub", self.authorized_keys)
        self.known_hosts = self.directory / "known_hosts"
        self.know()
        self._environment = {
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
            "IPYTHONDIR": str(self.home / "ipython"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            **(environment or {}),
        }
        self.settings = dict(settings or {})
        self._log = (self.directory / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        #: Connections of a server that was stopped.
        self._orphans: list[psutil.Process] = []
        #: A client's configuration that knows this server by its name.
        self.config = self.directory / "ssh_config"
        self.write_config()
        self.start()

    # -- the client's side -----------------------------------------------------------------

    def know(self, public_key: str = "") -> None:
        """Have clients expect a host key, by default the real one."""
        algorithm, key = (public_key or Path(f"{self.host_key}.pub").read_text()).split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {algorithm} {key}\n")

    def configuration(self, **settings: str) -> str:
        """Give a client's configuration, with some settings of ssh_config(5) on top."""
        lines = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            **settings,
        }
        body = "".join(f"  {name} {value}\n" for name, value in lines.items())
        return f"Host {self.name}\n{body}"

    def write_config(self, **settings: str) -> None:
        """Write the client's configuration anew, with some settings of ssh_config(5) on top."""
        self.config.write_text(self.configuration(**settings))

    def include(self, *others: Sshd) -> None:
        """Have the client's configuration know some other servers, too."""
        with self.config.open("a") as file:
            for other in others:
                file.write(other.config.read_text())

    def replace_host_key(self) -> None:
        """Have the server be another one from its next start on; clients do not know that."""
        self.host_key.unlink()
        new_key(self.host_key)

    # -- the server's life -----------------------------------------------------------------

    def start(self) -> None:
        """Start it, at the same port as before; returns when it accepts connections."""
        lines = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.host_key),
            "PidFile": str(self.directory / "pid"),
            "AuthorizedKeysFile": str(self.authorized_keys),
            # Of each setting sshd takes the first.
            "SetEnv": " ".join(f'"{name}={value}"' for name, value in self._environment.items()),
            **{name: value for name, value in _SETTINGS.items() if name not in self.settings},
            **self.settings,
        }
        text = "".join(f"{name} {value}\n" for name, value in lines.items())
        (self.directory / "sshd_config").write_text(text)
        self._launch()
        eventually_sync(self._listens, _PATIENCE)

    def _launch(self) -> None:
        self._logged = len(self.log())
        self._process = subprocess.Popen(
            [self._program, "-D", "-e", "-f", self.directory / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    def _listens(self) -> bool:
        """Tell whether it says so: at its port may be somebody else, for whom it waits."""
        assert self._process is not None
        said = self.log()[self._logged :]
        if self._process.poll() is not None:
            assert "Address already in use" in said, said
            self._launch()
            return False
        return f"Server listening on 127.0.0.1 port {self.port}." in said

    def stop(self) -> None:
        """Let nobody connect any more; connections that there are go on."""
        if self._process is not None:
            self._orphans = self.connections()
            self._process.terminate()
            self._process.wait(_PATIENCE)
            self._process = None

    def close(self) -> None:
        """End it with all its connections, and remove all that it wrote."""
        self.cut()
        self.stop()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """Give what it has written."""
        return (self.directory / "log").read_text(errors="replace")

    # -- its connections -------------------------------------------------------------------

    def connections(self) -> list[psutil.Process]:
        """Give the processes that serve one connection each."""
        children = [*self._orphans]
        if self._process is not None:
            children += psutil.Process(self._process.pid).children()
        return list(filter(_runs, children))

    def cut(self) -> int:
        """Kill the processes of all connections; gives how many there were."""
        connections = self.connections()
        for child in connections:
            with contextlib.suppress(psutil.NoSuchProcess):
                # Where privileges are separated, the connection is held by a child of its own.
                for process in (*child.children(recursive=True), child):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if process.name().startswith("sshd"):
                            process.kill()
        return len(connections)

    def freeze(self) -> None:
        """Stop the processes of all connections: as if the network swallowed everything."""
        for child in self.connections():
            for process in (child, *child.children(recursive=True)):
                if process.name().startswith("sshd"):
                    process.send_signal(signal.SIGSTOP)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_key(path: Path, passphrase: str = "", kind: str = "ed25519", *options: str) -> Path:
    """Make a pair of keys, the public one beside the private one; gives the private one's path."""
    # The default of RSA takes a second to find.
    size = ["-b", "2048"] if kind == "rsa" else []
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-f", path, *options]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


class SshAgent:
    """A real agent of its own, with some keys in it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent"
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", self.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        eventually_sync(self._answers, _PATIENCE)

    def _answers(self) -> bool:
        # The file is there before anybody listens.
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.path))
            return True
        return False

    def add(self, key: Path, *options: str) -> None:
        """Give it a key."""
        subprocess.run(
            ["ssh-add", "-q", *options, key],
            env={**os.environ, "SSH_AUTH_SOCK": str(self.path)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(_PATIENCE)
