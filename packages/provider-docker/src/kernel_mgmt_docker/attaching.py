"""Finding a kernel's container again, from another process or after the engine was restarted."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from kernel_mgmt import ExitStatus, KernelRecord, KernelType, Launched, LaunchError, LaunchRequest
from kernel_mgmt.background import finish
from kernel_mgmt.endpoints import is_socket_directory, remove_directory
from kernel_mgmt.records import records_dir, remove_record

from .config import DEFAULT_ARGV, DockerKernel
from .connecting import Relayed, reach_again
from .containers import State, exit_status, explanation, find, lease_ends, read_state
from .engine import Engine
from .errors import DockerProblem
from .launching import engine_facts
from .manager import DockerKernelManager

__all__ = ["attach"]

#: A container that was created and does not run after so many seconds will never run.
_LAUNCHED_AFTER = 600.0


async def attach(record: KernelRecord) -> Launched:
    """Find the container of a record.

    Args:
        record: what is known of the kernel. Without the container's id, or when that does not exist any
            more, the labels tell which one it is.

    Returns:
        How to reach the kernel, and its manager, which knows whether it is alive; no manager where a
        nanny is in front of it.

    Raises:
        LaunchError: the engine cannot be asked, or has no container of that kernel.
    """
    if "nanny" in record.manager:
        return Launched(record.connection_info, None)  # a nanny keeps it, and knows all of it
    details = record.manager.get("docker")
    if not isinstance(details, Mapping):
        raise LaunchError(
            f"The record of kernel {record.kernel_id} does not say in which container it runs.",
            phase="connect",
            advice="It may be of another version of kernel-mgmt-docker.",
        )
    try:
        engine = await Engine.connect(str(details.get("engine", "")))
        try:
            return await _attach(record, details, engine)
        except BaseException:
            await engine.release()
            raise
    except DockerProblem as problem:
        raise problem.to_launch_error() from problem


async def _attach(record: KernelRecord, details: Mapping[str, Any], engine: Engine) -> Launched:
    inspected = await _inspect(record, details, engine)
    if inspected is None:
        if details.get("container"):  # else it is perhaps being launched at this moment
            _remove_traces(record)
        raise DockerProblem(
            f"The engine at {engine.host} has no container of kernel {record.kernel_id}.",
            kind="gone",
            advice="It was removed; start a new kernel.",
        )
    state = read_state(inspected)
    container = str(inspected["Id"])
    kernel = _kernel(details, inspected)
    request = LaunchRequest(
        KernelType(kernel.name, provider=record.provider, interrupt_mode=kernel.interrupt_mode),
        record.kernel_id,
    )
    way = details.get("reaching")
    ended = _ended(record, state)
    reaching = await reach_again(
        way if isinstance(way, Mapping) else {},
        record.connection_info,
        kernel,
        request,
        await engine_facts(engine),
        container,
        alive=ended is None,
    )
    try:
        manager = DockerKernelManager(
            record.kernel_id,
            engine,
            container,
            reaching=reaching,
            details={"name": str(details.get("name", "")), "kernel": kernel.to_dict()},
            pid=state.pid,
            argv0=(kernel.argv or DEFAULT_ARGV)[0],
            connection_file=record.connection_file,
            records=records_dir(),
            exit_status=ended,
            lease_ends=_lease_ends(record, inspected),
        )
    except BaseException:
        await finish(reaching.close())
        raise
    if isinstance(reaching, Relayed):
        # Who attached only to look drops the manager, and nobody else knows of the relay.
        weakref.finalize(manager, reaching.let_go).atexit = False
    return Launched(reaching.outside or record.connection_info, manager)


async def _inspect(
    record: KernelRecord, details: Mapping[str, Any], engine: Engine
) -> Mapping[str, Any] | None:
    """Give what the engine knows of the container, by its id, its name, or its labels."""
    try:
        for name in (details.get("container"), details.get("name")):
            if isinstance(name, str) and name:
                try:
                    found: Mapping[str, Any] = await engine.call(
                        engine.api.inspect_container, name, phase="connect"
                    )
                except NotFound:
                    continue
                return found
        labelled = await engine.call(find, engine.api, record.kernel_id, phase="connect")
    except APIError as error:
        raise DockerProblem(
            f"The engine at {engine.host} does not tell about the container: {explanation(error)}.",
            kind="refused",
        ) from error
    return labelled


def _ended(record: KernelRecord, state: State) -> ExitStatus | None:
    """Give how a container ended; None when it has not, as far as the engine knows."""
    if state.ended:
        return exit_status(state)
    if state.status == "created" and time.time() - (record.started or 0) > _LAUNCHED_AFTER:
        return ExitStatus(reason="it was never started")
    return None


def _lease_ends(record: KernelRecord, inspected: Mapping[str, Any]) -> float | None:
    """Give when a kernel's lease is over, by its record where somebody renewed it; None for never."""
    if "lease_ends" not in record.manager:
        return lease_ends((inspected.get("Config") or {}).get("Labels") or {})
    ends = record.manager["lease_ends"]
    return float(ends) if type(ends) in (int, float) else None


def _remove_traces(record: KernelRecord) -> None:
    """Remove what a kernel has left here whose container is gone; its record last."""
    if record.connection_info.transport == "ipc":
        directory = Path(record.connection_info.ip).parent
        if is_socket_directory(directory.parent):
            directory = directory.parent
        remove_directory(directory)
    if record.connection_file is not None:
        with suppress(OSError):
            record.connection_file.unlink()
    remove_record(records_dir(), record.kernel_id)


def _kernel(details: Mapping[str, Any], inspected: Mapping[str, Any]) -> DockerKernel:
    table = details.get("kernel")
    if isinstance(table, Mapping):
        try:
            return DockerKernel.from_dict(table)
        except LaunchError:
            pass  # of another version, which knows more
    return DockerKernel("kernel", str(inspected.get("Config", {}).get("Image") or "image"))
