"""What the tests of restarting need: a provider with moods, and a kernel with all around it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from kernel_mgmt import (
    KernelClient,
    KernelEvent,
    KernelFinder,
    KernelManager,
    KernelRestarter,
    Launched,
    LaunchRequest,
    RestartPolicy,
    hookimpl,
)
from kernel_mgmt.testing import EchoProvider
from messages import texts
from waiting import eventually

__all__ = ["PATIENCE", "ROOT", "RUNTIME_DIR", "Moody", "Stage", "kill", "nothing_is_left", "pid"]

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
#: Quick, and patient enough for a busy machine.
POLICY = RestartPolicy(limit=3, backoff=0.01)
PATIENCE = 20.0


class Moody(EchoProvider):
    """Launches echo kernels; what each next launch does otherwise can be put in line."""

    def __init__(self) -> None:
        super().__init__()
        #: Command-line options of the next launches, one list each; the last one stays.
        self.moods: list[list[str]] = [[]]
        self.requests: list[LaunchRequest] = []
        self.launched: list[Launched] = []
        self.before: Callable[[LaunchRequest], None] = lambda request: None
        self.after: Callable[[Launched], Launched] = lambda launched: launched

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Launched]:
        """Launch it as it is its mood."""
        self.requests.append(request)
        mood = self.moods.pop(0) if len(self.moods) > 1 else self.moods[0]
        params = dict(request.launch_params)
        params["arguments"] = [*params.get("arguments", ()), *mood]
        moody = replace(request, launch_params=params)

        async def launch() -> Launched:
            self.before(request)
            self.launched.append(await EchoProvider.kernel_mgmt_launch_kernel(self, moody))
            return self.after(self.launched[-1])

        return launch()


class Stage:
    """A running kernel, a client that follows, and the restarter, with all events so far."""

    def __init__(self, finder: KernelFinder, manager: KernelManager, client: KernelClient) -> None:
        self.finder = finder
        self.client = client
        self.first = manager
        self.restarter: KernelRestarter
        self.events: list[KernelEvent] = []

    def watch(self, **options: Any) -> KernelRestarter:
        """Make the restarter and start it."""
        options = {"policy": POLICY, "startup_timeout": PATIENCE, **options}
        self.restarter = KernelRestarter(
            self.finder, "echo/echo", self.first, self.client.connection_info, **options
        )
        self.restarter.add_callback(self.events.append)
        self.restarter.follow(self.client)
        self.restarter.start()
        return self.restarter

    @property
    def names(self) -> list[str]:
        """The names of the events so far."""
        return [event.name for event in self.events]

    async def told(self, name: str, times: int = 1) -> KernelEvent:
        """Wait for an event's nth time."""
        await eventually(lambda: self.names.count(name) >= times, PATIENCE)
        return [event for event in self.events if event.name == name][times - 1]

    async def run(self, code: str) -> list[str]:
        """Run code in the kernel; gives what it printed."""
        request = self.client.execute(code)
        async with asyncio.timeout(PATIENCE):
            await request.wait_until_finished()
        return texts([message async for message in request])


def pid(manager: KernelManager) -> int:
    """Give the process id of a local kernel."""
    return manager.pid  # type: ignore[attr-defined,no-any-return]


def kill(manager: KernelManager) -> None:
    """Kill a kernel from outside."""
    os.kill(pid(manager), signal.SIGKILL)


def nothing_is_left() -> None:
    """Assert that there is no process or file, at once."""
    assert psutil.Process().children(recursive=True) == []
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []
