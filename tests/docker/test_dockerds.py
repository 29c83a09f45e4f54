"""The tests' own engine and image."""

from __future__ import annotations

import docker
from dockerds import LABEL


def test_the_image_has_python_ipykernel_and_the_echo_kernel(
    docker_client: docker.DockerClient, image: str
) -> None:
    """A container of the image, as closed as can be, imports what kernels need."""
    code = "import ipykernel, zmq, ssl, sqlite3, kernel_mgmt.testing.echo_kernel; print('there')"
    output = docker_client.containers.run(
        image,
        ["python3", "-c", code],
        remove=True,
        network_mode="none",
        read_only=True,
        user="10001:10001",
        cap_drop=["ALL"],
        labels={LABEL: "1"},
    )
    assert output == b"there\n"
