"""Keeps one kernel: launches it, watches it, starts it again, ends it, and says what happens."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ..errors import LaunchError, NannyError, one_line
from ..launch import LaunchRequest
from ..local import LocalKernelManager, launch_local
from ..manager import ExitStatus
from ..restart_policy import RestartHistory
from .front import Front
from .protocol import PROTOCOL_VERSION, REQUESTS, BadRequest
from .request import CONNECTION_FILE, NannyRequest
from .watchdog import Watchdog

__all__ = ["KernelFailed", "Supervisor"]

logger = logging.getLogger("kernel_mgmt")

#: How long a dead kernel must have been silent before it counts as gone, in seconds: what it sent
#: last may still be on its way through the sockets.
_LAST_WORDS = 0.05
#: How long its last words may take at most, in seconds.
_LAST_WORDS_LIMIT = 1.0
#: How long a kernel may take to end after SIGTERM, in seconds.
_TERMINATE_PATIENCE = 2.0
#: How long the nanny of a kernel that a client has ended stays, to tell how it ended, in seconds.
_FAREWELL = 2.0
#: How many kernels' ends are remembered.
_REMEMBERED_ENDS = 16
#: How much of a dead kernel's output is told, in lines.
_TAIL_LINES = 50

Tell = Callable[[str, "dict[str, Any]"], object]


class KernelFailed(NannyError):
    """There is no kernel that answers, and there will be none unless somebody asks for it."""


@dataclass(frozen=True)
class _End:
    """How one of the kernels ended."""

    status: ExitStatus
    log_tail: str
    #: Whether it was ended in order to be started again.
    restarting: bool = False

    def to_dict(self, kernel: int) -> dict[str, Any]:
        """Give what is told of it."""
        return {
            "kernel": kernel,
            "exit_status": self.status.to_dict(),
            "log_tail": self.log_tail,
            "restarting": self.restarting,
        }


class Supervisor:
    """Keeps a kernel, on the background loop.

    Its coroutines that are named as the requests of :mod:`.protocol` answer them: each gives the
    content of the reply.

    Args:
        request: what to keep, and how.
        front: passes messages between clients and the kernel.
        watchdog: is told what must not outlive the nanny.
        home: a private directory for what the kernels need.
        tell: tells managers of an event.
        leave: removes the files of the nanny.
    """

    def __init__(
        self,
        request: NannyRequest,
        front: Front,
        watchdog: Watchdog,
        home: Path,
        *,
        tell: Tell,
        leave: Callable[[], object],
    ) -> None:
        #: ``starting``, ``ready``, ``restarting``, ``dead`` or ``stopping``.
        self.state = "starting"
        #: Set when the kernel is gone for good and the nanny is to end.
        self.stopped = asyncio.Event()
        #: What people are told beside what is known here.
        self.facts: dict[str, Any] = {}
        self._request = request
        self._front = front
        self._watchdog = watchdog
        self._home = home
        self._tell = tell
        self._leave = leave
        self._started = time.time()
        #: The number of the present kernel, or of the last; and of the last that has answered.
        self._number = 0
        self._ready_number = 0
        self._kernel_started: float | None = None
        self._manager: LocalKernelManager | None = None
        self._ends: dict[int, _End] = {}
        policy = request.options.restart_policy
        self._history = None if policy is None else RestartHistory(policy)
        #: Why no kernel will follow by itself; empty when one will.
        self._given_up = ""
        self._restarts = 0
        #: Set to have the kernel replaced; with the seconds it may take to end.
        self._restart_asked = asyncio.Event()
        self._grace = 0.0
        #: The number of the kernel that a restart under way replaces.
        self._replaced: int | None = None
        #: Set when the kernel shall end and stay so.
        self._end_asked = asyncio.Event()
        #: What a client's ``shutdown_request`` said of a restart; None when there was none.
        self._shutdown_asked: bool | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._lease_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Launch the kernel and begin to keep it; returns when its sockets accept connections.

        Raises:
            LaunchError: it could not be launched; nothing of it is left.
        """
        await self._launch()
        self._keeper = asyncio.ensure_future(self._keep())
        self._set_lease(self._request.options.lease)
        self._watch_idleness()

    # -- told by the front, on the loop ----------------------------------------------------

    def note_ready(self, number: int) -> None:
        """Take notice that a kernel answers."""
        if number != self._number or number in self._ends or self.state == "stopping":
            return
        self.state = "ready"
        self._ready_number = number
        self._replaced = None
        if self._history is not None:
            self._history.up(time.monotonic())
        self._tell("ready", {"kernel": number})
        self._notify()

    def note_shutdown(self, restart: bool) -> None:
        """Take notice that a client has asked the kernel to end."""
        self._shutdown_asked = restart
        if self.state == "dead" and not restart:
            self.begin_stop("shutdown_request")

    # -- a kernel's life -------------------------------------------------------------------

    async def _launch(self) -> None:
        request = self._request
        self._number += 1
        number = self._number
        self._shutdown_asked = None
        pids: list[int] = []

        def note_process(pid: int) -> None:
            pids.append(pid)
            self._watchdog.watch_group(pid)

        try:
            info, manager = await launch_local(
                LaunchRequest(
                    request.kernel_type, request.kernel_id, cwd=request.cwd, env=request.env
                ),
                self._argv,
                runtime_dir=self._home,
                transport=request.transport,
                encryption=request.encryption,
                handshake=request.handshake,
                sign_as=self._front.info,
                die_with_parent=True,
                on_spawn=note_process,
            )
        except BaseException:
            for pid in pids:
                self._watchdog.leave_group(pid)
            raise
        assert isinstance(manager, LocalKernelManager)
        for pid in pids[:-1]:  # those of tries that came to nothing
            self._watchdog.leave_group(pid)
        self._manager = manager
        self._kernel_started = time.time()
        manager.forward_output(_OutputEvents(number, self._tell))
        self._tell("started", {"kernel": number, "pid": manager.pid})
        self._front.call(self._front.meet, info, number)

    def _argv(self, connection_file: Path) -> Sequence[str]:
        return [word.replace(CONNECTION_FILE, str(connection_file)) for word in self._request.argv]

    async def _keep(self) -> None:
        """See kernels come and go, until no more shall come."""
        end = await self._watch()
        while self._stopping is None:
            self._note_end(end)
            pause = self._pause_before_next(end)
            if pause is None:
                await self._be_dead(end)
                pause = 0.0
            if self._stopping is not None:
                return
            end = await self._live_again(pause)
        self._note_end(end)

    async def _live_again(self, pause: float) -> _End:
        """Start a kernel again, and give how that one ended, or why it could not be started."""
        self.state = "restarting"
        self._tell("restarting", {"kernel": self._number, "wait": pause})
        self._restart_asked.clear()
        self._notify()
        await _first(asyncio.sleep(pause), self._end_asked.wait(), self._restart_asked.wait())
        self._restart_asked.clear()
        launch = asyncio.ensure_future(self._launch())
        try:
            async with _cancelled_at_end(launch):
                await asyncio.wait_for(
                    _first(asyncio.shield(launch), self._end_asked.wait()),
                    self._request.startup_timeout,
                )
            if not launch.done() or launch.cancelled():
                return _End(ExitStatus(reason="its start was cut short"), "")
            launch.result()
        except asyncio.TimeoutError:
            return _End(ExitStatus(reason="it did not accept connections in time"), "")
        except LaunchError as error:
            return _End(error.exit_status or ExitStatus(reason=one_line(error)), error.log_tail)
        self._restarts += 1
        return await self._watch()

    async def _watch(self) -> _End:
        """Wait until the present kernel has ended, or end it when that is asked for."""
        manager = self._manager
        assert manager is not None
        died = asyncio.ensure_future(manager.wait())
        asked = asyncio.ensure_future(self._restart_asked.wait())
        late = asyncio.ensure_future(self._until_late())
        reason = ""
        try:
            await asyncio.wait({died, asked, late}, return_when=asyncio.FIRST_COMPLETED)
            if not died.done() and late.done():
                reason = f"it did not answer within {self._request.startup_timeout:g} s"
                await manager.kill()
            elif not died.done():
                await self._end_kernel(manager, self._grace)
            status = await died
        finally:
            for waiting in (died, asked, late):
                waiting.cancel()
        restarting = self._restart_asked.is_set()
        await self._hear_last_words()
        tail = await manager.log_tail(_TAIL_LINES)
        self._front.call(
            self._front.part,
            "KernelRestarted" if restarting else "KernelDied",
            "The kernel was restarted before it answered; send the request again."
            if restarting
            else f"The kernel died: {status}.",
        )
        # Its children, and its files.
        await manager.cleanup()
        self._watchdog.leave_group(manager.pid)
        if reason:
            status = ExitStatus(status.code, status.signal, reason)
        return _End(status, tail, restarting)

    async def _until_late(self) -> None:
        """Wait until a kernel that does not answer should have."""
        number = self._number
        await _first(
            asyncio.sleep(self._request.startup_timeout),
            self._until(lambda: self._ready_number >= number),
        )
        if self._ready_number >= number:
            await asyncio.Event().wait()  # it is not late, and never will be

    async def _hear_last_words(self) -> None:
        deadline = time.monotonic() + _LAST_WORDS_LIMIT
        before = -1
        while before != self._front.passed and time.monotonic() < deadline:
            before = self._front.passed
            await asyncio.sleep(_LAST_WORDS)

    async def _end_kernel(self, manager: LocalKernelManager, grace: float) -> None:
        """End the kernel: politely when it may take some time, else by force."""
        if grace > 0:
            self._front.call(self._front.ask_to_end, self._restart_asked.is_set())
            if await _within(manager.wait(), grace):
                return
            await manager.terminate()
            await _within(manager.wait(), _TERMINATE_PATIENCE)
        await manager.kill()

    def _note_end(self, end: _End) -> None:
        self._ends[self._number] = end
        self._ends.pop(self._number - _REMEMBERED_ENDS, None)
        self._kernel_started = None
        # Before those who wait wake up and ask what comes next.
        if self._stopping is None:
            self.state = "restarting"
        self._tell("died", end.to_dict(self._number))
        self._notify()

    def _pause_before_next(self, end: _End) -> float | None:
        """Give the seconds until a kernel is started again; None when none is, and why."""
        history = self._history
        if self._end_asked.is_set():
            self._given_up = "the kernel was ended on request"
        elif end.restarting or self._shutdown_asked is True:
            if history is not None:
                history.forget()
            return 0.0
        elif self._shutdown_asked is False:
            self._given_up = "a client has shut the kernel down"
        elif history is None:
            self._given_up = f"the kernel died ({end.status}), and is not to be started again"
        else:
            pause = history.died(time.monotonic())
            if pause is not None:
                return pause
            self._given_up = f"the kernel died too often, the last time: {end.status}"
        return None

    async def _be_dead(self, end: _End) -> None:
        """Have no kernel, until somebody asks for one."""
        self.state = "dead"
        self._replaced = None
        if not self._end_asked.is_set() and self._shutdown_asked is None:
            content = end.to_dict(self._number)
            del content["restarting"]
            self._tell("failed", {**content, "reason": self._given_up})
        self._restart_asked.clear()
        self._notify()
        if self._shutdown_asked is False:
            await _within(self._restart_asked.wait(), _FAREWELL)
            if not self._restart_asked.is_set():
                self.begin_stop("shutdown_request")
        await self._restart_asked.wait()
        self._given_up = ""
        self._end_asked.clear()

    # -- waiting ---------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _notify(self) -> None:
        """Have all conditions that somebody waits for looked at."""
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    # -- requests --------------------------------------------------------------------------

    async def nanny_info(self) -> dict[str, Any]:
        """Tell who keeps what, and how it is."""
        state = self.state
        if state == "ready":
            state = "busy" if self._front.runs_code else "idle"
        end = self._ends.get(self._number)
        options, manager = self._request.options, self._manager
        lease = self._lease_timer
        return {
            "protocol_version": PROTOCOL_VERSION,
            "implementation": "kernel-mgmt",
            "capabilities": list(REQUESTS),
            "kernel_id": self._request.kernel_id,
            "type_id": self._request.kernel_type.id,
            "name": options.name,
            "state": state,
            "kernel": self._number,
            "kernel_pid": None if manager is None or end is not None else manager.pid,
            "started": self._started,
            "kernel_started": self._kernel_started,
            "last_activity": self._front.last_activity,
            "clients": self._front.clients,
            "exit_status": None if end is None else end.status.to_dict(),
            "restarts": self._restarts,
            "lease": None if lease is None else lease.when() - asyncio.get_running_loop().time(),
            "idle_timeout": options.idle_timeout,
            **self.facts,
        }

    async def is_alive(self) -> dict[str, Any]:
        """Tell whether there is a kernel's process."""
        alive = self._manager is not None and await self._manager.is_alive()
        return {"alive": alive, "kernel": self._number}

    async def wait(self, kernel: int | None) -> dict[str, Any]:
        """Tell how a kernel ended, once it has."""
        number = self._number if kernel is None else kernel
        if not 0 < number <= self._number:
            raise BadRequest(f"There is no kernel {number}; the present one is {self._number}.")
        await self._until(lambda: number in self._ends or number <= self._number - _REMEMBERED_ENDS)
        end = self._ends.get(number) or _End(ExitStatus(reason="others have followed since"), "")
        return end.to_dict(number)

    async def wait_ready(self, after: int | None) -> dict[str, Any]:
        """Tell of a kernel that answers, once there is one that came after another."""
        number = after or 0
        await self._until(lambda: self._ready_number > number or self._has_given_up())
        if self._ready_number > number:
            return {"kernel": self._ready_number}
        reason = self._given_up or "the nanny ends"
        raise KernelFailed(f"No kernel will follow, because {reason}.")

    def _has_given_up(self) -> bool:
        return self._stopping is not None or (
            self.state == "dead" and not self._restart_asked.is_set()
        )

    async def signal(self, signum: int) -> dict[str, Any]:
        """Send a signal to the kernel and its children."""
        if self._manager is not None:
            try:
                await self._manager.signal(signum)
            except (ValueError, OSError) as error:
                raise BadRequest(
                    f"The kernel's system has no signal {signum}: {one_line(error)}."
                ) from None
        return {}

    async def interrupt(self) -> dict[str, Any]:
        """Interrupt what the kernel runs, as its type wants it."""
        if self._request.kernel_type.interrupt_mode == "message":
            self._front.call(self._front.interrupt)
        elif self._manager is not None:
            await self._manager.interrupt()
        return {}

    async def terminate(self) -> dict[str, Any]:
        """Ask the kernel's process to end, and do not start it again."""
        self._end_asked.set()
        if self._manager is not None:
            await self._manager.terminate()
        return {}

    async def kill(self) -> dict[str, Any]:
        """End the kernel and its children by force, and do not start it again."""
        self._end_asked.set()
        if self._manager is not None:
            await self._manager.kill()
        await self._until(lambda: self.state in ("dead", "stopping"))
        return {}

    async def restart(self, timeout: float) -> dict[str, Any]:
        """Replace the kernel by a new one, and tell when that one answers."""
        if self._stopping is not None:
            raise KernelFailed("The nanny ends, and starts no kernel any more.")
        if self._replaced is None:  # else that restart is waited for
            self._replaced = self._number
            self._grace = timeout
            self._end_asked.clear()
            self._restart_asked.set()
        return await self.wait_ready(self._replaced)

    async def log_tail(self, lines: int) -> dict[str, Any]:
        """Give the last lines of what the kernel's process wrote."""
        return {"text": "" if self._manager is None else await self._manager.log_tail(lines)}

    async def lease(self, seconds: float | None) -> dict[str, Any]:
        """Let the kernel live for so long from now on, or without limit."""
        self._set_lease(seconds)
        return {"seconds": seconds}

    async def stop(self, timeout: float) -> dict[str, Any]:
        """End the kernel and the nanny."""
        self.begin_stop("asked", timeout)
        assert self._stopping is not None
        await asyncio.shield(self._stopping)
        return {}

    # -- the end ---------------------------------------------------------------------------

    def begin_stop(self, reason: str, timeout: float = 5.0) -> None:
        """Begin to end the kernel and the nanny; nothing happens when they end already."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(reason, timeout))

    async def _stop(self, reason: str, timeout: float) -> None:
        self.state = "stopping"
        self._tell("stopping", {"reason": reason})
        self._end_asked.set()
        self._restart_asked.clear()
        self._notify()
        try:
            if self._number not in self._ends:
                if self._manager is not None and await self._manager.is_alive():
                    await self._end_kernel(self._manager, timeout)
                await _within(self._until(lambda: self._number in self._ends), _FAREWELL)
        finally:
            await self.close()

    async def close(self) -> None:
        """Let nothing of the kernel be left, whatever happens to it now."""
        for timer in (self._lease_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._manager is not None:
            await self._manager.cleanup()
        self._leave()
        self.stopped.set()

    def _set_lease(self, seconds: float | None) -> None:
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._lease_timer = loop.call_later(seconds, self.begin_stop, "lease")

    def _watch_idleness(self) -> None:
        limit = self._request.options.idle_timeout
        if limit is None:
            return
        left = limit
        if not self._front.runs_code:
            left = self._front.last_activity + limit - time.time()
        if left <= 0:
            self.begin_stop("idle")
            return
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(left, self._watch_idleness)


class _OutputEvents:
    """Tells of what one kernel's process writes."""

    def __init__(self, number: int, tell: Tell) -> None:
        self._number = number
        self._tell = tell
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder("replace") for name in ("stdout", "stderr")}

    def __call__(self, stream: str, data: bytes) -> None:
        text = self._decoders[stream].decode(data)
        if text:
            self._tell("output", {"kernel": self._number, "stream": stream, "text": text})


async def _first(*awaitables: Awaitable[Any]) -> None:
    """Wait until the first of several ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _within(awaitable: Awaitable[Any], seconds: float) -> bool:
    """Wait for something, for so long at most; tells whether it came."""
    try:
        await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        return False
    return True


@contextlib.asynccontextmanager
async def _cancelled_at_end(task: asyncio.Future[Any]) -> Any:
    """Cancel a task that a block has not waited for to its end, and see it end."""
    try:
        yield
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
