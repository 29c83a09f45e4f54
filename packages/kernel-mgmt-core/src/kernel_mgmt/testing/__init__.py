"""Help for tests of code that uses kernels: a kernel that does what it is told, and its provider.

:mod:`kernel_mgmt.testing.echo_kernel` is a small real kernel that needs neither ipykernel nor a
kernelspec and starts at once; :class:`~kernel_mgmt.testing.provider.EchoProvider` launches it::

    finder = KernelFinder({"echo": EchoProvider()})
    connection_info, manager = await finder.launch("echo/echo")
"""

from __future__ import annotations

from typing import Any

__all__ = ["EchoProvider"]


def __getattr__(name: str) -> Any:
    # The kernel itself runs below this package and shall not load the provider.
    if name == "EchoProvider":
        from .provider import EchoProvider

        return EchoProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
