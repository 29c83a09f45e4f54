"""``ssh_kernels.toml``: the kernels of other machines that the user has named.

A file has one table for each::

    [kernels.gpu]
    host = "gpu1"                     # an alias of ~/.ssh/config, or a name
    argv = ["~/env/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_dir, jupyter_config_path
from kernel_mgmt import KernelProblem, KernelType

from .errors import SshError

__all__ = ["SshKernel", "add_kernels", "config_files", "read_config"]

_FILE_NAME = "ssh_kernels.toml"

#: What the name of a kernel type may be made of.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: Keys of TOML that need no quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class SshKernel:
    """A kernel of another machine, as a table of the configuration describes it.

    Attributes:
        name: of the kernel type.
        host: an alias of ``ssh_config``, or a name, maybe as ``user@host``.
        argv: the command there, with ``{connection_file}``; empty when ``kernelspec`` is given.
        kernelspec: the name of a kernelspec of the host.
        cwd: the working directory there; empty for the home directory.
        env: variables of the kernel's environment, in which ``${NAME}`` is one of the host's.
        language: what the kernel runs.
        display_name: for people.
        python: the host's Python that carries the kernel; empty to look for one.
        ssh_config: another file than ``~/.ssh/config``.
        identity_file: a private key.
        interrupt_mode: ``signal`` or ``message``.
        transport: how the kernel is reached on its host, ``ipc``, or ``tcp`` for one that knows no Unix
            sockets.
        lease: seconds without any client after which the kernel is ended; 0 for never.
    """

    name: str
    host: str
    argv: tuple[str, ...] = ()
    kernelspec: str = ""
    cwd: str = ""
    # No repr: tokens are found in such places.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    language: str = ""
    display_name: str = ""
    python: str = ""
    ssh_config: str = ""
    identity_file: str = ""
    interrupt_mode: str = "signal"
    transport: str = "ipc"
    lease: float = 86400.0

    def kernel_type(self) -> KernelType:
        """Give the kernel type, whose metadata have all of this."""
        return KernelType(
            name=self.name,
            display_name=self.display_name or f"{self.name} on {self.host}",
            language=self.language,
            interrupt_mode=self.interrupt_mode,
            metadata={"ssh": self.to_dict()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Give its JSON form: what differs from the defaults."""
        content: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("name", "host") or (value and value != item.default):
                content[item.name] = value
        if self.lease != 86400.0:
            content["lease"] = self.lease
        if self.argv:
            content["argv"] = list(self.argv)
        if self.env:
            content["env"] = dict(self.env)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SshKernel:
        """Read what :meth:`to_dict` gave, or a table of the configuration with its name.

        Raises:
            SshError: it is no such thing (kind ``config``).
        """
        table = dict(content)
        try:
            return _kernel(str(table.pop("name", "")), table)
        except _Wrong as error:
            raise _config_error(f"A kernel on another machine cannot be used: {error}.") from None


# -- reading ----------------------------------------------------------------------------------


def config_files() -> list[Path]:
    """Give the files of Jupyter's configuration path that may be there; the first counts most."""
    # An entry of JUPYTER_CONFIG_PATH that is not absolute would be whatever directory we are in.
    directories = filter(os.path.isabs, jupyter_config_path())
    return [Path(directory, _FILE_NAME) for directory in dict.fromkeys(directories)]


def read_config(files: Sequence[Path] | None = None) -> list[SshKernel | KernelProblem]:
    """Read the kernels of the configuration; of one name that of the first file.

    Args:
        files: those to read instead of :func:`config_files`; what is not there is passed over.

    Returns:
        The kernels, and for each table or file that cannot be used a problem that says where and
        why. One bad table costs itself alone; it still hides those of its name in later files.
    """
    found: list[SshKernel | KernelProblem] = []
    seen: set[str] = set()
    for file in config_files() if files is None else files:
        found += [item for item in _read_file(file) if item.name not in seen]
        seen.update(item.name for item in found if item.name)
    return found


def _read_file(file: Path) -> Iterator[SshKernel | KernelProblem]:
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


def _read_table(file: Path, text: str, name: str, table: Any) -> SshKernel | KernelProblem:
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


def _kernel(name: str, table: Mapping[str, Any], base: Path | None = None) -> SshKernel:
    """Read a table.

    Args:
        name: the kernel's name.
        table: what it holds.
        base: what relative paths of local files are relative to.

    Raises:
        _Wrong: it cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise _Wrong(f"the name {name!r} must be ASCII letters, digits, '.', '_' and '-'")
    values = {}
    for key, value in table.items():
        if key not in _READERS:
            raise _Wrong(f"{key!r} is not known; it can be {', '.join(_READERS)}", key)
        values[key] = _READERS[key](key, value)
    if not values.get("host"):
        raise _Wrong("host is missing", "host")
    if bool(values.get("argv")) == bool(values.get("kernelspec")):
        both = "argv" in values and "kernelspec" in values
        raise _Wrong(
            "there must be argv or kernelspec" + (", not both" if both else ""), "kernelspec"
        )
    for key in ("ssh_config", "identity_file"):
        if base is not None and values.get(key):
            values[key] = str(base / Path(values[key]).expanduser())
    return SshKernel(name, **values)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or re.search(r"[\x00-\x1f\x7f]", value):
        raise _Wrong(f"{key} must be a string of one line", key)
    return value


def _host(key: str, value: Any) -> str:
    host = _text(key, value)
    if not host or host.startswith("-") or re.search(r"\s", host):
        raise _Wrong(f"{key} must be the name of a host", key)
    return host


def _words(key: str, value: Any) -> tuple[str, ...]:
    fits = isinstance(value, list | tuple) and value and all(_is_word(word) for word in value)
    if not fits or not value[0]:
        raise _Wrong(f"{key} must be a list of strings, and not empty", key)
    return tuple(value)


def _variables(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(map(_is_word, value.values())):
        raise _Wrong(f"{key} must be a table of strings", key)
    for name in value:
        if not name or "=" in name or "\0" in name:
            raise _Wrong(f"{key} has a variable {name!r} that no system can have", key)
    return dict(value)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _seconds(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise _Wrong(f"{key} must be a number of seconds, or 0 for never", key)
    return float(value)


def _one_of(*choices: str) -> Callable[[str, Any], str]:
    def read(key: str, value: Any) -> str:
        if value not in choices:
            raise _Wrong(f"{key} must be {' or '.join(map(repr, choices))}", key)
        return str(value)

    return read


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "host": _host,
    "argv": _words,
    "kernelspec": _text,
    "cwd": _text,
    "env": _variables,
    "language": _text,
    "display_name": _text,
    "python": _text,
    "ssh_config": _text,
    "identity_file": _text,
    "interrupt_mode": _one_of("signal", "message"),
    "transport": _one_of("ipc", "tcp"),
    "lease": _seconds,
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
        if re.match(rf"\s*\[?\s*([^\s=#]*\.\s*)?{_key_pattern(key)}\s*[].=]", line):
            return number
        if after and re.match(r"\s*\[\s*kernels\s*\.\s*[^.]*$", line):
            break
    return 0


def _key_pattern(key: str) -> str:
    return rf"(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')"


# -- writing --------------------------------------------------------------------------------------


def add_kernels(kernels: Sequence[SshKernel], path: Path | None = None) -> Path:
    """Add tables to the user's file, which keeps all that it has.

    Args:
        kernels: what to add.
        path: the file; by default the one in Jupyter's configuration directory of this user.

    Returns:
        The file.

    Raises:
        SshError: a name is taken, or the file cannot be read or written; nothing was changed.
    """
    path = Path(jupyter_config_dir(), _FILE_NAME) if path is None else path
    # Through a link, which stays one.
    target = Path(os.path.realpath(path))
    try:
        text = target.read_bytes().decode() if target.exists() else ""
        content = tomllib.loads(text)
    except OSError as error:
        raise _config_error(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise _config_error(f"{str(path)!r} is no TOML: {error}.", "Mend it first.") from error
    tables = content.get("kernels", {})
    _refuse_taken(kernels, tables if isinstance(tables, dict) else {}, path)
    for kernel in kernels:
        text += "" if not text or text.endswith("\n\n") else "\n" if text[-1] == "\n" else "\n\n"
        text += _table(kernel)
    try:
        tomllib.loads(text)
    except ValueError as error:
        raise _config_error(
            f"Nothing can be added to {str(path)!r}: its kernels are no tables [kernels.NAME].",
            "Write them as such.",
        ) from error
    _replace(target, text)
    return path


def _refuse_taken(kernels: Sequence[SshKernel], tables: Mapping[str, object], path: Path) -> None:
    names = [kernel.name for kernel in kernels]
    taken = sorted({name for name in names if name in tables or names.count(name) > 1})
    if taken:
        raise _config_error(
            f"{str(path)!r} has {', '.join(taken)} already.", "Choose another name, or remove it."
        )


def _table(kernel: SshKernel) -> str:
    lines = [f"[kernels.{_key(kernel.name)}]"]
    content = kernel.to_dict()
    env = content.pop("env", {})
    del content["name"]
    lines += [f"{key} = {_value(value)}" for key, value in content.items()]
    if env:
        pairs = ", ".join(f"{_key(name)} = {_value(value)}" for name, value in env.items())
        lines.append(f"env = {{ {pairs} }}")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """Give a value in TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if not isinstance(value, str):
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


def _replace(path: Path, text: str) -> None:
    """Write a file that nobody else can read, in one step."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except OSError as error:
        raise _config_error(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    except UnicodeEncodeError:
        raise _config_error("A kernel has characters that no file can have.") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _config_error(cause: str, advice: str = "") -> SshError:
    return SshError(cause, kind="config", advice=advice, phase="resolve")
