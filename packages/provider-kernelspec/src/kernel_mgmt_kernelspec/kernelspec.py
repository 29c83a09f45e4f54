"""Kernelspecs: directories with a ``kernel.json`` that tells how to start a kernel.

Source: *Making kernels for Jupyter*, section "Kernel specs".
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_path
from kernel_mgmt import KernelMgmtError, KernelProblem, KernelType

__all__ = ["KernelSpec", "KernelspecError", "find_kernelspecs", "logos"]

# Jupyter's rule, for the lower-cased name of the directory.
_NAME = re.compile(r"[a-z0-9._-]+")

# What each optional field has to be; fields that are not here are left to whoever knows them.
_TYPES: dict[str, tuple[type, str]] = {
    "display_name": (str, "a string"),
    "language": (str, "a string"),
    "interrupt_mode": (str, "'signal' or 'message'"),
    "kernel_protocol_version": (str, "a string"),
    "env": (dict, "an object of strings"),
    "metadata": (dict, "an object"),
}


class KernelspecError(KernelMgmtError):
    """A kernelspec cannot be used; mend its ``kernel.json``, or remove it."""


@dataclass(frozen=True)
class KernelSpec(KernelType):
    """A kernel type that a ``kernel.json`` describes.

    Attributes:
        argv: the command, with placeholders such as ``{connection_file}``.
        env: variables to set, with references such as ``${HOME}``.
        kernel_protocol_version: the messaging protocol that the kernel speaks; empty when the
            kernelspec does not say.
    """

    argv: tuple[str, ...] = ()
    # No repr: kernelspecs have been seen to hold tokens here.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    kernel_protocol_version: str = ""

    @classmethod
    def read(cls, directory: Path) -> KernelSpec:
        """Read a kernelspec.

        Args:
            directory: where ``kernel.json`` is; it also gives the name.

        Raises:
            KernelspecError: the file cannot be read, or is no kernelspec; says which and why.
        """
        file = directory / "kernel.json"
        try:
            content = json.loads(file.read_bytes())
            _check(content)
        except OSError as error:
            raise KernelspecError(f"{str(file)!r} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise KernelspecError(f"{str(file)!r} is not JSON ({error})") from error
        except KernelspecError as error:
            raise KernelspecError(f"{str(file)!r} is no kernelspec: {error}") from None
        name = directory.name.lower()
        return cls(
            name=name,
            display_name=content.get("display_name") or name,
            language=content.get("language", "").lower(),
            interrupt_mode=content.get("interrupt_mode", "signal").lower(),
            resource_dir=directory,
            metadata=content.get("metadata", {}),
            argv=tuple(content["argv"]),
            env=content.get("env", {}),
            kernel_protocol_version=content.get("kernel_protocol_version", ""),
        )


def _check(content: Any) -> None:
    if not isinstance(content, dict):
        raise KernelspecError("it is not a JSON object")
    if not _is_strings(content.get("argv")) or not content["argv"]:
        raise KernelspecError("argv must be a list of strings, and not empty")
    for name, (wanted, described) in _TYPES.items():
        if name in content and not isinstance(content[name], wanted):
            raise KernelspecError(f"{name} must be {described}")
    if content.get("interrupt_mode", "signal").lower() not in ("signal", "message"):
        raise KernelspecError(f"interrupt_mode must be {_TYPES['interrupt_mode'][1]}")
    if not _is_strings(list(content.get("env", {}).values())):
        raise KernelspecError(f"env must be {_TYPES['env'][1]}")


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def find_kernelspecs() -> Iterator[KernelSpec | KernelProblem]:
    """Give the kernelspecs of Jupyter's search path; of one name, that of the first directory.

    As in Jupyter, upper and lower case in names are the same, and a bad kernelspec, in whose place
    there is a problem, still hides those of its name in later directories.
    """
    found: dict[str, Path] = {}
    for parent in dict.fromkeys(map(Path, jupyter_path("kernels"))):
        for directory in _kernelspecs_in(parent):
            if isinstance(directory, KernelProblem):
                yield directory
                continue
            name = directory.name.lower()
            first = found.setdefault(name, directory)
            if first == directory:
                yield _read(directory)
            elif first.parent == parent:
                yield _problem(directory, f"its name differs from {first.name!r} by case only")


def _read(directory: Path) -> KernelSpec | KernelProblem:
    try:
        return KernelSpec.read(directory)
    except KernelspecError as error:
        return KernelProblem(directory.name.lower(), f"{error}; mend or remove it.")


def _problem(directory: Path, reason: str) -> KernelProblem:
    return KernelProblem(
        directory.name.lower(), f"{str(directory)!r} is left out: {reason}; mend or remove it."
    )


def _kernelspecs_in(parent: Path) -> Iterator[Path | KernelProblem]:
    """Give the directories in one place of the search path that have a ``kernel.json``."""
    if not parent.is_absolute():
        # From JUPYTER_PATH, where an empty entry is easily made: whoever wrote into the directory
        # that we happen to be in would choose what runs.
        if parent.is_dir():
            message = f"{str(parent)!r} is left out: JUPYTER_PATH must have absolute paths."
            yield KernelProblem("", message)
        return
    try:
        names = sorted(os.listdir(parent))
    except FileNotFoundError:
        return
    except OSError as error:
        yield KernelProblem("", f"{str(parent)!r} cannot be listed: {error.strerror}.")
        return
    for directory in (parent / name for name in names):
        reason = _why_not(directory)
        if reason is None:
            yield directory
        elif reason:
            yield _problem(directory, reason)


def _why_not(directory: Path) -> str | None:
    """Tell why a directory entry is no kernelspec: empty when it is not meant to be one."""
    file = directory / "kernel.json"
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "its kernel.json is not a file"
    except (FileNotFoundError, NotADirectoryError):
        moved = file.is_symlink() or (directory.is_symlink() and not directory.exists())
        return "a symbolic link to nothing" if moved else ""
    except OSError as error:
        return error.strerror
    if not _NAME.fullmatch(directory.name.lower()):
        return "its name must have ASCII letters, digits, '.', '_' and '-' only"
    return None


def logos(kernel_type: KernelType) -> dict[str, Path]:
    """Give the logo files of a kernel type.

    Args:
        kernel_type: of any provider that tells its ``resource_dir``.

    Returns:
        Paths by name: ``logo-32x32``, ``logo-64x64``, ``logo-svg``; those that there are.
    """
    if kernel_type.resource_dir is None:
        return {}
    return {file.stem: file for file in sorted(kernel_type.resource_dir.glob("logo-*"))}
