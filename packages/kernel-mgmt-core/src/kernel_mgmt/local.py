"""Kernels that are processes of this machine: launch one, and manage it.

Used by every provider that starts a local process, and by the nanny, which runs on hosts that
have nothing of ours: only the standard library is imported, and pyzmq where keys are made or a
kernel registers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from .background import finish
from .connection import CHANNELS, SUN_PATH_MAX, ConnectionInfo, write_private
from .encryption import check_encrypted, new_curve_keys, wants_encryption
from .errors import ConnectionFileError, LaunchError
from .launch import Launched, LaunchRequest
from .manager import ExitStatus, KernelManager
from .process import KernelProcess, OutputHandler
from .registration import BadRegistration, Registration, RegistrationSocket

__all__ = ["LocalKernelManager", "launch_local", "make_connection", "remove_connection"]

logger = logging.getLogger("kernel_mgmt")

_BIND_FAILURE = re.compile(r"EADDRINUSE|address (is )?(already )?in use", re.IGNORECASE)

#: How kernels based on xeus 6 refuse a registration file whose port is the number it should be.
_WANTS_TEXT = re.compile(r"type must be string, but is number")

#: The directories that this module names, and may remove, begin with this.
_SOCKET_DIR_PREFIX = "km-"

#: Unix sockets are there, with paths: not on Windows.
HAVE_IPC = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


class LocalKernelManager(KernelManager):
    """Manages a kernel that is a process of this machine, the leader of its own group.

    Args:
        kernel_id: the kernel's id.
        process: the running process.
        connection_file: removed by :meth:`cleanup`.
        connection_info: what is in the file; its Unix sockets are removed likewise.
    """

    def __init__(
        self,
        kernel_id: str,
        process: KernelProcess,
        *,
        connection_file: Path,
        connection_info: ConnectionInfo,
    ) -> None:
        self.kernel_id = kernel_id
        self.connection_file = connection_file
        self._connection_info = connection_info
        self._process = process

    def __repr__(self) -> str:
        status = self._process.exit_status
        state = "alive" if status is None else str(status)
        return f"<LocalKernelManager {self.kernel_id} pid {self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The id of the kernel's process and process group."""
        return self._process.pid

    async def is_alive(self) -> bool:  # noqa: D102 - as in KernelManager
        return self._process.exit_status is None

    async def wait(self) -> ExitStatus:  # noqa: D102
        return await self._process.wait()

    async def signal(self, signum: int) -> None:  # noqa: D102
        self._process.signal_group(signum)

    async def kill(self) -> None:  # noqa: D102
        await self._process.kill_group()

    async def cleanup(self) -> None:  # noqa: D102
        await self.kill()
        _remove_files(self.connection_file, self._connection_info)

    async def log_tail(self, lines: int = 50) -> str:  # noqa: D102
        return self._process.log_tail(lines)

    def forward_output(self, handler: OutputHandler) -> None:
        """Hand what the process writes from now on to a function, beside keeping its tail.

        Args:
            handler: called with ``"stdout"`` or ``"stderr"`` and the bytes, on a background
                thread; it must be quick.
        """
        self._process.forward_output(handler)


@dataclass(frozen=True)
class _Plan:
    """What is to be launched, as each try of it needs to know."""

    request: LaunchRequest
    make_argv: Callable[[Path], Sequence[str]]
    runtime_dir: Path
    environment: Mapping[str, str]
    transport: str
    encrypted: bool
    handshake: bool
    #: Write the registration socket's port as a string.
    port_as_text: bool = False


async def launch_local(
    request: LaunchRequest,
    make_argv: Callable[[Path], Sequence[str]],
    *,
    runtime_dir: Path,
    transport: str = "tcp",
    env: Mapping[str, str] | None = None,
    encryption: object = "auto",
    handshake: bool = False,
) -> Launched:
    """Launch a kernel as a process of this machine; returns when its sockets accept connections.

    Args:
        request: what to launch. Its ``connection_info``, when given, says which endpoints and
            key to use.
        make_argv: gives the command for the path of a connection file.
        runtime_dir: where to put the connection file, normally Jupyter's runtime directory.
        transport: ``ipc`` for a kernel that is known to support it, otherwise ``tcp``.
        env: variables of the kernel type, between this process's and the request's.
        encryption: ``auto``, ``required`` or ``off``: whether the channels are encrypted by
            CURVE. ``auto`` is over TCP, when the kernel type's metadata declare that it can.
        handshake: the kernel type speaks protocol 5.6: let it pick its ports and register them
            (see :mod:`kernel_mgmt.registration`). Not done with given endpoints, nor with
            encryption, of which the handshake's specification says nothing: such a kernel
            understands a connection file too (JEP 66).

    Raises:
        LaunchError: the encryption cannot be had (phase ``resolve``); the kernel could not be
            started, ended before it accepted connections, registered nonsense, or does not
            encrypt as it should.
    """
    given = request.connection_info
    transport = given.transport if given else transport if HAVE_IPC else "tcp"
    encrypted = wants_encryption(encryption, request.kernel_type, transport, given)
    request.progress("start", f"Starting {request.kernel_type.display_name or 'the kernel'}")
    _check_cwd(request.cwd)
    _check_endpoints(given)
    plan = _Plan(
        request,
        make_argv,
        runtime_dir,
        _environment(env, request.env),
        transport,
        encrypted,
        handshake=handshake and given is None and not encrypted,
    )
    try:
        return await _launch_once(plan)
    except LaunchError as error:
        if given is not None and _BIND_FAILURE.search(error.log_tail):
            error.endpoints_refused = True
        second = _second_plan(plan, error)
        if second is None:
            raise
    return await _launch_once(second)


def _second_plan(plan: _Plan, error: LaunchError) -> _Plan | None:
    """Give how to try once more after a failure that another try may not have."""
    if plan.handshake and _WANTS_TEXT.search(error.log_tail):
        logger.info("The kernel wants the registration port as a string; trying with one.")
        return replace(plan, port_as_text=True)
    if plan.request.connection_info is None and _BIND_FAILURE.search(error.log_tail):
        logger.info("A port was taken before the kernel could bind it; trying with others.")
        return plan
    return None


def make_connection(
    request: LaunchRequest, *, runtime_dir: Path, transport: str = "ipc"
) -> tuple[ConnectionInfo, Path]:
    """Choose the endpoints of a kernel that is not a process of its own, and announce them.

    Args:
        request: what to launch. Its ``connection_info``, when given, says which endpoints and
            key to use.
        runtime_dir: where to put the connection file, normally Jupyter's runtime directory.
        transport: ``ipc`` or ``tcp``; always ``tcp`` where there are no Unix sockets.

    Returns:
        The endpoints, whose directory is there and private, and the connection file.

    Raises:
        LaunchError: the endpoints are taken, or a file cannot be made; nothing was left behind.
    """
    _check_endpoints(request.connection_info)
    with _file_errors_as_launch_errors():
        info = request.connection_info or _fresh_connection_info(
            request, transport if HAVE_IPC else "tcp", encrypted=False
        )
        connection_file = _write_file(runtime_dir, request, info.to_dict())
    try:
        if info.transport == "ipc":
            _make_private(Path(info.ip).parent)
    except BaseException:
        remove_connection(connection_file, info)
        raise
    return info, connection_file


def remove_connection(connection_file: Path, info: ConnectionInfo) -> None:
    """Remove what :func:`make_connection` made; safe to call twice."""
    _remove_files(connection_file, info)


async def _launch_once(plan: _Plan) -> Launched:
    with _file_errors_as_launch_errors():
        info = plan.request.connection_info or _fresh_connection_info(
            plan.request, plan.transport, encrypted=plan.encrypted
        )
    if not plan.handshake:
        return await _launch_with(plan, info, None)
    registration = Registration(plan.request.kernel_id, info)
    with closing(RegistrationSocket(registration, info)) as registrar:
        return await _launch_with(plan, info, registrar)


async def _launch_with(
    plan: _Plan, info: ConnectionInfo, registrar: RegistrationSocket | None
) -> Launched:
    request = plan.request
    content = info.to_dict()
    if registrar is not None:
        content = registrar.file_content(port_as_text=plan.port_as_text)
    # The file first: it names the directory, so that neither is ever unfindable.
    with _file_errors_as_launch_errors():
        connection_file = _write_file(plan.runtime_dir, request, content)
    manager: LocalKernelManager | None = None
    try:
        if info.transport == "ipc":
            _make_private(Path(info.ip).parent)
        if registrar is not None:
            registrar.listen()
        process = _spawn(plan.make_argv(connection_file), request.cwd, plan.environment)
        manager = LocalKernelManager(
            request.kernel_id, process, connection_file=connection_file, connection_info=info
        )
        if registrar is not None:
            info = manager._connection_info = await _registered(registrar, process)
            with _file_errors_as_launch_errors():
                # For other clients, who can use a connection file only.
                info.write(connection_file, replace=True)
        await _accepting(info, process)
        if info.curve_publickey:
            connected = _connect(info, "shell")
            if connected is not None:
                await check_encrypted(connected)
    except BaseException:
        if manager is None:
            _remove_files(connection_file, info)
        else:
            await finish(manager.cleanup())
        raise
    return Launched(info, manager)


def _write_file(runtime_dir: Path, request: LaunchRequest, content: Mapping[str, Any]) -> Path:
    """Write the file by which the kernel or its clients find its sockets."""
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return write_private(runtime_dir / f"kernel-{request.kernel_id}.json", content)


@contextmanager
def _file_errors_as_launch_errors() -> Iterator[None]:
    try:
        yield
    except (ConnectionFileError, OSError) as error:
        raise LaunchError(
            _one_line(error), phase="start", advice="Check the directory's path, room and rights."
        ) from error


def _fresh_connection_info(
    request: LaunchRequest, transport: str, *, encrypted: bool = False
) -> ConnectionInfo:
    common: dict[str, Any] = {
        "kernel_name": request.kernel_type.name,
        "interrupt_mode": request.kernel_type.interrupt_mode,
        **(new_curve_keys() if encrypted else {}),
    }
    if transport == "ipc" and HAVE_IPC:
        return ConnectionInfo.for_ipc(_new_socket_dir(), **common)
    return ConnectionInfo.for_tcp(**common)


def _new_socket_dir() -> Path:
    """Name a directory that does not exist yet and is short enough for socket paths."""
    name = f"{_SOCKET_DIR_PREFIX}{secrets.token_hex(4)}"
    longest_file = len("/k-65535")  # a kernel may choose its numbers itself
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - private below
        if not base or not os.access(base, os.W_OK | os.X_OK):
            continue
        path = os.path.join(os.path.abspath(base), name)
        if len(os.fsencode(path)) + longest_file <= SUN_PATH_MAX:
            return Path(path)
    raise ConnectionFileError(
        f"No directory for the kernel's sockets: their paths may have {SUN_PATH_MAX} bytes, and "
        f"{tempfile.gettempdir()!r} is too long or not writable; set TMPDIR to a shorter one."
    )


def _make_private(directory: Path) -> None:
    """Make the socket directory; one that is there already must be ours alone."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(directory):
            raise LaunchError(
                f"The socket directory {str(directory)!r} is not private to this user.",
                phase="start",
                advice="Use another connection_info, or remove the directory.",
                endpoints_refused=True,
            ) from None
    except OSError as error:
        raise LaunchError(
            f"The socket directory {str(directory)!r} cannot be made: {error.strerror}.",
            phase="start",
        ) from error


def _is_private(directory: Path) -> bool:
    if sys.platform == "win32":
        return False  # nor needed: there are no Unix sockets
    status = directory.lstat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _check_cwd(cwd: Path | None) -> None:
    # Popen's own errors do not tell a directory from a command.
    if cwd is None or (os.path.isdir(cwd) and os.access(cwd, os.X_OK)):
        return
    if not os.path.exists(cwd):
        reason = "does not exist"
    elif not os.path.isdir(cwd):
        reason = "is not a directory"
    else:
        reason = "may not be entered"
    raise LaunchError(
        f"The working directory {str(cwd)!r} {reason}.",
        phase="start",
        advice="Create it, or pass another cwd.",
    )


def _check_endpoints(info: ConnectionInfo | None) -> None:
    """Refuse given endpoints that are incomplete, or another kernel's: we would take it for ours."""
    if info is None:
        return
    try:
        for channel in CHANNELS:
            info.endpoint(channel)
    except ConnectionFileError as error:
        raise LaunchError(
            _one_line(error) + ".",
            phase="start",
            advice="Pass another connection_info, or none.",
            endpoints_refused=True,
        ) from error
    if info.transport == "ipc" and not HAVE_IPC:
        raise LaunchError(
            "The given connection_info has transport 'ipc', and this system has no Unix sockets.",
            phase="start",
            advice="Pass one with transport 'tcp', or none.",
            endpoints_refused=True,
        )
    taken = [channel for channel in CHANNELS if _accepts(info, channel)]
    if taken:
        raise LaunchError(
            f"Something accepts connections at the given endpoints of {', '.join(taken)} already.",
            phase="start",
            advice="End the kernel that uses them first, or pass another connection_info.",
            endpoints_refused=True,
        )


def _environment(
    type_env: Mapping[str, str] | None, request_env: Mapping[str, str | None]
) -> dict[str, str]:
    environment = {**os.environ, **(type_env or {})}
    for name, value in request_env.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    # The kernel ends itself when this process is gone. (On Windows a handle takes its place.)
    environment["JPY_PARENT_PID"] = str(os.getpid())
    return environment


def _spawn(argv: Sequence[str], cwd: Path | None, environment: Mapping[str, str]) -> KernelProcess:
    if not argv:
        raise LaunchError(
            "The kernel type has an empty command.", phase="start", advice="Mend its argv."
        )
    try:
        return KernelProcess(argv, cwd=cwd, env=environment)
    except FileNotFoundError:
        raise LaunchError(
            f"The command {argv[0]!r} was not found, or the interpreter that its first line names.",
            phase="start",
            advice="Install the kernel again, or mend the first word of its argv.",
        ) from None
    except OSError as error:
        raise LaunchError(
            f"The command {argv[0]!r} cannot be run: {error.strerror}.",
            phase="start",
            advice="Check that it is a program that this user may run.",
        ) from error
    except (TypeError, ValueError) as error:
        raise LaunchError(
            f"A process cannot be given this argv and env: {_one_line(error)}.",
            phase="start",
            advice="Both hold strings, without NUL.",
        ) from error


async def _registered(registrar: RegistrationSocket, process: KernelProcess) -> ConnectionInfo:
    """Wait until the kernel has registered its ports, or the process ends."""
    started = time.monotonic()
    while True:
        try:
            info = registrar.take()
        except BadRegistration as error:
            raise LaunchError(
                f"The kernel's registration cannot be used: {error}.",
                phase="start",
                advice="Update the kernel, or pass connection_info=ConnectionInfo.for_tcp(): with "
                "given ports there is no registration.",
                log_tail=process.log_tail(50),
            ) from error
        if info is not None:
            return info
        _check_runs(process, "registered")
        await _look_again(started)


async def _accepting(info: ConnectionInfo, process: KernelProcess) -> None:
    """Wait until every channel accepts connections, or the process ends."""
    started = time.monotonic()
    for channel in CHANNELS:
        while not _accepts(info, channel):
            _check_runs(process, "accepted connections")
            await _look_again(started)


def _check_runs(process: KernelProcess, goal: str) -> None:
    status = process.exit_status
    if status is not None:
        raise LaunchError(
            f"The kernel ended before it {goal}: {status}.",
            phase="start",
            advice="Its own output tells why."
            if process.log_tail(1)
            else "It wrote nothing; run its command by hand to see why.",
            exit_status=status,
            log_tail=process.log_tail(50),
        )


async def _look_again(started: float) -> None:
    # Looking costs the starting kernel its processor: at most 2 % of the wait.
    await asyncio.sleep(min(max((time.monotonic() - started) * 0.02, 0.002), 0.05))


def _accepts(info: ConnectionInfo, channel: str) -> bool:
    """Tell whether something listens at a channel's address, which is one of this machine."""
    connected = _connect(info, channel)
    if connected is not None:
        connected.close()
    return connected is not None


def _connect(info: ConnectionInfo, channel: str) -> socket.socket | None:
    """Connect to a channel without ZeroMQ; gives None when nothing listens there."""
    address: str | tuple[str, int]
    if info.transport == "ipc":
        if sys.platform == "win32":
            return None
        family, address = socket.AF_UNIX, str(info.socket_path(channel))
    else:
        ip = _reachable(info.ip)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        address = (ip, getattr(info, f"{channel}_port"))
    probe = socket.socket(family)
    # One's own machine takes or refuses a connection at once. Not done by the event loop: to
    # be cancelled in the middle would leave it with a descriptor that is closed.
    probe.settimeout(0.01)
    try:
        probe.connect(address)
        # A connection to a TCP port that nobody listens on can, rarely, meet itself.
        if info.transport == "ipc" or probe.getsockname() != probe.getpeername():
            return probe
    except OSError:  # refused, or accepted by a kernel that ended in the same moment
        pass
    probe.close()
    return None


def _reachable(ip: str) -> str:
    """Give the address to connect to for an address to bind."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(ip, ip)  # noqa: S104


def _remove_files(connection_file: Path, info: ConnectionInfo) -> None:
    _remove(connection_file.unlink)
    if info.transport == "ipc":
        for channel in CHANNELS:
            _remove(info.socket_path(channel).unlink)
        directory = Path(info.ip).parent
        # A directory of somebody else's choice may hold what is not ours.
        if directory.name.startswith(_SOCKET_DIR_PREFIX):
            _remove(lambda: shutil.rmtree(directory))


def _remove(remove: Callable[[], object]) -> None:
    try:
        remove()
    except FileNotFoundError:
        pass  # never made, or removed already
    except OSError as error:
        logger.warning("Left behind after a kernel: %s", error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
