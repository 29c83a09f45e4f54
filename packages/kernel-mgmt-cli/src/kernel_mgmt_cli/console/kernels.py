"""The kernel of a console: one of its own, which ends with it, or one that runs anyway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from kernel_mgmt import (
    ConnectionInfo,
    KernelClient,
    KernelEvent,
    KernelFinder,
    KernelManager,
    KernelRecord,
    KernelRestarter,
    Message,
    start_kernel,
)
from kernel_mgmt.background import finish
from kernel_mgmt.errors import KernelDied, RequestTimeout

from ..detached.past import Past, Wanted, find_past
from ..errors import KERNEL_DIED, CommandError
from .existing import check_that_it_listens, find_connection_file
from .signals import LoopSignals

__all__ = ["ConsoleKernel", "Tell", "existing_kernel", "kept_kernel", "own_kernel"]

#: Tells the user something: of what kind it is, and the sentence.
Tell = Callable[[str, str], object]

#: How long an idle kernel has to end when it is asked, and one that a signal stops at its work, in
#: seconds.
_PATIENCE, _BUSY_PATIENCE = 5.0, 1.0
#: How often the heartbeat of a kernel that has no manager is looked at, in seconds.
_LOOK_INTERVAL = 1.0
#: How long a kernel may take to answer that another client restarts, in seconds.
_RESTART_PATIENCE = 60.0

#: What the end of the console does to a kernel that is not its own, for people.
_LEAVE = "leave the kernel running"


class ConsoleKernel:
    """A kernel that is ready, and what becomes of it while a console uses it.

    This one has no manager: its heartbeat, and what it says on iopub, tell whether it lives.

    Args:
        client: talks to it.
        title: names it, for people.
        at_end: what the end of the console does to it, for people.
        past: what it has said before and is to be shown, if that was kept.
    """

    def __init__(
        self, client: KernelClient, title: str, *, at_end: str, past: Past | None = None
    ) -> None:
        self.client = client
        self.title = title
        self.at_end = at_end
        self.past = past
        #: Whether it is there, and not being restarted.
        self._usable = asyncio.Event()
        self._usable.set()
        #: What the kernel says when it ends.
        self._farewell: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def wait_until_usable(self) -> None:
        """Wait while the kernel is being restarted."""
        await self._usable.wait()

    def note_death(self) -> None:
        """Take it that the kernel has died, before :meth:`watch` learns of it."""

    async def watch(self, tell: Tell, restarted: Callable[[], object]) -> None:
        """Follow the kernel's life until it is over for good.

        Args:
            tell: tells the user of it.
            restarted: is called when there is a new kernel.

        Raises:
            CommandError: it is; says how.
            KernelMgmtError: likewise.
        """
        self.client.add_handler(self._hear, {"iopub"})
        responsive = True
        while True:
            await asyncio.wait({self._farewell}, timeout=_LOOK_INTERVAL)
            if self._farewell.done():
                await self._take_leave(self._farewell.result(), tell, restarted)
            elif self.client.responsive != responsive:
                responsive = not responsive
                tell(*_HEARTBEAT_WORDS[responsive])

    def _hear(self, message: Message) -> None:
        if message.msg_type == "shutdown_reply" and not self._farewell.done():
            self._farewell.set_result(message)

    async def _take_leave(
        self, farewell: Message, tell: Tell, restarted: Callable[[], object]
    ) -> None:
        if not farewell.content.get("restart"):
            raise CommandError("the kernel was shut down by another client.", KERNEL_DIED)
        tell("warning", "The kernel is being restarted by another client.")
        self._usable.clear()
        self._farewell = asyncio.get_running_loop().create_future()
        await self.client.reconnect(self.client.connection_info)
        await self.client.wait_for_ready(_RESTART_PATIENCE)
        restarted()
        self._usable.set()
        tell(*_RESTARTED)


class _RestartedKernel(ConsoleKernel):
    """A kernel of this console's own, which is started again when it dies."""

    def __init__(self, client: KernelClient, title: str, restarter: KernelRestarter) -> None:
        super().__init__(client, title, at_end="stop the kernel")
        self._restarter = restarter
        self._events = restarter.events()

    def note_death(self) -> None:
        self._usable.clear()

    async def watch(self, tell: Tell, restarted: Callable[[], object]) -> None:
        self._restarter.follow(self.client)
        self._restarter.start()
        async for event in self._events:
            if event.name == "failed":
                raise CommandError(
                    "the kernel is not started again, since it died too often or cannot be "
                    f"watched any more: {str(event.error).splitlines()[0]}",
                    KERNEL_DIED,
                ) from event.error
            if event.name in ("died", "restarting"):
                self._usable.clear()
            elif event.name == "ready":
                restarted()
                self._usable.set()
            if words := _words(event):
                tell(*words)


class _KeptKernel(ConsoleKernel):
    """A kernel that was there before and lives on; its nanny starts it again when it dies.

    Args:
        client: talks to it, and follows to the next kernel by itself.
        title: names it, for people.
        manager: watches it; not the client's own where that one follows, too.
        past: as for any.
    """

    def __init__(
        self, client: KernelClient, title: str, manager: KernelManager, past: Past | None
    ) -> None:
        super().__init__(client, title, at_end=_LEAVE, past=past)
        self._manager = manager
        self._death_noted = False

    async def wait_until_usable(self) -> None:
        await super().wait_until_usable()
        if self._death_noted:  # maybe before it is watched here, maybe after
            self._death_noted = False
            with contextlib.suppress(KernelDied):  # told where it is watched
                await self.client.wait_for_ready(None)

    def note_death(self) -> None:
        self._death_noted = True

    async def watch(self, tell: Tell, restarted: Callable[[], object]) -> None:
        while True:
            status = await self._manager.wait()
            self._usable.clear()
            if self._manager.restarting:
                tell("hint", "The kernel is being restarted.")
            else:
                tell("warning", str(KernelDied(status, await self._manager.log_tail())))
            if not await self._manager.next_kernel():
                raise CommandError(
                    f"the kernel has ended, and is not started again: {status}.", KERNEL_DIED
                )
            await self.client.wait_for_ready(_RESTART_PATIENCE)
            restarted()
            self._usable.set()
            tell(*_RESTARTED)


_RESTARTED = ("hint", "The kernel was restarted; what it had in memory is gone.")
_HEARTBEAT_WORDS = {
    False: (
        "warning",
        (
            "The kernel does not answer its heartbeat: it has ended, or is too busy; "
            "Ctrl-\\ leaves the console."
        ),
    ),
    True: ("hint", "The kernel answers again."),
}


def _words(event: KernelEvent) -> tuple[str, str] | None:
    if event.name == "died":
        return "warning", str(event.error)
    if event.name == "ready":
        return _RESTARTED
    if event.name == "restarting":
        return "hint", "The kernel is being restarted."
    if event.name in ("responsive", "unresponsive"):
        return _HEARTBEAT_WORDS[event.name == "responsive"]
    return None


@asynccontextmanager
async def own_kernel(
    type_id: str, signals: LoopSignals, *, startup_timeout: float, **launch_options: Any
) -> AsyncIterator[ConsoleKernel]:
    """Run a kernel for as long as a block lasts, and start it again when it dies.

    Args:
        type_id: the kernel type.
        signals: say how the block was ended, and whether the user has no time.
        startup_timeout: seconds until it must answer.
        launch_options: further arguments of :func:`kernel_mgmt.start_kernel`.

    Raises:
        KernelMgmtError: it could not be launched.
    """
    finder = KernelFinder.from_entrypoints()
    kernel_type = finder.get(type_id)
    manager, client = await start_kernel(
        kernel_type, finder=finder, startup_timeout=startup_timeout, **launch_options
    )
    restarter = None
    try:
        if manager is None:
            yield ConsoleKernel(client, kernel_type.id, at_end="stop the kernel")
        else:
            launch_options.pop("on_progress", None)
            restarter = KernelRestarter(
                finder,
                kernel_type,
                manager,
                client.connection_info,
                startup_timeout=startup_timeout,
                **launch_options,
            )
            yield _RestartedKernel(client, kernel_type.id, restarter)
    finally:
        await finish(_stop(client, restarter, signals))


async def _stop(
    client: KernelClient, restarter: KernelRestarter | None, signals: LoopSignals
) -> None:
    try:
        if restarter is not None:
            await restarter.stop()
        manager = client.manager
        if manager is not None:
            signals.hurry = manager.kill
            if signals.by_user:
                await manager.kill()
        with contextlib.suppress(RequestTimeout):
            await client.shutdown_or_terminate(_BUSY_PATIENCE if signals.ended else _PATIENCE)
    finally:
        client.close()


@asynccontextmanager
async def existing_kernel(name: str, *, startup_timeout: float) -> AsyncIterator[ConsoleKernel]:
    """Use a kernel that runs, for as long as a block lasts; it lives on.

    Args:
        name: see :func:`~kernel_mgmt_cli.console.existing.find_connection_file`.
        startup_timeout: seconds until it must answer.

    Raises:
        KernelMgmtError: it is not there, or does not answer.
    """
    path = find_connection_file(name)
    info = ConnectionInfo.read(path)
    check_that_it_listens(info, path)
    async with KernelClient(info) as client:
        await client.wait_for_ready(startup_timeout)
        yield ConsoleKernel(client, str(path), at_end=_LEAVE)


@asynccontextmanager
async def kept_kernel(
    record: KernelRecord, *, startup_timeout: float, wanted: Wanted
) -> AsyncIterator[ConsoleKernel]:
    """Use a kernel that runs on, for as long as a block lasts; it lives on.

    Args:
        record: the kernel.
        wanted: which part of what it has said before is to be shown.
        startup_timeout: seconds until it must answer.

    Raises:
        KernelMgmtError: it is not there, or does not answer.
    """
    from kernel_mgmt.nanny_client.manager import RemoteKernelManager, manager_for

    from ..detached.finding import reaching

    with reaching(record):
        info, manager = await KernelFinder.from_entrypoints().attach(record)
    past = await find_past(info, manager, wanted)
    title = f"{record.name} {record.type_id}".lstrip()
    # What comes before the past was shown is not read yet.
    async with KernelClient(info, manager=manager, counts_as_reader=past is None) as client:
        await client.wait_for_ready(startup_timeout)
        if manager is None:
            yield ConsoleKernel(client, title, at_end=_LEAVE, past=past)
        else:
            # The one that was given may know more: that the way to the kernel is interrupted.
            has_nanny = info.nanny_control_port and not isinstance(manager, RemoteKernelManager)
            yield _KeptKernel(client, title, manager_for(info) if has_nanny else manager, past)
