"""Kernels in containers at the command line, as a new user of the provider ``docker`` goes about it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from command_line import COMMAND
from dockerds import SharedEngine, provide_image
from kernel_mgmt_docker.containers import LABEL_ID


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image of an engine that is DOCKER_HOST meanwhile; no container of it is left at the end."""
    engine = SharedEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.host)
        yield provide_image(engine.host)
    engine.close()


@pytest.fixture
def box(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a kernel type of this image that its user has named."""
    config = tmp_path / "config"
    config.mkdir()
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(config))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    table = f'[kernels.box]\nimage = "{image}"\nlanguage = "python"\nmemory = "256m"\n'
    (config / "docker_kernels.toml").write_text(table)
    return "docker/box"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, where there is no terminal."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shown(*arguments: object) -> str:
    """Give what a command prints that ends well."""
    result = run(*arguments)
    assert result.returncode == 0, result
    return result.stdout


def containers_of(kernel_id: str) -> list[str]:
    """Give the ids of the containers of a kernel."""
    label = {"label": f"{LABEL_ID}={kernel_id}"}
    with contextlib.closing(docker.DockerClient(base_url=os.environ["DOCKER_HOST"])) as client:
        return [container.id for container in client.containers.list(all=True, filters=label)]


def test_one_run(box: str) -> None:
    """A type of the user's file is listed, and runs code where there is no network."""
    assert box in shown("list")
    code = "import os; print(os.getuid() != 0, os.listdir('/sys/class/net'))"
    assert shown("run", box, "-c", code) == "True ['lo']\n"


def test_a_kernel_that_runs_on(box: str) -> None:
    """It is seen, keeps its variables, is started again, and leaves nothing when it is stopped."""
    kernel_id = shown("start", box, "--name", "boxed").strip()
    try:
        (known,) = json.loads(shown("ps", "--json"))
        assert (known["name"], known["state"]) == ("boxed", "idle")
        (first,) = containers_of(kernel_id)
        assert shown("run", "--on", "boxed", "-c", "n = 41") == ""
        assert "42" in shown("run", "--on", kernel_id[:6], "-c", "print(n + 1)")
        assert "--existing" in shown("logs", "boxed")
        shown("interrupt", "boxed")
        shown("restart", "boxed")
        (second,) = containers_of(kernel_id)
        assert second != first
    finally:
        stopped = shown("stop", "boxed")
    assert stopped == f"stopped {kernel_id} (boxed)\n"
    assert containers_of(kernel_id) == []
    assert json.loads(shown("ps", "--json")) == []


def test_a_kernel_that_runs_on_without_a_nanny(box: str) -> None:
    """Its container alone keeps it, as far as a container can."""
    kernel_id = shown("start", box, "--name", "boxed", "--param", "journal=false").strip()
    try:
        (known,) = json.loads(shown("ps", "--json"))
        assert (known["state"], known["nanny_pid"]) == ("running", None)
        assert "has no nanny" in run("restart", "boxed").stderr
    finally:
        shown("stop", "boxed")
    assert containers_of(kernel_id) == []


def test_mistakes(box: str) -> None:
    """A program that the image has not, and a key that is unknown, are told in one sentence."""
    file = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "docker_kernels.toml"
    with file.open("a") as stream:
        stream.write(
            file.read_text().replace("kernels.box", "kernels.none")
            + 'argv = ["nothing", "{connection_file}"]\n'
        )
        stream.write('[kernels.odd]\nimage = "x"\nmemmory = 1\n')
    failed = run("run", "docker/none", "-c", "1")
    assert failed.returncode == 125
    assert "nothing" in failed.stderr
    assert "memmory" in run("providers").stdout
