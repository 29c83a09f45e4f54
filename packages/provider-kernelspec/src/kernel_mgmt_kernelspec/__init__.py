"""The provider ``spec``: the Jupyter kernelspecs installed on this machine, in any language."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from kernel_mgmt import KernelProblem, KernelType, Launched, LaunchRequest, hookimpl

from .kernelspec import KernelSpec, KernelspecError, find_kernelspecs, logos
from .launching import launch_kernelspec

__all__ = [
    "KernelSpec",
    "KernelspecError",
    "find_kernelspecs",
    "kernel_mgmt_find_kernels",
    "kernel_mgmt_launch_kernel",
    "logos",
]


@hookimpl
def kernel_mgmt_find_kernels() -> Iterable[KernelType | KernelProblem]:
    """Give the kernelspecs of Jupyter's search path, and what is wrong with the bad ones."""
    return find_kernelspecs()


@hookimpl
def kernel_mgmt_launch_kernel(request: LaunchRequest) -> Awaitable[Launched]:
    """Launch a kernelspec's command on this machine.

    ``request.launch_params`` may have:

    - ``transport``: ``"ipc"`` for Unix sockets in a private directory, or ``"tcp"`` for the
      loopback interface; without it, ``ipc`` when the command is known to be ipykernel.
    - ``encryption``: ``"auto"`` (the default) for CURVE over TCP when the kernelspec declares
      ``metadata.supported_encryption``, ``"required"`` for CURVE over either transport or an
      error, ``"off"`` for none.
    - for each ``{name}`` in the kernelspec's ``argv``, a value of that name.

    A kernel whose kernelspec has a ``kernel_protocol_version`` of 5.6 or later picks its TCP ports
    and registers them, unless it is encrypted or ``request.connection_info`` gives the ports.

    Raises:
        LaunchError: a parameter is wrong (phase ``resolve``), or the kernel could not be started
            (phase ``start``).
    """
    return launch_kernelspec(request)
