"""What a table asks for and cannot be had: a distinct error each, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import KernelFinder, LaunchError

Config = Callable[..., None]


@pytest.mark.parametrize(
    ("keys", "phase", "words"),
    [
        ({"memory": "1m"}, "start", "memory limit"),
        ({"cpus": 100000}, "start", "CPUs"),
        ({"network": "no-such-network"}, "start", "no-such-network"),
        ({"gpus": "all"}, "start", "gpu"),
        ({"user": "nobody-there"}, "start", "nobody-there"),
        ({"cwd": "/etc/passwd"}, "start", "/etc/passwd"),
        ({"connect": "tcp"}, "resolve", "without a network has no ports"),
    ],
)
async def test_what_the_engine_refuses_is_told(
    config: Config,
    finder: KernelFinder,
    nothing_left: object,
    image: str,
    keys: dict[str, Any],
    phase: str,
    words: str,
) -> None:
    """The error names the limit or whatever it is, in one sentence, with what to do."""
    config("x", image=image, **keys)
    with pytest.raises(LaunchError) as caught:
        await finder.launch("docker/x")
    assert words in str(caught.value)
    assert caught.value.phase == phase
    assert caught.value.advice
    assert "\n" not in caught.value.cause


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("{ source = '/no/such/thing', target = '/x' }", "'/no/such/thing' does not exist"),
        ("{ source = '/run/docker.sock', target = '/x' }", "is refused: it holds the engine's"),
        ("{ source = '/etc/passwd', target = '/etc' }", "mount"),
        ("{ source = '/etc', target = '/no-such-place/x' }", ""),
    ],
)
async def test_a_bad_mount_is_told(
    tmp_path: Path,
    config: Config,
    finder: KernelFinder,
    nothing_left: object,
    image: str,
    mount: str,
    words: str,
) -> None:
    """One that is not there, that leads out, or that cannot be made."""
    config("x", image=image)
    with (tmp_path / "docker_kernels.toml").open("a") as file:
        file.write(f"mounts = [{mount}]\n")
    if not words:  # the engine makes the place that it mounts at
        _, manager = await finder.launch("docker/x")
        async with manager:
            return
    with pytest.raises(LaunchError) as caught:
        await finder.launch("docker/x")
    assert words in str(caught.value)
    assert caught.value.advice


def test_a_mistake_in_the_file_is_a_problem_of_the_finder(
    config: Config, finder: KernelFinder, engine_host: str
) -> None:
    """An unknown key and a wrong type are told with their line, and cost their table alone."""
    config("good", image="x")
    config("unknown", image="x", privilged=True)
    config("wrong", image="x", pids="many")
    config("privileged", image="x", privileged=True)
    names = {kernel_type.name for kernel_type in finder.find_kernels()}
    assert "good" in names
    assert not names & {"unknown", "wrong", "privileged"}
    told = " ".join(str(problem) for problem in finder.problems)
    assert "docker_kernels.toml', line 6: 'privilged' is not known" in told
    assert "docker_kernels.toml', line 10: pids must be a whole number" in told
    assert "line 14: 'privileged' is refused: a privileged container has all rights" in told


async def test_a_launch_may_narrow_and_not_widen(
    config: Config, finder: KernelFinder, nothing_left: object, image: str
) -> None:
    """Fewer rights are taken at their word; more are refused unless the file lets them."""
    config("x", image=image, memory="256m", allow=["pids"])
    parameters = {"memory": "128m", "pids": 1000}
    _, manager = await finder.launch("docker/x", launch_params=parameters)
    async with manager:
        used = await manager.usage()  # type: ignore[union-attr]
        assert used["memory_limit"] == 128 * 2**20
        assert used["pids_limit"] == 1000
    with pytest.raises(LaunchError, match="may not set memory"):
        await finder.launch("docker/x", launch_params={"memory": "1g"})
