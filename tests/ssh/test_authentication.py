"""Logging in: keys, agents, passphrases, passwords and questions, with real servers."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import paramiko
import pytest
from asking import Answers
from kernel_mgmt_ssh.errors import SshError
from kernel_mgmt_ssh.routes import resolve
from kernel_mgmt_ssh.tunnel.authentication import Memory
from kernel_mgmt_ssh.tunnel.connecting import Connector, SshSession
from sshds import SshAgent, Sshd, new_key
from waiting import eventually_sync

Connect = Callable[..., SshSession]


def denied(connect: Connect, host: str, asker: Answers | None = None, match: str = "") -> SshError:
    """Log in in vain, and give the error."""
    with pytest.raises(SshError, match=match or None) as caught:
        connect(host, asker)
    assert caught.value.kind == "authentication"
    assert caught.value.cause.endswith(".")
    return caught.value


@pytest.fixture
def authorized(sshd: Sshd) -> Iterator[Callable[[Path], None]]:
    """Lets keys log in for the time of a test."""
    before = sshd.authorized_keys.read_text()

    def add(key: Path) -> None:
        with sshd.authorized_keys.open("a") as file:
            file.write(Path(f"{key}.pub").read_text())

    yield add
    sshd.authorized_keys.write_text(before)


# -- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "public"),
    [
        ("ed25519", (), True),
        ("ed25519", (), False),
        ("ecdsa", (), False),
        ("ecdsa", ("-b", "521"), True),
        ("rsa", (), True),
        ("rsa", ("-m", "PEM"), False),
        ("ecdsa", ("-m", "PEM"), False),
    ],
)
def test_kinds_of_keys(
    sshd: Sshd,
    config: Path,
    connect: Connect,
    tmp_path: Path,
    authorized: Callable[[Path], None],
    kind: str,
    options: Sequence[str],
    public: bool,
) -> None:
    """A key of any kind and format logs in, with its public part beside it or without."""
    key = new_key(tmp_path / "key", "", kind, *options)
    authorized(key)
    if not public:
        Path(f"{key}.pub").unlink()
    config.write_text(sshd.configuration(IdentityFile=str(key)))
    connect("there")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ed25519", ()), ("ecdsa", ()), ("rsa", ()), ("rsa", ("-m", "PEM"))],
)
def test_an_encrypted_key(
    sshd: Sshd,
    config: Path,
    tmp_path: Path,
    authorized: Callable[[Path], None],
    kind: str,
    options: Sequence[str],
) -> None:
    """The passphrase of a key is asked for, up to three times, and once for any number of connections."""
    key = new_key(tmp_path / "key", "secret", kind, *options)
    authorized(key)
    config.write_text(sshd.configuration(IdentityFile=str(key)))
    connector = Connector(resolve("there", ssh_config=config))
    asker = Answers("wrong", "secret")
    connector.connect(asker).close()
    assert [question for question, _ in asker.questions] == [f"Passphrase for key {key}: "] * 2
    assert all(secret for _, secret in asker.questions)
    connector.connect(None).close()


def test_a_passphrase_that_is_never_right(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path, authorized: Callable[[Path], None]
) -> None:
    """After three wrong passphrases the key is given up, and the error names it."""
    key = new_key(tmp_path / "key", "secret")
    authorized(key)
    config.write_text(sshd.configuration(IdentityFile=str(key)))
    asker = Answers("a", "b", "c", "secret")
    error = denied(connect, "there", asker, "passphrase was another one")
    assert str(key) in error.cause
    assert len(asker.questions) == 3
    assert "secret" not in str(error.to_dict())


def test_nobody_to_ask_for_a_passphrase(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path, authorized: Callable[[Path], None]
) -> None:
    """Without anybody to ask, or with BatchMode, an encrypted key is skipped and named."""
    key = new_key(tmp_path / "key", "secret")
    authorized(key)
    config.write_text(sshd.configuration(IdentityFile=str(key)))
    denied(connect, "there", None, "nobody to ask for its passphrase")
    config.write_text(sshd.configuration(IdentityFile=str(key), BatchMode="yes"))
    asker = Answers("secret")
    denied(connect, "there", asker, "nobody to ask for its passphrase")
    assert asker.questions == []


def test_an_asker_that_gives_up(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path, authorized: Callable[[Path], None]
) -> None:
    """The error of whoever is asked ends the attempt."""
    key = new_key(tmp_path / "key", "secret")
    authorized(key)
    config.write_text(sshd.configuration(IdentityFile=str(key)))
    denied(connect, "there", Answers(), "Nobody answers")


def test_no_passphrase_for_a_key_that_would_not_do(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path
) -> None:
    """The server is asked first whether it takes a key: a passphrase for nothing is not asked for."""
    for public in (True, False):
        key = new_key(tmp_path / f"key{public}", "secret")
        if not public:
            Path(f"{key}.pub").unlink()
        config.write_text(sshd.configuration(IdentityFile=f"{key}\n  IdentityFile {sshd.key}"))
        asker = Answers()
        connect("there", asker)
        assert asker.questions == []


def test_no_key_is_accepted(sshd: Sshd, config: Path, connect: Connect, tmp_path: Path) -> None:
    """The final error names what was tried, what was not, and what the server accepts."""
    tried = new_key(tmp_path / "tried")
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    text = tmp_path / "text"
    text.write_text("no key at all\n")
    missing = tmp_path / "missing"
    files = "\n  IdentityFile ".join(map(str, (tried, broken, text, missing)))
    config.write_text(sshd.configuration(IdentityFile=files))
    error = denied(connect, "there", match="accepts publickey")
    for path in (tried, broken, text, missing):
        assert str(path) in error.cause
    assert f"tried was {tried}" in error.cause
    assert f"{missing} (there is no such file)" in error.cause
    eventually_sync(lambda: not sshd.connections())


def test_a_key_that_may_not_be_read(
    sshd: Sshd, config: Path, connect: Connect, tmp_path: Path
) -> None:
    """A directory in place of a key is skipped, and a good key behind it used."""
    folder = tmp_path / "folder"
    folder.mkdir()
    config.write_text(sshd.configuration(IdentityFile=f"{folder}\n  IdentityFile {sshd.key}"))
    connect("there")


def test_a_user_that_does_not_exist(sshd: Sshd, config: Path, connect: Connect) -> None:
    """A user whom the host does not know is refused like any other, and named."""
    config.write_text(sshd.configuration(User="nobody-of-that-name"))
    denied(connect, "there", match="nobody-of-that-name@127.0.0.1")


def test_a_certificate(config: Path, connect: Connect, tmp_path: Path) -> None:
    """A certificate beside a key, or named by CertificateFile, is offered before the key itself."""
    authority = new_key(tmp_path / "authority")
    server = Sshd("certified", {"TrustedUserCAKeys": f"{authority}.pub"})
    try:
        for kind in ("ed25519", "rsa", "ecdsa"):
            key = new_key(tmp_path / kind, "", kind)
            names = ["-I", "test", "-n", server.user]
            command = ["ssh-keygen", "-q", "-s", authority, *names, f"{key}.pub"]
            subprocess.run(command, check=True, capture_output=True)
            config.write_text(server.configuration(IdentityFile=str(key)))
            connect("certified")
            moved = shutil.move(f"{key}-cert.pub", tmp_path / f"{kind}-moved")
            denied(connect, "certified")
            config.write_text(
                server.configuration(IdentityFile=str(key), CertificateFile=str(moved))
            )
            connect("certified")
    finally:
        server.close()


# -- agents --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_of_the_agent(
    sshd: Sshd,
    config: Path,
    connect: Connect,
    tmp_path: Path,
    agent: SshAgent,
    authorized: Callable[[Path], None],
    kind: str,
) -> None:
    """A key that only the agent has logs in."""
    key = new_key(tmp_path / "key", "", kind)
    authorized(key)
    agent.add(key)
    key.unlink()
    config.write_text(sshd.configuration(IdentitiesOnly="no", IdentityFile="none"))
    connect("there")


def test_only_identities_of_files(
    sshd: Sshd,
    config: Path,
    connect: Connect,
    tmp_path: Path,
    agent: SshAgent,
    authorized: Callable[[Path], None],
) -> None:
    """With IdentitiesOnly, a key of the agent counts when its public part is in a file."""
    key = new_key(tmp_path / "key", "secret")
    authorized(key)
    plain = shutil.copy(key, tmp_path / "plain")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", plain], check=True)
    agent.add(Path(plain))
    config.write_text(sshd.configuration(IdentityFile=str(tmp_path / "other")))
    denied(connect, "there")
    # Its public part is beside the encrypted one, in it, or all that there is.
    config.write_text(sshd.configuration(IdentityFile=str(key)))
    connect("there")
    public = shutil.move(f"{key}.pub", tmp_path / "public")
    connect("there")
    config.write_text(sshd.configuration(IdentityFile=str(public)))
    connect("there")


def test_the_agent_of_the_configuration(
    sshd: Sshd,
    config: Path,
    connect: Connect,
    agent: SshAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """IdentityAgent wins over SSH_AUTH_SOCK, and none is none."""
    agent.add(sshd.key)
    settings = {"IdentitiesOnly": "no", "IdentityFile": "none"}
    config.write_text(sshd.configuration(**settings, IdentityAgent="none"))
    denied(connect, "there")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    config.write_text(sshd.configuration(**settings))
    denied(connect, "there", match="keys of the agent .*/nowhere")
    config.write_text(sshd.configuration(**settings, IdentityAgent=str(agent.path)))
    connect("there")


def test_an_agent_that_does_not_sign(
    sshd: Sshd, config: Path, connect: Connect, agent: SshAgent, tmp_path: Path
) -> None:
    """A key whose use the agent refuses is skipped, and the next one used."""
    agent.add(sshd.key, "-c")  # asks its user each time; there is none
    config.write_text(sshd.configuration(IdentitiesOnly="no", IdentityFile="none"))
    denied(connect, "there", match="no signature")
    # As ssh does, its file is used instead.
    config.write_text(sshd.configuration())
    connect("there")


def test_an_agent_that_is_none(
    sshd: Sshd,
    config: Path,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What listens at the agent's socket and speaks nonsense, or nothing, costs itself alone."""
    monkeypatch.setattr("kernel_mgmt_ssh.tunnel.ssh_agent._PATIENCE", 0.3)
    path = f"{os.environ['TMPDIR']}/agent-{os.getpid()}"
    config.write_text(sshd.configuration(IdentityAgent=path))
    for said in (b"", b"\0\0\0\1\5", b"\0\0\0\5\x0c\xff\xff\xff\xff", b"nonsense" * 100):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            accepted: list[socket.socket] = []

            def serve(said: bytes = said, server: socket.socket = server) -> None:
                connection, _ = server.accept()
                accepted.append(connection)  # noqa: B023
                connection.sendall(said)

            thread = threading.Thread(target=serve)
            thread.start()
            connect("there")
            thread.join(5)
            for connection in accepted:
                connection.close()
        Path(path).unlink()


# -- servers with few tries ----------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2])
def impatient(request: pytest.FixtureRequest) -> Iterator[Sshd]:
    """A server that ends a connection after one or two refusals."""
    server = Sshd("impatient", {"MaxAuthTries": str(request.param)})
    yield server
    server.close()


def test_many_keys_at_a_server_with_few_tries(
    impatient: Sshd, config: Path, connect: Connect, tmp_path: Path, agent: SshAgent
) -> None:
    """A key behind more others than the server has patience for is still reached."""
    for number in range(3):
        agent.add(new_key(tmp_path / f"key{number}"))
    config.write_text(impatient.configuration(IdentitiesOnly="no", IdentityFile="none"))
    error = denied(connect, "impatient", match="accepts publickey")
    assert error.cause.count("SHA256:") == 3
    agent.add(impatient.key)
    connect("impatient")


# -- questions -----------------------------------------------------------------------------


class Interviewer(paramiko.ServerInterface):
    """A server's side with a password, and with rounds of questions."""

    def __init__(self, methods: str, rounds: Sequence[Sequence[tuple[str, bool, str]]]) -> None:
        self.methods = methods
        self.rounds = list(rounds)
        self.tries = 0
        self.at = 0
        #: Whether answers are refused whatever they are.
        self.refuse = False
        #: Called instead of comparing a password.
        self.instead: Callable[[], object] | None = None

    def get_allowed_auths(self, username: str) -> str:
        """Give the methods."""
        return self.methods

    def check_auth_password(self, username: str, password: str) -> int:
        """Compare it."""
        self.tries += 1
        if self.instead is not None:
            self.instead()
        return paramiko.AUTH_SUCCESSFUL if password == "right" else paramiko.AUTH_FAILED

    def check_auth_interactive(
        self, username: str, submethods: str | bytes
    ) -> int | paramiko.InteractiveQuery:
        """Ask the first questions."""
        self.tries += 1
        self.at = 0
        return self._round()

    def _round(self) -> int | paramiko.InteractiveQuery:
        if self.at == len(self.rounds):
            return paramiko.AUTH_SUCCESSFUL
        questions = [(prompt, echo) for prompt, echo, _ in self.rounds[self.at]]
        return paramiko.InteractiveQuery("Title", "Read this.", *questions)

    def check_auth_interactive_response(
        self, responses: list[str]
    ) -> int | paramiko.InteractiveQuery:
        """Compare the answers, and ask the next questions."""
        expected = [answer for _, _, answer in self.rounds[self.at]]
        if self.refuse or responses != expected:
            return paramiko.AUTH_FAILED
        self.at += 1
        return self._round()


class Interview:
    """A server of paramiko's, with which one connection after the other is talked to."""

    def __init__(
        self, methods: str, rounds: Sequence[Sequence[tuple[str, bool, str]]] = ()
    ) -> None:
        self._methods, self._rounds = methods, rounds
        #: Whether answers are refused, and whether connections break instead of an answer.
        self.refuse = self.breaks = False
        self._key = paramiko.ECDSAKey.generate()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.sides: list[Interviewer] = []
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                transport = paramiko.Transport(connection)
                transport.add_server_key(self._key)
                self._transports.append(transport)
                side = Interviewer(self._methods, self._rounds)
                side.refuse = self.refuse
                side.instead = transport.close if self.breaks else None
                self.sides.append(side)
                with contextlib.suppress(EOFError, paramiko.SSHException):
                    transport.start_server(server=self.sides[-1])

    def configure(self, config: Path, **settings: str) -> None:
        """Write a client's configuration for it."""
        known = config.with_name("known")
        known.write_text(
            f"[127.0.0.1]:{self.port} {self._key.get_name()} {self._key.get_base64()}\n"
        )
        lines = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "UserKnownHostsFile": str(known),
            "IdentityFile": "none",
            **settings,
        }
        body = "".join(f"  {name} {value}\n" for name, value in lines.items())
        config.write_text(f"Host interview\n{body}")

    def close(self) -> None:
        """End it."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)
        for transport in self._transports:
            transport.close()
            transport.join(5)


@pytest.fixture
def interview() -> Iterator[Callable[..., Interview]]:
    """Starts servers that ask."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    servers: list[Interview] = []

    def start(*arguments: object) -> Interview:
        servers.append(Interview(*arguments))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.close()
    logging.getLogger("paramiko").setLevel(logging.NOTSET)


def test_a_password(interview: Callable[..., Interview], config: Path) -> None:
    """A password is asked for until it is right, and not again by the same connector."""
    server = interview("password")
    server.configure(config)
    connector = Connector(resolve("interview", ssh_config=config))
    asker = Answers("wrong", "right")
    connector.connect(asker).close()
    question = f"Password for {getpass.getuser()}@127.0.0.1:{server.port}: "
    assert asker.questions == [(question, True)] * 2
    connector.connect(None).close()
    assert [side.tries for side in server.sides] == [2, 1]


def test_a_password_that_is_not_ascii(
    interview: Callable[..., Interview], config: Path, connect: Connect
) -> None:
    """Any text may be typed, also what is no Unicode."""
    interview("password").configure(config)
    connect("interview", Answers("pässwörd", "\udcff", "right"))


def test_a_password_that_is_never_right(
    interview: Callable[..., Interview], config: Path, connect: Connect
) -> None:
    """After as many passwords as the configuration allows the server is given up."""
    interview("password").configure(config)
    asker = Answers("a", "b", "c", "right")
    error = denied(connect, "interview", asker, "accepts password; tried was password")
    assert len(asker.questions) == 3
    assert "right" not in str(error.to_dict()).replace("right key", "")
    interview("password").configure(config, NumberOfPasswordPrompts="1")
    asker = Answers("a", "right")
    denied(connect, "interview", asker)
    assert len(asker.questions) == 1


def test_a_remembered_password_that_is_wrong_by_now(
    interview: Callable[..., Interview], config: Path
) -> None:
    """A password that was changed in between is asked for anew."""
    interview("password").configure(config)
    connector = Connector(resolve("interview", ssh_config=config))
    connector._memories[0].password = "old"
    asker = Answers("right")
    connector.connect(asker).close()
    assert len(asker.questions) == 1


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_nobody_to_ask(
    interview: Callable[..., Interview], config: Path, connect: Connect, method: str
) -> None:
    """Where there is nobody to ask, the error says what could not be asked for."""
    server = interview(method, [[("Password: ", False, "right")]])
    server.configure(config)
    denied(connect, "interview", None, f"{method} \\(there is nobody to ask")
    assert server.sides[0].tries == 0


def test_rounds_of_questions(interview: Callable[..., Interview], config: Path) -> None:
    """Each question of several rounds is asked, shown or not as the server wants it."""
    server = interview(
        "keyboard-interactive",
        [
            [("Password: ", False, "right"), ("Your colour? ", True, "blue")],
            [],
            [("Code: ", False, "123")],
        ],
    )
    server.configure(config)
    connector = Connector(resolve("interview", ssh_config=config))
    asker = Answers("right", "blue", "123")
    connector.connect(asker).close()
    assert [(question.splitlines()[-1], secret) for question, secret in asker.questions] == [
        ("Password: ", True),
        ("Your colour? ", False),
        ("Code: ", True),
    ]
    assert "Title\nRead this." in asker.questions[0][0]
    assert "Title\nRead this." in asker.told
    # What may be used again is; codes are asked for anew.
    asker = Answers("blue", "123")
    connector.connect(asker).close()
    assert len(asker.questions) == 2


def test_wrong_answers(interview: Callable[..., Interview], config: Path, connect: Connect) -> None:
    """A wrong answer is asked for again, and after the last one the server is given up."""
    server = interview("keyboard-interactive", [[("Password: ", False, "right")]])
    server.configure(config)
    connect("interview", Answers("wrong", "right"))
    asker = Answers("a", "b", "c", "right")
    denied(connect, "interview", asker, "tried was keyboard-interactive")
    assert len(asker.questions) == 3


def test_a_server_without_end_to_its_questions(
    interview: Callable[..., Interview], config: Path, connect: Connect
) -> None:
    """A server that asks nothing for ever is given up."""
    interview("keyboard-interactive", [[]] * 1000).configure(config)
    denied(connect, "interview", Answers(), "one question after the other")


def test_a_server_that_refuses_without_a_question(
    interview: Callable[..., Interview], config: Path, connect: Connect
) -> None:
    """A server that asks nothing and then refuses is given up after as many tries as passwords."""
    server = interview("keyboard-interactive", [[]])
    server.refuse = True
    server.configure(config)
    denied(connect, "interview", Answers(), "tried was keyboard-interactive")
    assert server.sides[0].tries == 3


def test_a_connection_that_breaks_while_logging_in(
    interview: Callable[..., Interview], config: Path
) -> None:
    """A break without a reason is no refusal: what is remembered is kept for the next time."""
    server = interview("password")
    server.configure(config)
    connector = Connector(resolve("interview", ssh_config=config))
    connector.connect(Answers("right")).close()
    server.breaks = True
    with pytest.raises(SshError, match="broke off the connection") as caught:
        connector.connect(None)
    assert caught.value.kind == "unreachable"
    server.breaks = False
    connector.connect(None).close()


def test_answers_that_take_time(
    interview: Callable[..., Interview],
    config: Path,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time that a person takes for an answer does not count as the server's."""
    monkeypatch.setattr("kernel_mgmt_ssh.tunnel.userauth._PATIENCE", 0.5)
    server = interview("keyboard-interactive", [[("Password: ", False, "right")]])
    server.configure(config, ConnectTimeout="1")
    answered = threading.Event()

    class Slow(Answers):
        def ask(self, message: str, *, secret: bool = True) -> str:
            answered.wait(1.2)  # longer than both timeouts
            return super().ask(message, secret=secret)

    connect("interview", Slow("right"))


def test_the_order_of_the_configuration(
    interview: Callable[..., Interview], config: Path, connect: Connect
) -> None:
    """Methods are tried in the order of PreferredAuthentications, and no others."""
    server = interview("password,keyboard-interactive", [[("Question? ", True, "right")]])
    server.configure(config)
    asker = Answers("right")
    connect("interview", asker)
    assert "Question?" in asker.questions[0][0]
    server.configure(config, PreferredAuthentications="password,keyboard-interactive")
    asker = Answers("right")
    connect("interview", asker)
    assert asker.questions[0][0].startswith("Password for")
    server.configure(config, PreferredAuthentications="publickey")
    denied(connect, "interview", Answers("right"), "tried was nothing")


def test_memory_is_not_shown() -> None:
    """What was typed is in no representation of what remembers it."""
    memory = Memory(answers={"Password: ": "hidden"}, password="hidden")
    assert "hidden" not in repr(memory)


# -- a real server with real users ---------------------------------------------------------

if os.geteuid() == 0:

    @pytest.fixture(scope="module")
    def user() -> Iterator[str]:
        """A user with the password "right"."""
        name = f"kmt{os.getpid()}"
        subprocess.run(["useradd", "-M", "-N", "-d", "/", "-s", "/bin/sh", name], check=True)
        subprocess.run(["chpasswd"], input=f"{name}:right\n".encode(), check=True)
        yield name
        # Also when a process of its last session is still about to end.
        subprocess.run(["userdel", "-f", name], check=True, capture_output=True)

    @pytest.mark.parametrize("settings", [
        {"PasswordAuthentication": "yes"},
        {"PasswordAuthentication": "yes", "MaxAuthTries": "1"},
        {"KbdInteractiveAuthentication": "yes", "UsePAM": "yes", "MaxAuthTries": "1"},
    ])  # fmt: skip
    def test_the_password_of_a_real_user(user: str, config: Path, settings: dict[str, str]) -> None:
        """A real user's password logs in at a real server, a wrong one before it or not."""
        server = Sshd("real", settings)
        try:
            config.write_text(server.configuration(User=user))
            connector = Connector(resolve("real", ssh_config=config))
            asker = Answers("wrong", "right")
            with contextlib.closing(connector.connect(asker)) as session:
                assert session.transport.get_username() == user
            assert len(asker.questions) == 2
            connector.connect(None).close()
        finally:
            server.close()

    def test_a_key_and_then_a_password(user: str, config: Path, connect: Connect) -> None:
        """A server that wants two proofs gets both."""
        server = Sshd(
            "both",
            {"PasswordAuthentication": "yes", "AuthenticationMethods": "publickey,password"},
        )
        try:
            # The user may not read root's files.
            server.stop()
            server.settings["AuthorizedKeysCommand"] = f"/bin/cat {server.authorized_keys}"
            server.settings["AuthorizedKeysCommandUser"] = "root"
            server.start()
            config.write_text(server.configuration(User=user))
            asker = Answers("right")
            connect("both", asker)
            assert len(asker.questions) == 1
            denied(connect, "both", Answers("a", "b", "c"), "accepts password")
        finally:
            server.close()
