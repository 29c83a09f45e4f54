"""The kernelspecs of this host, by the rules of Jupyter.

Source: Jupyter's documentation, *Making kernels for Jupyter*, section "Kernel specs".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .failing import AgentError

__all__ = ["HostKernelSpec", "find_kernelspec", "kernelspecs"]

_NAME = re.compile(r"[a-z0-9._-]+")
_PLACEHOLDER = re.compile(r"\{(prefix|resource_dir)\}")
_SHARE = os.path.join("share", "jupyter", "kernels")


@dataclass(frozen=True)
class HostKernelSpec:
    """A kernelspec of this host.

    Attributes:
        name: that of its directory, in lower case.
        directory: where its ``kernel.json`` is.
        argv: the command as it is written.
        display_name: for people.
        language: as it is written.
        interrupt_mode: ``signal`` or ``message``.
        env: variables, with references such as ``${HOME}``.
        metadata: what else it says.
    """

    name: str
    directory: str
    argv: tuple[str, ...]
    display_name: str
    language: str
    interrupt_mode: str
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """The prefix of the environment it belongs to; empty when it is not in one."""
        parent = os.path.dirname(self.directory)
        return parent[: -len(_SHARE) - 1] if parent.endswith(os.sep + _SHARE) else ""

    def command(self, python: str) -> list[str]:
        """Give its command, filled in but for the connection file.

        Args:
            python: what a bare ``python`` means where the environment has none of its own.
        """
        argv = list(self.argv)
        prefix = self.prefix or os.path.dirname(os.path.dirname(python))
        if re.fullmatch(r"python(3(\.\d+)?)?", argv[0]):
            # Jupyter takes the one that it runs with itself, which is the environment's.
            own = os.path.join(prefix, "bin", argv[0])
            argv[0] = own if os.access(own, os.X_OK) else python
        values = {"prefix": prefix, "resource_dir": self.directory}
        return [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in argv]


def kernelspecs(directories: list[str]) -> Iterator[HostKernelSpec | str]:
    """Give all kernelspecs, of one name that of the first directory; for a bad one, why it is.

    Args:
        directories: those that hold kernelspecs.
    """
    seen: set[str] = set()
    for parent in directories:
        try:
            names = sorted(os.listdir(parent))
        except OSError:
            continue
        for entry in names:
            name = entry.lower()
            directory = os.path.join(parent, entry)
            if name in seen or not os.path.isfile(os.path.join(directory, "kernel.json")):
                continue
            if not _NAME.fullmatch(name):
                continue
            seen.add(name)
            try:
                yield _read(name, directory)
            except ValueError as error:
                yield f"The kernelspec {directory!r} cannot be used: {error}."


def find_kernelspec(name: str, directories: list[str]) -> HostKernelSpec:
    """Give one kernelspec.

    Raises:
        AgentError: there is none of this name, or it cannot be used.
    """
    names = []
    for directory in directories:
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        for entry in entries:
            path = os.path.join(directory, entry)
            if not os.path.isfile(os.path.join(path, "kernel.json")):
                continue
            if entry.lower() != name.lower():
                names.append(entry.lower())
                continue
            try:
                return _read(entry.lower(), path)
            except ValueError as error:
                raise AgentError(
                    f"The host's kernelspec {path!r} cannot be used: {error}.",
                    kind="no-kernelspec",
                    advice="Mend its kernel.json there.",
                    phase="resolve",
                ) from None
    there = f"It has {', '.join(sorted(set(names)))}." if names else "It has none."
    raise AgentError(
        f"The host has no kernelspec {name!r}.",
        kind="no-kernelspec",
        advice=f"{there} An environment is looked in when its Python is 'python' of "
        "ssh_kernels.toml; `kernel-mgmt ssh discover` lists all.",
        phase="resolve",
    )


def _read(name: str, directory: str) -> HostKernelSpec:
    """Read a kernelspec; raises ValueError when it cannot be used."""
    try:
        with open(os.path.join(directory, "kernel.json"), "rb") as file:
            content = json.loads(file.read(1_000_000))
    except OSError as error:
        raise ValueError(f"its kernel.json cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ValueError("its kernel.json is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("its kernel.json is no JSON object")  # noqa: TRY004 - it is the file's fault
    argv, env = content.get("argv"), content.get("env", {})
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise ValueError("its argv must be a list of strings, and not empty")
    if not isinstance(env, dict) or not all(isinstance(text, str) for text in env.values()):
        raise ValueError("its env must be an object of strings")
    mode = str(content.get("interrupt_mode", "signal")).lower()
    if mode not in ("signal", "message"):
        raise ValueError("its interrupt_mode must be 'signal' or 'message'")
    metadata = content.get("metadata")
    return HostKernelSpec(
        name=name,
        directory=directory,
        argv=tuple(argv),
        display_name=str(content.get("display_name") or name),
        language=str(content.get("language", "")).lower(),
        interrupt_mode=mode,
        env=env,
        metadata=metadata if isinstance(metadata, dict) else {},
    )
