"""The provider ``native``: an IPython kernel in the environment of this very interpreter.

Its one kernel type, ``native/python3``, needs no kernelspec: what this process can import, the
kernel can import too.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Awaitable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from kernel_mgmt import KernelProblem, KernelType, Launched, LaunchError, LaunchRequest, hookimpl
from kernel_mgmt.local import launch_local

__all__ = ["kernel_mgmt_find_kernels", "kernel_mgmt_launch_kernel"]

_LAUNCH_PARAMS = ("transport", "encryption", "extra_arguments")


@hookimpl
def kernel_mgmt_find_kernels() -> list[KernelType | KernelProblem]:
    """Give ``native/python3``, or why there is none."""
    # Looked for, not imported: that would take a second.
    ipykernel = importlib.util.find_spec("ipykernel")
    if ipykernel is None or ipykernel.origin is None:
        missing = f"ipykernel is not installed for {sys.executable}: pip install ipykernel."
        return [KernelProblem("python3", missing)]
    return [
        KernelType(
            "python3",
            display_name=f"Python {sys.version_info[0]}.{sys.version_info[1]} (this environment)",
            language="python",
            interrupt_mode="signal",
            resource_dir=Path(ipykernel.origin).parent / "resources",
            metadata=_metadata(),
        )
    ]


def _metadata() -> dict[str, Any]:
    """Give the metadata that ipykernel's own kernelspec has."""
    metadata: dict[str, Any] = {"debugger": True}
    try:
        release = re.match(r"(\d+)\.(\d+)", version("ipykernel"))
    except PackageNotFoundError:  # a source tree on sys.path
        release = None
    if release and (int(release[1]), int(release[2])) >= (7, 3):
        metadata["supported_encryption"] = ["curve"]
    return metadata


@hookimpl
def kernel_mgmt_launch_kernel(request: LaunchRequest) -> Awaitable[Launched]:
    """Launch ipykernel with this interpreter.

    ``request.launch_params`` may have:

    - ``transport``: ``"ipc"`` (the default) for Unix sockets in a private directory, or ``"tcp"``
      for the loopback interface; where there are no Unix sockets it is always TCP.
    - ``encryption``: ``"auto"`` (the default) for CURVE over TCP where ipykernel can, from 7.3 on,
      ``"required"`` for CURVE over either transport or an error, ``"off"`` for none.
    - ``extra_arguments``: a list of strings, appended to ipykernel's command line.

    Raises:
        LaunchError: a parameter is wrong (phase ``resolve``), or the kernel could not be started
            (phase ``start``).
    """
    return _launch(request)


async def _launch(request: LaunchRequest) -> Launched:
    transport, extra_arguments = _read_params(request.launch_params)

    def make_argv(connection_file: Path) -> list[str]:
        # Without -Xfrozen_modules=off, which only a debugger of frozen modules needs: with it
        # every start is slower.
        launcher = [sys.executable, "-m", "ipykernel_launcher"]
        return [*launcher, "-f", str(connection_file), *extra_arguments]

    return await launch_local(
        request,
        make_argv,
        runtime_dir=Path(jupyter_runtime_dir()),
        transport=transport,
        encryption=request.launch_params.get("encryption", "auto"),
    )


def _read_params(params: Mapping[str, Any]) -> tuple[str, list[str]]:
    unknown = [name for name in params if name not in _LAUNCH_PARAMS]
    if unknown:
        raise LaunchError(
            f"native/python3 has no launch parameter {', '.join(map(repr, unknown))}.",
            phase="resolve",
            advice=f"It knows {', '.join(_LAUNCH_PARAMS)}.",
        )
    transport = params.get("transport", "ipc")
    if transport not in ("ipc", "tcp"):
        raise LaunchError(
            f"The launch parameter 'transport' is {transport!r}.",
            phase="resolve",
            advice="It must be 'ipc' or 'tcp'.",
        )
    extra = params.get("extra_arguments", [])
    if not isinstance(extra, (list, tuple)) or not all(isinstance(word, str) for word in extra):
        raise LaunchError(
            f"The launch parameter 'extra_arguments' is {extra!r}.",
            phase="resolve",
            advice="It must be a list of strings.",
        )
    return transport, list(extra)
