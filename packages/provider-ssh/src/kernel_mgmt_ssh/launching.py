"""Launching a kernel on another machine, and finding it again."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel_mgmt import (
    ConnectionInfo,
    KernelManager,
    KernelRecord,
    Launched,
    LaunchError,
    LaunchRequest,
    NannyOptions,
)
from kernel_mgmt.background import finish, in_thread, result_of
from kernel_mgmt.connection import CHANNELS, NANNY_CHANNELS
from kernel_mgmt.curve import new_curve_keys
from kernel_mgmt.nanny.memory import TUNABLES
from kernel_mgmt.nanny.request import NannyRequest
from kernel_mgmt.nanny_client.archive import nanny_archive
from kernel_mgmt.records import records_dir, remove_record, write_record

from .config import SshKernel
from .connection import HostConnection, open_connection
from .errors import SshError
from .manager import PlainSshManager, SshKernelManager
from .reach import Reach

__all__ = ["attach_over_ssh", "launch_over_ssh"]

logger = logging.getLogger("kernel_mgmt.ssh")

#: How long to wait for a connection to come back, to undo what was cut off, in seconds.
_UNDO_PATIENCE = 10.0
#: How often fresh TCP ports are tried on a host that forwards to nothing else.
_PORT_ATTEMPTS = 3


async def launch_over_ssh(request: LaunchRequest) -> Launched:
    """Launch a kernel on its host, under a nanny, and reach it through the connection alone.

    Args:
        request: what to launch. Its type's metadata has the kernel's entry of ``ssh_kernels.toml``.

    Raises:
        LaunchError: it failed; nothing is left on the host.
    """
    _refuse_windows()
    kernel = SshKernel.from_dict(request.kernel_type.metadata["ssh"])
    lease = _lease(request, kernel)
    if request.connection_info is not None:
        raise LaunchError(
            "A kernel on another machine cannot be given endpoints.",
            phase="resolve",
            advice="Launch it without connection_info, and reconnect clients to what is returned.",
            endpoints_refused=True,
        )
    request.progress("connect", f"Connecting to {kernel.host}")

    async def ask(message: str, secret: bool) -> str:
        return await request.prompt(message, secret=secret)

    try:
        connection = await open_connection(
            kernel.host,
            ssh_config=_path(kernel.ssh_config),
            identity_file=_path(kernel.identity_file),
            python=kernel.python,
            ask=ask,
            tell=lambda message: request.progress("connect", message),
        )
    except SshError as error:
        raise error.to_launch_error() from error
    try:
        return await _launch(request, kernel, connection, lease)
    except SshError as error:
        connection.release()
        raise error.to_launch_error(kernel.host) from error
    except BaseException:
        connection.release()
        raise


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise LaunchError(
            "Kernels on other machines cannot be reached from Windows yet: it lacks Unix sockets.",
            phase="resolve",
            advice="Use the Windows Subsystem for Linux.",
        )


def _lease(request: LaunchRequest, kernel: SshKernel) -> float | None:
    """Give the seconds without any client after which the kernel ends; None for never."""
    params = dict(request.launch_params)
    lease = params.pop("lease", kernel.lease)
    if params:
        raise LaunchError(
            f"{request.kernel_type.id} has no launch parameter {', '.join(map(repr, params))}.",
            phase="resolve",
            advice="It knows lease.",
        )
    if isinstance(lease, bool) or not isinstance(lease, (int, float)) or not 0 <= lease <= 1e9:
        raise LaunchError(
            f"The launch parameter 'lease' is {lease!r}.",
            phase="resolve",
            advice="It must be a number of seconds, 0 for no limit.",
        )
    return lease or None


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


async def _launch(
    request: LaunchRequest, kernel: SshKernel, connection: HostConnection, lease: float | None
) -> Launched:
    name = request.kernel_type.display_name or request.kernel_type.name
    request.progress("start", f"Starting {name} on {kernel.host}")
    result = await _start(request, kernel, connection, lease)
    answer, kind = result["answer"], result["kind"]
    record = {
        "host": kernel.host,
        "ssh_config": kernel.ssh_config,
        "identity_file": kernel.identity_file,
        "python": result["python"],
        "kind": kind,
        "pid": answer["pid"],
        "identity": answer.get("identity"),
        "control": answer.get("control", ""),
    }
    info = ConnectionInfo.from_dict(answer["connection_info"])
    manager: KernelManager | None = None
    try:
        local, manager = await _reach(connection, request.kernel_id, info, record)
        _write_record(request, info, record)
    except BaseException:
        await finish(_undo(connection, manager, record))
        raise
    if kind == "plain":
        _tell_what_is_lost(request, kernel, result["python"])
    return Launched(local, manager)


async def _start(
    request: LaunchRequest, kernel: SshKernel, connection: HostConnection, lease: float | None
) -> dict[str, Any]:
    """Have the agent start the nanny, by which this Python's version of the core travels."""
    archive = await result_of(in_thread("ssh-archive", nanny_archive))
    options = request.nanny or NannyOptions(restart_policy=None)
    if options.unattended_timeout is None:
        options = replace(options, unattended_timeout=lease)

    async def start(plain: str, endpoints: ConnectionInfo | None) -> dict[str, Any]:
        return await connection.start_kernel(
            archive,
            pythons=list(filter(None, (kernel.python, "python3", "python"))),
            request=_nanny_request(request, kernel, options, endpoints),
            kernelspec=kernel.kernelspec or None,
            expand_env=dict(kernel.env),
            plain=plain,
            tunables=TUNABLES,
        )

    try:
        if connection.forwarding != "tcp":
            return await start("auto", None)
        try:
            return await _start_at_ports(request, kernel, connection, start)
        except SshError as error:
            if error.kind != "no-pyzmq":
                raise
        # Without pyzmq nothing is encrypted: rather Unix sockets, reached through the relay.
        return await start("always", None)
    except SshError as error:
        if error.kind == "lost":
            await finish(_end_unknown(connection, request.kernel_id))
        raise


async def _start_at_ports(
    request: LaunchRequest,
    kernel: SshKernel,
    connection: HostConnection,
    start: Callable[[str, ConnectionInfo], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Have a nanny listen at TCP ports of the host's loopback interface, encrypted."""
    channels = (*CHANNELS, *NANNY_CHANNELS)
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        ports = (await connection.request("free_ports", count=len(channels)))["ports"]
        endpoints = ConnectionInfo.for_tcp(
            kernel_name=request.kernel_type.name,
            interrupt_mode=kernel.interrupt_mode,
            **new_curve_keys(),
            **{f"{channel}_port": port for channel, port in zip(channels, ports, strict=True)},
        )
        try:
            return await start("never", endpoints)
        except SshError as error:
            # Somebody may have taken a port meanwhile: then no process has ended.
            if error.kind != "launch" or error.exit_status is not None or attempt == _PORT_ATTEMPTS:
                raise
    raise AssertionError


def _nanny_request(
    request: LaunchRequest,
    kernel: SshKernel,
    options: NannyOptions,
    endpoints: ConnectionInfo | None,
) -> dict[str, Any]:
    """Give the nanny's request, with that left open which only the host knows."""
    kernel_type = replace(
        request.kernel_type,
        metadata={k: v for k, v in request.kernel_type.metadata.items() if k != "ssh"},
    )
    asked = NannyRequest(
        kernel_id=request.kernel_id,
        kernel_type=kernel_type,
        argv=kernel.argv,
        runtime_dir=Path("/"),
        env=request.env,
        transport=kernel.transport,
        connection_info=endpoints,
        options=options,
    )
    content: dict[str, Any] = json.loads(asked.to_json())
    cwd = request.cwd or kernel.cwd
    return {
        **content,
        "argv": list(kernel.argv) or None,
        "cwd": str(cwd) if cwd else None,
        "runtime_dir": None,
        "record_dir": None,
    }


async def _reach(
    connection: HostConnection, kernel_id: str, info: ConnectionInfo, record: Mapping[str, Any]
) -> tuple[ConnectionInfo, KernelManager]:
    reach, local = await Reach.to(connection, kernel_id, info, record)
    if record["kind"] == "plain":
        return local, PlainSshManager(kernel_id=kernel_id, reach=reach)
    return local, SshKernelManager(local, kernel_id=kernel_id, reach=reach)


def _write_record(request: LaunchRequest, info: ConnectionInfo, record: Mapping[str, Any]) -> None:
    """Write the record by which the kernel is found from this machine; the nanny has its own."""
    write_record(
        records_dir(),
        KernelRecord(
            kernel_id=request.kernel_id,
            type_id=request.kernel_type.id,
            connection_info=info,
            manager={"host": record["host"], "ssh": dict(record)},
            name="" if request.nanny is None else request.nanny.name,
            started=time.time(),
            cwd=str(request.cwd or ""),
        ),
    )


async def _undo(
    connection: HostConnection, manager: KernelManager | None, record: Mapping[str, Any]
) -> None:
    """End a kernel that has just been started, though it may not be reached."""
    if manager is not None:
        connection.retain()  # the manager releases it, and so does who called us
        await manager.cleanup()
        return
    try:
        await connection.request("end", pid=record["pid"], identity=record["identity"])
    except SshError as error:
        logger.warning("A kernel may be left on %s: %s", connection.link.name, error)


async def _end_unknown(connection: HostConnection, kernel_id: str) -> None:
    """End a kernel whose start was answered when the connection was just being lost."""
    try:
        await connection.wait_until_up(_UNDO_PATIENCE)
        for record in (await connection.request("records"))["records"]:
            if record.get("kernel_id") == kernel_id:
                manager = record["manager"]
                keeper = manager.get("nanny") or manager["plain"]
                await connection.request("end", pid=keeper["pid"], identity=keeper["identity"])
    except (SshError, KeyError, TypeError) as error:
        logger.warning(
            "A kernel whose start was cut off may be left on %s, up to its lease: %s",
            connection.link.name,
            error,
        )


def _tell_what_is_lost(request: LaunchRequest, kernel: SshKernel, python: str) -> None:
    message = (
        f"{python} on {kernel.host} has no pyzmq: this kernel is not started again behind its "
        "clients, and what it says while the connection is lost is lost"
    )
    logger.warning("%s; 'pip install pyzmq' there mends that.", message)
    request.progress("start", message)


async def attach_over_ssh(record: KernelRecord) -> Launched:
    """Find a kernel on its host again.

    Args:
        record: of a kernel that was launched by this provider, wherever that was.

    Raises:
        LaunchError: its host cannot be reached, or the kernel has ended.
    """
    _refuse_windows()
    ssh = record.manager.get("ssh")
    if not isinstance(ssh, Mapping) or not isinstance(ssh.get("host"), str):
        raise LaunchError(
            f"The record of the kernel {record.kernel_id} does not say on which host it is.",
            phase="resolve",
            advice="Was it written by another version of kernel-mgmt-ssh?",
        )

    async def ask(message: str, _secret: bool) -> str:
        raise LaunchError(
            f"{message!r} was asked, and attaching asks nobody.",
            phase="connect",
            advice="Have an agent hold the key (ssh-add).",
        )

    try:
        connection = await open_connection(
            ssh["host"],
            ssh_config=_path(ssh.get("ssh_config", "")),
            identity_file=_path(ssh.get("identity_file", "")),
            python=ssh.get("python", ""),
            ask=ask,
        )
    except SshError as error:
        raise error.to_launch_error() from error
    try:
        far = {name: ssh.get(name) for name in ("pid", "identity")}
        if not (await connection.request("alive", **far)).get("alive"):
            remove_record(records_dir(), record.kernel_id)
            raise LaunchError(
                f"The kernel {record.kernel_id} on {ssh['host']} has ended.",
                phase="connect",
                advice="Start a new one.",
            )
        return Launched(*await _reach(connection, record.kernel_id, record.connection_info, ssh))
    except SshError as error:
        connection.release()
        raise error.to_launch_error() from error
    except BaseException:
        connection.release()
        raise
