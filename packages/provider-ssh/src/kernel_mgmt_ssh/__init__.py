"""The provider ``ssh``: kernels on other machines, reached through an SSH connection alone.

Its kernel types are the tables of ``ssh_kernels.toml`` on Jupyter's config path.  A kernel is kept by a
nanny on its host, opens no TCP port there, and outlives the connection and this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from kernel_mgmt import (
    KernelProblem,
    KernelRecord,
    KernelType,
    Launched,
    LaunchRequest,
    hookimpl,
)

__all__ = [
    "kernel_mgmt_attach_kernel",
    "kernel_mgmt_find_kernels",
    "kernel_mgmt_launch_kernel",
]


@hookimpl
def kernel_mgmt_find_kernels() -> Iterable[KernelType | KernelProblem]:
    """Give the kernels of ``ssh_kernels.toml``, and what is wrong with the bad ones."""
    from .config import SshKernel, read_config

    return [item.kernel_type() if isinstance(item, SshKernel) else item for item in read_config()]


@hookimpl
def kernel_mgmt_launch_kernel(request: LaunchRequest) -> Awaitable[Launched]:
    """Launch a kernel on its host.

    ``request.cwd`` and ``request.env`` are those of the host.  ``request.launch_params`` may have
    ``lease``: seconds without any client after which the kernel ends; 0 for no limit.

    Raises:
        LaunchError: a parameter is wrong (phase ``resolve``), the host cannot be reached
            (``connect``), or the kernel does not start there (``start``).
    """
    from .launching import launch_over_ssh

    return launch_over_ssh(request)


@hookimpl
def kernel_mgmt_attach_kernel(record: KernelRecord) -> Awaitable[Launched]:
    """Find a kernel on its host again, from any machine that may log in there.

    Raises:
        LaunchError: its host cannot be reached, or the kernel has ended.
    """
    from .launching import attach_over_ssh

    return attach_over_ssh(record)
