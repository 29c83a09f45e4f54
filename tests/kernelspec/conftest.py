"""What the tests of the provider `spec` share: kernelspecs that they write themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernel_mgmt_kernelspec
import pytest
from kernel_mgmt import KernelFinder

WriteSpec = Callable[..., Path]


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first directory of Jupyter's search path, empty."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "first"))
    directory = tmp_path / "first" / "kernels"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def write_spec(kernels: Path) -> WriteSpec:
    """Writes a kernelspec: its name, its argv, and further fields of kernel.json."""

    def write(name: str, argv: list[str], parent: Path = kernels, **fields: Any) -> Path:
        directory = parent / name
        directory.mkdir(parents=True)
        (directory / "kernel.json").write_text(json.dumps({"argv": argv, **fields}))
        return directory

    return write


@pytest.fixture
def finder(kernels: Path) -> KernelFinder:
    """A finder that has the provider `spec` alone."""
    return KernelFinder({"spec": kernel_mgmt_kernelspec})
