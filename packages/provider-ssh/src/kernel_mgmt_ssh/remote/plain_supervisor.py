"""Keeps one kernel on a host whose Pythons have no pyzmq: the standard library is enough for it.

It is started as a nanny is, with the same request, and answers in one line. Where the nanny is in
front of the kernel's sockets, it is beside them: clients reach the kernel itself, which is not
started again when it dies. What it can do is asked at a Unix socket in its private directory: each
connection carries one request and its reply, a JSON object and a line feed each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import select
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from kernel_mgmt.connection import ConnectionInfo
from kernel_mgmt.endpoints import private_directory
from kernel_mgmt.errors import KernelMgmtError, NannyError, one_line
from kernel_mgmt.launch import KernelRecord, LaunchRequest
from kernel_mgmt.local import LocalKernelManager, launch_local
from kernel_mgmt.machine import process_identity, this_machine
from kernel_mgmt.manager import ExitStatus
from kernel_mgmt.nanny.__main__ import answer, leave_parent, read_line, refusal
from kernel_mgmt.nanny.request import CONNECTION_FILE, NannyRequest
from kernel_mgmt.nanny.watchdog import Watchdog
from kernel_mgmt.process import KernelProcess
from kernel_mgmt.records import record_path, remove_record, write_record

__all__ = ["main"]

#: How long it stays once somebody was told how the kernel ended, in seconds.
_FAREWELL = 60.0
#: How long it stays when nobody was, and no time without clients is given, in seconds.
_LONG_FAREWELL = 86400.0
#: How long the replies to the last questions may take, in seconds.
_LAST_REPLIES = 1.0
#: How often it is looked whether anybody still waits for the start, in seconds.
_LOOK_INTERVAL = 0.05
#: How much of a kernel's output goes with its end, in lines.
_TAIL_LINES = 50


def main() -> None:
    """Keep one kernel; returns when it is gone."""
    try:
        request = NannyRequest.from_json(read_line())
    except NannyError as error:
        with contextlib.suppress(OSError):  # nobody reads it
            answer(refusal(str(error)))
        return
    leave_parent()
    watchdog = Watchdog()  # forked off while this process has one thread
    asyncio.run(_keep(request, watchdog))


async def _keep(request: NannyRequest, watchdog: Watchdog) -> None:
    # Made in here: what it waits for belongs to a loop from the start, until Python 3.10.
    await _Supervisor(request, watchdog).run()


class _Supervisor:
    """A kernel and all that is known of it.

    Args:
        request: what to keep.
        watchdog: is told what must not outlive this process.
    """

    def __init__(self, request: NannyRequest, watchdog: Watchdog) -> None:
        self._request = request
        self._watchdog = watchdog
        self._started = time.time()
        self._home = Path()
        self._info: ConnectionInfo | None = None
        self._manager: LocalKernelManager | None = None
        self._server: asyncio.AbstractServer | None = None
        self._stopped = asyncio.Event()
        #: Set whenever it may end earlier or later than it would have.
        self._changed = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        #: How many questions are open: as long as there is one, somebody is there.
        self._questions = 0
        #: When the last one was closed, by the monotonic clock.
        self._attended = time.monotonic()
        #: Whether somebody was told how the kernel ended.
        self._is_told = False

    async def run(self) -> None:
        """Start the kernel, answer, and serve until both are gone."""
        try:
            await self._start()
        except (KernelMgmtError, OSError, _GivenUp) as error:
            await self._leave()
            with contextlib.suppress(OSError):
                answer(_told(error))
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, 5.0)
        # Not ignored, which the kernel would inherit.
        for number in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)
        self._attended = time.monotonic()
        minding = asyncio.ensure_future(self._mind())
        try:
            answer({"status": "ok", **self._facts(), "connection_info": self._sockets.to_dict()})
        except OSError:  # nobody reads it, so nobody knows of the kernel
            self._begin_stop(0.0)
        _let_go_of_streams(self._home / "supervisor.log")
        await self._stopped.wait()
        minding.cancel()
        # Whoever asked for the end, or for how it came, is still to be told.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._answered(), _LAST_REPLIES)

    async def _answered(self) -> None:
        while self._questions:
            self._changed.clear()
            await self._changed.wait()

    # -- its start -------------------------------------------------------------------------

    async def _start(self) -> None:
        """Start the kernel: what tells of it first, then the kernel itself."""
        self._home = private_directory()
        self._watchdog.watch_path(self._home)
        self._info = self._endpoints()
        self._write_record()
        self._server = await asyncio.start_unix_server(self._serve, str(self._control))
        launch = asyncio.ensure_future(self._launch(self._info))
        while not launch.done():
            await asyncio.wait({launch}, timeout=_LOOK_INTERVAL)
            if not launch.done() and _is_broken(1):
                launch.cancel()
                await asyncio.wait({launch})
        if launch.cancelled():
            raise _GivenUp("Nobody waits for the kernel any more.")
        self._manager = launch.result()

    async def _launch(self, info: ConnectionInfo) -> LocalKernelManager:
        request = self._request

        def note_process(process: KernelProcess) -> None:
            self._watchdog.watch_group(process.pid)

        launched = await launch_local(
            LaunchRequest(
                request.kernel_type,
                request.kernel_id,
                cwd=request.cwd,
                env=request.env,
                connection_info=info,
            ),
            lambda file: [word.replace(CONNECTION_FILE, str(file)) for word in request.argv],
            runtime_dir=self._home,
            encryption=request.encryption,
            die_with_parent=True,
            on_spawn=note_process,
        )
        assert isinstance(launched.manager, LocalKernelManager)
        return launched.manager

    def _endpoints(self) -> ConnectionInfo:
        """Choose the kernel's sockets, which the record has to tell before there is a kernel."""
        request = self._request
        given = request.connection_info
        if given is not None:
            # Its keys are for a nanny in front of a kernel; whether that could use them cannot be
            # told without pyzmq. Who insists on encryption is refused.
            return given.replace(curve_publickey=None, curve_secretkey=None)
        common = {
            "kernel_name": request.kernel_type.name,
            "interrupt_mode": request.kernel_type.interrupt_mode,
        }
        if request.transport == "tcp":
            return ConnectionInfo.for_tcp(**common)
        return ConnectionInfo.for_ipc(self._home / "km-kernel", **common)

    def _write_record(self) -> None:
        request = self._request
        if request.record_dir is None:
            return
        self._watchdog.watch_path(record_path(request.record_dir, request.kernel_id))
        record = KernelRecord(
            kernel_id=request.kernel_id,
            type_id=request.kernel_type.id,
            connection_info=self._sockets,
            manager={"plain": self._facts()},
            name=request.options.name,
            started=self._started,
            cwd="" if request.cwd is None else str(request.cwd),
            machine=this_machine(),
        )
        write_record(request.record_dir, record)

    @property
    def _control(self) -> Path:
        return self._home / "control"

    def _facts(self) -> dict[str, Any]:
        """Give what is needed to find it again."""
        return {
            "pid": os.getpid(),
            "identity": process_identity(os.getpid()),
            "directory": str(self._home),
            "control": str(self._control),
        }

    @property
    def _sockets(self) -> ConnectionInfo:
        assert self._info is not None
        return self._info

    # -- questions -------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the question of one connection, unless it is closed before."""
        self._questions += 1
        self._changed.set()
        try:
            line = await reader.readline()
            answering = asyncio.ensure_future(self._answer(line))
            closed = asyncio.ensure_future(reader.read())
            await asyncio.wait({answering, closed}, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
            if not answering.done():  # whoever asked has gone; what was begun goes on
                answering.cancel()
                return
            writer.write(json.dumps(answering.result()).encode("ascii") + b"\n")
            await writer.drain()
        except (OSError, ValueError):  # gone, or a line without an end
            pass
        finally:
            writer.close()
            self._questions -= 1
            self._attended = time.monotonic()
            self._changed.set()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            question = json.loads(line)
            name = question["op"]
            operation = self._operations()[name]
        except (ValueError, RecursionError, TypeError, KeyError):
            return _refused("protocol", "The supervisor was asked for what it does not know.")
        if self._manager is None:
            return _refused("protocol", "The kernel is not started yet.")
        try:
            result = await operation(self._manager, question)
        except (ValueError, OSError, OverflowError) as error:
            return _refused("protocol", f"{name} cannot be done: {one_line(error)}.")
        return {"ok": True, "result": result}

    def _operations(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "info": self._tell_info,
            "interrupt": self._interrupt,
            "is_alive": self._is_alive,
            "kill": self._kill,
            "log_tail": self._log_tail,
            "signal": self._signal,
            "stop": self._stop_on_request,
            "terminate": self._terminate,
            "wait": self._wait,
        }

    async def _tell_info(self, manager: LocalKernelManager, _: Mapping[str, Any]) -> dict[str, Any]:
        status = manager.exit_status
        return {
            **self._facts(),
            "connection_info": self._sockets.to_dict(),
            "kernel_id": self._request.kernel_id,
            "type_id": self._request.kernel_type.id,
            "kernel_pid": manager.pid,
            "started": self._started,
            "exit_status": None if status is None else status.to_dict(),
        }

    async def _is_alive(self, manager: LocalKernelManager, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"alive": await manager.is_alive()}

    async def _wait(self, manager: LocalKernelManager, _: Mapping[str, Any]) -> dict[str, Any]:
        status = await manager.wait()
        self._is_told = True
        return {
            "exit_status": status.to_dict(),
            "log_tail": await manager.log_tail(_TAIL_LINES),
        }

    async def _signal(
        self, manager: LocalKernelManager, question: Mapping[str, Any]
    ) -> dict[str, Any]:
        signum = question.get("signum")
        if type(signum) is not int:
            raise ValueError("signum must be a number")
        await manager.signal(signum)
        return {}

    async def _interrupt(self, manager: LocalKernelManager, _: Mapping[str, Any]) -> dict[str, Any]:
        if self._request.kernel_type.interrupt_mode == "message":
            raise ValueError("this kernel is interrupted by a message of its client")
        await manager.interrupt()
        return {}

    async def _terminate(self, manager: LocalKernelManager, _: Mapping[str, Any]) -> dict[str, Any]:
        await manager.terminate()
        return {}

    async def _kill(self, manager: LocalKernelManager, _: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.shield(asyncio.ensure_future(manager.kill()))
        return {}

    async def _log_tail(
        self, manager: LocalKernelManager, question: Mapping[str, Any]
    ) -> dict[str, Any]:
        lines = question.get("lines", _TAIL_LINES)
        if type(lines) is not int:
            raise ValueError("lines must be a number")
        return {"text": await manager.log_tail(lines)}

    async def _stop_on_request(
        self, _manager: LocalKernelManager, question: Mapping[str, Any]
    ) -> dict[str, Any]:
        timeout = question.get("timeout", 5.0)
        if type(timeout) not in (int, float) or not 0 <= timeout < 1e9:
            raise ValueError("timeout must be a number of seconds")
        self._begin_stop(float(timeout))
        assert self._stopping is not None
        await asyncio.shield(self._stopping)
        return {}

    # -- its end ---------------------------------------------------------------------------

    async def _mind(self) -> None:
        """End the kernel when nobody has asked for long, and this when nobody will ask."""
        ending = asyncio.ensure_future(self._note_end())
        try:
            while (left := self._time_left()) > 0:
                self._changed.clear()
                patience = None if left == math.inf else left
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), patience)
        finally:
            ending.cancel()
        self._begin_stop(5.0)

    async def _note_end(self) -> None:
        assert self._manager is not None
        await self._manager.wait()
        self._attended = max(self._attended, time.monotonic())
        self._changed.set()

    def _time_left(self) -> float:
        """Give the seconds until it is to end, when nothing happens."""
        if self._questions:
            return math.inf
        limit = self._request.options.unattended_timeout
        assert self._manager is not None
        if self._manager.exit_status is not None:
            limit = _FAREWELL if self._is_told else limit or _LONG_FAREWELL
        return math.inf if limit is None else self._attended + limit - time.monotonic()

    def _begin_stop(self, timeout: float) -> None:
        """Begin to end the kernel and this; nothing happens when both end already."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(timeout))

    async def _stop(self, timeout: float) -> None:
        manager = self._manager
        try:
            if manager is not None and timeout > 0 and await manager.is_alive():
                await manager.terminate()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(manager.wait(), timeout)
        finally:
            await self._leave()
            self._stopped.set()

    async def _leave(self) -> None:
        """Let nothing be left of the kernel, nor of this."""
        if self._server is not None:
            self._server.close()
        if self._manager is not None:
            await self._manager.cleanup()
        if self._request.record_dir is not None:
            remove_record(self._request.record_dir, self._request.kernel_id)
        if self._home != Path():
            shutil.rmtree(self._home, ignore_errors=True)
        self._watchdog.close()


class _GivenUp(Exception):
    """Nobody waits for the kernel any more."""


def _refused(kind: str, cause: str) -> dict[str, Any]:
    error = {"cause": cause, "kind": kind, "advice": "", "phase": "start", "log_tail": ""}
    return {"ok": False, "error": {**error, "exit_status": None}}


def _told(error: BaseException) -> dict[str, Any]:
    """Give an error as the answer to whoever started this."""
    status: ExitStatus | None = getattr(error, "exit_status", None)
    return {
        **refusal(
            getattr(error, "cause", "") or one_line(error) + ".", getattr(error, "advice", "")
        ),
        "exit_status": None if status is None else status.to_dict(),
        "log_tail": getattr(error, "log_tail", ""),
    }


def _is_broken(descriptor: int) -> bool:
    """Tell whether nobody reads what is written there any more."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _let_go_of_streams(log: Path) -> None:
    """Keep nobody waiting for the end of our output; what goes wrong from now on is in a file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    with contextlib.suppress(OSError):  # no room for it, which is no reason to lose the kernel
        descriptor = os.open(log, flags, 0o600)
        os.dup2(descriptor, 2)
        os.close(descriptor)
