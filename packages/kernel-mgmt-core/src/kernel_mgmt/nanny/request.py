"""What a nanny is asked to keep: its request on standard input."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..connection import ConnectionInfo
from ..errors import KernelMgmtError, NannyError, one_line
from ..launch import KernelType, NannyOptions
from ..restart_policy import RestartPolicy

__all__ = ["CONNECTION_FILE", "REQUEST_VERSION", "NannyRequest"]

#: The version of the request's format.
REQUEST_VERSION = 1

#: The longest time that makes sense, in seconds: some thirty years.
_LONGEST = 1e9

#: What can be part of the names of the kernel's files.
_KERNEL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

#: What stands in the command for the path of the kernel's connection file.
CONNECTION_FILE = "{connection_file}"

T = TypeVar("T")


@dataclass(frozen=True)
class NannyRequest:
    """A kernel to launch, and how to keep it.

    Attributes:
        kernel_id: the kernel's id.
        kernel_type: its type, for people and for what its kernels can.
        argv: the command; :data:`CONNECTION_FILE` in a word is replaced by a path.
        runtime_dir: where the connection file of the nanny goes, normally Jupyter's runtime
            directory.
        record_dir: where the record goes; None to write none.
        cwd: the kernel's working directory.
        env: variables of its environment, beside the nanny's own; None removes one.
        transport: how the nanny reaches the kernel, ``ipc`` or ``tcp``.
        encryption: whether that is encrypted: ``auto``, ``required`` or ``off``.
        handshake: whether the kernel picks its ports and registers them.
        connection_info: where the nanny shall listen and with which key; by default at private Unix
            sockets. Its nanny ports are chosen when it has none.
        options: how to keep the kernel.
        startup_timeout: seconds until a kernel that is started again must answer.
    """

    kernel_id: str
    kernel_type: KernelType
    argv: tuple[str, ...]
    runtime_dir: Path
    record_dir: Path | None = None
    cwd: Path | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)
    transport: str = "tcp"
    encryption: str = "auto"
    handshake: bool = False
    connection_info: ConnectionInfo | None = None
    options: NannyOptions = field(default_factory=NannyOptions)
    startup_timeout: float = 60.0

    def to_json(self) -> bytes:
        """Give the line to be written to the nanny's standard input."""
        kernel_type = self.kernel_type
        content = {
            "version": REQUEST_VERSION,
            "kernel_id": self.kernel_id,
            "kernel_type": {
                "provider": kernel_type.provider,
                "name": kernel_type.name,
                "display_name": kernel_type.display_name,
                "language": kernel_type.language,
                "interrupt_mode": kernel_type.interrupt_mode,
                "metadata": dict(kernel_type.metadata),
            },
            "argv": list(self.argv),
            "runtime_dir": str(self.runtime_dir),
            "record_dir": None if self.record_dir is None else str(self.record_dir),
            "cwd": None if self.cwd is None else str(self.cwd),
            "env": dict(self.env),
            "transport": self.transport,
            "encryption": self.encryption,
            "handshake": self.handshake,
            "connection_info": (
                None if self.connection_info is None else self.connection_info.to_dict()
            ),
            "options": asdict(self.options),
            "startup_timeout": self.startup_timeout,
        }
        try:
            return json.dumps(content).encode("ascii") + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise NannyError(f"The request to the nanny has no JSON form: {error}.") from None

    @classmethod
    def from_json(cls, line: bytes) -> NannyRequest:
        """Read a request.

        Raises:
            NannyError: it is no request, or one of another version.
        """
        try:
            content = json.loads(line)
            version = content["version"]
        except (ValueError, RecursionError, TypeError, KeyError):
            raise NannyError(
                "What was read from standard input is no JSON object with a version."
            ) from None
        if type(version) is not int or version != REQUEST_VERSION:
            shown = (
                version if type(version) is int and 0 <= version < 10**6 else "none that is known"
            )
            raise NannyError(
                f"The version of the request is {shown}, and this nanny knows {REQUEST_VERSION}; "
                "install the same version of kernel-mgmt-core on both sides."
            )
        try:
            return cls._read(content)
        except KeyError as error:
            raise NannyError(f"The request lacks {error}.") from None
        except (TypeError, ValueError, KernelMgmtError) as error:
            raise NannyError(f"The request cannot be used: {one_line(error)}.") from None

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> NannyRequest:
        return cls(
            kernel_id=_kernel_id(content["kernel_id"]),
            kernel_type=_kernel_type(content["kernel_type"]),
            argv=_argv(content["argv"]),
            runtime_dir=_path("runtime_dir", content["runtime_dir"]),
            record_dir=_optional_path("record_dir", content.get("record_dir")),
            cwd=_optional_path("cwd", content.get("cwd")),
            env=_env(content.get("env", {})),
            transport=_one_of("transport", content.get("transport", "tcp"), ("ipc", "tcp")),
            encryption=_one_of(
                "encryption", content.get("encryption", "auto"), ("auto", "required", "off")
            ),
            handshake=_check("handshake", content.get("handshake", False), bool),
            connection_info=_connection_info(content.get("connection_info")),
            options=_options(_object("options", content.get("options", {}))),
            startup_timeout=_seconds("startup_timeout", content.get("startup_timeout", 60.0)),
        )


# -- the fields of a request; each raises ValueError for what cannot be used ----------------


_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}


def _check(name: str, value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise ValueError(f"{name} must be {_NAMES[kind]}")
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    return _check(name, value, dict)


def _text(name: str, value: Any) -> str:
    """Give a text that the system can take: as a name, an argument, a variable."""
    text = _check(name, value, str)
    if "\0" in text:
        raise ValueError(f"{name} holds NUL")
    os.fsencode(text)  # raises for lone surrogates, but for those that stand for bytes
    return text


def _kernel_id(value: Any) -> str:
    if not _KERNEL_ID.fullmatch(_text("kernel_id", value)):
        raise ValueError(
            "kernel_id must be up to 128 letters, digits, dots, hyphens and underscores"
        )
    return str(value)


def _kernel_type(value: Any) -> KernelType:
    fields = _object("kernel_type", value)
    for name, part in fields.items():
        if name == "metadata":
            _object(name, part)
        else:
            _text(name, part)
    _one_of("interrupt_mode", fields.get("interrupt_mode", "signal"), ("signal", "message"))
    return KernelType(**fields)


def _argv(value: Any) -> tuple[str, ...]:
    if not _check("argv", value, list):
        raise ValueError("argv is empty")
    return tuple(_text("a word of argv", word) for word in value)


def _env(value: Any) -> dict[str, str | None]:
    return {
        _text("a variable's name", name): None if text is None else _text(name, text)
        for name, text in _check("env", value, dict).items()
    }


def _connection_info(value: Any) -> ConnectionInfo | None:
    if value is None:
        return None
    return ConnectionInfo.from_dict(_object("connection_info", value))


def _options(fields: dict[str, Any]) -> NannyOptions:
    _text("name", fields.get("name", ""))
    for name in ("lease", "idle_timeout", "unattended_timeout"):
        if fields.get(name) is not None:
            _seconds(name, fields[name])
    limit = fields.get("journal_limit")
    if limit is not None and type(limit) is not int:
        raise ValueError("journal_limit is no number of bytes")
    policy = fields.get("restart_policy")
    if policy is not None:
        fields = {**fields, "restart_policy": _policy(_object("restart_policy", policy))}
    return NannyOptions(**fields)


def _policy(fields: dict[str, Any]) -> RestartPolicy:
    for name, value in fields.items():
        if type(value) not in (int, float) or not 0 <= value <= _LONGEST:
            raise ValueError(f"{name} of restart_policy is no number that makes sense")
    return RestartPolicy(**fields)


def _seconds(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= _LONGEST:
        raise ValueError(f"{name} is no positive number of seconds")
    return float(value)


def _one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}")
    return str(value)


def _path(name: str, value: Any) -> Path:
    # Relative to what: the nanny has left the directory of whoever wrote it.
    if not os.path.isabs(_text(name, value)):
        raise ValueError(f"{name} is no absolute path")
    return Path(value)


def _optional_path(name: str, value: Any) -> Path | None:
    return None if value is None else _path(name, value)
