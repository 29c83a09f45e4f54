"""What ssh_config(5) says about a host.

It is asked of ``ssh -G`` where there is an ssh client: nothing else knows all of that page. Without
one, paramiko's parser reads the same files.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import SshError

__all__ = ["Settings", "SshConfig", "config_error", "expand_home", "home"]

#: How long ``ssh -G`` may take, in seconds: a ``Match exec`` of the user's runs a program.
_PATIENCE = 20.0
#: How deep files may include one another; as in ssh.
_DEEPEST = 16
#: ssh_config(5), IdentityFile; kinds of key that paramiko cannot sign with are in an agent at most.
_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")

#: Settings by their lower-case name, each with all its values in order.
Settings = dict[str, list[str]]


def config_error(cause: str, advice: str = "") -> SshError:
    """Give the error for a name or a configuration that is wrong."""
    return SshError(cause, kind="config", advice=advice, phase="resolve")


class SshConfig:
    """Looks up the settings of hosts.

    Args:
        ssh_config: the file to read; None: the user's and the system's.
        program: the ssh client to ask; None: none.
    """

    def __init__(self, ssh_config: Path | None, program: str | None) -> None:
        self._ssh_config = None if ssh_config is None else ssh_config.expanduser().absolute()
        #: The file, empty for the user's own.
        self.path = "" if self._ssh_config is None else str(self._ssh_config)
        self._program = program

    def look_up(self, host: str, user: str, port: int | None, jumps: str | None) -> Settings:
        """Give the settings of a host.

        Args:
            host: as its user wrote it; a name that no program can take for an option.
            user: wins over that of the configuration; may be empty.
            port: the same; may be None.
            jumps: in place of the ProxyJump of the configuration; None: that.

        Raises:
            SshError: of kind ``config``.
        """
        given = _given(user, port, jumps)
        settings = self._ask_client(host, given) if self._program is not None else None
        return self._parse(host, given) if settings is None else settings

    def _ask_client(self, host: str, given: Sequence[str]) -> Settings | None:
        """Have the ssh client say what it would do; None where there is none."""
        command = [str(self._program), "-G"]
        if self._ssh_config is not None:
            command += ["-F", str(self._ssh_config)]
        for line in given:
            command += ["-o", line]
        command += ["--", host]
        try:
            answer = _run(command)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise config_error(f"{self._program} could not be started: {error}.") from None
        except subprocess.TimeoutExpired:
            raise config_error(
                f"`ssh -G {host}` did not end within {_PATIENCE:g} s.",
                "Look for a `Match exec` in your ssh_config that hangs.",
            ) from None
        if answer.returncode != 0:
            raise config_error(
                f"Your ssh client cannot say how to reach {host}: {_complaint(answer.stderr)}",
                f"Run `{shlex.join(command)}` to see what is wrong.",
            )
        settings: Settings = {}
        for line in answer.stdout.decode(errors="surrogateescape").splitlines():
            name, _, value = line.partition(" ")
            settings.setdefault(name.lower(), []).append(value)
        return settings

    def _parse(self, host: str, given: Sequence[str]) -> Settings:
        """Read the configuration with paramiko's parser."""
        # The slow import is for those without an ssh client.
        from paramiko import SSHConfig
        from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

        config = SSHConfig()
        try:
            config.parse(given)
            for path in self._files():
                config.parse(_lines(path))
            found: dict[str, Any] = dict(config.lookup(host))
        except (ConfigParseError, CouldNotCanonicalize, OSError, UnicodeError, ValueError) as error:
            raise config_error(f"Your ssh_config cannot be read: {error}.") from None
        except ImportError:
            raise config_error(
                "Your ssh_config has a `Match exec`, which needs an ssh client on this machine.",
                "Install an OpenSSH client.",
            ) from None
        settings: Settings = {}
        for name, value in found.items():
            if value is not None:
                settings[name] = (
                    [str(item) for item in value] if isinstance(value, list) else [value]
                )
        if "proxycommand" in settings:
            # For paramiko these are two settings; for ssh the first of either holds.
            settings.pop("proxyjump", None)
        settings.setdefault("identityfile", [f"~/.ssh/{name}" for name in _IDENTITIES])
        return settings

    def _files(self) -> list[Path]:
        if self._ssh_config is not None:
            return [self._ssh_config]
        user = Path(home(), ".ssh", "config")
        return [path for path in (user, _SYSTEM_CONFIG) if path.is_file()]


def _given(user: str, port: int | None, jumps: str | None) -> list[str]:
    """Give what was said with the name of a host as lines of a configuration.

    Of each setting the first value holds, so these come before all others.
    """
    lines = [f"User={user}"] if user else []
    if port is not None:
        lines.append(f"Port={port}")
    if jumps is not None:
        # paramiko does not know that one stands for the other.
        lines += [f"ProxyJump={jumps}", "ProxyCommand=none"]
    return lines


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a program; nothing that it started goes on when it takes too long."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            output, complaints = process.communicate(timeout=_PATIENCE)
        except BaseException:
            if sys.platform != "win32":
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, complaints)


def _lines(path: Path, depth: int = 0) -> list[str]:
    """Give the lines of a configuration, those of the files that it includes in their place.

    sshconfig_error(5), Include: relative names are below ``~/.ssh``, or ``/etc/ssh`` for the system's.
    """
    if depth > _DEEPEST:
        raise ValueError(f"{path} includes itself")
    base = _SYSTEM_CONFIG.parent if path.parent == _SYSTEM_CONFIG.parent else Path(home(), ".ssh")
    lines: list[str] = []
    block = ""
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        keyword, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() == "include":
            for pattern in shlex.split(rest):
                for name in sorted(glob.glob(str(base / expand_home(pattern)))):
                    lines += _lines(Path(name), depth + 1)
            # A block that the included file has opened ends with it.
            lines.append(block or "Host *")
        else:
            if keyword.lower() in ("host", "match"):
                block = line
            lines.append(line)
    return lines


def _complaint(output: bytes) -> str:
    """Give the last line of what ssh wrote to its standard error, as the end of a sentence."""
    lines = [
        line.strip()
        for line in output.decode(errors="replace").splitlines()
        if line.strip() and not line.startswith("Pseudo-terminal")
    ]
    # At the end it may only count what it has complained of.
    if len(lines) > 1 and ": terminating, " in lines[-1]:
        lines.pop()
    text = lines[-1] if lines else "it gives no reason"
    return text if text.endswith(".") else f"{text}."


def expand_home(path: str) -> str:
    """Expand the ``~`` of a path."""
    if path == "~" or path.startswith("~/"):
        return home() + path[1:]
    return os.path.expanduser(path)


def home() -> str:
    """Give the user's home: ssh asks the system for it, whatever HOME says."""
    if sys.platform != "win32":
        import pwd

        # A user of a container may be a mere number.
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(os.getuid()).pw_dir
    return os.path.expanduser("~")
