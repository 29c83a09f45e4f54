"""From a kernelspec to a running kernel: its command and environment filled in."""

from __future__ import annotations

import itertools
import os
import re
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from kernel_mgmt import Launched, LaunchError, LaunchRequest
from kernel_mgmt.local import launch_local
from kernel_mgmt.registration import speaks_handshake

from .kernelspec import KernelSpec

__all__ = ["launch_kernelspec"]

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_]+)\}")

# The launch parameters that every kernelspec has; the others are those that its command asks for.
_PROVIDERS = ("transport", "encryption")

# What the provider fills in itself: no launch parameter can.
_OURS = ("connection_file", "prefix", "resource_dir")

_THIS_PYTHON = {
    "python",
    f"python{sys.version_info[0]}",
    f"python{sys.version_info[0]}.{sys.version_info[1]}",
}


async def launch_kernelspec(request: LaunchRequest) -> Launched:
    """Launch the kernel of a :class:`KernelSpec`.

    Args:
        request: what to launch; its launch parameters are those of the provider's launch hook.

    Raises:
        LaunchError: a parameter is wrong, or the kernel could not be started.
    """
    spec = request.kernel_type
    if not isinstance(spec, KernelSpec):
        raise LaunchError(
            f"The kernel type {spec.id!r} holds no kernelspec.",
            phase="resolve",
            advice="Pass its id, or a type that KernelFinder.find_kernels gave.",
        )
    params = dict(request.launch_params)
    transport = _transport(spec, params.pop("transport", None))
    encryption = params.pop("encryption", "auto")
    values = _check_params(spec, params)
    values |= {"prefix": sys.prefix, "resource_dir": str(spec.resource_dir)}

    def make_argv(connection_file: Path) -> list[str]:
        return fill_argv(spec.argv, {**values, "connection_file": str(connection_file)})

    return await launch_local(
        request,
        make_argv,
        runtime_dir=Path(jupyter_runtime_dir()),
        transport=transport,
        env=_fill_env(spec.env, request.env),
        encryption=encryption,
        # Paths in a directory of our own cannot be taken by others, and the handshake's specification
        # does not say where a kernel is to put them.
        handshake=transport == "tcp" and speaks_handshake(spec.kernel_protocol_version),
    )


def fill_argv(argv: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    """Put values for the ``{name}`` in a command; braces around anything else stay.

    Args:
        argv: the command of a kernelspec; a bare ``python`` means this interpreter.
        values: what to put, by name.
    """
    command = list(argv)
    if command[0] in _THIS_PYTHON and sys.executable:
        # The one on PATH may be another, when this one's environment was not activated.
        command[0] = sys.executable
    # One pass over each word, so that what was put in is never looked at again.
    return [_PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), word) for word in command]


def _fill_env(env: Mapping[str, str], request_env: Mapping[str, str | None]) -> dict[str, str]:
    """Put variables of the environment for the ``${NAME}`` in a kernelspec's variables."""
    merged = {**os.environ, **request_env}
    known = {name: value for name, value in merged.items() if value is not None}
    return {name: string.Template(value).safe_substitute(known) for name, value in env.items()}


def _transport(spec: KernelSpec, wanted: object) -> str:
    if wanted is None:
        return "ipc" if is_ipykernel(spec.argv) else "tcp"
    if wanted not in ("ipc", "tcp"):
        raise LaunchError(
            f"The launch parameter 'transport' is {wanted!r}.",
            phase="resolve",
            advice="It must be 'ipc' or 'tcp'.",
        )
    return str(wanted)


def is_ipykernel(argv: tuple[str, ...]) -> bool:
    """Tell whether a command is for certain a Python that runs ipykernel, here.

    A wrapper around it (a container's engine, a script) may see other files than we do, so that
    Unix sockets could not be found.
    """
    if not Path(argv[0]).name.startswith(("python", "pypy")):
        return False
    for word, following in itertools.pairwise(argv[1:]):
        if word == "-m":
            return following in ("ipykernel_launcher", "ipykernel")
        if not word.startswith("-"):
            break
    return False


def _check_params(spec: KernelSpec, params: Mapping[str, Any]) -> dict[str, str]:
    """Give the launch parameters as text, having checked that the command asks for them."""
    asked = {name for word in spec.argv for name in _PLACEHOLDER.findall(word)}.difference(
        _OURS, _PROVIDERS
    )
    for name, value in params.items():
        if name in _OURS:
            raise LaunchError(
                f"The launch parameter {name!r} is set by kernel-mgmt itself.",
                phase="resolve",
                advice="Leave it out; connection_info= chooses endpoints and key."
                if name == "connection_file"
                else "Leave it out.",
            )
        if name not in asked:
            raise LaunchError(
                f"{spec.id} has no launch parameter {name!r}.",
                phase="resolve",
                advice=f"It knows {', '.join([*_PROVIDERS, *sorted(asked)])}.",
            )
        if not isinstance(value, str | int | float | os.PathLike):
            raise LaunchError(
                f"The launch parameter {name!r} is {value!r}.",
                phase="resolve",
                advice="It must be a string or a number.",
            )
    return {name: str(value) for name, value in params.items()}
