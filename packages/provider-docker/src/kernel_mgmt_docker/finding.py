"""Which kernels there are: those of the configuration, then those images that say they are."""

from __future__ import annotations

import os

from kernel_mgmt import KernelProblem, KernelType, LaunchError

from .config import DockerKernel, read_config

__all__ = ["find_kernels"]

#: How long the engine may take to tell its images, in seconds: it is asked whenever kernels are listed.
_PATIENCE = 1


def find_kernels() -> list[KernelType | KernelProblem]:
    """Give the kernel types, and a problem for each that cannot be offered.

    An engine that is not on this machine is not asked: that would touch the network.  Where nothing
    says that there is one, none is missed.
    """
    found: dict[str, KernelType | KernelProblem] = {}
    problems: list[KernelType | KernelProblem] = []
    for item in read_config():
        if isinstance(item, DockerKernel):
            found[item.name] = item.kernel_type()
        elif item.name:
            found[item.name] = item
        else:
            problems.append(item)
    for image in _labelled(missed=bool(found)):
        if not image.name:
            problems.append(image)
        else:
            found.setdefault(image.name, image)
    return [*found.values(), *problems]


def _labelled(*, missed: bool) -> list[KernelType | KernelProblem]:
    from docker.errors import DockerException

    from .engine import Engine, find_host
    from .errors import DockerProblem
    from .images import labelled_images

    try:
        host, _ = find_host()
        if not host.startswith("unix://"):
            return []
        named = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")
        if not (missed or named or os.path.exists(host.removeprefix("unix://"))):
            return []
        engine = Engine.connect_now(patience=_PATIENCE)
        try:
            tables = labelled_images(engine.api)
        finally:
            engine.close()
    except DockerProblem as problem:
        return [KernelProblem("", f"Images that are kernels cannot be looked for: {problem}")]
    except (DockerException, OSError) as error:
        return [KernelProblem("", f"The engine's images are not known: {error}")]
    return [_kernel_type(table) for table in tables]


def _kernel_type(table: dict[str, object] | KernelProblem) -> KernelType | KernelProblem:
    if isinstance(table, KernelProblem):
        return table
    try:
        return DockerKernel.from_dict(table).kernel_type()
    except LaunchError as error:
        return KernelProblem(
            str(table.get("name", "")),
            f"The labels of the image {table.get('image')!r} cannot be used: {error.cause}",
        )
