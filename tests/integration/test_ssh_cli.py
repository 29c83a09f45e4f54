"""Kernels of a real SSH server at the command line, as a new user of the provider ``ssh`` goes about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import COMMAND
from kernel_mgmt import ConnectionInfo, KernelRecord
from kernel_mgmt.records import write_record
from kernel_mgmt_ssh.config import SshKernel, add_kernels
from pseudo_terminal import PseudoTerminal
from sshds import Sshd, new_key
from waiting import eventually_sync

#: How the columns of a table are told apart.
_GAP = re.compile(r"\s{2,}")


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    """A host whose user has an environment with ipykernel, in the usual place."""
    sshd = Sshd("gpu1", environment={"PATH": "/usr/bin:/bin"})
    try:
        (sshd.home / ".venv").symlink_to(sys.prefix, target_is_directory=True)
        yield sshd
    finally:
        sshd.close()


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which a new user's kernels will be; nothing is there yet."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "config" / "ssh_kernels.toml"


@pytest.fixture
def kernel(host: Sshd, user: Path) -> str:
    """The id of a kernel type on the host that its user has named."""
    argv = ("~/.venv/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
    add_kernels([SshKernel("gpu", "gpu1", argv=argv, ssh_config=str(host.config))], user)
    return "ssh/gpu"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, where there is no terminal."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )


def shown(*arguments: object) -> str:
    """Give what a command prints that ends well, and complains of nothing."""
    result = run(*arguments)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def rows(table: str) -> list[list[str]]:
    """Give the cells of a table below its header."""
    return [_GAP.split(line.strip()) for line in table.splitlines()[1:]]


def test_from_discovery_to_a_run(host: Sshd, user: Path) -> None:
    """What a host could run is listed, added, listed among all types, and runs."""
    command = ("ssh", "discover", "gpu1", "--ssh-config", host.config)
    found = {name: origin for name, origin, _ in rows(shown(*command))}
    assert found["gpu1-python3"] == "kernelspec"
    added = run(*command, "--add", "--name", "gpu1-python3")
    assert (added.returncode, added.stdout) == (0, "ssh/gpu1-python3\n")
    assert added.stderr == f"hint: they are in {user}\n"
    assert ["ssh/gpu1-python3", "python", "Python 3 (ipykernel) on gpu1"] in rows(shown("list"))
    code = "import os; print(os.environ['HOME'])"
    assert shown("run", "ssh/gpu1-python3", "-c", code) == f"{host.home}\n"


def test_a_kernel_that_runs_on(kernel: str) -> None:
    """It is started, keeps its variables from command to command, is restarted, and stopped."""
    kernel_id = shown("start", kernel, "--name", "train").strip()
    try:
        (row,) = rows(shown("ps"))
        assert row == [kernel_id[:8], "train", kernel, "remote (gpu1)"]
        (known,) = json.loads(shown("ps", "--json"))
        assert (known["state"], known["host"]) == ("remote", "gpu1")
        assert shown("run", "--on", "train", "-c", "n = 41") == ""
        code = "import os; os.write(2, b'from the process\\n'); print(n + 1)"
        assert "42" in run("run", "--on", kernel_id[:6], "-c", code).stdout
        assert "from the process" in shown("logs", "train")
        attached = shown("attach", "train")
        assert attached.startswith("In [1]: ")
        assert "remote (gpu1)" in attached
        notebook = json.loads(shown("export", "train", "-o", "-"))
        assert [cell["source"] for cell in notebook["cells"]] == [["n = 41"], [code]]
        assert "42" in str(notebook["cells"][1]["outputs"])
        _interrupt_a_long_cell()
        assert shown("restart", "train") == ""
        assert "NameError" in run("run", "--on", "train", "-c", "n").stderr
    finally:
        stopped = shown("stop", "train")
    assert stopped == f"stopped {kernel_id} (train)\n"


def _interrupt_a_long_cell() -> None:
    code = "import time; print('now', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [*COMMAND, "run", "--on", "train", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "now\n"
        assert shown("interrupt", "train") == ""
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "KeyboardInterrupt" in errors


def test_an_unknown_host_key_is_accepted_by_hand(host: Sshd, user: Path, tmp_path: Path) -> None:
    """The error tells fingerprint and command; when that has run, all works, and not before."""
    known_hosts = tmp_path / "known hosts"
    config = tmp_path / "ssh_config"
    config.write_text(host.configuration(UserKnownHostsFile=f'"{known_hosts}"'))
    command = ("ssh", "discover", "gpu1", "--ssh-config", config)
    for _ in range(2):
        refused = run(*command)
        assert (refused.returncode, refused.stdout) == (125, "")
        assert not known_hosts.exists()
    asked = ["ssh-keygen", "-l", "-f", f"{host.host_key}.pub"]
    fingerprint = subprocess.check_output(asked, text=True).split()[1]
    assert fingerprint in refused.stderr
    accept = re.search(r"accept this key with `(.*)`\.$", refused.stderr, re.MULTILINE)
    assert accept is not None, refused.stderr
    subprocess.run(["sh", "-c", accept[1]], check=True, timeout=10)
    assert rows(shown(*command))
    assert not user.exists()


def test_a_passphrase_is_asked(kernel: str, host: Sshd, tmp_path: Path, user: Path) -> None:
    """At a terminal it is asked for, and Ctrl-C ends that; without one the error says what to do."""
    key = new_key(tmp_path / "key", "sesame")
    with host.authorized_keys.open("a") as file:
        file.write(Path(f"{key}.pub").read_text())
    config = tmp_path / "ssh_config"
    config.write_text(host.configuration(IdentityFile=str(key)))
    user.write_text(user.read_text().replace(str(host.config), str(config)))
    discover = ("ssh", "discover", "gpu1", "--ssh-config", str(config))
    for command in (("run", kernel, "-c", "print(6 * 7)"), discover):
        silent = run(*command)
        assert silent.returncode == 125
        assert "Passphrase" in silent.stderr
        assert "terminal" in silent.stderr
        with PseudoTerminal([*COMMAND, *command]) as terminal:
            terminal.expect("Passphrase for key .*key")
            eventually_sync(lambda: not terminal.echoes(), 10)
            terminal.send("sesame\n")
            terminal.expect("gpu1-python3" if command == discover else "42")
            assert terminal.wait() == 0
            assert "sesame" not in terminal.output
    with PseudoTerminal([*COMMAND, *discover]) as terminal:
        terminal.expect("Passphrase")
        eventually_sync(lambda: not terminal.echoes(), 10)
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert "error" not in terminal.output


def test_a_host_that_is_away(user: Path, tmp_path: Path) -> None:
    """No command says that a launch failed when none was tried, and the kernel stays listed."""
    nowhere = tmp_path / "ssh_config"
    nowhere.write_text("Host gpu1\n  HostName 127.0.0.1\n  Port 1\n")
    manager = {"host": "gpu1", "ssh": {"host": "gpu1", "ssh_config": str(nowhere)}}
    info = ConnectionInfo.for_tcp()
    record = KernelRecord("far-away", "ssh/gpu", info, manager, name="far")
    write_record(user.parents[1] / "data" / "kernel-mgmt", record)
    for command in (("stop", "far"), ("run", "--on", "far", "-c", "1")):
        result = run(*command)
        assert (result.returncode, result.stdout) == (125, "")
        assert "is not reached. There is no connection to 127.0.0.1, port 1" in result.stderr
        assert "Launch" not in result.stderr
    assert rows(shown("ps")) == [["far-away", "far", "ssh/gpu", "remote (gpu1)"]]
    assert "left alone is what other machines run: far-away (far)." in run("stop", "--all").stderr
