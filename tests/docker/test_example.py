"""The Dockerfile of the examples makes a kernel."""

from __future__ import annotations

import re
from pathlib import Path

import docker
from dockerds import LABEL, build_image
from kernel_mgmt import KernelFinder, run_kernel

_FILE = Path(__file__).parents[2] / "examples" / "docker" / "Dockerfile"


async def test_the_example_is_a_kernel(
    docker_client: docker.DockerClient, image: str, finder: KernelFinder, nothing_left: object
) -> None:
    """Its labels make an image a kernel type that can be launched."""
    # On the image that there is, which has ipykernel: a registry and an index are not.
    text = re.sub(r"FROM .*", f"FROM {image}", _FILE.read_text())
    text = re.sub(r"RUN .*", "", text)
    build_image(docker_client, f"{LABEL}-example", text)
    try:
        found = {kernel_type.id: kernel_type for kernel_type in finder.find_kernels()}
        assert found["docker/small"].display_name == "Small (Python 3.13)"
        assert found["docker/small"].language == "python"
        async with run_kernel("docker/small", finder=finder) as client:
            assert (await client.execute("6 * 7")).content["status"] == "ok"
    finally:
        docker_client.images.remove(f"{LABEL}-example")
