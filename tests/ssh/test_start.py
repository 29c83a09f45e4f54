"""How the agent is started: by any login shell, with the first Python that will do."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from agents import RunningAgent
from hypothesis import given
from hypothesis import strategies as st
from interpreters import pythons, pythons_3_9
from kernel_mgmt_ssh.remote import agent_source, start_command
from sshds import Sshd, install_shells

SHELLS = ("sh", "bash", "dash", "fish", "tcsh")


@pytest.fixture(scope="module")
def shells() -> None:
    """The login shells that tests need are there."""
    install_shells()


def shell_of(name: str) -> tuple[str, str]:
    """Give the command by which sshd has a login shell run something."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} on this machine, and it cannot be installed")
    return path, "-c"


def link(directory: Path, name: str) -> str:
    """Make a Python of an unusual name."""
    path = directory / name
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.usefixtures("shells")
def test_any_login_shell_starts_the_agent(name: str, tmp_path: Path) -> None:
    """The agent starts under each kind of shell, whatever the Python's path is made of."""
    python = link(tmp_path, 'it\'s "a" $HOME `py\\thon`! 100% \N{SNOWMAN}')
    with RunningAgent(["no-such-python", python], shell=shell_of(name)) as agent:
        assert agent.ask("ping") == {}
    assert agent.errors == b""


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.usefixtures("shells")
def test_any_login_shell_tells_that_there_is_no_python(name: str) -> None:
    """Under each kind of shell it is told that none of the Pythons is there."""
    pythons_there = ["no-such-python", "/no/such/python", "~/no-such/python"]
    with RunningAgent(pythons_there, shell=shell_of(name), expect="no-python") as agent:
        assert agent.line == "no-python"


def test_what_shells_print_is_passed_over(tmp_path: Path) -> None:
    """A shell's own file may write what it likes, also half a line and what looks like ours."""
    script = tmp_path / "shell"
    script.write_text("#!/bin/sh\necho 'Welcome abc123 ok'; printf 'half'\nexec /bin/sh \"$@\"\n")
    script.chmod(0o755)
    with RunningAgent(shell=(str(script), "-c")) as agent:
        assert agent.greeting == b"Welcome abc123 ok\nhalf"
        assert agent.ask("ping") == {}


def test_a_path_below_home_is_found(tmp_path: Path) -> None:
    """``~/`` is the home directory of whoever logs in."""
    (tmp_path / "my env").mkdir()
    link(tmp_path / "my env", "python")
    with RunningAgent(["~/my env/python"], env={"HOME": str(tmp_path)}) as agent:
        assert agent.hello["home"] == str(tmp_path)


def test_an_old_python_is_told_of_and_passed_over() -> None:
    """A Python that is too old is not taken, and named when there is no other."""
    old = pythons(3, 6) or pythons(3, 7) or pythons(3, 8)
    if not old:
        # What one looks like to the shell.
        old = [shutil.which("false") or "false"]
        with RunningAgent([*old, sys.executable]) as agent:
            assert agent.ask("ping") == {}
        return
    with RunningAgent(old[:1], expect="old-python") as agent:
        _, version, path = agent.line.split()
        assert version.startswith("3.")
        assert path == old[0]
    with RunningAgent([old[0], sys.executable]) as agent:
        assert agent.ask("ping") == {}


def test_a_python_that_does_not_work_is_passed_over(tmp_path: Path) -> None:
    """A stub or shim that ends with an error does not keep the next Python from being tried."""
    stub = tmp_path / "python3"
    stub.write_text("#!/bin/sh\necho 'install it first' >&2\nexit 1\n")
    stub.chmod(0o755)
    with RunningAgent([str(stub), sys.executable]) as agent:
        assert agent.ask("ping") == {}


def test_the_oldest_python_runs_the_agent() -> None:
    """The agent runs with Python 3.9."""
    old = pythons_3_9()
    if not old:
        pytest.skip("there is no Python 3.9")
    with RunningAgent(old[:1]) as agent:
        assert agent.hello["python"].startswith("3.9.")
        assert "kernels" in agent.ask("discover")


def test_modules_of_the_user_take_no_part(tmp_path: Path) -> None:
    """Files in the home directory and PYTHONPATH do not take the place of the agent's modules."""
    for name in ("json.py", "struct.py", "selectors.py"):
        (tmp_path / name).write_text("raise SystemExit('taken')\n")
    command = ["/bin/sh", "-c", f"cd '{tmp_path}' && {start_command([sys.executable], 'abc123')}"]
    with RunningAgent(command=command, env={"PYTHONPATH": str(tmp_path)}) as agent:
        assert agent.ask("ping") == {}


def test_nothing_of_the_agent_is_on_the_disk(tmp_path: Path) -> None:
    """While the agent runs, home and temporary directory stay empty."""
    home, temporary = tmp_path / "home", tmp_path / "t"
    home.mkdir()
    temporary.mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(temporary)}
    with RunningAgent(env=environment) as agent:
        agent.put_archive()
        assert [*home.iterdir(), *temporary.iterdir()] == []


@pytest.mark.parametrize("token", ["", "a b", "a'b", "a\n", "$x"])
def test_a_token_of_other_characters_is_refused(token: str) -> None:
    """A token that a shell would mind is none."""
    with pytest.raises(ValueError, match="letters and digits"):
        start_command(["python3"], token)


def test_a_python_with_control_characters_is_refused() -> None:
    """A path with a line feed cannot be a Python's."""
    with pytest.raises(ValueError, match="control characters"):
        start_command(["a\nb"], "abc")


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1), max_size=5))
def test_the_command_holds_nothing_that_any_shell_minds(paths: list[str]) -> None:
    """Whatever the Pythons are called, inside of the quotes there is nothing special to any shell."""
    command = start_command(paths, "abc")
    start = "exec /bin/sh -c '"
    assert command.startswith(start)
    assert command.endswith("'")
    inner = command[len(start) : -1]
    assert not set("'!\n\r") & set(inner)
    assert "\\\\" not in inner
    inner.encode("ascii")


def test_the_source_says_its_length() -> None:
    """What is written first is a length and a program of that length."""
    length, _, program = agent_source().partition(b"\n")
    assert int(length) == len(program)
    compile(program, "agent", "exec")


def through_ssh(sshd: Sshd) -> list[str]:
    """Give the command that starts the agent by way of the ssh program."""
    start = start_command([sys.executable], "abc123")
    return ["ssh", "-F", str(sshd.config), sshd.name, start]


def test_a_real_server_starts_it() -> None:
    """The ssh program starts the agent on a real server, whatever the login shell's file prints."""
    sshd = Sshd()
    try:
        for name in (".bashrc", ".zshenv", ".profile"):
            (sshd.home / name).write_text("echo Welcome; printf half\n")
        with RunningAgent(command=through_ssh(sshd)) as agent:
            assert agent.hello["home"] == str(sshd.home)
            assert agent.hello["executable"] == sys.executable
            path = agent.ask("probe")["path"]
            assert path.startswith(str(sshd.tmp))
        assert not os.path.exists(path)
    finally:
        sshd.close()


@pytest.mark.parametrize("name", ["fish", "tcsh"])
@pytest.mark.usefixtures("shells")
def test_a_real_server_starts_it_by_a_shell_of_another_kind(name: str) -> None:
    """Where the server has fish or csh run what is asked for, the agent starts, too."""
    shell, option = shell_of(name)
    sshd = Sshd(settings={"ForceCommand": f'{shell} {option} "$SSH_ORIGINAL_COMMAND"'})
    try:
        (sshd.home / ".config" / "fish").mkdir(parents=True)
        (sshd.home / ".config" / "fish" / "config.fish").write_text("echo Welcome\n")
        (sshd.home / ".cshrc").write_text("echo Welcome\n")
        with RunningAgent(command=through_ssh(sshd)) as agent:
            assert agent.greeting.strip() == b"Welcome"
            assert agent.ask("ping") == {}
    finally:
        sshd.close()
