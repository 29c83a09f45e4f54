"""The same restarter for code without an event loop of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .background import call_blocking
from .blocking import BlockingKernelClient, BlockingKernelManager
from .client import KernelClient
from .connection import ConnectionInfo
from .finder import KernelFinder
from .kernel_events import EventCallback
from .launch import KernelType, PromptHandler
from .manager import KernelManager
from .restart_policy import RestartPolicy
from .restarter import KernelRestarter

__all__ = ["BlockingKernelRestarter"]


class BlockingKernelRestarter:
    """A :class:`~kernel_mgmt.restarter.KernelRestarter` for code without an event loop.

    It watches on the shared background loop, and calls callbacks and ``on_prompt`` on its thread.
    The arguments and their errors are those of ``KernelRestarter``.
    """

    def __init__(
        self,
        finder: KernelFinder,
        type_id: str | KernelType,
        manager: KernelManager | BlockingKernelManager | None,
        connection_info: ConnectionInfo,
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str | None] | None = None,
        launch_params: Mapping[str, Any] | None = None,
        on_prompt: PromptHandler | None = None,
        policy: RestartPolicy | None = None,
        startup_timeout: float = 60.0,
        unresponsive_after: float | None = 10.0,
        kill_unresponsive: bool = False,
    ) -> None:
        if isinstance(manager, BlockingKernelManager):
            manager = manager.manager
        #: The restarter inside, for asynchronous code on the background loop.
        self.restarter = KernelRestarter(
            finder,
            type_id,
            manager,
            connection_info,
            cwd=cwd,
            env=env,
            launch_params=launch_params,
            on_prompt=on_prompt,
            policy=policy,
            startup_timeout=startup_timeout,
            unresponsive_after=unresponsive_after,
            kill_unresponsive=kill_unresponsive,
        )

    def __repr__(self) -> str:
        return f"<Blocking{repr(self.restarter)[1:]}"

    @property
    def manager(self) -> BlockingKernelManager:
        """Watches the kernel that runs now, or ran last."""
        return BlockingKernelManager(self.restarter.manager)

    @property
    def connection_info(self) -> ConnectionInfo:
        """Where it is."""
        return self.restarter.connection_info

    @property
    def state(self) -> str:
        """One of ``new``, ``running``, ``restarting``, ``failed`` and ``stopped``."""
        return self.restarter.state

    def start(self, timeout: float | None = 10) -> None:
        """Begin to watch; nothing happens when it watches already."""

        async def start() -> None:
            self.restarter.start()

        call_blocking(start(), timeout, "start")

    def stop(self, timeout: float | None = 10) -> None:
        """Stop watching; the kernel lives on, a restart under way is cancelled."""
        call_blocking(self.restarter.stop(), timeout, "stop")

    def shutdown(self, timeout: float = 5) -> None:
        """Stop watching and end the kernel; see ``KernelRestarter.shutdown``."""
        call_blocking(self.restarter.shutdown(timeout), None, "shutdown")

    def restart(self, timeout: float = 0) -> None:
        """Replace the kernel by a new one; see ``KernelRestarter.restart``."""
        call_blocking(self.restarter.restart(timeout), None, "restart")

    def follow(self, client: KernelClient | BlockingKernelClient) -> None:
        """Reconnect a client to each new kernel; see ``KernelRestarter.follow``."""
        self.restarter.follow(client)

    def unfollow(self, client: KernelClient | BlockingKernelClient) -> None:
        """Leave a client alone from now on."""
        self.restarter.unfollow(client)

    def add_callback(self, callback: EventCallback) -> None:
        """Call a function with each ``KernelEvent``, on the background thread."""
        self.restarter.add_callback(callback)

    def remove_callback(self, callback: EventCallback) -> None:
        """Call a function no more."""
        self.restarter.remove_callback(callback)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
