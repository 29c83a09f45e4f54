"""From the name of a host, as its user writes it, to the hops that lead there.

Nothing is connected to here, and paramiko is not needed where there is an ssh client.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shlex
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .ssh_config import Settings, SshConfig, config_error, expand_home, home

__all__ = ["Hop", "Route", "resolve"]

#: So many hops and no more: a ring of ProxyJumps has no end.
_MOST_HOPS = 16
#: The order of sshconfig_error(5), PreferredAuthentications; what is missing is not supported here.
_METHODS = ("publickey", "keyboard-interactive", "password")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
#: What a shell would not take for a part of a name; as OpenSSH 9.6 has it (CVE-2023-51385).
_SHELL = set("'`\"$\\;&<>|(){}")

#: A host with or without a port, in brackets when colons are a part of it.
_ADDRESS = r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:]*)(?::([0-9]{1,5}))?"


@dataclass(frozen=True)
class Hop:
    """One server on the way, with all that sshconfig_error(5) says about connecting to it.

    Args:
        alias: the name as its user wrote it.
        hostname: the name or address to connect to.
        port: its TCP port.
        user: whom to log in as.
        identity_files: paths of private keys to try, in order; they need not exist.
        identities_only: whether an agent's other keys stay unused.
        identity_agent: path of the agent's socket; ``""`` is ``SSH_AUTH_SOCK``, ``none`` no agent.
        known_hosts: paths of all files with host keys, the user's first.
        accept_file: the one that a new key would be written to; empty when there is none.
        certificate_files: paths of certificates that belong to keys of the agent or of files.
        revoked_host_keys: path of a file of keys not to be trusted; may be empty.
        host_key_alias: the name that its key is known by, instead of hostname and port.
        host_key_algorithms: acceptable ones in order; empty for all that there are.
        proxy_command: the shell's command whose standard streams lead to it; first hops only.
        address_family: ``any``, ``inet`` or ``inet6``.
        methods: of authentication, in the order in which they are tried.
        password_prompts: how often a wrong password may be typed again.
        batch_mode: whether nobody is to be asked anything.
        connect_timeout: seconds from nothing to a server that waits for authentication.
        keepalive_interval: seconds of silence after which the server is asked for a sign of life.
        ssh_config: path of the configuration that all this is from; empty for the user's own.
    """

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str = ""
    known_hosts: tuple[str, ...] = ()
    accept_file: str = ""
    certificate_files: tuple[str, ...] = ()
    revoked_host_keys: str = ""
    host_key_alias: str = ""
    host_key_algorithms: tuple[str, ...] = ()
    proxy_command: str = ""
    address_family: str = "any"
    methods: tuple[str, ...] = _METHODS
    password_prompts: int = 3
    batch_mode: bool = False
    connect_timeout: float = 15.0
    keepalive_interval: float = 5.0
    ssh_config: str = ""

    @property
    def name(self) -> str:
        """``user@hostname``, with the port when it is not ssh's own; for messages."""
        return f"{self.user}@{self.address}"

    @property
    def address(self) -> str:
        """``hostname``, with the port when it is not ssh's own; for messages."""
        if self.port == 22:
            return self.hostname
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{host}:{self.port}"

    @property
    def command(self) -> str:
        """What connects to it by hand; for messages."""
        config = ["-F", self.ssh_config] if self.ssh_config else []
        port = ["-p", str(self.port)] if self.port != 22 else []
        return shlex.join(["ssh", *config, *port, f"{self.user}@{self.alias}"])

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Hop:
        """Read what :meth:`to_dict` gave."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
            if name in known
        }
        return cls(**values)


@dataclass(frozen=True)
class Route:
    """The way to a host.

    Args:
        hops: the jump hosts in the order in which they are passed, and the host itself.
        key: what connections are shared by: equal for routes that differ in nothing.
    """

    hops: tuple[Hop, ...]
    key: str

    @classmethod
    def over(cls, hops: Sequence[Hop]) -> Route:
        """Give the route over some hops."""
        # Other names for the same way are the same way.
        bare = [replace(hop, alias="", ssh_config="").to_dict() for hop in hops]
        content = json.dumps(bare, sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        via = "".join(f" via {hop.user}@{hop.hostname}:{hop.port}" for hop in hops[-2::-1])
        target = hops[-1]
        return cls(tuple(hops), f"{target.user}@{target.hostname}:{target.port}{via} #{digest}")

    @property
    def name(self) -> str:
        """``user@hostname`` of its end, for messages."""
        return self.hops[-1].name

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form."""
        return {"hops": [hop.to_dict() for hop in self.hops], "key": self.key}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Route:
        """Read what :meth:`to_dict` gave."""
        return cls(tuple(Hop.from_dict(hop) for hop in content["hops"]), str(content["key"]))


def resolve(
    host: str,
    *,
    ssh_config: Path | None = None,
    identity_file: Path | None = None,
    program: str | None = "ssh",
) -> Route:
    """Find the way to a host, as ``ssh`` would.

    Args:
        host: an alias of the configuration, a name or an address, also as ``user@host`` or as
            ``ssh://user@host:port``.
        ssh_config: read instead of the user's and the system's configuration; for the jump hosts,
            too.
        identity_file: a private key to try before all others, at the host itself.
        program: the ssh client to ask; None, or one that does not exist: paramiko's parser.

    Returns:
        The route. It may take as long as the user's ``Match exec`` does.

    Raises:
        SshError: of kind ``config``: the name or the configuration is wrong.
    """
    target = _Target.parse(host)
    config = SshConfig(ssh_config, program)
    return Route.over(_hops(target, config, identity_file, None, depth=0))


@dataclass(frozen=True)
class _Target:
    """A host as it is written on a command line or in a ProxyJump."""

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str, *, with_port: bool = False) -> _Target:
        """Read ``[user@]host``, ``ssh://[user@]host[:port]``, and ``[user@]host[:port]`` if allowed."""
        rest = text
        if rest.lower().startswith("ssh://"):
            rest, with_port = rest[6:].removesuffix("/"), True
        user, _, address = rest.rpartition("@")
        port = None
        if with_port:
            found = re.fullmatch(_ADDRESS, address)
            if found is None:
                raise config_error(f"{text!r} is no name of a host with a port.")
            address = found[1] or found[3] or ""
            digits = found[2] or found[4]
            port = int(digits) if digits else None
        if port is not None and not 0 < port < 65536:
            raise config_error(f"The port of {text!r} is not between 1 and 65535.")
        # A user may be of a Windows domain: DOMAIN\name.
        nobody = "@" in rest if not user else not _harmless(user.replace("\\", ""))
        if not _harmless(address) or nobody:
            raise config_error(
                f"{text!r} is no name of a host.",
                "Give a host name or an alias of your ssh_config, with no space in it and no"
                " hyphen before it.",
            )
        return cls(address, user, port)


def _harmless(name: str) -> bool:
    """Whether a program that it is given to can take it for nothing but a name."""
    return (
        bool(name)
        and not name.startswith("-")
        and name.isprintable()
        and not any(character.isspace() for character in name)
        and not _SHELL & set(name)
    )


def _hops(
    target: _Target, config: SshConfig, identity_file: Path | None, jumps: str | None, depth: int
) -> list[Hop]:
    """Give the hops to a target; `jumps` is what replaces its own ProxyJump.

    Of a list, each host is reached through the one before it, and only the first through what its
    own settings say: as ``ssh`` calls itself with ``-J`` for all but the last.
    """
    if depth > _MOST_HOPS:
        raise config_error(f"The jump hosts on the way to {target.host} lead in a ring.")
    settings = config.look_up(target.host, target.user, target.port, jumps)
    if identity_file is not None:
        # As with `ssh -i`, which however forgets a file that is not there.
        settings.setdefault("identityfile", []).insert(0, str(identity_file.expanduser()))
    hop = replace(_hop(target, settings), ssh_config=config.path)
    way = settings.get("proxyjump", ["none"])[0]
    if way.lower() == "none":
        return [hop]
    before, _, last = way.rpartition(",")
    jump = _Target.parse(last.strip(), with_port=True)
    return [
        *_hops(jump, config, None, before.strip() or None, depth + 1),
        replace(hop, proxy_command=""),
    ]


# -- from settings to a hop ------------------------------------------------------------------


def _hop(target: _Target, settings: Settings) -> Hop:
    def one(name: str, default: str = "") -> str:
        value = settings.get(name, [default])[0].strip()
        return value if value.lower() != "none" else ""

    def flag(name: str, default: bool) -> bool:
        # Values of ssh_config are yes and no; ssh -G writes some as true and false.
        return one(name, "yes" if default else "no").lower() not in ("no", "false", "0")

    user = one("user") or target.user or getpass.getuser()
    hostname = one("hostname") or target.host
    port = _number(settings, "port", 22)
    if not _harmless(hostname) or not user.isprintable() or user.startswith("-"):
        raise config_error(f"HostName or User of {target.host} in your ssh_config is no name.")
    if flag("proxyusefdpass", False):
        raise config_error(
            f"ProxyUseFdpass, which your ssh_config asks for at {target.host}, is not supported.",
            "Set a ProxyCommand that copies its standard streams.",
        )
    tokens = {
        "%": "%",
        "d": home(),
        "h": hostname,
        "i": str(os.getuid()) if hasattr(os, "getuid") else "",
        "k": one("hostkeyalias") or target.host,
        "L": socket.gethostname().split(".")[0],
        "l": socket.gethostname(),
        "n": target.host,
        "p": str(port),
        "r": user,
        "u": getpass.getuser(),
        "j": "",
    }

    def paths(values: Iterable[str]) -> tuple[str, ...]:
        expanded = (_expand(value, tokens) for value in values)
        # Read by another process, which may be somewhere else; and the same file may be named
        # twice, by `-i` and by the configuration.
        named = (os.path.abspath(path) for path in expanded if path and path.lower() != "none")
        return tuple(dict.fromkeys(named))

    users = paths(_names(settings, "userknownhostsfile", _KNOWN_HOSTS))
    others = paths(_names(settings, "globalknownhostsfile", _GLOBAL_KNOWN_HOSTS))
    return Hop(
        alias=target.host,
        hostname=hostname,
        port=port,
        user=user,
        identity_files=paths(settings.get("identityfile", [])),
        identities_only=flag("identitiesonly", False),
        identity_agent=_agent(settings, tokens),
        known_hosts=(*users, *others),
        accept_file=next((path for path in users if path != os.devnull), ""),
        certificate_files=paths(settings.get("certificatefile", [])),
        revoked_host_keys=_expand(one("revokedhostkeys"), tokens),
        host_key_alias=one("hostkeyalias"),
        host_key_algorithms=_algorithms(one("hostkeyalgorithms")),
        proxy_command=_proxy_command(one("proxycommand"), tokens, target),
        address_family=one("addressfamily", "any").lower(),
        methods=_methods(one("preferredauthentications"), flag),
        password_prompts=_number(settings, "numberofpasswordprompts", 3),
        batch_mode=flag("batchmode", False),
        connect_timeout=float(_number(settings, "connecttimeout", 0) or 15),
        keepalive_interval=float(_number(settings, "serveraliveinterval", 0) or 5),
    )


def _number(settings: Settings, name: str, default: int) -> int:
    text = settings.get(name, ["none"])[0].strip().lower()
    if text == "none":
        return default
    found = re.fullmatch(r"([0-9]+)([smh]?)", text)
    if found is None:
        raise config_error(f"{name} in your ssh_config is no number: {text!r}.")
    # sshdconfig_error(5), TIME FORMATS; `ssh -G` gives seconds alone.
    return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _methods(preferred: str, flag: Any) -> tuple[str, ...]:
    """Give the methods of authentication that are wanted, in order."""
    names = [name.strip() for name in preferred.split(",")] if preferred else list(_METHODS)
    allowed = {
        "publickey": flag("pubkeyauthentication", True),
        "keyboard-interactive": flag("kbdinteractiveauthentication", True),
        "password": flag("passwordauthentication", True),
    }
    return tuple(name for name in names if allowed.get(name))


def _algorithms(text: str) -> tuple[str, ...]:
    """Read HostKeyAlgorithms; what changes a default list (+, -, ^) only ``ssh -G`` works out."""
    return () if not text or text[0] in "+-^" else tuple(text.split(","))


def _agent(settings: Settings, tokens: Mapping[str, str]) -> str:
    value = settings.get("identityagent", [""])[0].strip()
    if value.lower() == "none":
        return "none"
    if value in ("", "SSH_AUTH_SOCK"):
        return ""
    if value.startswith("$") and not value.startswith("${"):
        # sshconfig_error(5), IdentityAgent: the name of a variable.
        return os.environ.get(value[1:], "none") or "none"
    return _expand(value, tokens)


def _names(settings: Settings, name: str, default: Sequence[str]) -> list[str]:
    """Give the names of files of one setting.

    ``ssh -G`` writes them without the quotation marks of the configuration, so a name with a space
    in it can only be told by there being such a file.
    """
    values = settings.get(name)
    if values is None:
        return list(default)
    text = values[0]
    if '"' in text:
        try:
            return shlex.split(text)
        except ValueError:
            return [text]
    words, found = text.split(), []
    while words:
        for size in range(len(words), 0, -1):
            path = " ".join(words[:size])
            if size == 1 or os.path.exists(expand_home(path)):
                found.append(path)
                del words[:size]
                break
    return found


def _proxy_command(command: str, tokens: Mapping[str, str], target: _Target) -> str:
    """Fill in the tokens of a ProxyCommand.

    The user's shell reads it, as sshconfig_error(5) has it. What is filled in has been looked at: names
    from a stranger's list of hosts must not be commands.
    """
    if not command:
        return ""
    for letter in "hnr":
        name = tokens[letter]
        if f"%{letter}" in command and not _harmless(name):
            raise config_error(
                f"{name!r} on the way to {target.host} has characters of a shell in it."
            )
    return _percent(command, tokens)


def _expand(path: str, tokens: Mapping[str, str]) -> str:
    """Expand ``~``, ``%`` tokens and ``${NAME}``, as sshconfig_error(5), TOKENS, has it."""
    path = re.sub(
        r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}",
        lambda found: os.environ.get(found[1], found[0]),
        expand_home(path),
    )
    return _percent(path, tokens)


def _percent(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub("%(.)", lambda found: tokens.get(found[1], found[0]), text)
