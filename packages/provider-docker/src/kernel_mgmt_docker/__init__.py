"""The provider ``docker``: kernels in containers, closed by default.

Its kernel types are the tables of ``docker_kernels.toml`` on Jupyter's configuration path, and the
images of the engine that have the label ``kernel-mgmt.kernel``.
"""

from __future__ import annotations

from collections.abc import Awaitable

from kernel_mgmt import (
    KernelProblem,
    KernelRecord,
    KernelType,
    Launched,
    LaunchRequest,
    hookimpl,
)

__all__ = ["kernel_mgmt_attach_kernel", "kernel_mgmt_find_kernels", "kernel_mgmt_launch_kernel"]


@hookimpl
def kernel_mgmt_find_kernels() -> list[KernelType | KernelProblem]:
    """Give the kernels of the configuration and those images of a local engine that say they are."""
    from .finding import find_kernels

    return find_kernels()


@hookimpl
def kernel_mgmt_launch_kernel(request: LaunchRequest) -> Awaitable[Launched]:
    """Launch a kernel in a container of its own.

    ``request.launch_params`` may have the keys of a table of ``docker_kernels.toml``: they can take
    rights away from the kernel, and add those alone that the table's ``allow`` names.

    Raises:
        LaunchError: why it could not be launched; nothing of it is left.
    """
    from .launching import launch

    return launch(request)


@hookimpl
def kernel_mgmt_attach_kernel(record: KernelRecord) -> Awaitable[Launched]:
    """Find the container of a kernel again.

    Raises:
        LaunchError: there is none, or the engine does not answer.
    """
    from .attaching import attach

    return attach(record)
