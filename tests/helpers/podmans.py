"""A real Podman that serves Docker's API, and the tests' image in it.

What it writes is in :func:`dockerds.cache`, apart from what other users of Podman on this machine have.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dockerds import LABEL, alone, answers, base_hash, cache, installed, root_tar, run_detached
from waiting import eventually_sync

__all__ = ["podman_service"]

#: How long the service may take to start or to end, in seconds.
_PATIENCE = 30.0

#: No limits of its own: who may not raise them, as within a container, could start nothing.
_CONFIGURATION = "[containers]\ndefault_ulimits = []\n"


@functools.cache
def _install() -> str:
    """Give the path of Podman, installed before where it can be; else the test is skipped."""
    path = installed("podman", "podman", "catatonit", "runc", "procps")
    if path is None or os.geteuid() != 0:
        pytest.skip("there is no Podman on this machine, or it would not be root's")
    # Podman does not need these two, but kernels do.
    for program in ("catatonit", "runc"):
        if installed(program, program) is None:
            pytest.skip(f"Podman has no {program} on this machine")
    return path


@contextlib.contextmanager
def podman_service() -> Iterator[tuple[str, str]]:
    """Run the service while a block does, for one process of this machine at a time.

    Yields:
        Its address, for DOCKER_HOST, and the name of an image with Python and ipykernel.
    """
    podman, directory = _install(), cache() / "podman"
    with alone("image"):
        archive = root_tar()
    with alone("podman"):
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / "containers.conf").write_text(_CONFIGURATION)
        command = _command(podman, directory)
        image = f"localhost/{LABEL}-podman:{base_hash()}"
        _provide_image(command, image, archive)
        host = f"unix://{directory / 'podman.sock'}"
        pid = run_detached([*command, "system", "service", "--time=0", host], directory)
        try:
            eventually_sync(lambda: answers(host), _PATIENCE)
            yield host, image
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                process.terminate()
                process.wait(_PATIENCE)
            _end_helpers(directory)


def _end_helpers(directory: Path) -> None:
    """End what Podman leaves of each program that ran beside a kernel, for five minutes more."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "conmon" and any(
                str(directory) in word for word in process.cmdline()
            ):
                process.kill()


def _command(podman: str, directory: Path) -> list[str]:
    overlay = "overlay" in Path("/proc/filesystems").read_text()
    return [
        *("env", f"CONTAINERS_CONF={directory / 'containers.conf'}", podman),
        *("--root", str(directory / "data"), "--runroot", str(directory / "run")),
        *("--tmpdir", str(directory / "tmp"), "--events-backend", "file"),
        # Also where neither systemd nor cgroups v2 are.
        *("--cgroup-manager", "cgroupfs", "--runtime", "runc"),
        *("--storage-driver", "overlay" if overlay else "vfs"),
    ]


def _provide_image(command: list[str], image: str, archive: Path) -> None:
    there = subprocess.run([*command, "image", "exists", image], capture_output=True, check=False)
    if there.returncode != 0:
        change = ("--change", "ENV LANG=C.UTF-8", "--change", f"LABEL {LABEL}=1")
        made = subprocess.run(
            [*command, "import", *change, archive, image], capture_output=True, check=False
        )
        assert made.returncode == 0, made.stderr
