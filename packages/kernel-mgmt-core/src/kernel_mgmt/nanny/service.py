"""One nanny's life: its parts put together, its kernel, its answer, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Callable

import zmq

from .. import __version__
from ..background import background_loop, call_blocking
from ..errors import KernelMgmtError, LaunchError, one_line
from ..protocol import Session
from .control import Control
from .front import Front
from .journal.store import Journal
from .place import Place
from .protocol import PROTOCOL_VERSION
from .request import NannyRequest
from .supervisor import Supervisor
from .watchdog import Watchdog

__all__ = ["serve"]

logger = logging.getLogger("kernel_mgmt")

#: How long the front may take to remove the journal's files, in seconds: it gives a disk two.
_JOURNAL_PATIENCE = 5.0

Answer = Callable[[Mapping[str, Any]], None]


def serve(request: NannyRequest, watchdog: Watchdog, answer: Answer) -> int:
    """Keep a kernel until it is gone for good.

    Args:
        request: what to keep.
        watchdog: is told what must not outlive this process.
        answer: tells whoever started the nanny how that went.

    Returns:
        The exit code.
    """
    place: Place | None = None
    try:
        place = Place(request, watchdog)
        nanny = _Nanny(request, watchdog, place, answer)
    except Exception as error:
        if not isinstance(error, (KernelMgmtError, OSError)):
            logger.exception("The nanny has a defect")
        if place is not None:
            place.leave()
        watchdog.close()
        with contextlib.suppress(OSError):
            answer(_told(error))
        return 1
    return nanny.run()


class _Nanny:
    """The parts of a nanny put together: the front in this thread, the rest on the background loop."""

    def __init__(
        self, request: NannyRequest, watchdog: Watchdog, place: Place, answer: Answer
    ) -> None:
        self._watchdog = watchdog
        self._place = place
        self._answer = answer
        self._exit_code = 0
        #: Whether nothing is left for the watchdog to do.
        self._is_tidy = False
        loop = self._loop = background_loop()
        info = place.info
        try:
            front = self._front = Front(
                info,
                on_control=self._take_control,
                on_ready=self._take_ready,
                on_shutdown=self._take_shutdown,
                journal=_journal(request, place),
            )
        except zmq.ZMQError as error:
            raise LaunchError(
                f"The nanny cannot listen at {info!r}: {one_line(error)}.",
                phase="start",
                advice="Pass another connection_info, or none.",
                endpoints_refused=request.connection_info is not None,
            ) from error
        try:
            place.write_record(watchdog)
        except BaseException:
            front.close()
            raise
        self._supervisor = call_blocking(self._supervise(request), None, "nanny")
        self._supervisor.facts = {
            "implementation_version": __version__,
            "nanny_pid": os.getpid(),
            "connection_file": str(place.connection_file),
        }
        self._control = Control(
            self._supervisor,
            Session(info.key, info.signature_scheme),
            send_reply=lambda frames: front.call(front.reply, frames),
            send_event=lambda frames: front.call(front.publish, frames),
            loop=loop,
        )

    async def _supervise(self, request: NannyRequest) -> Supervisor:
        # Made on the loop, to which its events belong.
        return Supervisor(
            request,
            self._front,
            self._watchdog,
            self._place.home,
            tell=self._tell,
            leave=self._leave,
        )

    def _leave(self) -> None:
        """Remove all files, the journal's first: what is said from now on is kept in memory."""
        removed = threading.Event()
        self._front.call(self._front.remove_journal, removed.set)
        removed.wait(_JOURNAL_PATIENCE)
        self._place.leave()

    # -- in the front's thread -------------------------------------------------------------

    def _take_control(self, frames: list[bytes]) -> None:
        self._control.receive(frames)

    def _take_ready(self, number: int) -> None:
        self._soon(self._supervisor.note_ready, number)

    def _take_shutdown(self, restart: bool) -> None:
        self._soon(self._supervisor.note_shutdown, restart)

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)

    def _tell(self, event: str, content: dict[str, Any]) -> None:
        self._control.tell(event, content)

    def run(self) -> int:
        """Serve until the kernel is gone for good; gives the exit code."""
        self._mind_signals()
        asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        try:
            self._front.run()
        finally:
            # What a nanny leaves that ends with a defect can be read still.
            self._front.close(keep_journal=not self._is_tidy)
        if self._is_tidy:
            self._watchdog.close()
        return self._exit_code

    def _mind_signals(self) -> None:
        def stop(*_: object) -> None:
            self._soon(self._supervisor.begin_stop, "signal")

        signal.signal(signal.SIGTERM, stop)
        # Not ignored, which the kernel would inherit.
        signal.signal(signal.SIGINT, _do_nothing)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, _do_nothing)

    # -- on the background loop ------------------------------------------------------------

    async def _live(self) -> None:
        supervisor = self._supervisor
        try:
            if await self._start():
                await supervisor.stopped.wait()
        except BaseException:
            logger.exception("The nanny has a defect")
            self._exit_code = 1
        try:
            await supervisor.close()
            await self._control.finish()
            self._is_tidy = True
        except BaseException:
            logger.exception("The nanny could not end in order, and leaves that to its watchdog")
            self._exit_code = 1
        finally:
            self._front.call(self._front.stop)

    async def _start(self) -> bool:
        """Launch the kernel and answer; tells whether there is one to be kept."""
        start = asyncio.ensure_future(self._supervisor.start())
        with _called_when_closed(1, start.cancel):
            await asyncio.wait({start})
        if start.cancelled():  # nobody waits for it any more
            self._exit_code = 1
            return False
        error = start.exception()
        if error is not None:
            if not isinstance(error, (KernelMgmtError, OSError)):
                logger.error("The nanny has a defect", exc_info=error)
            self._exit_code = 1
            await self._supervisor.close()  # so that nothing is left when this is read
            with contextlib.suppress(OSError):
                self._answer(_told(error))
            return False
        try:
            self._answer(
                {
                    "status": "ok",
                    "protocol_version": PROTOCOL_VERSION,
                    "pid": os.getpid(),
                    "connection_info": self._place.info.to_dict(),
                    "connection_file": str(self._place.connection_file),
                }
            )
        except OSError:  # nobody reads it, so nobody knows of the kernel
            self._supervisor.begin_stop("asked", 0)
        self._let_go_of_streams()
        return True

    def _let_go_of_streams(self) -> None:
        """Keep nobody waiting for the end of our output; what goes wrong from now on is in a file."""
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            log = os.open(self._place.home / "nanny.log", flags, 0o600)
        except OSError:  # no room for it, which is no reason to lose the kernel
            return
        os.dup2(log, 2)
        os.close(log)


def _journal(request: NannyRequest, place: Place) -> Journal | None:
    """Make the journal that a kernel shall have."""
    limit = request.options.journal_limit
    return None if limit is None else Journal(place.journal_directory, limit)


def _told(error: BaseException) -> dict[str, Any]:
    """Give an error as the answer to whoever started the nanny."""
    status = getattr(error, "exit_status", None)
    cause = getattr(error, "cause", "") or one_line(error) + "."
    if not isinstance(error, (KernelMgmtError, OSError)):
        cause = f"The nanny has a defect: {cause}"
    return {
        "status": "error",
        "ename": "LaunchError" if isinstance(error, LaunchError) else "NannyError",
        "cause": cause,
        "phase": getattr(error, "phase", "start"),
        "advice": getattr(error, "advice", ""),
        "exit_status": None if status is None else status.to_dict(),
        "log_tail": getattr(error, "log_tail", ""),
        "endpoints_refused": getattr(error, "endpoints_refused", False),
    }


@contextlib.contextmanager
def _called_when_closed(descriptor: int, function: Callable[[], object]) -> Any:
    """Call a function when nobody reads what we write any more, where the system tells."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        loop.remove_reader(descriptor)
        if _is_broken(descriptor):
            function()

    watched = sys.platform == "linux"
    if watched:
        try:
            loop.add_reader(descriptor, look)
        except OSError:  # it is a file
            watched = False
    try:
        yield
    finally:
        if watched:
            loop.remove_reader(descriptor)


def _is_broken(descriptor: int) -> bool:
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _do_nothing(*_: object) -> None:
    """Take a signal that is meant for what runs in a terminal."""
