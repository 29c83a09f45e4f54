"""What a nanny is asked to keep: its request on standard input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..connection import ConnectionInfo
from ..errors import KernelMgmtError, NannyError, one_line
from ..launch import KernelType, NannyOptions
from ..restart_policy import RestartPolicy

__all__ = ["CONNECTION_FILE", "REQUEST_VERSION", "NannyRequest"]

#: The version of the request's format.
REQUEST_VERSION = 1

#: What stands in the command for the path of the kernel's connection file.
CONNECTION_FILE = "{connection_file}"


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
        if version != REQUEST_VERSION:
            raise NannyError(
                f"The request has version {version!r}, and this nanny knows {REQUEST_VERSION}; "
                "install the same version of kernel-mgmt-core on both sides."
            )
        try:
            return cls._read(content)
        except KeyError as error:
            raise NannyError(f"The request lacks {error}.") from None
        except (TypeError, ValueError, AttributeError, KernelMgmtError) as error:
            raise NannyError(f"The request cannot be used: {one_line(error)}.") from None

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> NannyRequest:
        info, options = content.get("connection_info"), dict(content.get("options") or {})
        if options.get("restart_policy") is not None:
            options["restart_policy"] = RestartPolicy(**options["restart_policy"])
        argv = content["argv"]
        if not argv or not all(isinstance(word, str) for word in argv):
            raise ValueError("argv must be a list of strings")
        return cls(
            kernel_id=str(content["kernel_id"]),
            kernel_type=KernelType(**content["kernel_type"]),
            argv=tuple(argv),
            runtime_dir=Path(content["runtime_dir"]),
            record_dir=_path(content.get("record_dir")),
            cwd=_path(content.get("cwd")),
            env=dict(content.get("env") or {}),
            transport=content.get("transport", "tcp"),
            encryption=content.get("encryption", "auto"),
            handshake=bool(content.get("handshake", False)),
            connection_info=None if info is None else ConnectionInfo.from_dict(info),
            options=NannyOptions(**options),
            startup_timeout=float(content.get("startup_timeout", 60.0)),
        )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
