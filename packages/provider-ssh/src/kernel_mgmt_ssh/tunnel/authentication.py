"""Proving to a server who connects, in the order in which ssh tries it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import paramiko

from ..errors import SshError
from ..routes import Hop
from .host_keys import fingerprint
from .keys import certified_key, public_file, public_key, read_key
from .ssh_agent import AgentError, SshAgent
from .transport import Transport
from .userauth import Disconnected, Questions, Reply, UserAuth

__all__ = ["Asker", "Authentication", "Memory"]

#: How often a passphrase may be typed, as in ssh.
_PASSPHRASE_PROMPTS = 3
#: A server may ask so many rounds of questions, and no more.
_MOST_ROUNDS = 20
#: It may want so many proofs, and no more.
_MOST_PROOFS = 10
#: A prompt for what is the same the next time; codes are not.
_PASSWORD = re.compile(r"pass(?!code)|kennwort", re.IGNORECASE)
_CODE = re.compile(r"code|one.?time|otp|token|verification", re.IGNORECASE)
#: Names of the files that ssh looks for by itself; that they are missing is no news.
_DEFAULTS = (
    "id_rsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_dsa",
    "id_xmss",
)

#: Signs data with an algorithm.
_Sign = Callable[[bytes, str], bytes]


class Asker(Protocol):
    """Whoever answers questions of servers and of keys."""

    def ask(self, message: str, *, secret: bool = True) -> str:
        """Give an answer; blocks.

        Args:
            message: the question.
            secret: whether the answer is not to be shown while it is typed.

        Raises:
            SshError: of kind ``authentication``: nobody answers.
        """

    def tell(self, message: str) -> None:
        """Tell how far it is."""


@dataclass
class Memory:
    """What was typed for one hop, so that connecting again asks nothing; never written anywhere."""

    keys: dict[str, paramiko.PKey] = field(default_factory=dict, repr=False)
    answers: dict[str, str] = field(default_factory=dict, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass
class _Candidate:
    """A key that may be tried."""

    #: For messages: the path of a file, or where in the agent it is.
    name: str
    #: The public key or certificate to offer; empty when only its passphrase would tell.
    blob: bytes
    #: Reads it, and gives the public key and what signs with it; None when that fails.
    load: Callable[[], tuple[bytes, _Sign] | None]


class Authentication:
    """Logs in at one hop; goes on where it was when the server ends a connection in between.

    Args:
        hop: where.
        asker: who answers questions; None: nobody.
        memory: what was typed before, and is to be remembered.
    """

    def __init__(self, hop: Hop, asker: Asker | None, memory: Memory) -> None:
        self._hop = hop
        self._asker = None if hop.batch_mode else asker
        self._memory = memory
        # For the message at the end: what was tried, and what could not be.
        self._tried: list[str] = []
        self._skipped: list[str] = []
        # What the server has refused, on whichever connection, and what cannot be used.
        self._refused: set[bytes] = set()
        self._unusable: set[str] = set()
        # What was remembered and is used up: each is used once, and then asked for.
        self._recalled: set[str] = set()
        #: How many passwords were typed, and how many dialogs were begun.
        self._typed = self._dialogs = 0
        #: Whether a connection broke with no reason given: what was tried then may have been good.
        self._broken = False
        #: What the server accepts.
        self._methods: tuple[str, ...] = ()
        #: Whether the last run has tried something new, so that another connection makes sense.
        self.progress = False

    def run(self, transport: Transport) -> None:
        """Log in.

        Raises:
            SshError: of kind ``authentication``: nothing is left to try, or nobody answers.
            Disconnected: the server has ended the connection; there may be something left to try.
        """
        self.progress = False
        server = UserAuth(transport, self._hop.user)
        used: set[str] = set()
        with contextlib.ExitStack() as stack:
            try:
                reply = server.try_none()
                for _proof in range(_MOST_PROOFS):
                    if reply.success:
                        return
                    self._methods = reply.methods or self._methods
                    reply = self._next(server, used, stack)
            except Disconnected:
                if not transport.is_active():
                    # Its farewell may still be on the way through its thread.
                    transport.join(1)
                self._broken = self._broken or not transport.farewell
                raise
        raise self.error("one proof after the other")

    def _next(self, server: UserAuth, used: set[str], stack: contextlib.ExitStack) -> Reply:
        """Try one thing after the other until one is good."""
        ways: dict[str, Callable[[], Iterator[Reply]]] = {
            "publickey": lambda: self._offer_keys(server, used, stack),
            "keyboard-interactive": lambda: self._answer_questions(server),
            "password": lambda: self._give_password(server),
        }
        for method in self._hop.methods:
            if method in self._methods:
                for reply in ways[method]():
                    if reply.good:
                        return reply
                    self._methods = reply.methods or self._methods
        raise self.error()

    def error(self, farewell: str = "") -> SshError:
        """Give the error for when nothing has helped.

        Args:
            farewell: what the server said when it ended the connection.
        """
        accepted = ", ".join(self._methods) or "nothing"
        tried = ", ".join(dict.fromkeys(self._tried)) or "nothing"
        found = f"it accepts {accepted}; tried was {tried}"
        if self._skipped:
            found += f"; not tried was {', '.join(dict.fromkeys(self._skipped))}"
        if farewell:
            found += f"; it said: {farewell.rstrip('.')}"
        name = self._hop.name
        if self._broken:
            return SshError(
                f"{name} broke off the connection while logging in: {found}.",
                kind="unreachable",
                advice="Try again; its log says more.",
            )
        return SshError(
            f"{name} lets nobody in with what there is: {found}.",
            kind="authentication",
            advice=f"Try `{self._hop.command}`; name the right key with IdentityFile or"
            " identity_file, or add it to your agent.",
        )

    def _skip(self, name: str, reason: str) -> None:
        self._skipped.append(f"{name} ({reason})")

    def _ask(self, message: str, *, secret: bool = True) -> str:
        assert self._asker is not None
        return self._asker.ask(message, secret=secret)

    # -- keys -----------------------------------------------------------------------------

    def _offer_keys(
        self, server: UserAuth, used: set[str], stack: contextlib.ExitStack
    ) -> Iterator[Reply]:
        for candidate in self._candidates(stack):
            # The same comment is no name, and the same key may be in two places.
            name = f"{candidate.name} {fingerprint(candidate.blob)}"
            if name in used or name in self._unusable or candidate.blob in self._refused:
                continue
            used.add(name)
            reply = self._offer(server, candidate)
            if reply is None:
                self._unusable.add(name)
            else:
                yield reply

    def _offer(self, server: UserAuth, candidate: _Candidate) -> Reply | None:
        """Offer a key, and sign with it when it would do; None when it cannot be used."""
        loaded = None
        if not candidate.blob:
            # Only with its passphrase it can be offered.
            loaded = candidate.load()
            if loaded is None or loaded[0] in self._refused:
                return None
            candidate.blob = loaded[0]
        blob = candidate.blob
        try:
            algorithm = server.algorithm(blob)
        except paramiko.SSHException:
            self._skip(candidate.name, "the server takes no signature of its kind")
            return None
        self._tried.append(candidate.name)
        self.progress = True
        # A server may end the connection instead of answering: that is a refusal, too.
        self._refused.add(blob)
        reply = server.offer(blob, algorithm)
        if reply.special is None and not reply.good:
            return reply
        self._refused.discard(blob)
        loaded = loaded or candidate.load()
        if loaded is None:
            # It would do, and is among what was not tried, with the reason.
            self._tried.remove(candidate.name)
            return None
        try:
            reply = self._sign(server, blob, algorithm, loaded[1])
        except (AgentError, paramiko.SSHException, ValueError) as error:
            self._skip(candidate.name, f"no signature: {error}")
            return None
        return reply

    def _sign(self, server: UserAuth, blob: bytes, algorithm: str, sign: _Sign) -> Reply:
        def counted(data: bytes, algorithm: str) -> bytes:
            signature = sign(data, algorithm)
            self._refused.add(blob)
            return signature

        reply = server.sign(blob, algorithm, counted)
        if reply.good:
            self._refused.discard(blob)
        return reply

    def _candidates(self, stack: contextlib.ExitStack) -> Iterator[_Candidate]:
        """Give the keys in ssh's order.

        Certificates; keys of the agent, first those that are in files, too; keys of files.
        """
        files = {path: public_key(path) for path in self._hop.identity_files}
        paths = {blob: path for path, blob in reversed(files.items()) if blob}
        agent, held = self._agent_keys(stack)

        def by_agent(blob: bytes) -> Callable[[], tuple[bytes, _Sign]]:
            assert agent is not None
            return partial(_same, (blob, partial(agent.sign, blob)))

        for blob, name in self._certificates():
            inner = certified_key(blob)
            if inner in held:
                yield _Candidate(name, blob, by_agent(inner))
            if inner in paths:
                yield _Candidate(name, blob, partial(self._load, paths[inner], inner))
        own = [blob for blob in held if certified_key(blob) in paths]
        own.sort(key=lambda blob: list(files).index(paths[certified_key(blob)]))
        others = [] if self._hop.identities_only else [blob for blob in held if blob not in own]
        for blob in (*own, *others):
            # Comments may be the same for all of a user's keys.
            name = paths.get(certified_key(blob)) or f"{held[blob]} {fingerprint(blob)}".strip()
            yield _Candidate(f"{name} of the agent", blob, by_agent(blob))
        for path, blob in files.items():
            # Also when the agent has it, and would not sign.
            yield _Candidate(path, blob, partial(self._load, path, blob))

    def _agent_keys(self, stack: contextlib.ExitStack) -> tuple[SshAgent | None, dict[bytes, str]]:
        """Give the agent and its keys, each with its comment; none without one."""
        path = self._hop.identity_agent or os.environ.get("SSH_AUTH_SOCK", "")
        if path in ("", "none"):
            return None, {}
        try:
            agent = stack.enter_context(contextlib.closing(SshAgent(path)))
            return agent, agent.keys()
        except AgentError as error:
            self._skip("the keys of the agent", f"{path}: {error}")
            return None, {}

    def _certificates(self) -> Iterator[tuple[bytes, str]]:
        """Give certificates, each with the path of its file."""
        paths = [*self._hop.certificate_files]
        paths += [f"{path}-cert.pub" for path in self._hop.identity_files]
        for path in dict.fromkeys(paths):
            with contextlib.suppress(OSError, ValueError):
                yield public_file(path), path

    def _load(self, path: str, blob: bytes) -> tuple[bytes, _Sign] | None:
        """Read a private key; None when that fails."""
        key = self._memory.keys.get(path) or self._read(path, blob)
        return None if key is None else (key.asbytes(), partial(_sign_with, key))

    def _read(self, path: str, blob: bytes) -> paramiko.PKey | None:
        """Read a private key, with its passphrase when it has one; None when that fails."""
        passphrase = None
        for attempt in range(_PASSPHRASE_PROMPTS + 1):
            try:
                key = read_key(path, blob, passphrase)
            except paramiko.PasswordRequiredException:
                pass
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    self._skip(path, f"it cannot be read: {error.strerror}")
                elif os.path.basename(path) not in _DEFAULTS:
                    self._skip(path, "there is no such file")
                return None
            except paramiko.SSHException as error:
                if passphrase is None:
                    self._skip(path, f"it cannot be read: {error}")
                    return None
            else:
                if passphrase is not None:
                    self._memory.keys[path] = key
                return key
            if self._asker is None:
                self._skip(path, "it is encrypted, and there is nobody to ask for its passphrase")
                return None
            if attempt == _PASSPHRASE_PROMPTS:
                self._skip(path, "its passphrase was another one")
                return None
            passphrase = self._ask(f"Passphrase for key {path}: ")
            if not passphrase:
                # ssh goes on with the next key, too.
                break
        self._skip(path, "its passphrase was not given")
        return None

    # -- questions ------------------------------------------------------------------------

    def _answer_questions(self, server: UserAuth) -> Iterator[Reply]:
        while self._dialogs < self._hop.password_prompts:
            self._dialogs += 1
            if self._asker is None and not set(self._memory.answers) - self._recalled:
                self._skip("keyboard-interactive", "there is nobody to ask")
                return
            reply = server.questions()
            if reply.special is None and not reply.good:
                # It has no question for this user.
                yield reply
                return
            self._tried.append("keyboard-interactive")
            self.progress = True
            kept: dict[str, str] = {}
            reply = self._dialog(server, reply, kept)
            if reply.good:
                self._memory.answers.update(kept)
            else:
                self._memory.answers.clear()
            yield reply
            if reply.good:
                return

    def _dialog(self, server: UserAuth, reply: Reply, kept: dict[str, str]) -> Reply:
        """Answer rounds of questions; notes the answers that are worth keeping."""
        for _round in range(_MOST_ROUNDS):
            if reply.special is None:
                return reply
            questions = Questions.read(reply.special)
            if self._asker is not None and questions.head and not questions.prompts:
                self._asker.tell(questions.head)
            answers = []
            for prompt, echo in questions.prompts:
                answer = self._recall(prompt, self._memory.answers.get(prompt))
                if answer is None:
                    answer = self._ask_question(questions.head, prompt, echo)
                if _PASSWORD.search(prompt) and not _CODE.search(prompt):
                    kept[prompt] = answer
                answers.append(answer)
            reply = server.answer(answers)
        raise self.error("one question after the other")

    def _recall(self, name: str, value: str | None) -> str | None:
        """Give what is remembered, once: if it is wrong by now, it is asked for."""
        if value is None or name in self._recalled:
            return None
        self._recalled.add(name)
        return value

    def _ask_question(self, head: str, prompt: str, echo: bool) -> str:
        if self._asker is None:
            self._skip("keyboard-interactive", "there is nobody to ask")
            raise self.error()
        return self._ask(f"{head}\n{prompt}" if head else prompt, secret=not echo)

    def _give_password(self, server: UserAuth) -> Iterator[Reply]:
        while self._typed < self._hop.password_prompts:
            password = self._recall("password", self._memory.password)
            if password is None:
                if self._asker is None:
                    self._skip("password", "there is nobody to ask")
                    return
                self._typed += 1
                password = self._ask(f"Password for {self._hop.name}: ")
            self._tried.append("password")
            self.progress = True
            reply = server.try_password(password)
            if reply.special is not None:
                raise SshError(
                    f"{self._hop.name} wants a new password to be set first.",
                    kind="authentication",
                    advice=f"Log in once with `{self._hop.command}`.",
                )
            # It is forgotten when the server refuses it, not when the connection breaks.
            self._memory.password = password if reply.good else None
            yield reply
            if reply.good:
                return


def _same(value: tuple[bytes, _Sign]) -> tuple[bytes, _Sign]:
    return value


def _sign_with(key: paramiko.PKey, data: bytes, algorithm: str) -> bytes:
    signature: Any = key.sign_ssh_data(data, algorithm)
    return bytes(signature if isinstance(signature, bytes) else signature.asbytes())
