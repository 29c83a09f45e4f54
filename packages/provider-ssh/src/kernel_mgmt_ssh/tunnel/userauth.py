"""The messages of authentication: RFC 4252 and, for questions, RFC 4256.

paramiko's own methods sign with every key without asking the server first whether it would do,
do it on the thread that receives, and hide what the server accepts. Here one request after another
is made on the caller's thread.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_REQUEST,
    MSG_USERAUTH_SUCCESS,
    cMSG_SERVICE_REQUEST,
    cMSG_USERAUTH_INFO_RESPONSE,
    cMSG_USERAUTH_REQUEST,
)

from .transport import Transport

__all__ = ["Disconnected", "Questions", "Reply", "UserAuth", "kind_of"]

#: Seconds that a server gets for one answer: PAM waits two or three after a wrong password.
_PATIENCE = 30.0
#: More prompts in one message are no questions.
_MOST_PROMPTS = 100


class Disconnected(Exception):
    """The server ended the connection, or said nothing any more, during authentication."""


@dataclass(frozen=True)
class Reply:
    """What a server says to a request.

    Args:
        success: whether this was all it wanted.
        partial: whether it was good, and something else is wanted, too.
        methods: by which it may go on; empty when it does not say.
        special: what has a meaning of its own for the method: that a key would do, questions, or
            that a password is to be changed.
    """

    success: bool = False
    partial: bool = False
    methods: tuple[str, ...] = ()
    special: paramiko.Message | None = None

    @property
    def good(self) -> bool:
        """Whether what was given was accepted."""
        return self.success or self.partial


@dataclass(frozen=True)
class Questions:
    """A round of questions (RFC 4256, 3.2).

    Args:
        title: what they are about; may be empty.
        instructions: how to answer; may be empty.
        prompts: the questions, each with whether the answer may be shown.
    """

    title: str
    instructions: str
    prompts: tuple[tuple[str, bool], ...]

    @classmethod
    def read(cls, m: paramiko.Message) -> Questions:
        """Read them from a message."""
        title, instructions, _language = _text(m), _text(m), _text(m)
        count = min(m.get_int(), _MOST_PROMPTS)
        return cls(title, instructions, tuple((_text(m), m.get_boolean()) for _ in range(count)))

    @property
    def head(self) -> str:
        """What is to be read before the first question."""
        texts = (self.title.strip(), self.instructions.strip())
        return "\n".join(text for text in texts if text)


def kind_of(blob: bytes) -> str:
    """Give the name that a public key or a certificate begins with (RFC 4253, 6.6)."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")


class UserAuth(AuthHandler):
    """The client's side of authentication, on one connection.

    paramiko's transport calls its handlers on a thread of its own; they hand on what came.

    Args:
        transport: that has agreed on keys, and whose host key is known.
        user: whom to log in as.
    """

    def __init__(self, transport: Transport, user: str) -> None:
        super().__init__(transport)
        # The base class has a weak reference, which keeps nothing alive.
        self._to = transport
        self.username = user
        self._came: queue.SimpleQueue[tuple[int, paramiko.Message] | None] = queue.SimpleQueue()
        self._accepted = False
        self._handlers: dict[int, Callable[[paramiko.Message], None]] = {
            MSG_SERVICE_ACCEPT: lambda m: self._came.put((MSG_SERVICE_ACCEPT, m)),
            MSG_USERAUTH_SUCCESS: self._succeed,
            MSG_USERAUTH_FAILURE: lambda m: self._came.put((MSG_USERAUTH_FAILURE, m)),
            # What hosts say about unauthorized use is nothing that anybody has asked for.
            MSG_USERAUTH_BANNER: _ignore,
            # The same number: SSH_MSG_USERAUTH_PK_OK and _PASSWD_CHANGEREQ.
            MSG_USERAUTH_INFO_REQUEST: lambda m: self._came.put((MSG_USERAUTH_INFO_REQUEST, m)),
        }
        transport.auth_handler = self

    # -- for paramiko ---------------------------------------------------------------------

    @property
    def _handler_table(self) -> dict[int, Callable[[paramiko.Message], None]]:
        return self._handlers

    def abort(self) -> None:
        """End a wait for an answer that does not come any more."""
        self._came.put(None)

    def _succeed(self, m: paramiko.Message) -> None:
        # Before the next packet is read: what comes now is of an authenticated connection.
        self.authenticated = True
        self._to._auth_trigger()  # type: ignore[attr-defined]
        self._came.put((MSG_USERAUTH_SUCCESS, m))

    # -- requests -------------------------------------------------------------------------

    def try_none(self) -> Reply:
        """Ask to be let in without any proof, to learn what is wanted (RFC 4252, 5.2)."""
        return self._request("none", _ignore)

    def try_password(self, password: str) -> Reply:
        """Give a password (RFC 4252, 8)."""

        def fill(m: paramiko.Message) -> None:
            m.add_boolean(False)
            m.add_string(_bytes(password))

        return self._request("password", fill)

    def offer(self, blob: bytes, algorithm: str) -> Reply:
        """Ask whether a key would do (RFC 4252, 7); if so, the reply is special."""
        return self._request("publickey", _key(blob, algorithm))

    def sign(self, blob: bytes, algorithm: str, sign: Callable[[bytes, str], bytes]) -> Reply:
        """Prove to have a key (RFC 4252, 7).

        Args:
            blob: the public key or certificate.
            algorithm: of the signature.
            sign: gives the signature of some data; what it raises, this raises.
        """
        data = paramiko.Message()
        data.add_string(self._to.session_id or b"")
        self._head(data, "publickey")
        _key(blob, algorithm, signed=True)(data)
        signature = sign(data.asbytes(), algorithm)

        def fill(m: paramiko.Message) -> None:
            _key(blob, algorithm, signed=True)(m)
            m.add_string(signature)

        return self._request("publickey", fill)

    def questions(self) -> Reply:
        """Ask for questions (RFC 4256, 3.1); they are in a special reply."""

        def fill(m: paramiko.Message) -> None:
            # No language, and no wish for a device.
            m.add_string("")
            m.add_string("")

        return self._request("keyboard-interactive", fill)

    def answer(self, answers: list[str]) -> Reply:
        """Answer all questions of a round (RFC 4256, 3.4)."""
        m = paramiko.Message()
        m.add_byte(cMSG_USERAUTH_INFO_RESPONSE)
        m.add_int(len(answers))
        for answer in answers:
            m.add_string(_bytes(answer))
        return self._exchange(m)

    def algorithm(self, blob: bytes) -> str:
        """Give the algorithm of signatures that this side and the server have for a key.

        Raises:
            paramiko.SSHException: there is none.
        """
        kind = kind_of(blob)
        # For RSA keys the server has said which it takes (RFC 8308, 3.1).
        return str(self._finalize_pubkey_algorithm(kind))  # type: ignore[attr-defined]

    # -- one after the other --------------------------------------------------------------

    def _head(self, m: paramiko.Message, method: str) -> None:
        m.add_byte(cMSG_USERAUTH_REQUEST)
        m.add_string(self.username or "")
        m.add_string("ssh-connection")
        m.add_string(method)

    def _request(self, method: str, fill: Callable[[paramiko.Message], Any]) -> Reply:
        if not self._accepted:
            m = paramiko.Message()
            m.add_byte(cMSG_SERVICE_REQUEST)
            m.add_string("ssh-userauth")
            self._send(m)
            while self._receive()[0] != MSG_SERVICE_ACCEPT:
                pass
            self._accepted = True
        m = paramiko.Message()
        self._head(m, method)
        fill(m)
        return self._exchange(m)

    def _exchange(self, message: paramiko.Message) -> Reply:
        self._send(message)
        number, m = self._receive()
        if number == MSG_USERAUTH_SUCCESS:
            return Reply(success=True)
        if number == MSG_USERAUTH_FAILURE:
            methods = tuple(_text(m).split(","))
            return Reply(methods=methods, partial=m.get_boolean())
        return Reply(special=m)

    def _send(self, message: paramiko.Message) -> None:
        try:
            self._to._send_message(message)
        except (EOFError, OSError, paramiko.SSHException):
            raise Disconnected from None

    def _receive(self) -> tuple[int, paramiko.Message]:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                came = self._came.get(timeout=0.1)
                if came is None:
                    break
                return came
            if not self._to.is_active():
                # Closed from here: nothing is told of it.
                break
        raise Disconnected


def _text(m: paramiko.Message) -> str:
    """Read a text that somebody may be shown; one that is not UTF-8 is no reason to fail.

    What would steer a terminal is taken out (RFC 4256, 3.3, and RFC 4251, 9.2).
    """
    text = bytes(m.get_binary()).decode(errors="replace")
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)


def _bytes(text: str) -> bytes:
    """Give what was typed as it is sent, also what a terminal in another encoding had."""
    return text.encode("utf-8", "surrogateescape")


def _ignore(_message: paramiko.Message) -> None:
    pass


def _key(
    blob: bytes, algorithm: str, *, signed: bool = False
) -> Callable[[paramiko.Message], None]:
    def fill(m: paramiko.Message) -> None:
        m.add_boolean(signed)
        m.add_string(algorithm)
        m.add_string(blob)

    return fill
