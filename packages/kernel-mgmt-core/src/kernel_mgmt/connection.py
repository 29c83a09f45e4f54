"""How to reach a kernel: Jupyter's connection file, and where its sockets are.

Source: *Making kernels for Jupyter*, section "Connection files".
"""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import ConnectionFileError, shown

__all__ = [
    "CHANNELS",
    "NANNY_CHANNELS",
    "SUN_PATH_MAX",
    "ConnectionInfo",
    "free_tcp_ports",
    "new_key",
    "write_private",
]

#: The five channels of a kernel, as their ports are named in a connection file.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

#: The three more of a nanny that stands in front of one.
NANNY_CHANNELS = ("nanny_control", "nanny_events", "nanny_journal")

#: The longest path of a Unix socket in bytes, without the final NUL (unix(7); macOS has 104).
SUN_PATH_MAX = 107 if sys.platform == "linux" else 103

_SECRETS = frozenset({"key", "curve_secretkey"})


def new_key() -> str:
    """Make a fresh secret for signing messages: 122 random bits."""
    return str(uuid.uuid4())


def free_tcp_ports(count: int, ip: str = "127.0.0.1") -> list[int]:
    """Give TCP ports that were free just now, all different.

    Another process may take one before the kernel binds it; the launcher then tries again.
    """
    with ExitStack() as sockets:
        ports = []
        for _ in range(count):
            probe = sockets.enter_context(socket.socket())
            if sys.platform != "win32":  # where it would mean ports that are taken, too
                # Ports of connections that just ended count as free, as they do for ZeroMQ.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((ip, 0))
            ports.append(probe.getsockname()[1])
        return ports


@dataclass(frozen=True, repr=False)
class ConnectionInfo:
    """The content of a Jupyter connection file.

    Attributes:
        shell_port: port of the shell channel; with ``ipc`` the number that ends its path.
        iopub_port: likewise.
        stdin_port: likewise.
        control_port: likewise.
        hb_port: likewise.
        transport: ``tcp`` or ``ipc``.
        ip: the address; with ``ipc`` the path that the socket paths begin with.
        key: the secret that signs messages; empty for none.
        signature_scheme: how they are signed.
        kernel_name: name of the kernelspec, for people.
        curve_publickey: the kernel's CURVE public key (Z85), when the channels are encrypted.
        curve_secretkey: the kernel's CURVE secret key (Z85).
        interrupt_mode: ``signal`` or ``message``.
        nanny_control_port: port of the nanny's control socket, when a nanny stands in front.
        nanny_events_port: port of the nanny's event socket.
        nanny_journal_port: port at which it serves its journal; None when it keeps none.
        extra: whatever else the file holds, kept as it is.

    Raises:
        ConnectionFileError: a field has a value that cannot be used.
    """

    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    transport: str = "tcp"
    ip: str = "127.0.0.1"
    key: str = ""
    signature_scheme: str = "hmac-sha256"
    kernel_name: str = ""
    curve_publickey: str | None = None
    curve_secretkey: str | None = None
    interrupt_mode: str = "signal"
    nanny_control_port: int | None = None
    nanny_events_port: int | None = None
    nanny_journal_port: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.transport not in ("tcp", "ipc"):
            raise ConnectionFileError(
                f"The transport {shown(self.transport)} is not known; it must be 'tcp' or 'ipc'."
            )
        if self.interrupt_mode not in ("signal", "message"):
            raise ConnectionFileError(
                f"The interrupt_mode {shown(self.interrupt_mode)} is not known; "
                "it must be 'signal' or 'message'."
            )
        for name, port in self._ports():
            if type(port) is not int or not 0 <= port <= 65535:
                raise ConnectionFileError(f"{name} is {shown(port)}; it must be a port number.")
        if self.transport == "ipc":
            self._check_path_length()

    def _ports(self) -> list[tuple[str, int]]:
        ports = [(f"{channel}_port", getattr(self, f"{channel}_port")) for channel in CHANNELS]
        for name in (f"{channel}_port" for channel in NANNY_CHANNELS):
            port = getattr(self, name)
            if port is not None:
                ports.append((name, port))
        return ports

    def _check_path_length(self) -> None:
        try:
            path = os.fsencode(self.ip)
        except ValueError:  # a lone surrogate
            path = b"\0"
        if b"\0" in path:
            raise ConnectionFileError(f"The path {self.ip!r} is none that a file can have.")
        longest = max(len(path) + len(f"-{port}") for _, port in self._ports())
        if longest > SUN_PATH_MAX:
            raise ConnectionFileError(
                f"The socket paths below {self.ip!r} are {longest} bytes long, and this system "
                f"allows {SUN_PATH_MAX}; use a shorter directory, or transport 'tcp'."
            )

    # -- addresses -------------------------------------------------------------------------

    def endpoint(self, channel: str) -> str:
        """Give the ZeroMQ address of a channel.

        Args:
            channel: one of :data:`CHANNELS` or :data:`NANNY_CHANNELS`.

        Raises:
            ConnectionFileError: the connection info has no port for it.
        """
        port = getattr(self, f"{channel}_port", None)
        if not port:
            raise ConnectionFileError(f"The connection info has no port for channel {channel!r}.")
        if self.transport == "ipc":
            return f"ipc://{self.ip}-{port}"
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"tcp://{ip}:{port}"

    def socket_path(self, channel: str) -> Path:
        """Give the path of a channel's Unix socket (transport ``ipc``)."""
        return Path(self.endpoint(channel)[len("ipc://") :])

    @classmethod
    def for_tcp(cls, ip: str = "127.0.0.1", **kwargs: Any) -> ConnectionInfo:
        """Make a connection info with free TCP ports and a fresh key.

        Args:
            ip: the address that the kernel shall bind.
            **kwargs: further fields.
        """
        ports = {f"{c}_port": p for c, p in zip(CHANNELS, free_tcp_ports(len(CHANNELS), ip))}
        return cls(**{"key": new_key(), "transport": "tcp", "ip": ip, **ports, **kwargs})

    @classmethod
    def for_ipc(cls, directory: Path | str, **kwargs: Any) -> ConnectionInfo:
        """Make a connection info with Unix sockets in a directory, and a fresh key.

        Args:
            directory: a private directory; it need not exist yet.
            **kwargs: further fields.

        Raises:
            ConnectionFileError: the directory's path is too long for sockets.
        """
        ports = {f"{channel}_port": n for n, channel in enumerate(CHANNELS, 1)}
        prefix = os.path.join(os.path.abspath(directory), "k")
        return cls(**{"key": new_key(), "transport": "ipc", "ip": prefix, **ports, **kwargs})

    def replace(self, **changes: Any) -> ConnectionInfo:
        """Give a copy with some fields changed."""
        return replace(self, **changes)

    # -- files -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Give the content for a connection file: plain values, optional ones only when set."""
        content = dict(self.extra)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "extra" and value is not None:
                content[item.name] = value
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ConnectionInfo:
        """Read the content of a connection file; unknown entries are kept in ``extra``.

        Raises:
            ConnectionFileError: an entry is missing or has a value that cannot be used.
        """
        known = {item.name: item for item in fields(cls) if item.name != "extra"}
        missing = [n for n in ("key", *(f"{c}_port" for c in CHANNELS)) if n not in content]
        if missing:
            raise ConnectionFileError(
                f"The connection info lacks {', '.join(missing)}; "
                "is it a connection file of a Jupyter kernel?"
            )
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in content.items():
            if name not in known:
                extra[name] = value
            elif name.endswith("_port"):
                values[name] = value  # checked with the rest in __post_init__
            elif isinstance(value, str):
                values[name] = value
            elif isinstance(value, bytes):
                values[name] = value.decode("utf-8", "replace")
            elif value is not None:
                given = "…" if name in _SECRETS else shown(value)
                raise ConnectionFileError(f"{name} is {given}; it must be a string.")
        return cls(**values, extra=extra)

    @classmethod
    def read(cls, path: Path | str, *, any_owner: bool = False) -> ConnectionInfo:
        """Read a connection file.

        Args:
            path: the file.
            any_owner: accept a file that belongs to another user than this process or root.
                Whoever wrote the file runs the kernel that will see your code and input.

        Raises:
            ConnectionFileError: it is missing, not readable, somebody else's, or not a
                connection file.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                _check_owner(file.fileno(), path, any_owner)
                text = file.read()
        except FileNotFoundError:
            raise ConnectionFileError(
                f"There is no connection file {str(path)!r}; has the kernel ended?",
                path=str(path),
            ) from None
        except OSError as error:
            raise ConnectionFileError(
                f"The connection file {str(path)!r} cannot be read: {error.strerror}; "
                "it can be used by the user who started the kernel.",
                path=str(path),
            ) from None
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = "is empty" if not text.strip() else f"is not JSON ({error})"
            raise ConnectionFileError(
                f"The connection file {str(path)!r} {what}; was it written completely?",
                path=str(path),
            ) from None
        if not isinstance(content, dict):
            raise ConnectionFileError(
                f"The connection file {str(path)!r} does not hold a JSON object.", path=str(path)
            )
        try:
            return cls.from_dict(content)
        except ConnectionFileError as error:
            raise ConnectionFileError(f"{str(path)!r}: {error}", path=str(path)) from None

    def write(self, path: Path | str, *, replace: bool = False) -> Path:
        """Write a connection file that nobody else can read (0600).

        On Windows who may read it is decided by the directory: keep it below the user's profile,
        as Jupyter's runtime directory is.

        A file that exists is never overwritten: it may be another kernel's, or a trap.

        Args:
            path: the file.
            replace: put it in the place of the one that is there, in one step.

        Returns:
            The file's absolute path.

        Raises:
            ConnectionFileError: it exists, or cannot be written.
        """
        return write_private(path, self.to_dict(), replace=replace)

    def __repr__(self) -> str:
        where = self.ip if self.transport == "ipc" else self.endpoint_summary()
        marks = [self.transport, where]
        marks.append("signed" if self.key else "UNSIGNED")
        if self.curve_publickey:
            marks.append("encrypted")
        if self.nanny_control_port:
            marks.append("nanny")
        return f"<ConnectionInfo {' '.join(marks)}>"

    def endpoint_summary(self) -> str:
        """Give address and ports in one word, for people."""
        return f"{self.ip}:" + ",".join(str(port) for _, port in self._ports())


def write_private(
    path: Path | str,
    content: Mapping[str, Any],
    *,
    replace: bool = False,
    what: str = "connection file",
) -> Path:
    """Write JSON that nobody else can read; see :meth:`ConnectionInfo.write`.

    Args:
        path: the file.
        content: what it shall hold.
        replace: put it in the place of the one that is there, in one step.
        what: names the file in errors.
    """
    path = Path(os.path.abspath(path))
    try:
        data = json.dumps(content, indent=1).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConnectionFileError(
            f"The content of the {what} has no JSON form: {error}.", path=str(path)
        ) from None
    # A name that Jupyter does not take for a connection file.
    target = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}") if replace else path
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(target, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            if replace:
                os.replace(target, path)
        except OSError:
            target.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConnectionFileError(
            f"The {what} {str(path)!r} cannot be written: {error.strerror}.",
            path=str(path),
        ) from error
    return path


def _check_owner(descriptor: int, path: Path, any_owner: bool) -> None:
    if any_owner or not hasattr(os, "geteuid"):
        return
    owner = os.fstat(descriptor).st_uid
    if owner not in (os.geteuid(), 0):
        raise ConnectionFileError(
            f"The connection file {str(path)!r} belongs to another user (uid {owner}), whose "
            "kernel would see your code and input; pass any_owner=True if you trust them.",
            path=str(path),
        )
