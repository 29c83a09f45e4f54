"""The provider ``native``: an IPython kernel in the environment of this very interpreter.

Its kernel types need no kernelspec. ``native/python3`` is a process of its own, and what this
process can import, the kernel can import too; ``native/inprocess`` is a thread of this process.
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

from .inprocess import launch_in_process, why_not_in_process

__all__ = ["kernel_mgmt_find_kernels", "kernel_mgmt_launch_kernel"]

_LAUNCH_PARAMS = ("transport", "encryption", "extra_arguments")


@hookimpl
def kernel_mgmt_find_kernels() -> list[KernelType | KernelProblem]:
    """Give ``native/python3`` and ``native/inprocess``, or why they cannot be offered."""
    # Looked for, not imported: that would take a second.
    ipykernel = importlib.util.find_spec("ipykernel")
    if ipykernel is None or ipykernel.origin is None:
        missing = f"ipykernel is not installed for {sys.executable}: pip install ipykernel."
        return [KernelProblem("python3", missing), KernelProblem("inprocess", missing)]
    resources = Path(ipykernel.origin).parent / "resources"
    return [
        KernelType(
            "python3",
            display_name=f"Python {sys.version_info[0]}.{sys.version_info[1]} (this environment)",
            language="python",
            interrupt_mode="signal",
            resource_dir=resources,
            metadata=_metadata(),
        ),
        _in_process_type(resources),
    ]


def _in_process_type(resources: Path) -> KernelType | KernelProblem:
    reason = why_not_in_process()
    if reason:
        return KernelProblem("inprocess", reason)
    return KernelType(
        "inprocess",
        display_name=f"Python {sys.version_info[0]}.{sys.version_info[1]} (inside this process)",
        language="python",
        # A signal would reach the application, and clients in other processes have none to send.
        interrupt_mode="message",
        resource_dir=resources,
    )


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
    """Launch ipykernel, as a process of this interpreter or as a thread of this process.

    ``request.launch_params`` of ``native/python3`` may have:

    - ``transport``: ``"ipc"`` (the default) for Unix sockets in a private directory, or ``"tcp"``
      for the loopback interface; where there are no Unix sockets it is always TCP.
    - ``encryption``: ``"auto"`` (the default) for CURVE over TCP where ipykernel can, from 7.3 on,
      ``"required"`` for CURVE over either transport or an error, ``"off"`` for none.
    - ``extra_arguments``: a list of strings, appended to ipykernel's command line.

    Raises:
        LaunchError: a parameter is wrong (phase ``resolve``), or the kernel could not be started
            (phase ``start``).
    """
    if request.kernel_type.name == "inprocess":
        return launch_in_process(request)
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
