"""What this host could run: its kernelspecs, and ipykernel in the Pythons that are in usual places."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .host_paths import home, kernelspec_dirs
from .kernelspecs import HostKernelSpec, kernelspecs
from .tasks import Task

__all__ = ["discover"]

#: How many Pythons are asked at most, how many at once, and how long each may take, in seconds.
_MOST, _AT_ONCE, _PATIENCE = 200, 4, 10.0

#: Where environments of their own are, below the home directory; ``*`` is any one name.
_VENVS = (
    ".venv",
    "venv",
    ".virtualenvs/*",
    ".venvs/*",
    "venvs/*",
    "*/.venv",
    "*/venv",
    "*/*/.venv",
)
_CONDAS = (
    *("~/miniconda3", "~/anaconda3", "~/miniforge3", "~/mambaforge", "~/micromamba", "~/conda"),
    *("/opt/conda", "/opt/miniconda3", "/opt/anaconda3", "/opt/miniforge3", "/usr/local/conda"),
)
_IPYKERNEL = {"ipykernel", "ipykernel_launcher"}
_SYSTEM = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")

#: What each Python is asked; also an old one understands it.
_QUESTION = """\
import json, sys
try:
    from importlib.util import find_spec
    has = dict((name, find_spec(name) is not None) for name in ("ipykernel", "zmq"))
except ImportError:
    has = {}
print("\\n" + json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3], "prefix": sys.prefix, "has": has,
}))
"""


@dataclass(frozen=True)
class _Python:
    """A Python of this host.

    Attributes:
        path: its path.
        origin: ``system``, ``venv``, ``conda``, ``pyenv`` or ``uv``.
        label: what tells it from others of its origin.
    """

    path: str
    origin: str
    label: str


def discover(task: Task) -> dict[str, Any]:
    """List what could be run.

    Args:
        task: no further Python is asked when it is given up.

    Returns:
        ``kernels``, each with what ``ssh_kernels.toml`` says of one, and ``problems``, sentences.
    """
    problems: list[str] = []
    pythons = _answering(task, problems)
    prefixes = list(dict.fromkeys(answer["prefix"] for _, answer in pythons))
    kernels: list[dict[str, Any]] = []
    covered = set()
    for spec in kernelspecs(kernelspec_dirs(prefixes)):
        if isinstance(spec, str):
            problems.append(spec)
            continue
        python = _python_of(spec)
        program = spec.command(python or "python3")[0]
        if shutil.which(program) is None:
            problems.append(
                f"The kernelspec {spec.directory!r} is left out: its command {program!r} is not there."
            )
            continue
        kernels.append(_of_kernelspec(spec, python))
        if _IPYKERNEL.intersection(spec.argv) and spec.prefix:
            covered.add(os.path.realpath(spec.prefix))
    for found, answer in pythons:
        if answer["has"].get("ipykernel") and os.path.realpath(answer["prefix"]) not in covered:
            kernels.append(_of_python(found, answer))
    _name(kernels)
    return {"kernels": kernels, "problems": problems}


# -- what is told of each ---------------------------------------------------------------------


def _of_kernelspec(spec: HostKernelSpec, python: str) -> dict[str, Any]:
    return {
        "name": spec.name,
        "display_name": spec.display_name,
        "language": spec.language,
        "kernelspec": spec.name,
        "python": python,
        "env": {},
        "interrupt_mode": spec.interrupt_mode,
        # Of others nobody knows whether they can do with Unix sockets.
        "transport": "ipc" if _IPYKERNEL.intersection(spec.argv) else "tcp",
        "origin": "kernelspec",
        "path": spec.directory,
    }


def _python_of(spec: HostKernelSpec) -> str:
    """Give the Python of the environment that a kernelspec is in, by which it is found again."""
    for name in ("python3", "python"):
        path = os.path.join(spec.prefix, "bin", name)
        if spec.prefix and os.access(path, os.X_OK):
            return path
    return ""


def _of_python(python: _Python, answer: Mapping[str, Any]) -> dict[str, Any]:
    version = ".".join(answer["version"].split(".")[:2])
    if python.origin == "system":
        name, where = f"python{version}", python.path
    else:
        name, where = f"{python.origin}-{python.label}", f"{python.origin} {python.label}"
    return {
        "name": name,
        "display_name": f"Python {version} ({where})",
        "language": "python",
        "argv": [python.path, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "python": python.path,
        "env": _activation(python, answer["prefix"]),
        "interrupt_mode": "signal",
        "transport": "ipc",
        "origin": python.origin,
        "path": python.path,
    }


def _activation(python: _Python, prefix: str) -> dict[str, str]:
    """Give what activating an environment sets, so that its programs are found."""
    variable = {"venv": "VIRTUAL_ENV", "conda": "CONDA_PREFIX"}.get(python.origin)
    if variable is None:
        return {}
    return {variable: prefix, "PATH": f"{os.path.join(prefix, 'bin')}:${{PATH}}"}


def _name(kernels: list[dict[str, Any]]) -> None:
    """Give each a name of its own, of letters that a kernel type's may have."""
    taken: set[str] = set()
    for kernel in kernels:
        base = re.sub(r"[^a-z0-9._-]+", "-", str(kernel["name"]).lower()).strip("-") or "kernel"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        kernel["name"] = name


# -- the Pythons ------------------------------------------------------------------------------


def _answering(task: Task, problems: list[str]) -> list[tuple[_Python, dict[str, Any]]]:
    """Give the Pythons that answer, of each environment one, and what they answer."""
    candidates = _distinct(_candidates())
    if len(candidates) > _MOST:
        problems.append(f"Only {_MOST} of the host's {len(candidates)} Pythons were looked at.")
    with ThreadPoolExecutor(_AT_ONCE, "discover") as pool:
        answers = list(pool.map(lambda python: _ask(task, python), candidates[:_MOST]))
    task.check()
    found, seen = [], set()
    for python, answer in zip(candidates, answers):
        if isinstance(answer, str):
            problems.append(f"The Python {python.path!r} is left out: {answer}.")
        elif (key := (os.path.realpath(answer["prefix"]), answer["version"])) not in seen:
            seen.add(key)
            found.append((python, answer))
    return found


def _ask(task: Task, python: _Python) -> dict[str, Any] | str:
    """Give what a Python answers, or why it does not."""
    if task.cancelled:
        return "it was not asked"
    try:
        process = subprocess.run(
            [python.path, "-c", _QUESTION],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_PATIENCE:g} s"
    except OSError as error:
        return str(error.strerror)
    try:
        answer = json.loads(process.stdout.splitlines()[-1])
        return {"version": str(answer["version"]), "prefix": str(answer["prefix"]), **answer}
    except (ValueError, IndexError, KeyError, TypeError):
        return f"it ended with exit code {process.returncode}"


def _distinct(pythons: Iterator[_Python]) -> list[_Python]:
    """Leave out what is not there, and names of the same file in the same environment."""
    found: dict[tuple[str, str], _Python] = {}
    for python in pythons:
        if os.access(python.path, os.X_OK) and "/shims/" not in python.path:
            prefix = os.path.dirname(os.path.dirname(os.path.abspath(python.path)))
            found.setdefault((os.path.realpath(prefix), os.path.realpath(python.path)), python)
    return list(found.values())


def _candidates() -> Iterator[_Python]:
    """Give Pythons, those of environments before those that they may be links to."""
    for prefix in _conda_prefixes():
        yield _in(prefix, "conda")
    for prefix in _venv_prefixes():
        yield _in(prefix, "venv")
    pyenv = os.environ.get("PYENV_ROOT") or os.path.join(home(), ".pyenv")
    for prefix in _listed(os.path.join(pyenv, "versions")):
        is_venv = os.path.exists(os.path.join(prefix, "pyvenv.cfg"))
        yield _in(prefix, "venv" if is_venv else "pyenv")
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(home(), ".local", "share")
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv", "python")
    for prefix in _listed(uv):
        yield _in(prefix, "uv")
    path = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(entry)]
    for directory in dict.fromkeys([*path, *_SYSTEM]):
        for name in ("python3", "python", *_versions(directory)):
            yield _Python(os.path.join(directory, name), _origin_of(directory), name)


def _in(prefix: str, origin: str) -> _Python:
    names = ("python3", "python")
    paths = [os.path.join(prefix, "bin", name) for name in names]
    path = next((path for path in paths if os.path.exists(path)), paths[0])
    label = os.path.basename(prefix)
    if origin == "venv" and label in (".venv", "venv"):
        label = os.path.basename(os.path.dirname(prefix))
    return _Python(path, origin, label)


def _origin_of(directory: str) -> str:
    """Tell what a directory of the search path belongs to: an environment may be active."""
    prefix = os.path.dirname(directory)
    if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
        return "venv"
    return "conda" if os.path.isdir(os.path.join(prefix, "conda-meta")) else "system"


def _versions(directory: str) -> list[str]:
    return sorted(
        name
        for path in glob.glob(os.path.join(glob.escape(directory), "python3.*"))
        if re.fullmatch(r"python3\.\d+", name := os.path.basename(path))
    )


def _conda_prefixes() -> Iterator[str]:
    given = [os.environ.get(name, "") for name in ("CONDA_PREFIX", "MAMBA_ROOT_PREFIX")]
    for base in [*filter(None, given), *map(os.path.expanduser, _CONDAS)]:
        yield base
        yield from _listed(os.path.join(base, "envs"))
    try:
        with open(os.path.join(home(), ".conda", "environments.txt"), encoding="utf-8") as file:
            yield from filter(os.path.isabs, map(str.strip, file))
    except (OSError, ValueError):
        pass


def _venv_prefixes() -> Iterator[str]:
    patterns = [os.path.join(glob.escape(home()), pattern) for pattern in _VENVS]
    workon = os.environ.get("WORKON_HOME")
    if workon:
        patterns.insert(0, os.path.join(glob.escape(workon), "*"))
    for pattern in patterns:
        for prefix in sorted(glob.glob(pattern)):
            if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
                yield prefix


def _listed(directory: str) -> list[str]:
    try:
        return [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    except OSError:
        return []
