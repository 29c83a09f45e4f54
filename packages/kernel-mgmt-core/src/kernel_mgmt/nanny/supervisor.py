"""Keeps one kernel: launches it, watches it, starts it again, ends it, and says what happens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ..errors import LaunchError, NannyError, one_line
from ..launch import LaunchRequest
from ..local import LocalKernelManager, launch_local
from ..manager import ExitStatus
from ..process import KernelProcess
from ..restart_policy import RestartHistory
from .front import Front
from .kernel_log import KernelLog
from .protocol import PROTOCOL_VERSION, REQUESTS, BadRequest
from .request import CONNECTION_FILE, NannyRequest
from .waiting import cancelled_at_end, ended, first, within
from .watchdog import Watchdog

__all__ = ["KernelFailed", "Supervisor"]

logger = logging.getLogger("kernel_mgmt")

#: Where in the nanny's private directory the kernels' sockets are: a name that whoever removes a
#: kernel's sockets knows for its own.
SOCKET_DIR = "km-kernel"
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
        #: The manager of the last kernel whose process was started, and that one's number.
        self._manager: LocalKernelManager | None = None
        self._managed = 0
        #: What the newest kernel's process has written.
        self._log: KernelLog | None = None
        self._ends: dict[int, _End] = {}
        policy = request.options.restart_policy
        self._history = None if policy is None else RestartHistory(policy)
        #: Why no kernel will follow by itself; empty when one will.
        self._given_up = ""
        self._restarts = 0
        #: The number of the kernel that a restart under way replaces, and the seconds it may take
        #: to end.
        self._replaced: int | None = None
        self._grace = 0.0
        #: Whether the kernel shall end and none follow.
        self._end_asked = False
        #: What a client's ``shutdown_request`` said of a restart; None when there was none.
        self._shutdown_asked: bool | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._lease_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._unattended_timer: asyncio.TimerHandle | None = None
        #: When the kernel could be used first, on the monotonic clock.
        self._usable_at = 0.0

    async def start(self) -> None:
        """Launch the kernel and begin to keep it; returns when its sockets accept connections.

        Raises:
            LaunchError: it could not be launched, or shall not be any more; nothing of it is left.
        """
        launch = asyncio.ensure_future(self._launch())
        async with cancelled_at_end(launch):
            await first(ended(launch), self._until(lambda: self._end_asked))
        if launch.cancelled():
            raise LaunchError(
                "The nanny was asked to end the kernel before it accepted connections.",
                phase="start",
            )
        launch.result()
        self._keeper = asyncio.ensure_future(self._keep())
        self._keeper.add_done_callback(self._note_defect)
        self._set_lease(self._request.options.lease)
        self._watch_idleness()
        self._usable_at = time.monotonic()
        self._watch_attendance()

    # -- told by the front, on the loop ----------------------------------------------------

    def note_ready(self, number: int) -> None:
        """Take notice that a kernel answers."""
        if number != self._number or number in self._ends or self.state == "stopping":
            return
        self.state = "ready"
        self._ready_number = number
        if not self._is_replaced():
            self._replaced = None
        if self._history is not None:
            self._history.up(time.monotonic())
        self._tell("ready", {"kernel": number})
        self._notify()

    def note_shutdown(self, restart: bool) -> None:
        """Take notice that a client has asked the kernel to end."""
        self._shutdown_asked = restart
        if self.state == "dead" and restart:
            self._ask_for_another(0.0)
        elif self.state in ("dead", "restarting") and not restart:  # no kernel has taken it
            self.begin_stop("shutdown_request")

    # -- a kernel's life -------------------------------------------------------------------

    async def _launch(self) -> None:
        request = self._request
        self._number += 1
        number = self._number
        self._shutdown_asked = None
        pids: list[int] = []

        def note_process(process: KernelProcess) -> None:
            pids.append(process.pid)
            self._watchdog.watch_group(process.pid)
            self._log = KernelLog(number, process, self._tell)

        try:
            info, manager = await launch_local(
                LaunchRequest(
                    request.kernel_type, request.kernel_id, cwd=request.cwd, env=request.env
                ),
                self._argv,
                runtime_dir=self._home,
                # In there, so that it goes with the nanny whatever that dies of.
                socket_dir=self._home / SOCKET_DIR,
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
        self._manager, self._managed = manager, number
        self._kernel_started = time.time()
        self._tell("started", {"kernel": number, "pid": manager.pid})
        self._front.call(self._front.meet, info, number)

    @property
    def _present(self) -> LocalKernelManager | None:
        """The manager of the present kernel; None while that one is being started."""
        return self._manager if self._managed == self._number else None

    def _argv(self, connection_file: Path) -> Sequence[str]:
        return [word.replace(CONNECTION_FILE, str(connection_file)) for word in self._request.argv]

    async def _keep(self) -> None:
        """See kernels come and go, until :meth:`close`."""
        end = await self._watch()
        while True:
            self._note_end(end)
            pause = self._pause_before_next(end)
            if pause is None or not await self._sit_out(pause):
                await self._be_dead(end)
            end = await self._live_again()

    def _note_defect(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and keeper.exception() is not None:
            logger.error("The nanny has a defect", exc_info=keeper.exception())
            self.begin_stop("defect")

    async def _sit_out(self, pause: float) -> bool:
        """Wait before a kernel is started again; tells whether one still shall be."""
        self._tell("restarting", {"kernel": self._number, "wait": pause})
        await first(
            asyncio.sleep(pause), self._until(lambda: self._end_asked or self._is_replaced())
        )
        return not self._end_asked

    async def _live_again(self) -> _End:
        """Start a kernel again, and give how that one ended, or why it could not be started."""
        if not self._is_ending():
            self.state = "restarting"
        limit = self._request.startup_timeout
        launch = asyncio.ensure_future(self._launch())
        async with cancelled_at_end(launch):
            await first(
                ended(launch),
                asyncio.sleep(limit),
                self._until(lambda: self._end_asked or self._is_replaced()),
            )
        if launch.cancelled():
            asked = self._end_asked or self._is_replaced()
            late = f"it did not accept connections within {limit:g} s"
            reason = "its start was cut short" if asked else late
            return _End(ExitStatus(reason=reason), "", restarting=self._is_replaced())
        try:
            launch.result()
        except LaunchError as error:
            return _End(error.exit_status or ExitStatus(reason=one_line(error)), error.log_tail)
        except Exception as error:
            # The system lacks what it had for the first kernel: descriptors, room, rights.
            logger.exception("A kernel could not be started again")
            return _End(ExitStatus(reason=f"it could not be started: {one_line(error)}"), "")
        self._restarts += 1
        return await self._watch()

    async def _watch(self) -> _End:
        """Wait until the present kernel has ended, or end it when that is asked for."""
        manager = self._manager
        assert manager is not None
        if self._end_asked:  # before it could be told
            await manager.kill()
        died = asyncio.ensure_future(manager.wait())
        asked = asyncio.ensure_future(self._until(self._is_replaced))
        late = asyncio.ensure_future(self._until_late())
        reason = ""
        try:
            await asyncio.wait({died, asked, late}, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                pass
            elif asked.done():
                await self._end_kernel(manager, self._grace)
            else:
                reason = f"it did not answer within {self._request.startup_timeout:g} s"
                await manager.kill()
            status = await died
        finally:
            for waiting in (died, asked, late):
                waiting.cancel()
        restarting = self._is_replaced() or self._shutdown_asked is True
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
        await first(
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
            self._front.call(self._front.ask_to_end, self._is_replaced())
            if await within(manager.wait(), grace):
                return
            await manager.terminate()
            await within(manager.wait(), _TERMINATE_PATIENCE)
        await manager.kill()

    def _note_end(self, end: _End) -> None:
        self._ends[self._number] = end
        self._ends.pop(self._number - _REMEMBERED_ENDS, None)
        self._kernel_started = None
        # Before those who wait wake up and ask what comes next.
        if not self._is_ending():
            self.state = "restarting"
        self._tell("died", end.to_dict(self._number))
        self._notify()

    def _pause_before_next(self, end: _End) -> float | None:
        """Give the seconds until a kernel is started again; None when none is."""
        history = self._history
        if self._end_asked or self._shutdown_asked is False:
            return None
        if self._is_replaced() or self._shutdown_asked:
            if history is not None:
                history.forget()
            return 0.0
        return None if history is None else history.died(time.monotonic())

    def _why_dead(self, end: _End) -> str:
        if self._end_asked:
            return "the kernel was ended on request"
        if self._shutdown_asked is False:
            return "a client has shut the kernel down"
        if self._history is None:
            return f"the kernel died ({end.status}), and is not to be started again"
        return f"the kernel died too often, the last time: {end.status}"

    async def _be_dead(self, end: _End) -> None:
        """Have no kernel, until somebody asks for one."""
        self._given_up = self._why_dead(end)
        if not self._is_ending():
            self.state = "dead"
        self._replaced = None
        if not self._end_asked and self._shutdown_asked is None:
            content = end.to_dict(self._number)
            del content["restarting"]
            self._tell("failed", {**content, "reason": self._given_up})
        self._notify()
        if self._shutdown_asked is False and not await within(
            self._until(self._is_replaced), _FAREWELL
        ):
            self.begin_stop("shutdown_request")
        await self._until(self._is_replaced)
        self._given_up = ""
        self._tell("restarting", {"kernel": self._number, "wait": 0.0})

    # -- what is asked for -----------------------------------------------------------------

    def _is_replaced(self) -> bool:
        """Whether the present kernel, alive or dead, shall make room for another."""
        return self._replaced is not None and self._replaced == self._number

    def _ask_for_another(self, grace: float) -> int:
        """Have the kernel replaced; gives the number of the kernel that is, or was already."""
        if self._replaced is None:
            self._replaced = self._number
            self._grace = grace
            self._end_asked = False
            self._notify()
        return self._replaced

    def _ask_for_end(self) -> None:
        """Have the kernel end, and none follow."""
        self._end_asked = True
        self._replaced = None
        self._notify()

    def _is_ending(self) -> bool:
        return self.state == "stopping"

    def _has_ended(self, number: int) -> bool:
        return number in self._ends or number < self._number

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
        options, manager = self._request.options, self._present
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
            "lease": None if lease is None else max(0.0, lease.when() - _now()),
            "idle_timeout": options.idle_timeout,
            "unattended_timeout": options.unattended_timeout,
            "journal": await self._journal(),
            **self.facts,
        }

    async def _journal(self) -> dict[str, Any] | None:
        """Give what is told of the journal; None when none is kept."""
        limit = self._request.options.journal_limit
        if limit is None:
            return None
        told: Future[dict[str, Any]] = Future()
        self._front.tell_of_journal(told.set_result)
        state = await asyncio.wrap_future(told)
        return {**state, "limit": limit}

    async def is_alive(self) -> dict[str, Any]:
        """Tell whether there is a kernel's process."""
        alive = self._manager is not None and await self._manager.is_alive()
        return {"alive": alive, "kernel": self._number}

    async def wait(self, kernel: int | None) -> dict[str, Any]:
        """Tell how a kernel ended, once it has."""
        number = self._number if kernel is None else kernel
        if not 0 < number <= self._number:
            raise BadRequest(f"There is no kernel {number}; the present one is {self._number}.")
        await self._until(lambda: self._has_ended(number))
        end = self._ends.get(number) or _End(ExitStatus(reason="others have followed since"), "")
        return end.to_dict(number)

    async def wait_ready(self, after: int | None) -> dict[str, Any]:
        """Tell of a kernel that answers, once there is one that came after another."""
        number = after or 0

        def answers() -> bool:
            return self.state == "ready" and self._ready_number > number

        await self._until(lambda: answers() or self._has_given_up())
        if answers():
            return {"kernel": self._ready_number}
        reason = self._given_up or "the nanny ends"
        raise KernelFailed(f"No kernel will follow, because {reason}.")

    def _has_given_up(self) -> bool:
        return self._is_ending() or (self.state == "dead" and not self._is_replaced())

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
        self._ask_for_end()
        if self._manager is not None:
            await self._manager.terminate()
        return {}

    async def kill(self) -> dict[str, Any]:
        """End the kernel and its children by force, and do not start it again."""
        number = self._number
        self._ask_for_end()
        if self._manager is not None:
            await self._manager.kill()
        await self._until(
            # Who asks for a restart meanwhile has the last word.
            lambda: (
                self._has_ended(number)
                and (self.state in ("dead", "stopping") or not self._end_asked)
            )
        )
        return {}

    async def restart(self, timeout: float) -> dict[str, Any]:
        """Replace the kernel by a new one, and tell when that one answers."""
        if self._is_ending():
            raise KernelFailed("The nanny ends, and starts no kernel any more.")
        return await self.wait_ready(self._ask_for_another(timeout))

    async def log_tail(self, lines: int) -> dict[str, Any]:
        """Give the last lines of what the newest kernel's process wrote."""
        log = self._log
        if log is None:
            return {"text": "", "kernel": self._number, "position": 0}
        return {"text": log.tail(lines), "kernel": log.number, "position": log.position}

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
            self.state = "stopping"
            self._stopping = asyncio.ensure_future(self._stop(reason, timeout))

    async def _stop(self, reason: str, timeout: float) -> None:
        self._tell("stopping", {"reason": reason})
        self._ask_for_end()
        try:
            if self._manager is not None and await self._manager.is_alive():
                await self._end_kernel(self._manager, timeout)
            await within(self._until(lambda: self._number in self._ends), _FAREWELL)
        finally:
            await self.close()

    async def close(self) -> None:
        """Let nothing of the kernel be left, whatever happens to it now."""
        self.state = "stopping"
        for timer in (self._lease_timer, self._idle_timer, self._unattended_timer):
            if timer is not None:
                timer.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._manager is not None:
            await self._manager.cleanup()
        self._leave()
        self.stopped.set()
        self._tell_who_waits()

    def _tell_who_waits(self) -> None:
        """Let no question for the present kernel's end, or for another kernel, be open."""
        if self._number and self._number not in self._ends:
            manager = self._present
            status = None if manager is None else manager.exit_status
            self._note_end(_End(status or ExitStatus(reason="its start was cut short"), ""))
        self._notify()

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
            left = self._front.heard_at + limit - time.monotonic()
        if left <= 0:
            self.begin_stop("idle")
            return
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(left, self._watch_idleness)

    def _watch_attendance(self) -> None:
        limit = self._request.options.unattended_timeout
        if limit is None:
            return
        left = max(self._front.attended_at, self._usable_at) + limit - time.monotonic()
        if left <= 0:
            self.begin_stop("unattended")
            return
        loop = asyncio.get_running_loop()
        self._unattended_timer = loop.call_later(left, self._watch_attendance)


def _now() -> float:
    return asyncio.get_running_loop().time()
