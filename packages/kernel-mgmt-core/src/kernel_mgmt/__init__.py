"""Find Jupyter kernels, launch them, watch them and talk to them.

The names below are the public ones; each is imported when it is first used, so that
``import kernel_mgmt`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocking import BlockingKernelClient as BlockingKernelClient
    from .blocking import BlockingKernelManager as BlockingKernelManager
    from .blocking import BlockingRemoteKernelManager as BlockingRemoteKernelManager
    from .blocking import BlockingRequest as BlockingRequest
    from .blocking_restarter import BlockingKernelRestarter as BlockingKernelRestarter
    from .client import KernelClient as KernelClient
    from .connection import ConnectionInfo as ConnectionInfo
    from .detached import attach_kernel as attach_kernel
    from .detached import attach_kernel_blocking as attach_kernel_blocking
    from .detached import running_kernels as running_kernels
    from .detached import start_detached as start_detached
    from .detached import start_detached_blocking as start_detached_blocking
    from .errors import ClientClosed as ClientClosed
    from .errors import ConnectionFileError as ConnectionFileError
    from .errors import ConnectionLost as ConnectionLost
    from .errors import InvalidSignature as InvalidSignature
    from .errors import KernelDied as KernelDied
    from .errors import KernelMgmtError as KernelMgmtError
    from .errors import KernelRestarted as KernelRestarted
    from .errors import LaunchError as LaunchError
    from .errors import MalformedMessage as MalformedMessage
    from .errors import NannyError as NannyError
    from .errors import NoSuchKernel as NoSuchKernel
    from .errors import NoSuchProvider as NoSuchProvider
    from .errors import NoSuchRunningKernel as NoSuchRunningKernel
    from .errors import ProtocolError as ProtocolError
    from .errors import ProviderError as ProviderError
    from .errors import ReplyLost as ReplyLost
    from .errors import RequestTimeout as RequestTimeout
    from .errors import UnsupportedFeature as UnsupportedFeature
    from .finder import KernelFinder as KernelFinder
    from .hookspecs import hookimpl as hookimpl
    from .hookspecs import hookspec as hookspec
    from .kernel import run_kernel as run_kernel
    from .kernel import run_kernel_blocking as run_kernel_blocking
    from .kernel import start_kernel as start_kernel
    from .kernel import start_kernel_blocking as start_kernel_blocking
    from .kernel_events import KernelEvent as KernelEvent
    from .launch import KernelProblem as KernelProblem
    from .launch import KernelRecord as KernelRecord
    from .launch import KernelType as KernelType
    from .launch import Launched as Launched
    from .launch import LaunchProgress as LaunchProgress
    from .launch import LaunchRequest as LaunchRequest
    from .launch import NannyOptions as NannyOptions
    from .launch import Prompt as Prompt
    from .link import ConnectionChange as ConnectionChange
    from .manager import ExitStatus as ExitStatus
    from .manager import KernelManager as KernelManager
    from .nanny_client.manager import RemoteKernelManager as RemoteKernelManager
    from .nanny_client.manager import manager_for as manager_for
    from .protocol import Message as Message
    from .protocol import Session as Session
    from .request import Request as Request
    from .restart_policy import RestartPolicy as RestartPolicy
    from .restarter import KernelRestarter as KernelRestarter

__version__ = "0.1.0"

_MODULES = {
    "blocking": (
        "BlockingKernelClient",
        "BlockingKernelManager",
        "BlockingRemoteKernelManager",
        "BlockingRequest",
    ),
    "blocking_restarter": ("BlockingKernelRestarter",),
    "client": ("KernelClient",),
    "connection": ("ConnectionInfo",),
    "detached": (
        "attach_kernel",
        "attach_kernel_blocking",
        "running_kernels",
        "start_detached",
        "start_detached_blocking",
    ),
    "errors": (
        "ClientClosed",
        "ConnectionFileError",
        "ConnectionLost",
        "InvalidSignature",
        "KernelDied",
        "KernelMgmtError",
        "KernelRestarted",
        "LaunchError",
        "MalformedMessage",
        "NannyError",
        "NoSuchKernel",
        "NoSuchProvider",
        "NoSuchRunningKernel",
        "ProtocolError",
        "ProviderError",
        "ReplyLost",
        "RequestTimeout",
        "UnsupportedFeature",
    ),
    "finder": ("KernelFinder",),
    "hookspecs": ("hookimpl", "hookspec"),
    "kernel": ("run_kernel", "run_kernel_blocking", "start_kernel", "start_kernel_blocking"),
    "kernel_events": ("KernelEvent",),
    "launch": (
        "KernelProblem",
        "KernelRecord",
        "KernelType",
        "LaunchProgress",
        "LaunchRequest",
        "Launched",
        "NannyOptions",
        "Prompt",
    ),
    "link": ("ConnectionChange",),
    "manager": ("ExitStatus", "KernelManager"),
    "protocol": ("Message", "Session"),
    "nanny_client.manager": ("RemoteKernelManager", "manager_for"),
    "request": ("Request",),
    "restart_policy": ("RestartPolicy",),
    "restarter": ("KernelRestarter",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_MODULE_OF, "__version__"]  # noqa: PLE0604 - all of them strings


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
