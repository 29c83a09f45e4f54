"""From a kernel type to a kernel that accepts connections in a container."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import posixpath
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docker.errors import APIError, DockerException
from jupyter_core.paths import jupyter_runtime_dir
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelRecord,
    Launched,
    LaunchError,
    LaunchRequest,
)
from kernel_mgmt.background import finish
from kernel_mgmt.endpoints import file_errors_as_launch_errors
from kernel_mgmt.errors import one_line
from kernel_mgmt.machine import this_machine
from kernel_mgmt.records import record_path, records_dir, remove_record, write_record

from .config import DEFAULT_ARGV, DockerKernel
from .connecting import EngineFacts, Reaching, choose_reaching
from .containers import create, explanation, labels, log_lines, remove
from .engine import Engine
from .errors import DockerProblem
from .images import can_encrypt, provide_image
from .manager import DockerKernelManager
from .profile import check_mounts, container_options

__all__ = ["ContainerLaunch", "check_id", "choose", "engine_facts", "kernel_of", "launch"]

logger = logging.getLogger("kernel_mgmt.docker")

#: How many lines of a container's output an error has.
_TAIL = 50
#: How long the engine may take to tell that a container has ended, in seconds.
_TELLING = 0.5


async def launch(request: LaunchRequest) -> Launched:
    """Launch a kernel in a container; returns when its sockets accept connections.

    Args:
        request: what to launch; its ``launch_params`` are keys of ``docker_kernels.toml``.

    Raises:
        LaunchError: it cannot be launched; nothing of it is left.
    """
    kernel = _leased(kernel_of(request), request)
    if _has_nanny(kernel, request):
        from .keeping import launch_under_nanny

        return await launch_under_nanny(request, kernel)
    _check_limits(request)
    request.progress("connect", "Connecting to the container engine")
    try:
        engine = await Engine.connect()
        attempt = _RecordedLaunch(request, kernel, engine)
        try:
            return await attempt.run()
        except BaseException:
            await finish(attempt.undo())
            raise
    except DockerProblem as problem:
        raise problem.to_launch_error() from problem


def kernel_of(request: LaunchRequest) -> DockerKernel:
    """Give the kernel of a request, narrowed by its launch parameters.

    Raises:
        LaunchError: it is none of this provider's, or a parameter is refused (phase ``resolve``).
    """
    table = request.kernel_type.metadata.get("docker")
    if not isinstance(table, Mapping):
        raise LaunchError(
            f"The kernel type {request.kernel_type.id!r} holds no image.",
            phase="resolve",
            advice="Pass its id, or a type that KernelFinder.find_kernels gave.",
        )
    return DockerKernel.from_dict(table).narrowed(request.launch_params)


def _leased(kernel: DockerKernel, request: LaunchRequest) -> DockerKernel:
    """Give a kernel with the lease of a launch.

    Raises:
        LaunchError: the lease is longer than that of the configuration (phase ``resolve``).
    """
    nanny = request.nanny
    if nanny is None or nanny.lease is None:
        return kernel
    return kernel.narrowed({"lease": nanny.lease})


def _has_nanny(kernel: DockerKernel, request: LaunchRequest) -> bool:
    """Tell whether a nanny is put in front of a kernel; by default where it can keep a journal.

    Raises:
        LaunchError: there shall be one, and cannot (phase ``resolve``).
    """
    can = hasattr(os, "fork")
    if kernel.journal is None:
        return can and request.nanny is not None and request.nanny.journal_limit is not None
    if kernel.journal and not can:
        raise LaunchError(
            "journal = true cannot work: nothing here could remove the container of a nanny that was "
            "killed.",
            phase="resolve",
            advice="Leave 'journal' out, or launch the kernel from Linux or macOS.",
        )
    return kernel.journal


def _check_limits(request: LaunchRequest) -> None:
    """Refuse for a kernel without a nanny, which lives on by itself, what a nanny alone can do.

    Raises:
        LaunchError: it shall be ended by something that nobody would notice (phase ``resolve``).
    """
    nanny = request.nanny
    if nanny is None:
        return
    for limit in ("idle_timeout", "unattended_timeout"):
        if getattr(nanny, limit) is not None:
            raise LaunchError(
                f"A kernel in a container has no nanny that would end it by {limit!r}, unless it has "
                "journal = true.",
                phase="resolve",
                advice=f"Leave {limit!r} out, or set 'journal' to true.",
            )
    logger.info("Kernel %s is not started again when it dies: no nanny does.", request.kernel_id)


async def engine_facts(engine: Engine) -> EngineFacts:
    """Give what the ways to reach a kernel need to know of an engine.

    Raises:
        DockerProblem: it cannot be asked.
    """
    try:
        info = await engine.call(engine.api.info, phase="connect")
    except APIError as error:
        raise DockerProblem(
            f"The engine at {engine.host} does not tell about itself: {explanation(error)}.",
            kind="refused",
        ) from error
    return EngineFacts(engine.api, engine.socket_path, info)


async def choose(
    kernel: DockerKernel,
    request: LaunchRequest,
    facts: EngineFacts,
    engine: Engine,
    image: Mapping[str, Any],
    *,
    keeps_files: bool = False,
) -> Reaching:
    """Choose how a kernel is reached, encrypted where that leaves the container and the kernel can.

    Args:
        kernel: what is launched.
        request: for whom; given endpoints are encrypted or not.
        facts: of the engine.
        engine: which one.
        image: what the engine knows of the kernel's image.
        keeps_files: as for :func:`.connecting.choose_reaching`.

    Raises:
        LaunchError: there is no way (phase ``resolve``).
    """
    reaching = choose_reaching(kernel, request, facts, keeps_files=keeps_files)
    if (
        reaching.how == "tcp"
        and request.connection_info is None
        and await can_encrypt(engine, kernel, image)
    ):
        reaching = choose_reaching(kernel, request, facts, encrypted=True)
    return reaching


class ContainerLaunch:
    """One launch of a container, and what must be undone when it fails.

    Args:
        request: what to launch.
        kernel: the same, as its configuration and its parameters say.
        engine: where; it is let go of at the end.
        whose: the owner for the labels; by default this process's user.
        called: what people call the kernel.
    """

    #: Further labels for the container.
    _labels: Mapping[str, str] = MappingProxyType({})
    #: Whether the directory of the sockets is somebody else's to remove.
    _keeps_files = False
    #: Where the record is; None when somebody else keeps it.
    _records: Path | None = None
    #: The file by which other clients find the kernel; None when somebody else has told them.
    _file: Path | None = None

    def __init__(
        self,
        request: LaunchRequest,
        kernel: DockerKernel,
        engine: Engine,
        *,
        whose: str = "",
        called: str = "",
    ) -> None:
        self._request = request
        self._kernel = kernel
        self._engine = engine
        self._whose = whose
        self._called = called
        self._reaching: Reaching | None = None
        self._noted = False
        #: By which it can be found before the engine has told an id.
        self._name = f"kernel-mgmt-{_name_part(request.kernel_id)}-{secrets.token_hex(4)}"
        self._container = ""
        self._manager: DockerKernelManager | None = None
        self._started = time.time()

    async def run(self) -> Launched:
        """Do it; returns when the kernel's sockets accept connections.

        Raises:
            LaunchError: why it cannot be done; :meth:`undo` is to be called.
            DockerProblem: likewise.
        """
        kernel, request, engine = self._kernel, self._request, self._engine
        facts = await engine_facts(engine)
        check_mounts(kernel.mounts, engine.socket_path, local=not facts.obstacle_to_sharing())
        image = await provide_image(
            engine, kernel.image, kernel.pull, functools.partial(request.progress, "pull")
        )
        reaching = await choose(
            kernel, request, facts, engine, image, keeps_files=self._keeps_files
        )
        request.progress("start", f"Starting {request.kernel_type.display_name or kernel.name}")
        await self._check_id()
        self._reaching = reaching
        await reaching.prepare()
        self._noted = True
        self._note(reaching.outside or reaching.inside)
        await self._make(reaching, image, podman=facts.is_podman)
        await self._start()
        info = await self._connect(reaching)
        await self._listening(reaching)
        await reaching.seal(self._container)
        self._announce(info)
        assert self._manager is not None
        return Launched(info, self._manager)

    async def undo(self) -> None:
        """Remove all that there is by now."""
        engine = self._engine
        try:
            if self._noted:
                await self._remove_container()
            self._forget_announcement()
            if self._reaching is not None:
                await self._reaching.close()
            if self._noted:
                self._forget()
        except (DockerException, DockerProblem, OSError) as error:
            # What was noted stays, so that what is left can be found.
            logger.warning("Left behind by a launch: container %s: %s", self._name, one_line(error))
        finally:
            if self._container:
                engine.watcher.forget(self._container)
            await engine.release()

    async def _remove_container(self) -> None:
        await self._engine.call(remove, self._engine.api, self._container or self._name)

    # -- how others learn of it ------------------------------------------------------------

    async def _check_id(self) -> None:
        """Refuse an id that a kernel has already."""

    def _note(self, info: ConnectionInfo) -> None:
        """Note how what is made can be found, before there is any of it."""

    def _announce(self, info: ConnectionInfo) -> None:
        """Tell other clients of this machine of the kernel, which listens."""

    def _forget_announcement(self) -> None:
        """Take that back."""

    def _forget(self) -> None:
        """Take back what was noted: nothing is there any more."""

    # -- its steps -------------------------------------------------------------------------

    async def _make(self, reaching: Reaching, image: Mapping[str, Any], *, podman: bool) -> None:
        request, kernel = self._request, self._kernel
        options = container_options(
            kernel,
            user=reaching.user,
            connection_file=reaching.connection_file,
            env=request.env,
            cwd="" if request.cwd is None else str(request.cwd),
            labels={
                **labels(
                    request.kernel_id,
                    request.kernel_type.id,
                    kernel.lease,
                    self._called,
                    self._whose,
                ),
                **self._labels,
            },
            name=self._name,
            mounts=reaching.mounts,
            ports=reaching.ports,
            volumes=(image.get("Config") or {}).get("Volumes") or (),
            podman=podman,
        )
        # The very one that was looked at, whatever its name means by now.
        options["image"] = image.get("Id", kernel.image)
        try:
            self._container = await self._engine.call(create, self._engine.api, options)
            await reaching.place(self._container)
        except DockerException as error:
            raise self._refusal(error) from error

    async def _start(self) -> None:
        engine, api = self._engine, self._engine.api
        try:
            await engine.call(api.start, self._container)
            inspected = await engine.call(api.inspect_container, self._container)
        except DockerException as error:
            raise self._refusal(error) from error
        reaching = self._reaching
        assert reaching is not None
        self._manager = DockerKernelManager(
            self._request.kernel_id,
            engine,
            self._container,
            reaching=reaching,
            details=self._details(),
            pid=int(inspected.get("State", {}).get("Pid", 0)),
            argv0=(self._kernel.argv or DEFAULT_ARGV)[0],
            records=self._records,
            connection_file=self._file,
            lease_ends=self._started + self._kernel.lease if self._kernel.lease else None,
        )

    def _details(self) -> dict[str, Any]:
        return {"name": self._name, "kernel": self._kernel.to_dict()}

    async def _connect(self, reaching: Reaching) -> ConnectionInfo:
        try:
            return await reaching.connect(self._container)
        except (LaunchError, DockerException) as error:
            # Where it has ended already, that is why; the engine knows before it has told.
            with suppress(TimeoutError):
                async with asyncio.timeout(_TELLING):
                    assert self._manager is not None
                    await self._manager.wait()
            await self._check_runs()
            if isinstance(error, DockerException):
                raise self._refusal(error) from error
            raise

    async def _listening(self, reaching: Reaching) -> None:
        started = time.monotonic()
        while not await reaching.is_listening():
            await self._check_runs()
            # Looking costs the starting kernel its processor: at most 2 % of the wait.
            await asyncio.sleep(min(max((time.monotonic() - started) * 0.02, 0.002), 0.05))

    async def _check_runs(self) -> None:
        assert self._manager is not None
        status = self._manager.exit_status
        if status is None:
            return
        tail = await self._engine.call(log_lines, self._engine.api, self._container, _TAIL)
        raise _ended_early(self._kernel, status, tail)

    def _refusal(self, error: DockerException) -> DockerProblem:
        return _refusal(self._kernel, error)


class _RecordedLaunch(ContainerLaunch):
    """A launch of a kernel that is found by a record, and by a connection file."""

    def __init__(self, request: LaunchRequest, kernel: DockerKernel, engine: Engine) -> None:
        called = "" if request.nanny is None else request.nanny.name
        super().__init__(request, kernel, engine, called=called)
        self._directory = self._records = records_dir()
        self._path = self._file = Path(jupyter_runtime_dir(), f"kernel-{request.kernel_id}.json")
        self._announced = False

    async def _check_id(self) -> None:
        check_id(self._directory, self._request.kernel_id)

    def _note(self, info: ConnectionInfo) -> None:
        request, engine = self._request, self._engine
        manager: Mapping[str, Any]
        if self._manager is not None:
            manager = self._manager.record()
        else:
            assert self._reaching is not None
            details = {"engine": engine.host, "container": "", "reaching": self._reaching.record()}
            manager = {"docker": {**self._details(), **details}}
        record = KernelRecord(
            kernel_id=request.kernel_id,
            type_id=request.kernel_type.id,
            connection_info=info,
            manager=manager,
            name=self._called,
            started=self._started,
            cwd="" if request.cwd is None else str(request.cwd),
            # Also where the engine is elsewhere: this is where it, and the kernel, can be reached.
            machine=this_machine(),
            connection_file=self._path,
        )
        write_record(self._directory, record)

    def _announce(self, info: ConnectionInfo) -> None:
        with file_errors_as_launch_errors():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            info.write(self._path)
        self._announced = True
        self._note(info)

    def _forget_announcement(self) -> None:
        if self._announced:
            self._path.unlink(missing_ok=True)

    def _forget(self) -> None:
        remove_record(self._directory, self._request.kernel_id)


def check_id(records: Path, kernel_id: str) -> None:
    """Refuse an id that a kernel has already: its record would be lost.

    Raises:
        LaunchError: there is one (phase ``start``).
    """
    if record_path(records, kernel_id).exists():
        raise LaunchError(
            f"There is a kernel with the id {kernel_id!r} already.",
            phase="start",
            advice="Stop it first ('kernel-mgmt gc' removes what a dead one left), or take "
            "another id.",
        )


def _name_part(kernel_id: str) -> str:
    """Give what of an id can be in a container's name."""
    return "".join(c for c in kernel_id[:36] if c.isascii() and (c.isalnum() or c in "_.-")) or "x"


# -- why it failed ----------------------------------------------------------------------------


def _refusal(kernel: DockerKernel, error: DockerException) -> DockerProblem:
    """Explain why the engine did not make or start a container."""
    reason = explanation(error) if isinstance(error, APIError) else one_line(error)
    low = reason.lower()
    program = (kernel.argv or DEFAULT_ARGV)[0]
    missing = "not found" in low or "no such file" in low
    if missing and "exec" in low and program.lower() in low:
        return _no_program(kernel, program)
    kind, advice = "refused", "Mend the kernel's table in docker_kernels.toml."
    if missing and "init binary" in low:
        kind, advice = "no-init", "Install the engine's init, such as 'catatonit' for Podman."
    elif "permission denied" in low and "exec" in low:
        kind = "no-program"
        advice = f"{program!r} must be a program that the kernel's user may run."
    elif "mount" in low or "bind source" in low:
        kind, advice = "bad-mount", "Mend 'mounts': the source must be there, the target absolute."
    elif "network" in low and "not found" in low:
        kind, advice = "no-network", f"Create it: docker network create {kernel.network}."
    elif any(word in low for word in ("memory", "cpus", "cpu ", "pids")):
        kind, advice = "bad-limit", "Mend 'memory', 'cpus' or 'pids'."
    elif "unable to find user" in low or "no matching entries in passwd" in low:
        kind, advice = "no-user", "Mend 'user': numbers do with any image."
    return DockerProblem(
        f"The engine refuses the container of {kernel.name!r}: {reason}.",
        kind=kind,
        advice=advice,
        phase="start",
    )


def _no_program(
    kernel: DockerKernel, program: str, status: ExitStatus | None = None, tail: str = ""
) -> DockerProblem:
    if posixpath.basename(program).startswith("python"):
        advice = "Take an image that has Python and ipykernel, or name its kernel in 'argv'."
    else:
        advice = "Mend the first word of 'argv': it is looked for on the image's own PATH."
    return DockerProblem(
        f"The image {kernel.image!r} has no program {program!r}.",
        kind="no-program",
        advice=advice,
        phase="start",
        exit_status=status,
        log_tail=tail,
    )


def _ended_early(kernel: DockerKernel, status: ExitStatus, tail: str) -> DockerProblem:
    """Explain why a container ended before its kernel accepted connections."""
    program = (kernel.argv or DEFAULT_ARGV)[0]
    # The engine's init tells so: https://github.com/krallin/tini, "Exit code".
    if status.code == 127 and f"exec {program} failed" in tail:
        return _no_program(kernel, program, status, tail)
    cause, kind = f"The container ended before its kernel accepted connections: {status}.", "exited"
    advice = "Its own output tells why." if tail else "It wrote nothing; run it by hand to see why."
    if status.code == 126 and f"exec {program} failed" in tail:
        kind, advice = "no-program", f"{program!r} must be a program that the user may run."
    elif "No module named ipykernel" in tail or "No module named 'ipykernel" in tail:
        cause, kind = f"The image {kernel.image!r} has Python, and no ipykernel.", "no-ipykernel"
        advice = "Install it in the image (RUN pip install ipykernel), or name another kernel."
    return DockerProblem(
        cause, kind=kind, advice=advice, phase="start", exit_status=status, log_tail=tail
    )
