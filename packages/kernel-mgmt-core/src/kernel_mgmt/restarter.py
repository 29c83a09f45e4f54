"""Starting a kernel again when it dies, or when somebody asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .background import finish
from .blocking import BlockingKernelClient
from .channels import Heartbeat
from .client import KernelClient
from .connection import ConnectionInfo
from .errors import (
    ClientClosed,
    KernelDied,
    KernelMgmtError,
    KernelRestarted,
    LaunchError,
)
from .finder import KernelFinder
from .handlers import HandlerCalls
from .kernel_events import EventCallback, KernelEvent, KernelEvents
from .launch import KernelType, Launched, PromptHandler
from .manager import KernelManager
from .restart_policy import RestartHistory, RestartPolicy
from .starting import discard, launch_and_wait

__all__ = ["KernelRestarter"]

logger = logging.getLogger("kernel_mgmt")

#: How often a kernel is asked for a sign of life, in seconds.
_HEARTBEAT_INTERVAL = 1.0


class KernelRestarter:
    """Watches a kernel, and launches it again when it dies or when :meth:`restart` is called.

    The new kernel has the type, working directory, environment, parameters and id of the old one,
    and its endpoints and key where the provider can.  A kernel that a client which follows (see
    :meth:`follow`), or :meth:`shutdown`, has ended on purpose is not started again.

    It belongs to the event loop on which it was started last, and is an asynchronous context manager
    that watches for as long as a block lasts.

    Args:
        finder: launches the new kernel.
        type_id: of the kernel that runs now; likewise all that follows.
        manager: watches its process.
        connection_info: where it is.
        cwd: its working directory, as ``finder.launch`` was given it; likewise what follows.
        env: environment variables.
        launch_params: parameters that the provider understands.
        on_prompt: answers a provider's question.
        policy: how often to restart, and when to give up.
        startup_timeout: seconds until a new kernel must answer.
        unresponsive_after: seconds without an answer to a heartbeat after which the kernel, alive
            as it is, is reported ``unresponsive``; None to ask for no heartbeat.
        kill_unresponsive: whether to kill it then, and so start it again.

    Raises:
        ValueError: there is no manager, so that the kernel cannot be watched.
        ConnectionFileError: the connection info has no heartbeat port.
    """

    def __init__(
        self,
        finder: KernelFinder,
        type_id: str | KernelType,
        manager: KernelManager | None,
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
        if manager is None:
            raise ValueError("A kernel without a manager cannot be watched, nor started again.")
        if unresponsive_after is not None:
            connection_info.endpoint("hb")
            if not unresponsive_after > 0:
                raise ValueError(f"unresponsive_after is {unresponsive_after!r}; it must be > 0.")
        #: The kernel that runs now, or ran last.
        self.manager = manager
        #: Where it is.
        self.connection_info = connection_info
        #: ``new``, ``running``, ``restarting``, ``failed`` or ``stopped``.
        self.state = "new"
        self._finder = finder
        self._type_id = type_id
        self._options: dict[str, Any] = {
            "cwd": cwd,
            "env": dict(env or {}),
            "launch_params": dict(launch_params or {}),
            "on_prompt": on_prompt,
            "kernel_id": manager.kernel_id,
        }
        self._startup_timeout = startup_timeout
        self._unresponsive_after = unresponsive_after
        self._kill_unresponsive = kill_unresponsive
        self._history = RestartHistory(policy or RestartPolicy())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: list[KernelClient] = []
        self._calls = HandlerCalls()
        self._events = KernelEvents(self._calls)
        #: Watches the kernel and replaces it; None when stopped or failed.
        self._supervisor: asyncio.Task[None] | None = None
        #: Set by `restart`, with the seconds that the old kernel may take to end.
        self._asked = asyncio.Event()
        self._grace = 0.0
        #: What those who have called `restart` wait for.
        self._outcome: asyncio.Future[Launched] | None = None

    def __repr__(self) -> str:
        return f"<KernelRestarter {self.state} {self._type_id} {self.manager!r}>"

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch; nothing happens when it watches already.

        A kernel that is dead is started again.

        Raises:
            RuntimeError: no event loop is running.
        """
        if self._supervisor is not None and not self._supervisor.get_loop().is_closed():
            return
        loop = self._loop = asyncio.get_running_loop()
        self.state = "running"
        self._events.begin()
        self._asked = asyncio.Event()
        self._history.forget()
        self._supervisor = loop.create_task(self._supervise())
        # Who closes the loop under it has ended it; there is nothing to complain about.
        self._supervisor._log_destroy_pending = False  # type: ignore[attr-defined]
        self._supervisor.add_done_callback(self._supervised)

    async def stop(self) -> None:
        """Stop watching; the kernel lives on, and iterators of events end.

        A restart under way is cancelled and leaves nothing, neither old kernel nor new.  Who waits
        for it gets a :class:`LaunchError`.
        """
        tasks = set(self._calls.tasks)
        if self._supervisor is not None:
            tasks.add(self._supervisor)
        tasks -= {asyncio.current_task()}  # of a callback that stops us
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._supervisor is None:  # else somebody has started it meanwhile
            self._stopped()

    async def shutdown(self, timeout: float = 5) -> None:
        """Stop watching and end the kernel, as ``KernelClient.shutdown_or_terminate`` does.

        Args:
            timeout: seconds that the kernel may take to end when it was asked.
        """
        await self.stop()
        async with KernelClient(self.connection_info, manager=self.manager) as client:
            await client.shutdown_or_terminate(timeout)

    async def restart(self, timeout: float = 0) -> Launched:
        """Replace the kernel by a new one; returns when that one is ready.

        Requests of clients that follow end with ``KernelRestarted`` at once.  Who calls this while
        a restart is under way waits for that one.  A restarter that was not started, has failed or
        was stopped begins to watch.  Cancelling the caller ends its wait alone; :meth:`stop`
        cancels the restart.

        Args:
            timeout: seconds that the old kernel may take to end when it was asked; with 0, which
                is the default, it is killed.

        Returns:
            Connection info and manager of the new kernel.

        Raises:
            KernelMgmtError: the new kernel died too often, with the last reason; or the restarter
                was stopped.
        """
        self.start()
        if self._outcome is None:
            self._outcome = asyncio.get_running_loop().create_future()
            self._outcome.add_done_callback(_look_at_exception)
            self._grace = timeout
            self._asked.set()
        return await asyncio.shield(self._outcome)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- who is told -----------------------------------------------------------------------

    def follow(self, client: KernelClient | BlockingKernelClient) -> None:
        """Reconnect a client to each new kernel, before ``ready`` is told.

        Its handlers stay.  When it ends the kernel, by ``shutdown_or_terminate`` or a
        ``shutdown_request``, the kernel is not started again.

        Args:
            client: may live on another loop, as a blocking one does.
        """
        client = _asynchronous(client)
        if client not in self._clients:
            self._clients.append(client)
            client._before_ending.append(self._give_way)

    def unfollow(self, client: KernelClient | BlockingKernelClient) -> None:
        """Leave a client alone from now on."""
        client = _asynchronous(client)
        if client in self._clients:
            self._clients.remove(client)
            client._before_ending.remove(self._give_way)

    def add_callback(self, callback: EventCallback) -> None:
        """Call a function with each :class:`KernelEvent`, on the restarter's loop.

        One that raises is logged, and the others are still called.  The coroutines of coroutine
        functions run beside the restart, which does not wait for them; :meth:`stop` cancels them.
        """
        self._events.add_callback(callback)

    def remove_callback(self, callback: EventCallback) -> None:
        """Call a function no more."""
        self._events.remove_callback(callback)

    def events(self) -> AsyncIterator[KernelEvent]:
        """Iterate over the events from now on, until the restarter is stopped."""
        return self._events.iterate()

    def _tell(self, name: str, **details: Any) -> None:
        event = KernelEvent(name, **details)
        logger.info("Kernel %s: %s", self.manager.kernel_id, event)
        self._events.tell(event)

    def _tell_loss(self, name: str, error: BaseException) -> None:
        self._tell(name, error=error, **_how_it_ended(error))

    # -- the supervisor --------------------------------------------------------------------

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                loss = await self._watch()
                if isinstance(loss, KernelDied):
                    self._tell_loss("died", loss)
                    if any(client.asked_to_end for client in self._clients):
                        return
                if not await self._replace(loss):
                    return
        except Exception as error:
            if loop.is_closed():
                return  # under us; this is what came of it
            # A manager that cannot watch (then the kernel may be well, and is left alone), or a
            # defect in a relaunch (which has left nothing).
            logger.exception("The restarter of kernel %s ends", self.manager.kernel_id)
            self._fail(error)

    def _supervised(self, task: asyncio.Task[None]) -> None:
        if task is self._supervisor:
            self._supervisor = None
            if self.state != "failed":
                self._stopped()

    def _stopped(self) -> None:
        self.state = "stopped"
        self._settle(
            LaunchError(
                "The restart was given up, because the restarter was stopped.", phase="resolve"
            )
        )
        self._events.end()

    def _fail(self, error: Exception) -> None:
        self.state = "failed"
        self._tell_loss("failed", error)
        self._settle(error)

    def _settle(self, outcome: Launched | Exception) -> None:
        """Let those who have called `restart` go on."""
        self._asked.clear()
        future, self._outcome = self._outcome, None
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    async def _watch(self) -> KernelDied | KernelRestarted:
        """Wait until the kernel is dead, or is to be restarted."""
        self._history.up(time.monotonic())
        heartbeat = self._listen()
        died = asyncio.ensure_future(self.manager.wait())
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({died, asked}, return_when=asyncio.FIRST_COMPLETED)
            if self._asked.is_set():
                return KernelRestarted("The kernel is being restarted; send the request again.")
            return KernelDied(died.result(), await self.manager.log_tail())
        finally:
            if heartbeat is not None:
                heartbeat.close()
            died.cancel()
            asked.cancel()
            await asyncio.wait({died, asked})

    def _listen(self) -> Heartbeat | None:
        patience = self._unresponsive_after
        if patience is None:
            return None
        interval = min(_HEARTBEAT_INTERVAL, patience / 3)
        return Heartbeat(
            self.connection_info,
            interval=interval,
            patience=patience,
            on_change=self._on_responsive,
        )

    def _on_responsive(self, responsive: bool) -> None:
        name = "responsive" if responsive else "unresponsive"
        self._tell(name, connection_info=self.connection_info, manager=self.manager)
        if self._kill_unresponsive and not responsive:
            _ = self._calls.start(self._kill())

    async def _kill(self) -> None:
        try:
            await self.manager.kill()
        except Exception:
            logger.exception("The unresponsive kernel %s cannot be killed", self.manager.kernel_id)

    async def _replace(self, loss: KernelMgmtError) -> bool:
        """Put a new kernel in the place of this one; false when the policy gives up.

        From here on the old kernel is doomed: whatever happens, nothing of it is left.
        """
        self.state = "restarting"
        try:
            await self._for_clients(lambda client: client.let_go(loss))
            if self._asked.is_set() and self._grace > 0:
                await self._ask_to_end(self._grace)
            await self.manager.cleanup()
            while (wait := self._wait_before_restart()) is not None:
                self._tell("restarting")
                await self._pause(wait)
                try:
                    launched = await self._relaunch()
                except KernelMgmtError as error:
                    loss = error
                    self._tell_loss("died", error)
                else:
                    self._be_ready(launched)
                    return True
            await self._bury(loss)
        except BaseException:
            await finish(self._bury())
            raise
        self._fail(loss)
        return False

    async def _bury(self, loss: KernelMgmtError | None = None) -> None:
        """Remove what is left of a kernel that gets no successor, and tell the clients."""
        await self.manager.cleanup()
        if loss is None:
            died = KernelDied(await self.manager.wait(), await self.manager.log_tail())
        else:
            died = KernelDied(**_how_it_ended(loss))
        await self._for_clients(lambda client: client.let_go(died))

    async def _ask_to_end(self, timeout: float) -> None:
        async with KernelClient(self.connection_info) as client:
            _ = client.shutdown(restart=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self.manager.wait()

    def _wait_before_restart(self) -> float | None:
        if self._asked.is_set():
            self._asked.clear()
            self._history.forget()
            return 0.0
        return self._history.died(time.monotonic())

    async def _pause(self, seconds: float) -> None:
        """Wait, unless somebody asks for a restart now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    async def _relaunch(self) -> Launched:
        """Launch the kernel anew, and connect the clients that follow to it."""
        manager, client = await self._launch_like_before()
        try:
            if manager is None:
                await client.shutdown_or_terminate()
                raise LaunchError(
                    "The new kernel came without a manager and cannot be watched.", phase="ready"
                )
            info = client.connection_info
            await self._for_clients(lambda other: _bring_back(other, info, manager))
        except BaseException:
            await finish(discard(client, manager))
            raise
        client.close()
        return Launched(info, manager)

    async def _launch_like_before(self) -> tuple[KernelManager | None, KernelClient]:
        try:
            return await self._launch(connection_info=self.connection_info)
        except LaunchError as error:
            if not error.endpoints_refused:
                raise
            logger.info("The new kernel gets other endpoints than the old: %s", error.cause)
            return await self._launch()

    async def _launch(self, **options: Any) -> tuple[KernelManager | None, KernelClient]:
        return await launch_and_wait(
            self._finder,
            self._type_id,
            startup_timeout=self._startup_timeout,
            **self._options,
            **options,
        )

    def _be_ready(self, launched: Launched) -> None:
        assert launched.manager is not None
        self.connection_info, self.manager = launched.connection_info, launched.manager
        self.state = "running"
        self._tell("ready", connection_info=self.connection_info, manager=self.manager)
        self._settle(launched)

    # -- the clients that follow -----------------------------------------------------------

    async def _for_clients(
        self, action: Callable[[KernelClient], Coroutine[Any, Any, object]]
    ) -> None:
        """Do something to all clients at once; one that fails costs the others nothing."""
        await asyncio.gather(*(self._for_client(client, action) for client in tuple(self._clients)))

    async def _for_client(
        self, client: KernelClient, action: Callable[[KernelClient], Coroutine[Any, Any, object]]
    ) -> None:
        try:
            async with asyncio.timeout(self._startup_timeout):
                await _on_loop(client._loop, action(client))
        except ClientClosed:
            self.unfollow(client)
        except Exception:
            logger.exception("The client %r does not follow to the new kernel", client)

    async def _give_way(self) -> None:
        """Stop, because a client is about to end the kernel; called on the client's loop."""
        if self._loop is asyncio.get_running_loop():
            await self.stop()
        elif self._loop is not None:
            # Not waited for: a blocking client may be used on this very loop, which it blocks.
            # What matters is that the loop gets to know it before the death of the kernel.
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(lambda: self._calls.start(self.stop()))


def _asynchronous(client: KernelClient | BlockingKernelClient) -> KernelClient:
    return client._client if isinstance(client, BlockingKernelClient) else client


async def _bring_back(client: KernelClient, info: ConnectionInfo, manager: KernelManager) -> None:
    await client.reconnect(info, manager)
    # So that the application's first request misses none of its output.
    await client.wait_for_ready(None)


async def _on_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine on a loop, maybe that of another thread, and wait for it."""
    if loop is asyncio.get_running_loop():
        await coroutine
        return
    if loop.is_closed():
        coroutine.close()
        raise ClientClosed("The loop of the client was closed.")
    there = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        await asyncio.wrap_future(there)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClientClosed("The loop of the client came to its end.") from None


def _how_it_ended(error: BaseException) -> dict[str, Any]:
    """Give what an error tells of the end of a process, as fields of an event."""
    return {
        "exit_status": getattr(error, "exit_status", None),
        "log_tail": getattr(error, "log_tail", ""),
    }


def _look_at_exception(future: asyncio.Future[Launched]) -> None:
    """Spare asyncio its complaint when all who waited have given up."""
    if not future.cancelled():
        future.exception()
