"""What the tests of the provider `docker` share: an engine, an image, kernels, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import kernel_mgmt_docker
import pytest
from docker.errors import APIError
from dockerds import LABEL, SharedEngine, provide_image
from kernel_mgmt import KernelClient, KernelFinder
from kernel_mgmt_docker.containers import LABEL_OWNER
from kernel_mgmt_docker.manager import DockerKernelManager

Start = Callable[..., Awaitable[tuple[DockerKernelManager, KernelClient]]]


@pytest.fixture(scope="session")
def engine_host() -> Iterator[str]:
    """The address of a running engine, which is DOCKER_HOST, too."""
    engine = SharedEngine()
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = engine.host
    yield engine.host
    if before is None:
        del os.environ["DOCKER_HOST"]
    else:
        os.environ["DOCKER_HOST"] = before
    engine.close()


@pytest.fixture(scope="session")
def image(engine_host: str) -> str:
    """The name of an image with Python, ipykernel, the echo kernel and a few programs."""
    return provide_image(engine_host)


@pytest.fixture
def docker_client(engine_host: str) -> Iterator[docker.DockerClient]:
    """A client of the engine, for tests that look or make something themselves."""
    with contextlib.closing(docker.DockerClient(base_url=engine_host)) as client:
        yield client


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a table of docker_kernels.toml: its name, and its keys."""
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    file = tmp_path / "docker_kernels.toml"

    def write(name: str, **keys: Any) -> None:
        lines = [f"{key} = {_toml(value)}\n" for key, value in keys.items()]
        with file.open("a") as stream:
            stream.write(f"[kernels.{name}]\n{''.join(lines)}\n")

    return write


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # Of strings, numbers and flags TOML has the form that JSON has.
    return json.dumps(value)


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `docker` alone."""
    return KernelFinder({"docker": kernel_mgmt_docker})


@pytest.fixture
def nothing_left(
    docker_client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """Gives what this test's kernels have left in the engine; at its end that must be nothing."""
    # The engine has other tests' containers, too; this one's are told by their owner.
    me = f"{LABEL}-{tmp_path.name}-{os.getpid()}"
    monkeypatch.setattr("kernel_mgmt_docker.containers.owner", lambda: me)

    def left() -> list[str]:
        found = docker_client.api.containers(all=True, filters={"label": f"{LABEL_OWNER}={me}"})
        return [f"{entry['Names']} {entry['Status']}" for entry in found]

    yield left
    remaining = left()
    for container in docker_client.api.containers(
        all=True, filters={"label": f"{LABEL_OWNER}={me}"}
    ):
        with contextlib.suppress(APIError):
            docker_client.api.remove_container(container["Id"], force=True, v=True)
    assert not remaining


@pytest.fixture
async def start(
    nothing_left: object,
    config: Callable[..., None],
    finder: KernelFinder,
    image: str,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Start]:
    """Starts a kernel of the image with some keys of the configuration, and gives it ready."""
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def start_one(
            launch_options: dict[str, Any] | None = None, **keys: Any
        ) -> tuple[DockerKernelManager, KernelClient]:
            nonlocal count
            count += 1
            config(f"k{count}", **{"image": image, **keys})
            info, manager = await finder.launch(f"docker/k{count}", **(launch_options or {}))
            assert isinstance(manager, DockerKernelManager)
            await stack.enter_async_context(manager)
            client = KernelClient(info, manager=manager)
            stack.callback(client.close)
            await client.wait_for_ready(30)
            return manager, client

        yield start_one
