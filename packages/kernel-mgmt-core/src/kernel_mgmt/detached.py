"""Kernels that outlive the process that started them: start one, find it again, attach to it.

Each has a record (see :mod:`kernel_mgmt.records`), by which all processes of its user find it.  A kernel
of this machine is kept by a nanny; a provider whose kernels live on by themselves needs none.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .background import call_blocking, finish
from .blocking import BlockingKernelClient, BlockingKernelManager, blocking_manager
from .client import KernelClient, MessageHandler
from .connection import ConnectionInfo
from .errors import KernelMgmtError, LaunchError, NoSuchRunningKernel
from .finder import KernelFinder
from .launch import (
    JOURNAL_LIMIT,
    KernelRecord,
    KernelType,
    NannyOptions,
    ProgressHandler,
    PromptHandler,
)
from .machine import this_machine
from .manager import KernelManager
from .records import (
    ALIVE,
    DEAD,
    ELSEWHERE,
    BadRecord,
    find_record,
    gc,
    has_ended,
    read_record,
    read_records,
    record_path,
    record_state,
    records_dir,
    remove_record,
    write_record,
)
from .restart_policy import RestartPolicy
from .starting import discard, launch_and_wait

__all__ = [
    "attach_kernel",
    "attach_kernel_blocking",
    "collect_dead",
    "running_kernels",
    "start_detached",
    "start_detached_blocking",
    "terminate_or_kill",
]

logger = logging.getLogger("kernel_mgmt")

_DEFAULT_POLICY = RestartPolicy()
_LONGEST_NAME = 100
#: How long a kernel whose lease is over may take to end when it is asked, in seconds.
_GRACE = 5.0


async def start_detached(
    type_id: str | KernelType,
    *,
    name: str = "",
    finder: KernelFinder | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    launch_params: Mapping[str, Any] | None = None,
    connection_info: ConnectionInfo | None = None,
    restart_policy: RestartPolicy | None = _DEFAULT_POLICY,
    lease: float | None = None,
    idle_timeout: float | None = None,
    unattended_timeout: float | None = None,
    journal_limit: int | None = JOURNAL_LIMIT,
    startup_timeout: float = 60,
    on_progress: ProgressHandler | None = None,
    on_prompt: PromptHandler | None = None,
) -> KernelRecord:
    """Start a kernel that lives on when this process ends, and wait until it answers.

    Args:
        type_id: id of the kernel type, ``provider/name``; a bare name when it is unambiguous.
        name: what to call it, beside its id: up to 100 characters without a slash, and not the
            name of another running kernel. Empty for none.
        finder: knows the providers; by default all that are installed.
        cwd: the kernel's working directory; by default that of this process.
        env: environment variables to set for the kernel; a value of None removes one.
        launch_params: parameters that the provider understands.
        connection_info: endpoints at which the kernel shall be reached, and its key; by default
            private Unix sockets.
        restart_policy: when it is started again after it has died; None for never.
        lease: seconds after which it is shut down, unless somebody renews the lease; None for no
            such limit.
        idle_timeout: seconds without any message or running code after which it is shut down;
            None for no such limit.
        unattended_timeout: seconds without any client, after which it is shut down, whatever it
            runs; None for no such limit.
        journal_limit: how many bytes of what it says are kept on disk, for clients that were away;
            0 keeps the latest in memory alone, and None keeps nothing.
        startup_timeout: seconds until it must answer.
        on_progress: is told of each step.
        on_prompt: answers a provider's question.

    Returns:
        Its record: what :func:`attach_kernel` wants, in this process or another.

    Raises:
        NoSuchKernel: there is no such kernel type.
        ProviderError: its provider cannot be used.
        LaunchError: the name cannot be used (phase ``resolve``), or the kernel did not start, did
            not answer, or cannot outlive this process; nothing of it is left.
        NannyError: the nanny that was to keep it refused.
        ValueError: a limit that is no positive number of seconds, or of bytes.
    """
    _check_name(name)
    options = NannyOptions(
        name, restart_policy, lease, idle_timeout, unattended_timeout, journal_limit
    )
    kernel_id = str(uuid.uuid4())
    finder = finder or KernelFinder.from_entrypoints()
    kernel_type = await finder.resolve(type_id)
    manager, client = await launch_and_wait(
        finder,
        kernel_type,
        startup_timeout=startup_timeout,
        on_progress=on_progress,
        cwd=cwd,
        env=env,
        launch_params=launch_params,
        kernel_id=kernel_id,
        connection_info=connection_info,
        nanny=options,
        on_prompt=on_prompt,
    )
    try:
        record = KernelRecord(
            kernel_id=kernel_id,
            type_id=kernel_type.id,
            connection_info=client.connection_info,
            manager=(manager.record() if manager is not None else None) or {},
            name=name,
            started=time.time(),
            machine=this_machine(),
        )
        return _recorded(record)
    except BaseException:
        await finish(discard(client, manager))
        raise
    finally:
        client.close()


def _check_name(name: str) -> None:
    if not name:
        return
    obstacle = ""
    if len(name) > _LONGEST_NAME:
        obstacle = f"it is longer than {_LONGEST_NAME} characters"
    elif "/" in name:
        obstacle = "with a slash it would look like the id of a kernel type"
    elif name.startswith("-"):
        obstacle = "it would look like an option on a command line"
    elif not name.isprintable() or name != name.strip():
        obstacle = "it has characters at its ends or in it that cannot be seen"
    if obstacle:
        raise LaunchError(
            f"the name {name[:200]!r} cannot be used: {obstacle}.",
            phase="resolve",
            advice="Take another one, or none.",
        )
    for record in running_kernels():
        if name in (record.name, record.kernel_id):
            raise LaunchError(
                f"a running kernel is called {name!r} already: {record.kernel_id}.",
                phase="resolve",
                advice="Attach to that one, stop it, or take another name.",
            )


def _recorded(record: KernelRecord) -> KernelRecord:
    """Give the record that a nanny has written, or else write the one that is given."""
    path = record_path(records_dir(), record.kernel_id)
    try:
        return read_record(path)
    except (FileNotFoundError, BadRecord):
        write_record(records_dir(), record)
        return record


def running_kernels() -> list[KernelRecord]:
    """Give the records of all kernels of this user that are not dead, the oldest first.

    Also those on other machines that share the home directory, and those of which only their
    provider knows whether they run.  Files that cannot be used are logged and left out.
    """
    records, problems = read_records()
    for problem in problems:
        logger.warning("%s", problem)
    return [record for record in records if not has_ended(record)]


async def attach_kernel(
    kernel: KernelRecord | str,
    *,
    finder: KernelFinder | None = None,
    timeout: float | None = 60,
    resume_after: int | None = None,
    on_message: MessageHandler | None = None,
    counts_as_reader: bool = True,
) -> tuple[KernelManager | None, KernelClient]:
    """Find a running kernel again, and wait until it answers.

    Args:
        kernel: its record, id, name, or the beginning of its id.
        finder: knows the providers; by default all that are installed.
        timeout: seconds until it must answer, also when it runs code; None for no limit.
        resume_after: the ``journal_position`` of a former client: what the kernel has said after that
            is handed on first, to ``on_message``.
        on_message: called with each message of any channel, from the first on.
        counts_as_reader: whether what the client is told counts as read by somebody; see
            :class:`KernelClient`.

    Returns:
        The manager, and a client that is ready.  To leave the kernel alone again, close the client:
        ``client.close()``.

    Raises:
        NoSuchRunningKernel: there is none, there are several, it has ended, or it runs on another
            machine; ``state`` tells the latter two.
        KernelDied: it has died and will not be started again, and its nanny has told how it ended.
        RequestTimeout: it is alive and does not answer.
        NannyError: its nanny does not answer.
        LaunchError: its provider has not found it.
        ProviderError: its provider cannot be used.
    """
    record = find_record(kernel) if isinstance(kernel, str) else kernel
    _check_reachable(record)
    info, manager = await (finder or KernelFinder.from_entrypoints()).attach(record)
    client = KernelClient(
        info,
        manager=manager,
        resume_after=resume_after,
        on_message=on_message,
        counts_as_reader=counts_as_reader,
    )
    try:
        await client.wait_for_ready(timeout)
    except BaseException:
        client.close()
        raise
    return manager, client


def _check_reachable(record: KernelRecord) -> None:
    state = record_state(record)
    called = f"{record.kernel_id} ({record.name})" if record.name else record.kernel_id
    if state == DEAD:
        reason = "has ended, with what kept it; 'kernel-mgmt gc' removes what it left"
    elif state == ELSEWHERE:
        host = record.machine.get("host")
        reason = f"runs on {host or 'another machine'}; attach to it there"
    else:
        return
    raise NoSuchRunningKernel(
        f"The kernel {called} {reason}.", type_id=record.kernel_id, state=state
    )


async def collect_dead(*, finder: KernelFinder | None = None) -> list[KernelRecord]:
    """Remove all that dead kernels have left; what is alive, elsewhere or silent is not touched.

    That is what :func:`kernel_mgmt.records.gc` removes without asking anybody; and nannies that
    only stay to tell how their kernel ended, and kernels of which their provider says so.  A kernel
    whose lease is over, and that nothing else ends, is ended by this.

    Args:
        finder: knows the providers; by default all that are installed.

    Returns:
        The records that were removed.
    """
    removed = gc()
    finder = finder or KernelFinder.from_entrypoints()
    perhaps = [record for record in read_records()[0] if record_state(record) == ALIVE]
    ended = await asyncio.gather(*(_end_if_dead(record, finder) for record in perhaps))
    return removed + [record for record, dead in zip(perhaps, ended, strict=True) if dead]


async def _end_if_dead(record: KernelRecord, finder: KernelFinder) -> bool:
    from .nanny_client.manager import RemoteKernelManager

    try:
        _, manager = await finder.attach(record)
        if isinstance(manager, RemoteKernelManager):
            # Between a death and a restart a kernel is not alive, and not dead.
            dead = (await manager.info()).get("state") == "dead"
        else:
            if manager is not None and _is_overdue(manager):
                await terminate_or_kill(manager, _GRACE)
            dead = manager is not None and not await manager.is_alive()
        if dead and manager is not None:
            await manager.cleanup()
            remove_record(records_dir(), record.kernel_id)
    except KernelMgmtError as error:
        logger.info("It is not known whether kernel %s is dead: %s", record.kernel_id, error)
        return False
    return dead


def _is_overdue(manager: KernelManager) -> bool:
    """Tell whether a kernel's lease is over, and nobody but us ends it."""
    return manager.lease_ends is not None and time.time() >= manager.lease_ends


async def terminate_or_kill(manager: KernelManager, patience: float) -> None:
    """Ask a kernel's process to end, and end it by force when it does not; nothing if it has ended.

    Args:
        manager: the kernel's.
        patience: seconds that it may take when it was asked.

    Raises:
        KernelMgmtError: what the manager raises: it cannot be reached, or refuses.
    """
    await manager.terminate()
    try:
        async with asyncio.timeout(patience):
            await manager.wait()
    except TimeoutError:
        await manager.kill()


# -- without an event loop ------------------------------------------------------------------


def start_detached_blocking(
    type_id: str | KernelType,
    *,
    name: str = "",
    finder: KernelFinder | None = None,
    cwd: Path | str | None = None,
    env: Mapping[str, str | None] | None = None,
    launch_params: Mapping[str, Any] | None = None,
    connection_info: ConnectionInfo | None = None,
    restart_policy: RestartPolicy | None = _DEFAULT_POLICY,
    lease: float | None = None,
    idle_timeout: float | None = None,
    unattended_timeout: float | None = None,
    journal_limit: int | None = JOURNAL_LIMIT,
    startup_timeout: float = 60,
    on_progress: ProgressHandler | None = None,
    on_prompt: PromptHandler | None = None,
) -> KernelRecord:
    """Start a kernel that lives on when this process ends, without an event loop.

    Parameters and errors are those of :func:`start_detached`; ``on_progress`` and ``on_prompt``
    are called on a background thread.
    """
    started: list[KernelRecord] = []

    async def start() -> None:
        record = await start_detached(
            type_id,
            name=name,
            finder=finder,
            cwd=cwd,
            env=env,
            launch_params=launch_params,
            connection_info=connection_info,
            restart_policy=restart_policy,
            lease=lease,
            idle_timeout=idle_timeout,
            unattended_timeout=unattended_timeout,
            journal_limit=journal_limit,
            startup_timeout=startup_timeout,
            on_progress=on_progress,
            on_prompt=on_prompt,
        )
        started.append(record)

    try:
        call_blocking(start(), None, "start_detached_blocking")
    except BaseException:
        for record in started:  # Ctrl-C came just when it was there
            call_blocking(_end(record, finder), None, "start_detached_blocking")
        raise
    return started[0]


async def _end(record: KernelRecord, finder: KernelFinder | None) -> None:
    _, manager = await (finder or KernelFinder.from_entrypoints()).attach(record)
    await discard(None, manager)
    remove_record(records_dir(), record.kernel_id)


def attach_kernel_blocking(
    kernel: KernelRecord | str,
    *,
    finder: KernelFinder | None = None,
    timeout: float | None = 60,
    resume_after: int | None = None,
    on_message: MessageHandler | None = None,
    counts_as_reader: bool = True,
) -> tuple[BlockingKernelManager | None, BlockingKernelClient]:
    """Find a running kernel again, and wait until it answers, without an event loop.

    Parameters and errors are those of :func:`attach_kernel`; ``on_message`` is called on a background
    thread.
    """
    attached: list[tuple[KernelManager | None, KernelClient]] = []

    async def attach() -> None:
        attached.append(
            await attach_kernel(
                kernel,
                finder=finder,
                timeout=timeout,
                resume_after=resume_after,
                on_message=on_message,
                counts_as_reader=counts_as_reader,
            )
        )

    try:
        call_blocking(attach(), None, "attach_kernel_blocking")
    except BaseException:
        for _, client in attached:  # Ctrl-C came just when it was there
            BlockingKernelClient.wrap(client).close()
        raise
    manager, client = attached[0]
    return (
        None if manager is None else blocking_manager(manager),
        BlockingKernelClient.wrap(client),
    )
