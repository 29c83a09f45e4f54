"""A provider of the echo kernel, for tests."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from pathlib import Path

from ..hookspecs import hookimpl
from ..launch import KernelType, Launched, LaunchRequest
from ..local import launch_local

__all__ = ["EchoProvider"]


class EchoProvider:
    """A plugin with one kernel type, ``echo``: :mod:`kernel_mgmt.testing.echo_kernel`.

    Its ``launch_params``:

    - ``arguments``: a list of the kernel's command-line options;
    - ``transport``: ``ipc`` (the default) or ``tcp``;
    - ``interrupt_mode``: ``signal`` (the default) or ``message``;
    - ``encryption``: ``auto`` (the default), ``required`` or ``off``;
    - ``handshake``: whether the kernel picks its ports and registers them; not by default.

    Args:
        runtime_dir: where connection files are put; Jupyter's runtime directory by default.
    """

    def __init__(self, runtime_dir: Path | None = None) -> None:
        self._runtime_dir = runtime_dir

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> Iterable[KernelType]:
        """Give the one kernel type."""
        metadata = {"supported_encryption": ["curve"]}
        return [KernelType("echo", display_name="Echo", language="echo", metadata=metadata)]

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Launched]:
        """Launch it with this interpreter."""
        params = request.launch_params
        interrupt_mode = params.get("interrupt_mode", request.kernel_type.interrupt_mode)
        kernel_type = replace(request.kernel_type, interrupt_mode=interrupt_mode)
        arguments = list(params.get("arguments", ()))
        return launch_local(
            replace(request, kernel_type=kernel_type),
            lambda connection_file: [
                sys.executable,
                "-m",
                "kernel_mgmt.testing.echo_kernel",
                "-f",
                str(connection_file),
                *arguments,
            ],
            runtime_dir=self._runtime_dir or _jupyter_runtime_dir(),
            transport=params.get("transport", "ipc"),
            encryption=params.get("encryption", "auto"),
            handshake=params.get("handshake", False),
        )


def _jupyter_runtime_dir() -> Path:
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())
