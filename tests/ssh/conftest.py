"""What the tests of the provider ssh share: servers, an agent, and a way to connect."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_mgmt_ssh.routes import Route, resolve
from kernel_mgmt_ssh.tunnel.connecting import Asker, Connector, SshSession
from sshds import SshAgent, Sshd

Connect = Callable[..., SshSession]


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A server that all tests share: its settings and files are not to be changed."""
    server = Sshd("there")
    yield server
    server.close()


@pytest.fixture(scope="session")
def second_sshd() -> Iterator[Sshd]:
    """Another one, for the other side of a jump."""
    server = Sshd("beyond")
    yield server
    server.close()


@pytest.fixture(scope="session")
def third_sshd() -> Iterator[Sshd]:
    """And one more, for three hops."""
    server = Sshd("far")
    yield server
    server.close()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SshAgent]:
    """An agent of its own, which SSH_AUTH_SOCK names."""
    # The path of a socket is short, and that of a test is not.
    with tempfile.TemporaryDirectory(prefix="a-") as folder:
        server = SshAgent(Path(folder))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(server.path))
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no test use the agent of whoever runs it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where a test may write a client's configuration."""
    return tmp_path / "ssh_config"


@pytest.fixture
def connect(config: Path) -> Iterator[Connect]:
    """Connects to a host of :func:`config`; what it gives is closed with the test."""
    sessions: list[SshSession] = []

    def connect(host: str, asker: Asker | None = None, timeout: float = 15) -> SshSession:
        route = resolve(host, ssh_config=config)
        # A configuration has whole seconds only.
        hops = [replace(hop, connect_timeout=timeout) for hop in route.hops]
        session = Connector(Route.over(hops)).connect(asker)
        sessions.append(session)
        return session

    yield connect
    for session in sessions:
        session.close()
