"""A kernel in a container that a nanny on this machine keeps, and with it all that the kernel says.

The nanny is the one that keeps kernels of this machine.  What it takes for the kernel is a stand-in, which
launches the container: see :mod:`.stand_in`.  What can go wrong beforehand, and what may take long, is done
here, where somebody sees it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from docker.errors import DockerException
from jupyter_core.paths import jupyter_runtime_dir
from kernel_mgmt import Launched, LaunchError, LaunchRequest, NannyOptions
from kernel_mgmt.background import finish
from kernel_mgmt.errors import one_line
from kernel_mgmt.local import launch_local
from kernel_mgmt.manager import KernelManager
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.records import records_dir

from . import containers
from .config import DockerKernel
from .connecting import Reaching
from .engine import Engine
from .errors import DockerProblem
from .images import provide_image
from .launching import check_id, choose, engine_facts
from .order import VARIABLE, Order, failure_in
from .orphans import remove_orphans
from .profile import check_mounts

__all__ = ["launch_under_nanny"]

logger = logging.getLogger("kernel_mgmt.docker")

#: Without ``-P`` a file in its working directory could take the place of a module.
_COMMAND = ("-P", "-m", "kernel_mgmt_docker.stand_in")
#: How often the nanny is asked whether the kernel answers, in seconds.
_AGAIN = 0.05
#: More lines than a failure has.
_LINES = 200


async def launch_under_nanny(request: LaunchRequest, kernel: DockerKernel) -> Launched:
    """Launch a kernel in a container with a nanny in front of it.

    Args:
        request: what to launch. Its ``nanny`` says how to keep it; without that it is not started
            again.
        kernel: the same, as its configuration and its parameters say.

    Raises:
        LaunchError: it cannot be launched; nothing of it is left.
    """
    request.progress("connect", "Connecting to the container engine")
    try:
        engine = await Engine.connect()
        try:
            reaching = await _look(request, kernel, engine)
            try:
                return await _start(request, kernel, engine, reaching)
            except BaseException:
                await finish(_remove_left(engine, request.kernel_id))
                raise
        finally:
            await engine.release()
    except DockerProblem as problem:
        raise problem.to_launch_error() from problem


async def _look(request: LaunchRequest, kernel: DockerKernel, engine: Engine) -> Reaching:
    """See that it can be launched, with its image there; gives how it is reached."""
    check_id(records_dir(), request.kernel_id)
    facts = await engine_facts(engine)
    await engine.call(remove_orphans, engine.api, containers.owner())
    check_mounts(kernel.mounts, engine.socket_path, local=not facts.obstacle_to_sharing())
    image = await provide_image(
        engine, kernel.image, kernel.pull, functools.partial(request.progress, "pull")
    )
    # The endpoints that the request has are the nanny's.
    return await choose(kernel, replace(request, connection_info=None), facts, engine, image)


async def _start(
    request: LaunchRequest, kernel: DockerKernel, engine: Engine, reaching: Reaching
) -> Launched:
    options = request.nanny or NannyOptions(restart_policy=None)
    order = Order(
        kernel_id=request.kernel_id,
        type_id=request.kernel_type.id,
        # What was found out holds for the kernels that come after it, too; the lease is the nanny's.
        kernel=replace(kernel, connect=reaching.how, pull="never", lease=0.0).to_dict(),
        engine=engine.host,
        whose=containers.owner(),
        name=options.name,
        cwd="" if request.cwd is None else str(request.cwd),
        env=request.env,
    )
    kernel_type = replace(
        request.kernel_type,
        interrupt_mode=kernel.interrupt_mode,
        metadata={"supported_encryption": "curve"} if reaching.encrypted else {},
    )
    asked = replace(
        request,
        kernel_type=kernel_type,
        # The kernel's own are in its container.
        cwd=Path(os.sep),
        env={VARIABLE: order.to_text()},
        launch_params={},
        nanny=replace(options, lease=kernel.lease or None),
    )
    try:
        launched = await launch_local(
            asked,
            _argv,
            runtime_dir=Path(jupyter_runtime_dir()),
            transport="tcp" if reaching.how == "tcp" else "ipc",
        )
    except LaunchError as error:
        raise failure_in(error.log_tail) or error from error
    if reaching.how == "tcp":
        await _answering(launched.manager)
    return launched


def _argv(connection_file: Path) -> Sequence[str]:
    return [sys.executable, *_COMMAND, str(connection_file)]


async def _answering(manager: KernelManager | None) -> None:
    """Wait until the kernel answers: its ports take connections before it does, for the engine holds them.

    Raises:
        LaunchError: it has ended before.
    """
    assert isinstance(manager, RemoteKernelManager)
    try:
        while True:
            info = await manager.info()
            if info.get("kernel") != 1 or info.get("exit_status") is not None:
                break
            if info.get("state") != "starting":
                return
            await asyncio.sleep(_AGAIN)
        status = await manager.wait()
        log = await manager.log_tail(_LINES)
        raise failure_in(log) or LaunchError(
            f"The kernel ended before it answered: {status}.",
            phase="start",
            advice="Its own output tells why.",
            exit_status=status,
            log_tail=log,
        )
    except BaseException:
        await finish(manager.cleanup())
        raise


async def _remove_left(engine: Engine, kernel_id: str) -> None:
    """Remove what there is of a launch that failed, which a killed stand-in's second process does, too."""
    try:
        for container in await engine.call(
            containers.of_kernel, engine.api, kernel_id, containers.owner()
        ):
            await engine.call(containers.remove, engine.api, container)
    except (DockerException, DockerProblem) as error:
        logger.warning("Left behind by a launch of %s: %s", kernel_id, one_line(error))
