"""``kernel-mgmt ssh discover``: what a real server's host could run, and how it gets into a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Run
from kernel_mgmt_ssh.config import SshKernel, read_config
from sshds import Sshd


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    """A host with two kernelspecs, of which one is no good."""
    with_search_path = {"PATH": "/usr/bin:/bin"}
    sshd = Sshd("far", environment=with_search_path)
    try:
        specs = sshd.home / "data" / "kernels"
        (specs / "calc").mkdir(parents=True)
        content = {
            "argv": [sys.executable, "-m", "calc", "{connection_file}"],
            "display_name": "Calc",
            "language": "calc",
        }
        (specs / "calc" / "kernel.json").write_text(json.dumps(content))
        (specs / "bad").mkdir()
        (specs / "bad" / "kernel.json").write_text("{")
        yield sshd
    finally:
        sshd.close()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own file, which is not there yet."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    return tmp_path / "ssh_kernels.toml"


def test_what_a_host_could_run_is_listed(run: Run, host: Sshd, config: Path) -> None:
    """Kernels are shown with the names that they would get, problems as warnings."""
    result = run("ssh", "discover", "far", "--ssh-config", host.config)
    assert result.returncode == 0, result.stderr
    assert ["far-calc", "kernelspec", "Calc"] in [
        line.split() for line in result.stdout.splitlines()
    ]
    assert "warning:" in result.stderr
    assert str(host.home / "data" / "kernels" / "bad") in result.stderr
    assert not config.exists()


def test_as_json_all_is_told(run: Run, host: Sshd) -> None:
    """``--json`` prints what the host told."""
    result = run("ssh", "discover", "far", "--ssh-config", host.config, "--json")
    kernels = {kernel["name"]: kernel for kernel in json.loads(result.stdout)}
    assert kernels["far-calc"]["kernelspec"] == "calc"
    assert kernels["far-calc"]["language"] == "calc"


def test_chosen_kernels_are_added(run: Run, host: Sshd, config: Path) -> None:
    """``--add`` writes the chosen kernels to the user's file, and leaves those that are there."""
    command = ("ssh", "discover", "far", "--ssh-config", host.config, "--add", "--name", "far-calc")
    result = run(*command)
    assert (result.returncode, result.stdout) == (0, "ssh/far-calc\n"), result.stderr
    assert str(config) in result.stderr
    before = config.read_text()
    (kernel,) = read_config()
    assert kernel == SshKernel(
        "far-calc",
        "far",
        kernelspec="calc",
        language="calc",
        display_name="Calc on far",
        transport="tcp",
        ssh_config=str(host.config),
    )
    again = run(*command)
    assert (again.returncode, again.stdout) == (0, "")
    assert "far-calc is left out" in again.stderr
    assert config.read_text() == before
    assert "ssh/far-calc" in run("list").stdout


def test_a_name_that_is_not_there_is_refused(run: Run, host: Sshd, config: Path) -> None:
    """The error names what there is, and nothing is written."""
    result = run("ssh", "discover", "far", "--ssh-config", host.config, "--add", "--name", "far-r")
    assert result.returncode == 2
    assert "far has no far-r; it has far-calc" in result.stderr
    assert not config.exists()


def test_a_host_that_cannot_be_reached_is_told(run: Run, tmp_path: Path) -> None:
    """What goes wrong on the way is one sentence and an exit code, without a traceback."""
    config = tmp_path / "config"
    config.write_text("Host far\n  HostName 127.0.0.1\n  Port 1\n")
    result = run("ssh", "discover", "far", "--ssh-config", config)
    assert result.returncode == 125
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
