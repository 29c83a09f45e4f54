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
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from .background import finish
from .connection import CHANNELS, ConnectionInfo
from .encryption import check_encrypted, wants_encryption
from .endpoints import (
    accepts,
    announce,
    check_endpoints,
    choose_endpoints,
    connect,
    file_errors_as_launch_errors,
    remove_connection,
    transport_for,
)
from .errors import LaunchError, one_line
from .launch import Launched, LaunchRequest
from .manager import ExitStatus, KernelManager
from .process import KernelProcess, OutputHandler
from .registration import BadRegistration, Registration, RegistrationSocket

__all__ = ["LocalKernelManager", "launch_local"]

logger = logging.getLogger("kernel_mgmt")

_BIND_FAILURE = re.compile(r"EADDRINUSE|address (is )?(already )?in use", re.IGNORECASE)

#: How kernels based on xeus 6 refuse a registration file whose port is the number it should be.
_WANTS_TEXT = re.compile(r"type must be string, but is number")


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

    @property
    def exit_status(self) -> ExitStatus | None:
        """How the kernel's process ended; None while it runs."""
        return self._process.exit_status

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
        remove_connection(self.connection_file, self._connection_info)

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
    sign_as: ConnectionInfo | None
    socket_dir: Path | None
    die_with_parent: bool
    on_spawn: Callable[[KernelProcess], object] | None
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
    sign_as: ConnectionInfo | None = None,
    socket_dir: Path | None = None,
    die_with_parent: bool = False,
    on_spawn: Callable[[KernelProcess], object] | None = None,
) -> Launched:
    """Launch a kernel as a process of this machine; returns when its sockets accept connections.

    Args:
        request: what to launch. Its ``connection_info``, when given, says which endpoints and
            key to use. With ``nanny`` the kernel outlives this process, and the connection info
            is that of the nanny in front of it.
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
        sign_as: the kernel shall have the key and signature scheme that this has, because somebody
            passes its messages on; a fresh key by default.
        socket_dir: the directory for Unix sockets, not yet there; a fresh one by default.
        die_with_parent: whether the system shall kill the kernel when this process ends, where it
            can; most end by themselves.
        on_spawn: called with the kernel's process as soon as there is one.

    Raises:
        LaunchError: the encryption cannot be had (phase ``resolve``); the kernel could not be
            started, ended before it accepted connections, registered nonsense, or does not
            encrypt as it should.
        NannyError: the nanny that was asked for cannot do it.
    """
    if request.nanny is not None:
        # Lazily: it does not travel, and a nanny never asks for another one.
        from .nanny_client.starting import start_under_nanny

        return await start_under_nanny(
            request,
            make_argv,
            runtime_dir=runtime_dir,
            transport=transport,
            env=env,
            encryption=encryption,
            handshake=handshake,
        )
    given = request.connection_info
    transport = transport_for(request, transport)
    encrypted = wants_encryption(encryption, request.kernel_type, transport, given)
    request.progress("start", f"Starting {request.kernel_type.display_name or 'the kernel'}")
    request.check_cwd()
    check_endpoints(given)
    plan = _Plan(
        request,
        make_argv,
        runtime_dir,
        _environment(env, request.env),
        transport,
        encrypted,
        handshake=handshake and given is None and not encrypted,
        sign_as=sign_as,
        socket_dir=socket_dir,
        die_with_parent=die_with_parent,
        on_spawn=on_spawn,
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


async def _launch_once(plan: _Plan) -> Launched:
    info = choose_endpoints(
        plan.request,
        plan.transport,
        encrypted=plan.encrypted,
        sign_as=plan.sign_as,
        socket_dir=plan.socket_dir,
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
    content = None
    if registrar is not None:
        content = registrar.file_content(port_as_text=plan.port_as_text)
    connection_file = announce(info, plan.runtime_dir, request.kernel_id, content)
    manager: LocalKernelManager | None = None
    try:
        if registrar is not None:
            registrar.listen()
        process = _spawn(plan, connection_file)
        manager = LocalKernelManager(
            request.kernel_id, process, connection_file=connection_file, connection_info=info
        )
        if plan.on_spawn is not None:
            plan.on_spawn(process)
        if registrar is not None:
            info = manager._connection_info = await _registered(registrar, process)
            with file_errors_as_launch_errors():
                # For other clients, who can use a connection file only.
                info.write(connection_file, replace=True)
        await _accepting(info, process)
        if info.curve_publickey:
            connected = connect(info, "shell")
            if connected is not None:
                await check_encrypted(connected)
    except BaseException:
        if manager is None:
            remove_connection(connection_file, info)
        else:
            await finish(manager.cleanup())
        raise
    return Launched(info, manager)


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


def _spawn(plan: _Plan, connection_file: Path) -> KernelProcess:
    argv = plan.make_argv(connection_file)
    if not argv:
        raise LaunchError(
            "The kernel type has an empty command.", phase="start", advice="Mend its argv."
        )
    try:
        return KernelProcess(
            argv,
            cwd=plan.request.cwd,
            env=plan.environment,
            die_with_parent=plan.die_with_parent,
        )
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
            f"A process cannot be given this argv and env: {one_line(error)}.",
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
        while not accepts(info, channel):
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
