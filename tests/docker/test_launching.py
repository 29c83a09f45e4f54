"""Launches that succeed, fail and are cancelled, against a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from contained import ECHO
from container_code import run
from docker.errors import DockerException
from dockerds import CORE, LABEL, build_image
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelClient,
    KernelFinder,
    KernelRestarter,
    LaunchError,
    LaunchProgress,
)
from kernel_mgmt.records import records_dir
from kernel_mgmt_docker.config import DockerKernel
from kernel_mgmt_docker.engine import Engine
from kernel_mgmt_docker.launching import _refusal
from waiting import eventually

Config = Callable[..., None]
Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_trace(nothing_left: Callable[[], list[str]]) -> Iterator[None]:
    """Whatever a launch came to: no container, record, directory or volume is left of it."""
    yield
    assert not list(records_dir().glob("kernel-*"))
    assert not list(Path(tempfile.gettempdir()).glob("km-*"))


async def _failure(finder: KernelFinder, name: str, **options: Any) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        await finder.launch(f"docker/{name}", **options)
    return caught.value


# -- that succeed ------------------------------------------------------------------------------


async def test_twenty_kernels_start_at_once(
    config: Config, finder: KernelFinder, image: str
) -> None:
    """Launches do not get in each other's way, and each kernel is a kernel of its own."""
    config("echo", image=image, argv=ECHO, memory="64m")
    launched = await asyncio.gather(*(finder.launch("docker/echo") for _ in range(20)))
    try:
        assert len({info.key for info, _ in launched}) == 20

        async def answers(info: Any, manager: Any) -> bool:
            client = KernelClient(info, manager=manager)
            with contextlib.closing(client):
                await client.wait_for_ready(60)
                return bool((await client.execute("x")).content["status"] == "ok")

        assert all(await asyncio.gather(*(answers(*one) for one in launched)))
    finally:
        await asyncio.gather(*(manager.cleanup() for _, manager in launched if manager))


async def test_progress_tells_each_step(config: Config, finder: KernelFinder, image: str) -> None:
    """Who waits is told that the engine is asked and that the container starts."""
    config("echo", image=image, argv=ECHO)
    told: list[LaunchProgress] = []
    _, manager = await finder.launch("docker/echo", on_progress=told.append)
    assert manager is not None
    await manager.cleanup()
    assert [progress.phase for progress in told] == ["resolve", "connect", "start"]


async def test_a_restarter_keeps_endpoints_and_key(
    config: Config, finder: KernelFinder, image: str
) -> None:
    """A kernel that died is started again where it was, and its client goes on."""
    config("k", image=image)
    info, manager = await finder.launch("docker/k")
    async with KernelRestarter(finder, "docker/k", manager, info) as restarter:
        client = KernelClient(info, manager=manager)
        restarter.follow(client)
        await client.wait_for_ready(30)
        await run(client, "x = 1")
        restarted = await restarter.restart()
        assert restarted.connection_info == info
        assert (await run(client, "'x' in globals()")).data[0]["text/plain"] == "False"
        await restarter.shutdown()
        client.close()


async def test_variables_directory_and_parameters_reach_the_kernel(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this process's environment the kernel sees nothing but what it was given."""
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MY_TOKEN", "not for kernels")
    options = {
        "env": {"A": "1", "B": None, "JPY_PARENT_PID": "1"},
        "cwd": "/tmp",
        "launch_params": {"memory": "1g"},
    }
    _, client = await start(options, env={"B": "2", "C": "3"})
    code = "import os; print(os.getcwd(), *(os.environ.get(n) for n in {!r}.split()))"
    names = "A B C JPY_PARENT_PID MY_TOKEN"
    assert (await run(client, code.format(names))).text == "/tmp 1 None 3 None None\n"


# -- that fail ---------------------------------------------------------------------------------


async def test_an_engine_that_is_down_is_told_from_one_that_refuses(
    config: Config, finder: KernelFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket, nobody behind it, and no permission for it are three errors."""
    config("k", image="x")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    error = await _failure(finder, "k")
    assert error.phase == "connect"
    assert "No container engine answers" in error.cause
    assert "No such file" in error.cause
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert "Connection refused" in (await _failure(finder, "k")).cause


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_no_permission_on_the_socket_is_an_error_of_its_own(
    config: Config, finder: KernelFinder, engine_host: str
) -> None:
    """Who may not use the engine is told so, and what to do."""
    config("k", image="x")
    finder.find_kernels()
    os.chmod(engine_host.removeprefix("unix://"), 0o660)
    os.seteuid(65534)
    try:
        with pytest.raises(Exception, match="may not use the container engine") as caught:
            await Engine.connect()
    finally:
        os.seteuid(0)
    assert getattr(caught.value, "kind", "") == "no-permission"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("nonsense://x", "cannot be used"),
        ("tcp://127.0.0.1:1", "No container engine answers"),
    ],
)
async def test_a_host_that_is_none_is_an_error(
    config: Config, finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, host: str, reason: str
) -> None:
    """DOCKER_HOST is told to be wrong, or to lead nowhere."""
    config("k", image="x")
    monkeypatch.setenv("DOCKER_HOST", host)
    error = await _failure(finder, "k")
    assert error.phase == "connect"
    assert reason in error.cause


async def test_a_context_that_does_not_exist_is_an_error(
    config: Config, finder: KernelFinder, engine_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DOCKER_CONTEXT is named in the error; the default engine is not taken in its place."""
    config("k", image="x")
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    assert "no docker context 'nowhere'" in (await _failure(finder, "k")).cause


async def test_an_image_that_must_not_be_pulled_is_an_error(
    config: Config, finder: KernelFinder, engine_host: str
) -> None:
    """With pull = never nobody is asked for an image that is not there."""
    config("k", image="kernel-mgmt-nowhere:1", pull="never")
    error = await _failure(finder, "k")
    assert error.phase == "pull"
    assert "must not be pulled" in error.cause


async def test_an_unreachable_registry_is_an_error(
    config: Config, finder: KernelFinder, engine_host: str
) -> None:
    """The registry's own words are in the error."""
    config("k", image="127.0.0.1:1/kernel:1")
    error = await _failure(finder, "k")
    assert error.phase == "pull"
    assert "could not be pulled" in error.cause
    assert "refused" in error.cause


async def test_a_name_that_is_none_of_an_image_is_an_error(
    config: Config, finder: KernelFinder, engine_host: str
) -> None:
    """It is told from an image that is not there."""
    config("k", image="UPPER/Case")
    error = await _failure(finder, "k")
    assert error.phase == "pull"
    assert "UPPER/Case" in error.cause


async def test_a_program_that_the_image_does_not_have_is_an_error(
    config: Config, finder: KernelFinder, image: str
) -> None:
    """The first word of argv is named."""
    config("k", image=image, argv=["no-such-kernel", "{connection_file}"])
    error = await _failure(finder, "k")
    assert error.phase == "start"
    assert "has no program 'no-such-kernel'" in error.cause
    assert "argv" in error.advice


@pytest.fixture(scope="session")
def bare_image(engine_host: str, image: str) -> str:
    """The name of an image without Python."""
    name = f"{LABEL}-bare:1"
    with contextlib.closing(docker.DockerClient(base_url=engine_host)) as client:
        build_image(client, name, "FROM scratch\nCOPY testing /nothing\n", CORE / "testing")
    return name


def test_an_engine_without_its_init_is_not_an_image_without_python() -> None:
    """Podman's comes in a package of its own, whose absence it tells in these words."""
    path = "/usr/libexec/podman/catatonit"
    said = f"container-init binary not found on the host: stat {path}: no such file or directory"
    problem = _refusal(DockerKernel("k", "x"), DockerException(said))
    assert said in str(problem)
    assert "catatonit" in problem.advice


async def test_an_image_without_python_is_an_error(
    config: Config, finder: KernelFinder, bare_image: str
) -> None:
    """What the image needs is said."""
    config("k", image=bare_image)
    error = await _failure(finder, "k")
    assert "has no program 'python3'" in error.cause
    assert "Python and ipykernel" in error.advice


async def test_an_image_without_ipykernel_is_an_error(
    config: Config, finder: KernelFinder, image: str, docker_client: docker.DockerClient
) -> None:
    """It is told from a kernel that failed."""
    config(
        "k",
        image=image,
        argv=["python3", "-S", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    )
    error = await _failure(finder, "k")
    assert "has Python, and no ipykernel" in error.cause
    assert "pip install ipykernel" in error.advice
    assert "No module named ipykernel_launcher" in error.log_tail


async def test_a_container_that_ends_at_once_shows_its_log(
    config: Config, finder: KernelFinder, image: str
) -> None:
    """Its exit code and what it wrote are in the error."""
    config("k", image=image, argv=[*ECHO, "--exit", "3", "--message", "I will not"])
    error = await _failure(finder, "k")
    assert error.exit_status == ExitStatus(code=3)
    assert error.log_tail == "I will not"
    assert "exit code 3" in error.cause


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"memory": "1k"}, "memory"),
        ({"cpus": 100000}, "CPUs"),
        ({"network": "no-such-network"}, "no-such-network"),
        ({"user": "nobody-knows"}, "nobody-knows"),
    ],
)
async def test_limits_and_names_that_the_engine_refuses_are_errors(
    config: Config, finder: KernelFinder, image: str, keys: dict[str, Any], reason: str
) -> None:
    """The engine's own words are in the error."""
    config("k", image=image, argv=ECHO, **keys)
    error = await _failure(finder, "k")
    assert reason in error.cause
    assert error.advice


async def test_a_mount_that_is_not_there_is_an_error(
    config: Config, finder: KernelFinder, image: str, tmp_path: Path
) -> None:
    """It is named before anything is made."""
    file = tmp_path / "docker_kernels.toml"
    config("k", image=image, argv=ECHO)
    file.write_text(
        file.read_text() + f'mounts = [{{ source = "{tmp_path}/none", target = "/data" }}]\n'
    )
    assert f"{tmp_path}/none" in (await _failure(finder, "k")).cause


# -- that are cancelled -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(6))
async def test_a_launch_that_is_cancelled_leaves_nothing(
    config: Config,
    finder: KernelFinder,
    image: str,
    nothing_left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    """Wherever it is cut short: no container, directory or record is there when it has ended."""
    config("slow", image=image, argv=[*ECHO, "--startup-delay", "60"])
    calls = 0
    reached = asyncio.Event()
    original = Engine.call

    async def counted(self: Engine, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > steps:
            reached.set()
        return await original(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "call", counted)
    launch = asyncio.ensure_future(finder.launch("docker/slow"))
    if steps < 5:
        async with asyncio.timeout(30):
            await reached.wait()
    else:
        await eventually(lambda: any("Up" in line for line in nothing_left()), 30)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    assert not nothing_left()


async def test_a_timeout_of_the_launch_leaves_nothing(
    config: Config, finder: KernelFinder, image: str, nothing_left: Callable[[], list[str]]
) -> None:
    """A kernel that never listens is given up with all that was made for it."""
    config("slow", image=image, argv=[*ECHO, "--startup-delay", "60"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await finder.launch("docker/slow")
    assert not nothing_left()


async def test_jupyters_own_tools_find_the_kernel(
    config: Config, finder: KernelFinder, image: str
) -> None:
    """Its connection file is where they look, for its user alone, and goes with the kernel."""
    config("echo", image=image, argv=ECHO)
    info, manager = await finder.launch("docker/echo", kernel_id="mine")
    assert manager is not None
    file = Path(os.environ["JUPYTER_RUNTIME_DIR"], "kernel-mine.json")
    try:
        assert ConnectionInfo.read(file) == info
        assert file.stat().st_mode & 0o777 == 0o600
        with pytest.raises(LaunchError, match="a kernel with the id 'mine' already"):
            await finder.launch("docker/echo", kernel_id="mine")
        assert await manager.is_alive()
        assert file.exists()
    finally:
        await manager.cleanup()
    assert not file.exists()
