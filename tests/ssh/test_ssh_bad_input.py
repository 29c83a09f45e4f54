"""What can be wrong before a kernel runs: each has its own error, soon, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import LaunchError, Prompt
from kernel_mgmt.records import read_records
from kernel_mgmt_ssh import connection
from ssh_kernels import FINDER, echo_type, left_on, let_go, printed, running, ssh_type
from sshds import SshAgent, Sshd, new_key
from waiting import eventually

#: How long a launch may take to fail that fails at once, in seconds.
SOON = 10.0


@pytest.fixture
def own_sshd() -> Iterator[Sshd]:
    """A server of the test's own."""
    server = Sshd("own")
    yield server
    server.close()


def _unknown_name(sshd: Sshd) -> None:
    sshd.write_config(HostName="no-such-host.invalid")


def _closed_port(sshd: Sshd) -> None:
    sshd.stop()


def _unknown_key(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")


def _changed_key(sshd: Sshd) -> None:
    other = new_key(sshd.directory / "other")
    sshd.know(Path(f"{other}.pub").read_text())


def _no_key_accepted(sshd: Sshd) -> None:
    sshd.authorized_keys.write_text("")


BREAKAGES: dict[str, tuple[Callable[[Sshd], None], str]] = {
    "unknown host name": (_unknown_name, "There is no host no-such-host.invalid"),
    "port closed": (_closed_port, "connection refused"),
    "unknown host key": (_unknown_key, "is not known: ssh-ed25519 SHA256:"),
    "changed host key": (_changed_key, "HAS CHANGED"),
    "no key accepted": (_no_key_accepted, "lets nobody in"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_on_the_way(own_sshd: Sshd, breakage: str) -> None:
    """What keeps a connection from coming about is told by the launch, with what to do about it."""
    break_it, told = BREAKAGES[breakage]
    break_it(own_sshd)
    error = await failed(own_sshd)
    assert told in error.cause
    assert error.phase == "connect"
    assert error.advice
    assert left_on(own_sshd) == []


async def test_accepting_a_key(own_sshd: Sshd) -> None:
    """The command in the error accepts the very key, and then a kernel can be launched."""
    _unknown_key(own_sshd)
    error = await failed(own_sshd)
    command = error.advice.split("`")[1]
    await asyncio.to_thread(subprocess.run, ["sh", "-c", command], check=True)
    async with running(echo_type(own_sshd)) as (client, _):
        assert await printed(client, "print in") == "in"


async def test_no_python(own_sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without any Python says so, and how to name one."""
    monkeypatch.setattr(connection, "_PYTHONS", ("no-python-here", "/no/such/python3"))
    error = await failed(own_sshd, python="/nor/this/one")
    assert "has no Python" in error.cause
    assert "ssh_kernels.toml" in error.advice


async def test_unwritable_home(own_sshd: Sshd) -> None:
    """A home in which nothing can be written is told from other failures."""
    own_sshd.home.rmdir()
    own_sshd.home.touch()
    error = await failed(own_sshd)
    assert str(own_sshd.home) in error.cause
    assert list(own_sshd.tmp.iterdir()) == []


async def test_talkative_shell(own_sshd: Sshd) -> None:
    """A start-up file of the shell that prints, on either stream, is passed over."""
    noise = "echo Welcome to this machine; echo careful >&2; printf '\\0\\377{}\\n'\n"
    for name in (".bashrc", ".zshenv", ".cshrc"):
        (own_sshd.home / name).write_text(noise)
    async with running(echo_type(own_sshd)) as (client, _):
        assert await printed(client, "print through") == "through"


async def test_encrypted_key(own_sshd: Sshd) -> None:
    """The passphrase of a key is asked for through the launch, once, and not again after a cut."""
    key = new_key(own_sshd.directory / "locked", "open sesame")
    own_sshd.authorized_keys.write_text(Path(f"{key}.pub").read_text())
    own_sshd.write_config(IdentityFile=str(key))
    asked: list[Prompt] = []

    async def answer(prompt: Prompt) -> str:
        asked.append(prompt)
        return "open sesame"

    async with running(echo_type(own_sshd), on_prompt=answer) as (client, _):
        states: list[str] = []
        client.on_connection_change(lambda change: states.append(change.state))
        own_sshd.cut()
        await eventually(lambda: "resumed" in states, SOON)
        assert await printed(client, "print in") == "in"
    assert [prompt.secret for prompt in asked] == [True]
    assert str(key) in asked[0].message
    error = await failed(own_sshd)
    assert "Passphrase for key" in str(error)


async def test_prompt_handler_that_raises(own_sshd: Sshd) -> None:
    """What goes wrong in the application's own prompt handler is told as such."""
    key = new_key(own_sshd.directory / "locked", "open sesame")
    own_sshd.authorized_keys.write_text(Path(f"{key}.pub").read_text())
    own_sshd.write_config(IdentityFile=str(key))

    def fail(_: Prompt) -> str:
        raise ZeroDivisionError

    error = await failed(own_sshd, on_prompt=fail)
    assert "ZeroDivisionError" in error.cause


async def test_agent(own_sshd: Sshd, agent: SshAgent) -> None:
    """A key that only an agent has is used."""
    agent.add(own_sshd.key)
    own_sshd.write_config(IdentityFile="none", IdentitiesOnly="no")
    assert os.environ["SSH_AUTH_SOCK"]
    async with running(echo_type(own_sshd)) as (client, _):
        assert await printed(client, "print in") == "in"


async def failed(sshd: Sshd, *, on_prompt: Any = None, **fields: Any) -> LaunchError:
    """Launch in vain; gives the error."""
    with pytest.raises(LaunchError) as raised:
        async with asyncio.timeout(SOON):
            await FINDER.launch(ssh_type(sshd, **fields), on_prompt=on_prompt)
    await let_go()
    assert read_records()[0] == []
    return raised.value
