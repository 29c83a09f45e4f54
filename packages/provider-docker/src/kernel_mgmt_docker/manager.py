"""The manager of a kernel whose process is in a container."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from kernel_mgmt import ExitStatus, KernelManager
from kernel_mgmt.background import finish, in_thread, result_of
from kernel_mgmt.machine import process_identity
from kernel_mgmt.records import BadRecord, read_record, record_path, remove_record, write_record

from .connecting import Reaching
from .containers import explanation, log_lines, remove
from .engine import Engine
from .errors import DockerProblem
from .watching import container_process

__all__ = ["DockerKernelManager"]

logger = logging.getLogger("kernel_mgmt.docker")

#: Signals of Linux (signal(7)): not all systems that this runs on have them.
_SIGKILL, _LAST_SIGNAL = 9, 64
#: How long a program in the container may take to send a signal, in seconds.
_SENDING = 5.0
#: How many lines of a container's output are kept when it is removed.
_KEPT_LINES = 1000
#: How long a container may take to be gone that was killed, in seconds.
_KILL_PATIENCE = 20.0

#: Sends a signal to the kernel and its children, from within the container: the kernel is the first
#: child of the engine's init, and leads its own process group.
_SEND = """
import os, sys
number, found = int(sys.argv[1]), []
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        try:
            fields = open("/proc/%s/stat" % name).read().rpartition(")")[2].split()
        except OSError:
            continue
        found.append((int(name), int(fields[1]), int(fields[2])))
groups = [group for pid, parent, group in sorted(found) if parent == 1][:1]
for pid, parent, group in found:
    if group in groups:
        try:
            os.kill(pid, number)
        except OSError:
            pass
"""


class DockerKernelManager(KernelManager):
    """Manages a kernel that runs in a container.

    Args:
        kernel_id: the kernel's id.
        engine: the engine that runs the container; :meth:`cleanup` closes it.
        container: the container's id.
        reaching: how the kernel is reached; :meth:`cleanup` closes it.
        details: what goes into the record beside the engine and the container.
        pid: of the container's first process, as the engine counts.
        argv0: the program that the kernel is.
        connection_file: by which other clients find it; :meth:`cleanup` removes it.
        records: the directory with the kernel's record; :meth:`cleanup` removes that. None when it is
            somebody else's.
        exit_status: how it ended, when that is known already.
        lease_ends: when it may be ended, in seconds since the epoch; None for never.
    """

    def __init__(
        self,
        kernel_id: str,
        engine: Engine,
        container: str,
        *,
        reaching: Reaching,
        details: Mapping[str, Any],
        pid: int = 0,
        argv0: str = "python3",
        connection_file: Path | None = None,
        records: Path | None,
        exit_status: ExitStatus | None = None,
        lease_ends: float | None = None,
    ) -> None:
        self.kernel_id = kernel_id
        self._engine = engine
        self._container = container
        self._reaching = reaching
        self._details = dict(details)
        self._pid = pid
        self._argv0 = argv0
        self._lease_ends = lease_ends
        self._records = records
        self.connection_file = connection_file
        self._log: str | None = None
        self._cleaned = False
        self._cleaning = asyncio.Lock()
        # Who attaches only to look just drops the manager. Not at once: a finalizer may run anywhere.
        self._released = weakref.finalize(self, in_thread, "docker-close", engine.close)
        self._released.atexit = False
        self._ended: concurrent.futures.Future[ExitStatus]
        if exit_status is None:
            self._ended = engine.watcher.watch(container, pid if self._is_here() else 0)
        else:
            self._ended = concurrent.futures.Future()
            self._ended.set_result(exit_status)

    def __repr__(self) -> str:
        status = self.exit_status
        state = "alive" if status is None else str(status)
        return f"<DockerKernelManager {self.kernel_id} container {self._container[:12]} {state}>"

    @property
    def container_id(self) -> str:
        """The id of the container."""
        return self._container

    @property
    def exit_status(self) -> ExitStatus | None:
        """How the container ended; None while it runs, as far as is known."""
        return self._ended.result() if self._ended.done() else None

    async def is_alive(self) -> bool:  # noqa: D102 - as in KernelManager
        return not self._ended.done()

    async def wait(self) -> ExitStatus:  # noqa: D102
        return await result_of(self._ended)

    # -- signals ---------------------------------------------------------------------------

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and its children; nothing happens to a dead kernel.

        Raises:
            ValueError: there is no such signal.
            DockerProblem: the engine cannot be asked.
        """
        if not 0 < signum <= _LAST_SIGNAL:
            raise ValueError(f"{signum} is no signal of Linux, where the kernel runs.")
        if self._ended.done():
            return
        # Not on the event loop: all processes of this machine are looked through.
        if await result_of(in_thread("docker-signal", lambda: self._signal_from_here(signum))):
            return
        if await self._signal_from_within(signum):
            return
        # The engine's init passes it on to the kernel alone.
        with suppress(NotFound):
            await self._ask(self._engine.api.kill, self._container, signum)

    def _is_here(self) -> bool:
        """Tell whether the container's first process runs, and is one of this machine."""
        return self._engine.is_local and container_process(self._pid, self._container)

    def _signal_from_here(self, signum: int) -> bool:
        """Signal the kernel's group, where its processes are ones of this machine; tells whether."""
        if not self._is_here():
            return False
        members = _group_below(self._pid, self._container)
        try:
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
        except PermissionError:  # another user's
            return False
        return bool(members)

    async def _signal_from_within(self, signum: int) -> bool:
        """Signal the kernel's group by a program in the container; tells whether."""
        if not Path(self._argv0).name.startswith("python"):
            return False
        api = self._engine.api
        # Nothing is imported from the kernel's own directory.
        command = [self._argv0, "-I", "-S", "-c", _SEND, str(int(signum))]
        deadline = time.monotonic() + _SENDING
        try:
            made = await self._engine.call(
                api.exec_create, self._container, command, stdout=False, stderr=False
            )
            # Not attached: neither what it writes nor how long it takes is for the kernel to decide.
            await self._engine.call(api.exec_start, made["Id"], detach=True)
            while True:
                result = await self._engine.call(api.exec_inspect, made["Id"])
                if result.get("ExitCode") is not None or time.monotonic() >= deadline:
                    break
                await asyncio.sleep(0.02)
        except APIError as error:
            logger.debug("No signal could be sent from within %s: %s", self._container[:12], error)
            return False
        return result.get("ExitCode") == 0

    async def kill(self) -> None:
        """End the container by force; returns when it is gone.

        Raises:
            DockerProblem: the engine cannot be asked, or cannot do it.
        """
        if self._ended.done():
            return
        try:
            await self._engine.call(self._engine.api.kill, self._container, "SIGKILL")
        except NotFound:
            pass
        except APIError as error:
            if not _has_ended(error):
                raise self._refused(error) from error
        except DockerProblem:
            if not self._kill_from_here():
                raise
        try:
            async with asyncio.timeout(_KILL_PATIENCE):
                await self.wait()
        except TimeoutError:
            raise DockerProblem(
                f"The container {self._container[:12]} was killed and has not ended.",
                kind="stuck",
                advice="See 'docker ps' and the engine's log.",
            ) from None

    def _kill_from_here(self) -> bool:
        """Kill the container's init, and so all in it, while the engine is down; tells whether."""
        if not self._is_here():
            return False
        try:
            os.kill(self._pid, _SIGKILL)
        except OSError:
            return False
        return True

    async def _ask(self, function: Any, *args: Any) -> Any:
        try:
            return await self._engine.call(function, *args)
        except NotFound:
            raise
        except APIError as error:
            if _has_ended(error):
                return None
            raise self._refused(error) from error

    def _refused(self, error: APIError) -> DockerProblem:
        return DockerProblem(
            f"The engine refuses for container {self._container[:12]}: {explanation(error)}.",
            kind="refused",
        )

    # -- the end ---------------------------------------------------------------------------

    async def cleanup(self) -> None:
        """Remove the container with what was made for it, when its last lines were collected."""
        await finish(self._cleanup())

    async def _cleanup(self) -> None:
        async with self._cleaning:
            if self._cleaned:
                return
            await self.kill()
            await self.log_tail(_KEPT_LINES)
            try:
                await self._engine.call(remove, self._engine.api, self._container)
            except APIError as error:
                raise self._refused(error) from error
            self._cleaned = True
            if self.connection_file is not None:
                with suppress(OSError):
                    self.connection_file.unlink()
            await self._reaching.close()
            if self._records is not None:
                remove_record(self._records, self.kernel_id)
            self._engine.watcher.forget(self._container)
            if self._released.detach():
                await self._engine.release()

    async def log_tail(self, lines: int = 50) -> str:
        """Give the last lines of the container's output, empty when the engine cannot be asked."""
        if self._log is None:
            api = self._engine.api
            try:
                text = await self._engine.call(log_lines, api, self._container, lines)
            except DockerProblem as problem:
                logger.info("The log of %s is not known: %s", self._container[:12], problem)
                return ""
            if self._ended.done() and lines >= _KEPT_LINES:
                self._log = text
            return text
        return "\n".join(self._log.splitlines()[-lines:])

    # -- what it uses ----------------------------------------------------------------------

    async def usage(self) -> dict[str, float | int | None]:
        """Give what the container uses now, as the engine measures it.

        Returns:
            ``cpu_seconds`` since its start, ``memory`` and ``memory_limit`` in bytes, ``pids`` and
            ``pids_limit``; None for what the engine does not tell, or when the kernel is dead.

        Raises:
            DockerProblem: the engine cannot be asked.
        """
        stats: Mapping[str, Any] = {}
        if not self._ended.done():
            api = self._engine.api
            with suppress(NotFound):
                stats = await self._ask(_stats, api, self._container) or {}
        return _usage(stats)

    # -- its lease -------------------------------------------------------------------------

    @property
    def lease_ends(self) -> float | None:
        """When the lease is over: who clears up ends the kernel then; None for never."""
        return self._lease_ends

    async def renew_lease(self, seconds: float | None) -> None:
        """Have the kernel be ended not before so many seconds from now.

        That is in its record, for labels of a container never change.

        Args:
            seconds: the time; None for no limit.

        Raises:
            ValueError: it is no positive number.
            LaunchError: the record cannot be written.
        """
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"{seconds} is no number of seconds that a lease can have.")
        ends = None if seconds is None else time.time() + seconds
        await result_of(in_thread("docker-lease", lambda: self._write_lease(ends)))
        self._lease_ends = ends

    def _write_lease(self, ends: float | None) -> None:
        if self._records is None:
            return
        with suppress(FileNotFoundError, BadRecord):  # of a kernel that was cleaned up
            record = read_record(record_path(self._records, self.kernel_id))
            changed = {**record.manager, "lease_ends": ends}
            write_record(self._records, replace(record, manager=changed))

    def record(self) -> dict[str, Any]:
        """Give what ``attach`` needs, and what tells without the engine; it has no secret."""
        process = {"pid": self._pid, "identity": process_identity(self._pid)}
        return {
            **({"process": process} if self._is_here() and process["identity"] else {}),
            "lease_ends": self._lease_ends,
            "docker": {
                **self._details,
                "engine": self._engine.host,
                "container": self._container,
                "reaching": self._reaching.record(),
            },
        }


def _has_ended(error: APIError) -> bool:
    """Tell whether an engine refused something because the container does not run any more."""
    # Podman has 500 for a signal, and tells why in these words.
    return error.status_code == 409 or "container state improper" in explanation(error)


def _stats(api: Any, container: str) -> Mapping[str, Any]:
    stats: Mapping[str, Any] = api.stats(container, stream=False, one_shot=True)
    return stats


def _usage(stats: Mapping[str, Any]) -> dict[str, float | int | None]:
    memory = stats.get("memory_stats") or {}
    details = memory.get("stats") or {}
    # As "docker stats" counts: what is cached of files is not the kernel's (cgroups v1 and v2).
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    used = memory.get("usage")
    cpu = (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
    nanoseconds = cpu.get("total_usage")
    pids = stats.get("pids_stats") or {}
    return {
        "cpu_seconds": None if nanoseconds is None else nanoseconds / 1e9,
        "memory": None if used is None else max(0, used - cached),
        "memory_limit": memory.get("limit"),
        "pids": pids.get("current"),
        "pids_limit": pids.get("limit"),
    }


def _group_below(init: int, container: str) -> list[int]:
    """Give the processes of the kernel's group: it is the first child of the container's init."""
    found: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            found[int(name)] = (int(fields[1]), int(fields[2]))
    children = sorted(pid for pid, (parent, _) in found.items() if parent == init)
    if not children:
        return []
    group = found[children[0]][1]
    members = [pid for pid, (_, its) in found.items() if its == group and pid != init]
    return [pid for pid in members if container_process(pid, container)]
