"""The contract of a provider: three pluggy hooks, all plain functions.

A provider is a module or object that implements them, published under an entry point in the
group ``kernel_mgmt`` whose **name is the provider's id**::

    # pyproject.toml
    [project.entry-points.kernel_mgmt]
    moon = "kernel_mgmt_moon"

    # kernel_mgmt_moon/__init__.py
    from kernel_mgmt import KernelType, Launched, LaunchRequest, hookimpl

    @hookimpl
    def kernel_mgmt_find_kernels():
        return [KernelType("base", display_name="Moon base", language="python")]

    @hookimpl
    def kernel_mgmt_launch_kernel(request):
        return _launch(request)          # a coroutine: not started before it is awaited
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

import pluggy

from .launch import KernelProblem, KernelRecord, KernelType, Launched, LaunchRequest

__all__ = ["PROJECT_NAME", "hookimpl", "hookspec"]

#: pluggy's project name, and the group of the entry points.
PROJECT_NAME = "kernel_mgmt"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


@hookspec(firstresult=True)
def kernel_mgmt_find_kernels() -> Iterable[KernelType | KernelProblem]:  # type: ignore[empty-body]
    """Give the kernel types that can be launched now.

    Must be local and quick, and must not touch the network: it runs whenever somebody lists
    kernels.  Leave ``KernelType.provider`` alone, the finder fills it in.  For a type that cannot
    be offered give a :class:`~kernel_mgmt.launch.KernelProblem`, which users see when they ask
    for it.  What is raised costs the types that were not given yet.

    .. versionadded:: 0.1
    """


@hookspec(firstresult=True)
def kernel_mgmt_launch_kernel(request: LaunchRequest) -> Awaitable[Launched]:  # type: ignore[empty-body]
    """Launch a kernel of one of the types that the find hook gave.

    Returns an awaitable whose result comes when the kernel's sockets accept connections.  It
    raises :class:`~kernel_mgmt.errors.LaunchError` when that fails, and then, as when it is
    cancelled, leaves no process, container, file or directory behind.

    A kernel of a request with ``nanny`` must outlive this process: :func:`~kernel_mgmt.local.launch_local`
    sees to that; else the manager's ``record()`` must be what the attach hook needs.

    .. versionadded:: 0.1
    """


@hookspec(firstresult=True)
def kernel_mgmt_attach_kernel(record: KernelRecord) -> Awaitable[Launched]:  # type: ignore[empty-body]
    """Find a running kernel again, from what its manager's ``record()`` gave.

    Optional: a provider whose kernels end with the process that launched them has no such hook, and
    one whose kernels have nannies needs none.  It raises :class:`~kernel_mgmt.errors.LaunchError`
    when the kernel is not found.

    .. versionadded:: 0.1
    """
