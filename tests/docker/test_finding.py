"""Which kernels are listed, with an engine and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kernel_mgmt import KernelFinder

Config = Callable[..., None]


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no engine be found."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("kernel_mgmt_docker.engine._DOCKER_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setattr("kernel_mgmt_docker.engine._sockets", list)


def test_no_engine_is_missed_where_nothing_says_that_there_is_one(
    no_engine: None, finder: KernelFinder
) -> None:
    """Who has the provider installed and no engine sees no warning."""
    assert finder.find_kernels() == []
    assert not finder.problems


def test_an_engine_that_is_down_costs_a_problem_and_not_the_list(
    no_engine: None, config: Config, finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of the configuration are listed all the same."""
    config("x", image="x")
    assert [kernel_type.id for kernel_type in finder.find_kernels()] == ["docker/x"]
    (problem,) = finder.problems
    assert "No container engine answers at" in str(problem)


def test_an_engine_that_is_named_is_missed(
    no_engine: None, finder: KernelFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DOCKER_HOST says that there is one."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/d.sock")
    assert finder.find_kernels() == []
    (problem,) = finder.problems
    assert f"unix://{tmp_path}/d.sock" in str(problem)


def test_an_engine_over_a_network_is_not_asked(
    no_engine: None, finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To list kernels must not touch the network."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    assert finder.find_kernels() == []
    assert not finder.problems
