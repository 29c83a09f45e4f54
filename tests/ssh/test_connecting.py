"""Connections over jump hosts and proxy commands, and all that keeps one from coming about."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import psutil
import pytest
from asking import Answers
from kernel_mgmt_ssh.errors import SshError
from kernel_mgmt_ssh.routes import Route, resolve
from kernel_mgmt_ssh.tunnel.connecting import Connector, SshSession
from sshds import Sshd, new_key
from waiting import eventually_sync

Connect = Callable[..., SshSession]

#: How much longer than its timeout a failure may take, in seconds, on a busy machine.
LEEWAY = 3.0


def run(session: SshSession, command: str) -> str:
    """Run a command on the host, and give what it writes."""
    with session.transport.open_session(timeout=10) as channel:
        channel.settimeout(10)
        channel.exec_command(command)
        with channel.makefile() as output:
            text = output.read().decode().strip()
        assert channel.recv_exit_status() == 0
    return text


def refused(
    connect: Connect, host: str, kind: str, match: str = "", timeout: float = 15
) -> SshError:
    """Connect in vain, and give the error; it is one sentence of the expected kind."""
    with pytest.raises(SshError, match=match or None) as caught:
        connect(host, timeout=timeout)
    error = caught.value
    assert (error.kind, error.phase) == (kind, "connect")
    assert error.cause.endswith(".")
    assert "\n" not in error.cause
    return error


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Have a function answer connections to the port that is given."""
    accepted: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                accepted.append(connection)
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in accepted:
                connection.close()
            thread.join(5)


# -- ways that work ------------------------------------------------------------------------


def test_a_host(sshd: Sshd, config: Path, connect: Connect) -> None:
    """A host is connected to with the key, user, port and host key of the configuration."""
    config.write_text(sshd.configuration())
    asker = Answers()
    session = connect("there", asker)
    assert run(session, "echo $HOME") == str(sshd.home)
    assert session.hop.alias == "there"
    assert asker.questions == []
    assert asker.told


def test_a_name_with_several_addresses(
    sshd: Sshd, config: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a name has several addresses, one that does not answer is followed by the next."""
    look_up = socket.getaddrinfo

    def several(host: str, port: int, *rest: int) -> object:
        dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
        return [dead, *look_up(host, port, *rest)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    config.write_text(sshd.configuration())
    assert run(connect("there"), "echo second") == "second"


def test_a_name_server_that_hangs(
    config: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not resolved within the timeout is given up."""
    resolved = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: resolved.wait(20) and [])
    config.write_text("Host x\n  HostName slow.example\n")
    started = time.monotonic()
    refused(connect, "x", "unknown-host", "not resolved in time", 0.3)
    assert time.monotonic() - started < 0.3 + LEEWAY
    resolved.set()


def test_closing_leaves_nothing(sshd: Sshd, config: Path) -> None:
    """After close, which may be called by several threads at once, no thread is left."""
    config.write_text(sshd.configuration())
    before = set(threading.enumerate())
    session = Connector(resolve("there", ssh_config=config)).connect(None)
    assert set(threading.enumerate()) - before
    closers = [threading.Thread(target=session.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    session.close()
    assert set(threading.enumerate()) <= before
    assert not session.transport.is_active()


def test_a_connector_connects_again(sshd: Sshd, config: Path) -> None:
    """The same connector may be used any number of times."""
    config.write_text(sshd.configuration())
    connector = Connector(resolve("there", ssh_config=config))
    for _ in range(3):
        with contextlib.closing(connector.connect(None)) as session:
            assert run(session, "echo again") == "again"


def test_two_hops(sshd: Sshd, second_sshd: Sshd, config: Path, connect: Connect) -> None:
    """A host behind a jump host is connected to through it."""
    config.write_text(second_sshd.configuration(ProxyJump="there") + sshd.configuration())
    session = connect("beyond")
    assert run(session, "echo $HOME") == str(second_sshd.home)
    # What the target sees is the jump host's end, not ours.
    ours = {each.laddr.port for each in psutil.Process().net_connections() if each.laddr}
    assert int(run(session, "echo $SSH_CONNECTION").split()[1]) not in ours


def test_three_hops(
    sshd: Sshd, second_sshd: Sshd, third_sshd: Sshd, config: Path, connect: Connect
) -> None:
    """A list of jump hosts is passed in its order, and everything closes together."""
    config.write_text(
        third_sshd.configuration(ProxyJump="there,beyond")
        + second_sshd.configuration()
        + sshd.configuration()
    )
    session = connect("far")
    assert run(session, "echo $HOME") == str(third_sshd.home)
    session.close()
    eventually_sync(
        lambda: not (sshd.connections() or second_sshd.connections() or third_sshd.connections())
    )


def test_a_jump_host_that_goes(sshd: Sshd, config: Path, connect: Connect) -> None:
    """A connection through a jump host whose own connection is cut ends, without a complaint."""
    jump = Sshd("door")
    try:
        config.write_text(sshd.configuration(ProxyJump="door") + jump.configuration())
        for _ in range(5):
            session = connect("there")
            assert run(session, "echo in") == "in"
            assert jump.cut() == 1
            session.transport.join(5)
            assert not session.transport.is_active()
            session.close()
    finally:
        jump.close()


def test_a_jump_host_without_sessions(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path
) -> None:
    """A jump host that runs nothing still forwards."""
    jump = Sshd("door", {"MaxSessions": "0"})
    try:
        config.write_text(sshd.configuration(ProxyJump="door") + jump.configuration())
        assert run(connect("there"), "echo in") == "in"
    finally:
        jump.close()


def test_the_server_stops_waiting_for_small_messages(
    sshd: Sshd, second_sshd: Sshd, config: Path, connect: Connect
) -> None:
    """Round trips of 4 KiB through a jump host have no stall of Nagle's algorithm."""
    config.write_text(second_sshd.configuration(ProxyJump="there") + sshd.configuration())
    session = connect("beyond")
    with session.transport.open_session() as channel:
        channel.settimeout(10)
        channel.exec_command("cat")
        times = []
        for _ in range(60):
            started = time.perf_counter()
            channel.sendall(bytes(4096))
            received = 0
            while received < 4096:
                received += len(channel.recv(4096))
            times.append(time.perf_counter() - started)
    # The stall is of 40 ms, and nearly every message has it.
    assert sorted(times)[len(times) // 2] < 0.03


PIPE = """
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    os.write(1, data)
"""


def test_a_proxy_command_like_netcat(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path
) -> None:
    """A command whose standard streams lead to the host is used, and ends with the connection."""
    script = tmp_path / "pipe.py"
    script.write_text(PIPE)
    config.write_text(sshd.configuration(ProxyCommand=f"{sys.executable} {script} %h %p"))
    session = connect("there")
    assert run(session, "echo through") == "through"
    assert len(psutil.Process().children()) >= 1
    session.close()
    assert not [p for p in psutil.Process().children() if str(script) in p.cmdline()]


def test_a_proxy_command_of_ssh(
    sshd: Sshd, second_sshd: Sshd, config: Path, connect: Connect
) -> None:
    """The ssh client itself may lead to the host, for what is not supported here."""
    config.write_text(
        second_sshd.configuration(ProxyCommand=f"ssh -F {config} -W %h:%p there")
        + sshd.configuration()
    )
    session = connect("beyond")
    assert run(session, "head -c 300000 /dev/zero | tr '\\0' x") == "x" * 300000
    session.close()
    session.close()


def test_a_proxy_command_before_a_jump(
    sshd: Sshd, second_sshd: Sshd, config: Path, connect: Connect, tmp_path: Path
) -> None:
    """The first hop may have a proxy command of its own."""
    script = tmp_path / "pipe.py"
    script.write_text(PIPE)
    config.write_text(
        second_sshd.configuration(ProxyJump="there")
        + sshd.configuration(ProxyCommand=f"{sys.executable} {script} %h %p")
    )
    assert run(connect("beyond"), "echo $HOME") == str(second_sshd.home)


def test_a_server_without_gcm(config: Path, connect: Connect) -> None:
    """The cipher that is preferred is used where it is, and any other where it is not."""
    plain = Sshd("plain", {"Ciphers": "aes256-ctr", "MACs": "hmac-sha2-512-etm@openssh.com"})
    try:
        config.write_text(plain.configuration())
        session = connect("plain")
        assert session.transport.local_cipher == "aes256-ctr"
        assert run(session, "echo so") == "so"
    finally:
        plain.close()


# -- host keys -----------------------------------------------------------------------------


def test_an_unknown_host_key(sshd: Sshd, config: Path, connect: Connect, tmp_path: Path) -> None:
    """A key that no file knows is refused; the command of the error accepts it."""
    file = tmp_path / "known"
    config.write_text(sshd.configuration(UserKnownHostsFile=str(file), StrictHostKeyChecking="no"))
    error = refused(connect, "there", "unknown-host-key", "SHA256:")
    assert not file.exists()
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{sshd.host_key}.pub"], capture_output=True, check=True
    )
    assert shown.stdout.decode().split()[1] in error.cause
    subprocess.run(["sh", "-c", error.advice.split("`")[1]], check=True)
    assert run(connect("there"), "echo known") == "known"


def test_a_changed_host_key(sshd: Sshd, config: Path, connect: Connect, tmp_path: Path) -> None:
    """A key other than the known one is refused loudly; the command of the error forgets it."""
    file = tmp_path / "known"
    other = Path(f"{new_key(tmp_path / 'other')}.pub").read_text()
    file.write_text(f"[127.0.0.1]:{sshd.port} {other}")
    config.write_text(sshd.configuration(UserKnownHostsFile=str(file)))
    error = refused(connect, "there", "changed-host-key", "HAS CHANGED")
    assert f"line 1 of {file}" in error.cause
    subprocess.run(["sh", "-c", error.advice.split("`")[1]], check=True, capture_output=True)
    refused(connect, "there", "unknown-host-key")


def test_a_revoked_host_key(sshd: Sshd, config: Path, connect: Connect, tmp_path: Path) -> None:
    """A key that is revoked is refused, though it is known."""
    file = tmp_path / "known"
    key = Path(f"{sshd.host_key}.pub").read_text()
    file.write_text(f"{sshd.known_hosts.read_text()}@revoked * {key}")
    config.write_text(sshd.configuration(UserKnownHostsFile=str(file)))
    refused(connect, "there", "revoked-host-key", "revoked by line 2")


def test_a_hashed_file(sshd: Sshd, config: Path, connect: Connect, tmp_path: Path) -> None:
    """A file that ssh-keygen has hashed knows the host."""
    file = tmp_path / "known"
    file.write_text(sshd.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "127.0.0.1" not in file.read_text()
    config.write_text(sshd.configuration(UserKnownHostsFile=str(file)))
    assert run(connect("there"), "echo hashed") == "hashed"


def test_a_host_key_alias(sshd: Sshd, config: Path, connect: Connect, tmp_path: Path) -> None:
    """The key of a HostKeyAlias is known by that name alone."""
    file = tmp_path / "known"
    file.write_text(f"alias {Path(f'{sshd.host_key}.pub').read_text()}")
    config.write_text(sshd.configuration(UserKnownHostsFile=str(file), HostKeyAlias="alias"))
    assert run(connect("there"), "echo alias") == "alias"


def test_the_known_kind_of_key_is_asked_for(config: Path, connect: Connect, tmp_path: Path) -> None:
    """A server with several keys proves the one that is known."""
    server = Sshd("two")
    try:
        server.stop()
        rsa = new_key(tmp_path / "rsa", "", "rsa")
        server.settings["HostKey"] = f"{server.host_key}\nHostKey {rsa}"
        server.start()
        server.know(Path(f"{rsa}.pub").read_text())
        config.write_text(server.configuration())
        session = connect("two")
        assert session.transport.host_key_type == "rsa-sha2-512"
    finally:
        server.close()


def test_the_host_key_of_a_jump_host(
    sshd: Sshd, second_sshd: Sshd, config: Path, connect: Connect
) -> None:
    """An unknown key at any hop ends the way there, before anything is sent to that hop."""
    config.write_text(
        second_sshd.configuration(ProxyJump="there")
        + sshd.configuration(UserKnownHostsFile="/dev/null")
    )
    refused(connect, "beyond", "unknown-host-key", str(sshd.port))
    config.write_text(
        second_sshd.configuration(ProxyJump="there", UserKnownHostsFile="/dev/null")
        + sshd.configuration()
    )
    refused(connect, "beyond", "unknown-host-key", str(second_sshd.port))
    eventually_sync(lambda: not sshd.connections())


# -- ways that do not ----------------------------------------------------------------------


def test_a_name_that_is_none(config: Path, connect: Connect) -> None:
    """A host that no name server knows is told as such."""
    config.write_text("Host x\n  HostName no-such-host.invalid\n")
    refused(connect, "x", "unknown-host", "no-such-host.invalid")


def test_a_closed_port(config: Path, connect: Connect) -> None:
    """A port at which nobody listens is told as such."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        config.write_text(f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        refused(connect, "x", "unreachable", "refused")


def test_a_port_that_never_accepts(config: Path, connect: Connect) -> None:
    """A host that drops packets is given up within the timeout."""
    # A backlog that is full has Linux drop what comes.
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(full.getsockname())
        port = full.getsockname()[1]
        config.write_text(f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        started = time.monotonic()
        refused(connect, "x", "unreachable", "no answer within 0.5 s", 0.5)
        assert time.monotonic() - started < 1 + LEEWAY


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        (b"", "unreachable", "did not greet"),
        (b"SSH-2.0-Silent\r\n", "unreachable", "handshake"),
        (b"some banner\r\n" * 3, "protocol", "no SSH server"),
        (b"x" * 100_000, "unreachable", "did not greet"),
        (b"SSH-2.0-Odd\r\n" + b"\xff" * 500, "unreachable", "handshake"),
        (b"SSH-1.5-Old\r\n", "protocol", "in common"),
    ],
)
def test_something_that_does_not_go_on(
    config: Path, connect: Connect, said: bytes, kind: str, match: str
) -> None:
    """What listens and then is silent is given up within the timeout."""
    with listening(lambda connection: connection.sendall(said)) as port:
        config.write_text(f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        started = time.monotonic()
        refused(connect, "x", kind, match, 0.5)
        assert time.monotonic() - started < 0.5 + LEEWAY


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        (b"", "unreachable", "without a word"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol", "no SSH server"),
        (b"220 mail ESMTP\r\n", "protocol", "no SSH server"),
        (b"\xff\xfe\r\n" * 150, "protocol", "no SSH server"),
        (b"SSH-2.0-Short\r\n", "unreachable", "broke off"),
    ],
)
def test_something_else_that_answers(
    config: Path, connect: Connect, said: bytes, kind: str, match: str
) -> None:
    """What answers in another language, or closes, is told from a server that is silent."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)

    with listening(answer) as port:
        config.write_text(f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        started = time.monotonic()
        refused(connect, "x", kind, match)
        assert time.monotonic() - started < 5


def test_a_server_that_stops_during_the_handshake(config: Path, connect: Connect) -> None:
    """A server that is stopped is given up within the timeout, and serves again later."""
    server = Sshd("stopped")
    try:
        config.write_text(server.configuration())
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            refused(connect, "stopped", "unreachable", "within 0.5 s", 0.5)
            assert time.monotonic() - started < 1 + LEEWAY
        finally:
            os.kill(server._process.pid, signal.SIGCONT)
        config.write_text(server.configuration())
        assert run(connect("stopped"), "echo again") == "again"
    finally:
        server.close()


def test_no_method_in_common(config: Path, connect: Connect) -> None:
    """A server that only has a cipher that is not known here is an error that says so."""
    server = Sshd("chacha", {"Ciphers": "chacha20-poly1305@openssh.com"})
    try:
        config.write_text(server.configuration())
        refused(connect, "chacha", "protocol", "in common")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"AllowTcpForwarding": "no"}, "jump", "refuses to forward"),
        ({"PermitOpen": "127.0.0.1:1"}, "jump", "refuses to forward"),
        ({"DisableForwarding": "yes"}, "jump", "refuses to forward"),
    ],
)
def test_a_jump_host_that_does_not_forward(
    sshd: Sshd,
    config: Path,
    connect: Connect,
    settings: dict[str, str],
    kind: str,
    match: str,
) -> None:
    """A jump host whose policy forbids the way on is an error of its own."""
    jump = Sshd("door", settings)
    try:
        config.write_text(sshd.configuration(ProxyJump="door") + jump.configuration())
        refused(connect, "there", kind, match)
        eventually_sync(lambda: not jump.connections())
    finally:
        jump.close()


def test_a_host_that_the_jump_host_does_not_reach(
    sshd: Sshd, config: Path, connect: Connect
) -> None:
    """A closed port behind a jump host is told apart from a jump host that refuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        config.write_text(
            f"Host x\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump there\n"
            + sshd.configuration()
        )
        refused(connect, "x", "unreachable", "jump host")


def test_something_silent_behind_a_jump_host(sshd: Sshd, config: Path, connect: Connect) -> None:
    """The timeout of a hop holds behind a jump host, too."""
    with listening(lambda connection: None) as port:
        config.write_text(
            f"Host x\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump there\n"
            + sshd.configuration()
        )
        started = time.monotonic()
        refused(connect, "x", "unreachable", "did not greet", 0.8)
        assert time.monotonic() - started < 2 + LEEWAY


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("sh -c 'echo no way >&2; exit 3'", "code 3: no way"),
        ("no-such-program-at-all", "not found"),
        ("true", "without an answer"),
        ("kill -9 $$", "signal 9"),
        ("sleep 300", "no answer within 0.5 s"),
        ("sh -c 'trap \"\" HUP TERM; sleep 301'", "no answer within 0.5 s"),
        ("sleep 302 & sleep 303", "no answer within 0.5 s"),
    ],
)
def test_a_proxy_command_that_fails(
    config: Path, connect: Connect, command: str, match: str
) -> None:
    """What a proxy command says and how it ends is in the error; nothing of it goes on."""
    config.write_text(f"Host x\n  ProxyCommand {command}\n")
    started = time.monotonic()
    error = refused(connect, "x", "proxy-command", match, 0.5)
    assert command in error.advice
    assert time.monotonic() - started < 5 + LEEWAY


def test_a_failure_says_nothing_on_the_terminal(tmp_path: Path) -> None:
    """What paramiko logs of a broken handshake is not printed by an application without logging."""
    with listening(lambda connection: connection.sendall(b"HTTP/1.1 400\r\n" * 200)) as port:
        config = tmp_path / "config"
        config.write_text(f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        program = (
            "import sys, pathlib\n"
            "from kernel_mgmt_ssh.routes import resolve\n"
            "from kernel_mgmt_ssh.tunnel.connecting import Connector\n"
            "from kernel_mgmt_ssh.errors import SshError\n"
            "try:\n"
            "    Connector(resolve('x', ssh_config=pathlib.Path(sys.argv[1]))).connect(None)\n"
            "except SshError as error:\n"
            "    print(error.kind)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, config], capture_output=True, timeout=30, check=False
        )
    assert result.stderr == b""
    assert result.stdout == b"protocol\n"


def test_a_route_from_another_process(sshd: Sshd, config: Path) -> None:
    """A route that came as JSON is connected to like any other."""
    config.write_text(sshd.configuration())
    route = Route.from_dict(resolve("there", ssh_config=config).to_dict())
    with contextlib.closing(Connector(route).connect(None)) as session:
        assert isinstance(session.transport, paramiko.Transport)
        assert run(session, "echo json") == "json"


def test_no_secret_is_logged(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is typed is in no log, however detailed."""
    key = new_key(tmp_path / "key", "passphrase-of-it")
    config.write_text(sshd.configuration(IdentityFile=str(key), PasswordAuthentication="yes"))
    before = sshd.authorized_keys.read_text()
    sshd.authorized_keys.write_text(before + Path(f"{key}.pub").read_text())
    try:
        with caplog.at_level(logging.DEBUG):
            connect("there", Answers("wrong-one", "passphrase-of-it"))
    finally:
        sshd.authorized_keys.write_text(before)
    assert "Strict kex" in caplog.text
    assert "passphrase-of-it" not in caplog.text
    assert "wrong-one" not in caplog.text


def test_a_server_that_freezes_while_logging_in(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped in the middle of logging in is given up, and the break is told."""
    monkeypatch.setattr("kernel_mgmt_ssh.tunnel.userauth._PATIENCE", 0.5)
    server = Sshd("frozen")
    key = new_key(tmp_path / "key", "secret")
    server.authorized_keys.write_text(Path(f"{key}.pub").read_text())

    class Freezing(Answers):
        def ask(self, message: str, *, secret: bool = True) -> str:
            server.freeze()
            assert server._process is not None
            os.kill(server._process.pid, signal.SIGSTOP)
            return super().ask(message, secret=secret)

    try:
        config.write_text(server.configuration(IdentityFile=str(key)))
        hops = [replace(resolve("frozen", ssh_config=config).hops[0], connect_timeout=0.5)]
        with pytest.raises(SshError) as caught:
            Connector(Route.over(hops)).connect(Freezing("secret"))
        assert caught.value.kind == "unreachable"
    finally:
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGCONT)
        server.close()


def test_closing_while_a_hop_is_stuck(sshd: Sshd, config: Path, connect: Connect) -> None:
    """A connection through a jump host that has stopped, with much on its way, closes at once."""
    jump = Sshd("door")
    try:
        config.write_text(sshd.configuration(ProxyJump="door") + jump.configuration())
        session = connect("there")
        channels = [session.transport.open_session(timeout=10) for _ in range(4)]
        for channel in channels:
            channel.exec_command("cat > /dev/null")
        jump.freeze()

        def write(channel: paramiko.Channel) -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.sendall(bytes(20_000_000))

        writers = [threading.Thread(target=write, args=[channel]) for channel in channels]
        for writer in writers:
            writer.start()
        first = session._before
        assert first is not None
        # Until nothing goes on any more.
        sent = [-1]

        def is_stuck() -> bool:
            sent.append(sum(channel.out_window_size for channel in channels))
            return sent[-1] == sent[-2]

        eventually_sync(is_stuck, 10, 0.3)
        started = time.monotonic()
        session.close()
        assert time.monotonic() - started < LEEWAY
        for writer in writers:
            writer.join(5)
            assert not writer.is_alive()
    finally:
        jump.close()
