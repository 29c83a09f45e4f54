"""Pulling images, from a registry on loopback that is as slow as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound
from kernel_mgmt import KernelFinder, LaunchError, LaunchProgress
from kernel_mgmt_docker.images import _Layers
from registries import Registry
from waiting import eventually

Config = Callable[..., None]


@pytest.fixture
def registry(docker_client: docker.DockerClient) -> Iterator[Registry]:
    """A registry that serves an image of two layers, and stops in the middle of the second."""
    registry = Registry()
    yield registry
    registry.close()
    with contextlib.suppress(ImageNotFound):
        docker_client.api.remove_image(registry.image, force=True)


async def test_a_pull_tells_of_each_layer(
    config: Config,
    finder: KernelFinder,
    registry: Registry,
    docker_client: docker.DockerClient,
    nothing_left: object,
) -> None:
    """Progress names image and layers, and its fraction grows to 1; then the image is there."""
    config("k", image=registry.image)
    told: list[LaunchProgress] = []
    launch = asyncio.ensure_future(finder.launch("docker/k", on_progress=told.append))
    await eventually(registry.stuck.is_set, 20)
    await eventually(lambda: any(p.fraction for p in told), 20)
    registry.flowing.set()
    with pytest.raises(LaunchError, match="has no program 'python3'"):
        await launch
    pulled = [progress for progress in told if progress.phase == "pull"]
    assert all(registry.image in progress.message for progress in pulled)
    fractions = [progress.fraction for progress in pulled if progress.fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    layers = {p.message.split(": ")[1].split()[0] for p in pulled if "download" in p.message}
    assert len(layers) == 2
    assert docker_client.api.inspect_image(registry.image)["Config"]["Labels"]


async def test_a_pull_that_is_cancelled_ends_in_the_engine(
    config: Config,
    finder: KernelFinder,
    registry: Registry,
    docker_client: docker.DockerClient,
    nothing_left: object,
) -> None:
    """Also when the registry goes on, the engine never has the image, nor a container."""
    config("k", image=registry.image)
    launch = asyncio.ensure_future(finder.launch("docker/k"))
    await eventually(registry.stuck.is_set, 20)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    registry.flowing.set()
    with pytest.raises(AssertionError, match="was still false"):
        # A pull that goes on has ended much earlier.
        await eventually(lambda: docker_client.api.images(registry.image), 1.5, interval=0.1)


async def test_an_image_that_is_there_is_not_pulled_unless_it_always_is(
    config: Config,
    finder: KernelFinder,
    registry: Registry,
    docker_client: docker.DockerClient,
    nothing_left: object,
) -> None:
    """With pull = missing nobody asks the registry; with always its answer counts."""
    registry.flowing.set()
    await asyncio.to_thread(docker_client.api.pull, registry.image)
    registry.refusal = 404
    config("missing", image=registry.image)
    config("always", image=registry.image, pull="always")
    with pytest.raises(LaunchError, match="has no program"):
        await finder.launch("docker/missing")
    with pytest.raises(LaunchError) as caught:
        await finder.launch("docker/always")
    assert caught.value.phase == "pull"
    assert "There is no image" in caught.value.cause


async def test_a_registry_that_refuses_is_told_from_one_that_fails(
    config: Config, finder: KernelFinder, registry: Registry, nothing_left: object
) -> None:
    """Who must log in is told so."""
    config("k", image=registry.image)
    for status, reason in ((401, "does not give"), (500, "could not be pulled")):
        registry.refusal = status
        with pytest.raises(LaunchError) as caught:
            await finder.launch("docker/k")
        assert caught.value.phase == "pull"
        assert reason in caught.value.cause


def _event(status: str, layer: str = "", current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if total else {}
    return {"status": status, "id": layer, "progressDetail": detail}


def test_a_layer_is_half_done_when_it_was_downloaded() -> None:
    """Layers count by their size, and those of unknown size as the others on average."""
    layers = _Layers("x")
    assert layers.fraction is None
    layers.note(_event("Pulling from library/x", "latest"))
    for name in "abc":
        layers.note(_event("Pulling fs layer", name))
    assert layers.fraction is None
    layers.note(_event("Downloading", "a", 50, 100))
    layers.note(_event("Downloading", "b", 0, 300))
    # a: 100 bytes, a quarter done; b: 300; c: unknown, so 200.
    assert layers.fraction == pytest.approx(25 / 600)
    layers.note(_event("Download complete", "a"))
    assert layers.fraction == pytest.approx(50 / 600)
    layers.note(_event("Extracting", "a", 50, 100))
    assert layers.fraction == pytest.approx(75 / 600)
    for name in "abc":
        layers.note(_event("Pull complete", name))
    assert layers.fraction == 1.0


def test_progress_tells_more_than_bytes_apart() -> None:
    """A step of a layer is told at once, a few bytes more are not."""
    layers = _Layers("x")
    assert layers.note(_event("Downloading", "a", 1, 100))
    assert not layers.note(_event("Downloading", "a", 2, 100))
    assert layers.note(_event("Download complete", "a"))
    assert layers.line == "Pulling x: a download complete"
