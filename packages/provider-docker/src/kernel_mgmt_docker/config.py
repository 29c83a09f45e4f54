"""``docker_kernels.toml``: the images that the user has named as kernels.

A file has one table for each::

    [kernels.scipy]
    image = "jupyter/scipy-notebook"
    memory = "4g"
    mounts = [{ source = "~/data", target = "/data" }]
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path
from kernel_mgmt import KernelProblem, KernelType, LaunchError

from .narrowing import widens

__all__ = [
    "DEFAULT_ARGV",
    "DockerKernel",
    "Mount",
    "config_files",
    "memory_bytes",
    "read_config",
    "target_path",
]

_FILE_NAME = "docker_kernels.toml"

#: The command of a kernel whose table names none.
DEFAULT_ARGV = ("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")

#: What the name of a kernel type may be made of.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([bkmgt]?)", re.IGNORECASE)
#: From here on no engine can count, in bytes.
_MOST_MEMORY = 2**63
#: The least part of a processor that an engine grants: it takes less for no limit.
_LEAST_CPUS = 0.001
#: Beyond these a number is a mistake: processors, and some three hundred years.
_MOST_CPUS, _LONGEST = 1e6, 1e10
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Mount:
    """A directory or file of this machine that the kernel sees.

    Attributes:
        source: its path on the engine's machine.
        target: its path in the container.
        read_only: whether the kernel may only read it.
    """

    source: str
    target: str
    read_only: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form."""
        return {"source": self.source, "target": self.target, "read_only": self.read_only}


@dataclass(frozen=True)
class DockerKernel:
    """A kernel in a container, as a table of the configuration describes it.

    Attributes:
        name: of the kernel type.
        image: the image, with its tag or digest.
        argv: the command in the container, with ``{connection_file}``; empty for the image's
            ipykernel.
        language: what the kernel runs.
        display_name: for people.
        cwd: the working directory in the container; empty for the kernel's home.
        mounts: directories and files of the engine's machine that it sees.
        env: variables of its environment, which everybody who may use the engine can read.
        user: whom it runs as, ``uid``, ``uid:gid`` or a name of the image; empty for somebody without
            any rights.
        memory: how much it may have, such as ``512m`` or ``2g``; ``0`` for no limit.
        cpus: how many processors it may keep busy; 0 for no limit.
        pids: how many processes and threads it may have; 0 for no limit.
        gpus: ``all``, a number, or ids of devices with commas between; empty for none.
        network: ``none``, ``bridge`` or the name of a network of the engine.
        read_only: whether its file system is read-only, but for its home, ``/tmp`` and the mounts.
        pull: when to pull the image: ``missing``, ``always`` or ``never``.
        connect: how it is reached: ``auto``, ``ipc``, ``tcp`` or ``relay``.
        interrupt_mode: ``signal`` or ``message``.
        allow: what ``launch_params`` may set to anything, by its key.
        lease: seconds from its start, or from when that was asked for anew, after which whoever clears
            up ends it; 0 for ever.
        journal: whether a nanny on this machine keeps it, and what it says; None for where it is
            started to outlive its application.
    """

    name: str
    image: str
    argv: tuple[str, ...] = ()
    language: str = "python"
    display_name: str = ""
    cwd: str = ""
    mounts: tuple[Mount, ...] = ()
    # No repr: tokens are found in such places.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str = ""
    memory: str = "2g"
    cpus: float = 1.0
    pids: int = 512
    gpus: str = ""
    network: str = "none"
    read_only: bool = True
    pull: str = "missing"
    connect: str = "auto"
    interrupt_mode: str = "signal"
    allow: tuple[str, ...] = ()
    lease: float = 0.0
    journal: bool | None = None

    def kernel_type(self) -> KernelType:
        """Give the kernel type, whose metadata have all of this."""
        return KernelType(
            name=self.name,
            display_name=self.display_name or f"{self.name} ({self.image})",
            language=self.language,
            interrupt_mode=self.interrupt_mode,
            metadata={"docker": self.to_dict()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form: what differs from the defaults."""
        content: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            default = {} if item.default is MISSING else item.default
            if item.name in ("name", "image") or value != default:
                content[item.name] = _plain(value)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DockerKernel:
        """Read what :meth:`to_dict` gave, or a table of the configuration with its name.

        Raises:
            LaunchError: it is no such thing (phase ``resolve``).
        """
        table = dict(content)
        try:
            return _kernel(str(table.pop("name", "")), table)
        except _Wrong as error:
            raise LaunchError(
                f"The kernel in a container cannot be used: {error}.", phase="resolve"
            ) from None

    def narrowed(self, params: Mapping[str, Any]) -> DockerKernel:
        """Give it with the parameters of one launch, which may take rights away, not add any.

        Args:
            params: some of the keys that a table of the configuration has.

        Raises:
            LaunchError: one is not known, has the wrong type, or would open what the configuration
                does not let be opened (phase ``resolve``).
        """
        try:
            changes = _read_values(params)
        except _Wrong as error:
            raise LaunchError(
                f"launch_params: {error}.",
                phase="resolve",
                advice="Mend or remove that parameter.",
            ) from None
        for key, value in changes.items():
            reason = "" if key in self.allow else widens(key, getattr(self, key), value)
            if reason:
                raise LaunchError(
                    f"launch_params may not set {key}: {reason}.",
                    phase="resolve",
                    advice=f"Name {key!r} in the list 'allow' of kernel {self.name} in {_FILE_NAME} "
                    "if every user of that kernel may do so.",
                )
        return replace(self, **changes)


def memory_bytes(memory: str) -> int:
    """Give the number of bytes that such as ``512m`` means; 0 stands for no limit.

    Raises:
        ValueError: it is no amount, less than a byte, or more than an engine can count.
    """
    match = _MEMORY.fullmatch(memory)
    size = float(match[1]) * _UNITS[match[2].lower()] if match else math.nan
    # A part of a byte would be 0, which is no limit at all.
    if not (size == 0 or 1 <= size < _MOST_MEMORY):
        raise ValueError(f"{memory!r} is no amount of memory")
    return int(size)


def target_path(target: str) -> str:
    """Give the path in a container as the engine understands it."""
    # POSIX lets two slashes at the beginning mean something else than one.
    return posixpath.normpath("/" + target.lstrip("/"))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mount):
        return value.to_dict()
    return dict(value) if isinstance(value, Mapping) else value


# -- reading ----------------------------------------------------------------------------------


def config_files() -> list[Path]:
    """Give the files of Jupyter's configuration path that may be there; the first counts most."""
    # An entry of JUPYTER_CONFIG_PATH that is not absolute would be whatever directory we are in.
    directories = filter(os.path.isabs, jupyter_config_path())
    return [Path(directory, _FILE_NAME) for directory in dict.fromkeys(directories)]


def read_config(files: Sequence[Path] | None = None) -> list[DockerKernel | KernelProblem]:
    """Read the kernels of the configuration; of one name that of the first file.

    Args:
        files: those to read instead of :func:`config_files`; what is not there is passed over.

    Returns:
        The kernels, and for each table or file that cannot be used a problem that says where and
        why. One bad table costs itself alone; it still hides those of its name in later files.
    """
    found: list[DockerKernel | KernelProblem] = []
    seen: set[str] = set()
    for file in config_files() if files is None else files:
        found += [item for item in _read_file(file) if item.name not in seen]
        seen.update(item.name for item in found if item.name)
    return found


def _read_file(file: Path) -> Iterator[DockerKernel | KernelProblem]:
    try:
        text = file.read_bytes().decode()
        content = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield KernelProblem("", f"{str(file)!r} cannot be read: {error.strerror}.")
        return
    except (ValueError, RecursionError) as error:  # tomllib names line and column
        yield KernelProblem("", f"{str(file)!r} is no TOML: {error}.")
        return
    for key in content:
        if key != "kernels":
            message = f"{key!r} is not known; kernels are in tables [kernels.NAME]"
            yield KernelProblem("", _at(file, _line(text, key), message))
    tables = content.get("kernels", {})
    if not isinstance(tables, dict):
        message = "kernels must be tables, [kernels.NAME]"
        yield KernelProblem("", _at(file, _line(text, "kernels"), message))
        return
    for name, table in tables.items():
        yield _read_table(file, text, name, table)


def _read_table(file: Path, text: str, name: str, table: Any) -> DockerKernel | KernelProblem:
    line = _table_line(text, name)
    try:
        if not isinstance(table, dict):
            raise _Wrong(f"{name} must be a table, [kernels.{name}]")
        return _kernel(name, table, Path(os.path.abspath(file)).parent)
    except _Wrong as error:
        if error.key:
            line = _line(text, error.key, line) or line
        return KernelProblem(name, _at(file, line, str(error)))


def _at(file: Path, line: int, message: str) -> str:
    where = f", line {line}" if line else ""
    return f"{str(file)!r}{where}: {message}."


# -- one table ----------------------------------------------------------------------------------


class _Wrong(ValueError):
    """A table cannot be used; says why, and at which key."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def _kernel(name: str, table: Mapping[str, Any], base: Path | None = None) -> DockerKernel:
    """Read a table.

    Args:
        name: the kernel's name.
        table: what it holds.
        base: what relative sources of mounts are relative to; None where they must be absolute.

    Raises:
        _Wrong: it cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise _Wrong(f"the name {name!r} must be ASCII letters, digits, '.', '_' and '-'")
    values = _read_values(table, base)
    if not values.get("image"):
        raise _Wrong("image is missing", "image")
    return DockerKernel(name, **values)


def _read_values(table: Mapping[str, Any], base: Path | None = None) -> dict[str, Any]:
    values = {}
    for key, value in table.items():
        if key in _REFUSED:
            raise _Wrong(f"{key!r} is refused: {_REFUSED[key]}", key)
        if key == "mounts":
            values[key] = _mounts(key, value, base)
        elif key in _READERS:
            values[key] = _READERS[key](key, value)
        else:
            raise _Wrong(f"{key!r} is not known; it can be {', '.join(_KEYS)}", key)
    return values


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or re.search(r"[\x00-\x1f\x7f]", value):
        raise _Wrong(f"{key} must be a string of one line", key)
    return value


def _word(key: str, value: Any) -> str:
    if not _text(key, value) or value.startswith("-") or re.search(r"\s", value):
        raise _Wrong(f"{key} must be one word", key)
    return str(value)


def _argv(key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and not value:
        return ()
    fits = isinstance(value, list | tuple) and all(_is_word(word) for word in value)
    if not fits or not value[0]:
        raise _Wrong(f"{key} must be a list of strings", key)
    if not any("{connection_file}" in word for word in value):
        raise _Wrong(f"{key} must name {{connection_file}}, by which the kernel is told", key)
    return tuple(value)


def _variables(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(map(_is_word, value.values())):
        raise _Wrong(f"{key} must be a table of strings", key)
    for name in value:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise _Wrong(f"{key} has a variable {name!r} that no system can have", key)
    return dict(value)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _directory(key: str, value: Any) -> str:
    if _text(key, value) and not value.startswith("/"):
        raise _Wrong(f"{key} must be an absolute path in the container", key)
    return str(value)


def _user(key: str, value: Any) -> str:
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[\w.][\w.-]*(:[\w.][\w.-]*)?|", value):
        raise _Wrong(f"{key} must be 'uid', 'uid:gid' or the name of a user", key)
    return value


def _memory(key: str, value: Any) -> str:
    if type(value) is int and 0 <= value < _MOST_MEMORY:
        value = str(value)
    try:
        memory_bytes(value if isinstance(value, str) else "")
    except ValueError:
        raise _Wrong(
            f"{key} must be an amount such as '512m' or '2g', or '0' for no limit", key
        ) from None
    return str(value)


def _cpus(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not (value == 0 or _LEAST_CPUS <= value <= _MOST_CPUS):
        raise _Wrong(f"{key} must be a number from {_LEAST_CPUS} on, or 0 for no limit", key)
    return float(value)


def _seconds(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= _LONGEST:
        raise _Wrong(f"{key} must be a number of seconds, or 0 for no limit", key)
    return float(value)


def _count(key: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise _Wrong(f"{key} must be a whole number, or 0 for no limit", key)
    return int(value)


def _gpus(key: str, value: Any) -> str:
    if type(value) is int and value >= 0:
        value = str(value) if value else ""
    if not isinstance(value, str) or not re.fullmatch(r"|[\w.:-]+(,[\w.:-]+)*", value):
        raise _Wrong(f"{key} must be 'all', a number, or ids with commas between", key)
    return value


def _flag(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _Wrong(f"{key} must be true or false", key)
    return value


def _network(key: str, value: Any) -> str:
    network = _word(key, value)
    if network == "host" or network.startswith(("container:", "ns:")):
        raise _Wrong(
            f"{key} = {network!r} is refused: it gives the kernel the network of this machine or of "
            "another container, and every service that listens there",
            key,
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", network):
        raise _Wrong(f"{key} must be 'none', 'bridge' or the name of a network", key)
    return network


def _allow(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise _Wrong(f"{key} must be a list of strings", key)
    for item in value:
        if item not in _KEYS or item == "allow":
            raise _Wrong(f"{key} has {item!r}, which is no key that a launch could set", key)
    return tuple(value)


def _mounts(key: str, value: Any, base: Path | None) -> tuple[Mount, ...]:
    if not isinstance(value, list | tuple):
        raise _Wrong(f"{key} must be a list of tables with source and target", key)
    mounts = tuple(_mount(key, item, base) for item in value)
    targets = [target_path(mount.target) for mount in mounts]
    for target in targets:
        if targets.count(target) > 1:
            raise _Wrong(f"{key} has two with the target {target!r}", key)
    return mounts


def _mount(key: str, value: Any, base: Path | None) -> Mount:
    if isinstance(value, Mount):
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise _Wrong(f"{key} must be a list of tables with source and target", key)
    for name in value:
        if name not in ("source", "target", "read_only"):
            raise _Wrong(f"{key}: {name!r} is not known; it can be source, target, read_only", key)
    source, target = value.get("source", ""), value.get("target", "")
    if not all(_is_word(path) and path for path in (source, target)):
        raise _Wrong(f"{key}: each has a source and a target, which are paths", key)
    if source.startswith("~"):
        source = os.path.expanduser(source)
    if base is not None:
        source = os.path.join(base, source)
    if not os.path.isabs(source):
        raise _Wrong(f"{key}: source must be an absolute path", key)
    if not target.startswith("/") or target_path(target) == "/":
        raise _Wrong(f"{key}: target must be an absolute path in the container, and not '/'", key)
    read_only = value.get("read_only", True)
    if type(read_only) is not bool:
        raise _Wrong(f"{key}: read_only must be true or false", key)
    return Mount(source, target, read_only)


def _one_of(*choices: str) -> Callable[[str, Any], str]:
    def read(key: str, value: Any) -> str:
        if value not in choices:
            raise _Wrong(f"{key} must be {' or '.join(map(repr, choices))}", key)
        return str(value)

    return read


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "image": _word,
    "argv": _argv,
    "language": _text,
    "display_name": _text,
    "cwd": _directory,
    "env": _variables,
    "user": _user,
    "memory": _memory,
    "cpus": _cpus,
    "pids": _count,
    "gpus": _gpus,
    "network": _network,
    "read_only": _flag,
    "pull": _one_of("missing", "always", "never"),
    "connect": _one_of("auto", "ipc", "tcp", "relay"),
    "interrupt_mode": _one_of("signal", "message"),
    "allow": _allow,
    "lease": _seconds,
    "journal": _flag,
}

_KEYS = [*_READERS, "mounts"]

_HOST_NAMESPACE = "a kernel that shares a namespace with this machine is not contained"

#: What people know from ``docker run``, and no kernel gets.
_REFUSED = {
    "privileged": "a privileged container has all rights of root on this machine; what a kernel "
    "needs can be named singly, as mounts, user, gpus or network",
    "pid": _HOST_NAMESPACE,
    "pid_mode": _HOST_NAMESPACE,
    "ipc": _HOST_NAMESPACE,
    "ipc_mode": _HOST_NAMESPACE,
    "uts": _HOST_NAMESPACE,
    "uts_mode": _HOST_NAMESPACE,
    "userns": _HOST_NAMESPACE,
    "userns_mode": _HOST_NAMESPACE,
    "cgroupns": _HOST_NAMESPACE,
    "network_mode": "the key is network, and 'host' is no choice",
    "cap_add": "a kernel has no capability; they are rights of root",
    "security_opt": "a kernel cannot gain rights, and the engine's filters stay on",
    "devices": "a device of this machine is a way out of the container; for GPUs there is gpus",
}


# -- where it stands: tomllib tells no lines ------------------------------------------------------


def _table_line(text: str, name: str) -> int:
    """Give the line of a kernel's table, from 1; 0 when it is not found."""
    parts = rf"\s*kernels\s*\.\s*{_key_pattern(name)}\s*"
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[{parts}\]", line):
            return number
    return _line(text, name)


def _line(text: str, key: str, after: int = 0) -> int:
    """Give the line of a key below another line, up to the next kernel's table."""
    lines = text.splitlines()
    for number, line in enumerate(lines[after:], after + 1):
        if re.match(rf"\s*\[?\[?\s*([^\s=#]*\.\s*)?{_key_pattern(key)}\s*[].=]", line):
            return number
        if after and re.match(r"\s*\[\s*kernels\s*\.\s*[^.]*$", line):
            break
    return 0


def _key_pattern(key: str) -> str:
    return rf"(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')"
