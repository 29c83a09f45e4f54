"""A client of ssh-agent: which keys it has, and signatures with them.

draft-ietf-sshm-ssh-agent. paramiko's client only knows the agent of ``SSH_AUTH_SOCK``, and believes
whatever a program at that socket says about the number and size of what follows.
"""

from __future__ import annotations

import socket
import sys
import time

import paramiko

__all__ = ["AgentError", "SshAgent"]

_FAILURE = 5
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
#: Flags of a request to sign, by algorithm.
_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}
#: As much as OpenSSH reads, in bytes, and as many keys.
_LARGEST, _MOST_KEYS = 256 * 1024, 2048
#: Seconds for its list, and for a signature, which its user may have to allow.
_PATIENCE, _SIGNATURE_PATIENCE = 5.0, 60.0


class AgentError(Exception):
    """An agent cannot be talked to, or does not do what it is asked."""


class SshAgent:
    """A connection to an agent.

    Args:
        path: of its socket.

    Raises:
        AgentError: nothing listens there.
    """

    _socket: socket.socket

    def __init__(self, path: str) -> None:
        if sys.platform == "win32":
            raise AgentError("agents of Windows are not supported")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_PATIENCE)
            self._socket.connect(path)
        except (OSError, ValueError) as error:
            self._socket.close()
            raise AgentError(getattr(error, "strerror", None) or str(error)) from None

    def close(self) -> None:
        """Let it go."""
        self._socket.close()

    def keys(self) -> dict[bytes, str]:
        """Give the public keys and certificates that it has, each with its comment.

        Raises:
            AgentError: it does not say.
        """
        request = paramiko.Message()
        request.add_byte(bytes([_REQUEST_IDENTITIES]))
        m = self._ask(request, _IDENTITIES_ANSWER, _PATIENCE)
        count = m.get_int()
        if count > _MOST_KEYS:
            raise AgentError("what it answers is no list of keys")
        found: dict[bytes, str] = {}
        for _key in range(count):
            blob, comment = m.get_binary(), m.get_binary()
            text = bytes(comment).decode(errors="replace")
            found.setdefault(bytes(blob), "".join(filter(str.isprintable, text)))
        found.pop(b"", None)
        return found

    def sign(self, blob: bytes, data: bytes, algorithm: str) -> bytes:
        """Have it sign some data.

        Args:
            blob: the public key or certificate, as in :meth:`keys`.
            data: what to sign.
            algorithm: of the signature.

        Raises:
            AgentError: it does not; its user may have refused.
        """
        request = paramiko.Message()
        request.add_byte(bytes([_SIGN_REQUEST]))
        request.add_string(blob)
        request.add_string(data)
        request.add_int(_FLAGS.get(algorithm.partition("-cert-")[0], 0))
        return bytes(self._ask(request, _SIGN_RESPONSE, _SIGNATURE_PATIENCE).get_binary())

    def _ask(self, request: paramiko.Message, expected: int, patience: float) -> paramiko.Message:
        deadline = time.monotonic() + patience
        body = request.asbytes()
        try:
            self._socket.sendall(len(body).to_bytes(4, "big") + body)
            size = int.from_bytes(self._read(4, deadline), "big")
            if not 0 < size <= _LARGEST:
                raise AgentError("what it answers is no message of an agent")
            answer = self._read(size, deadline)
        except TimeoutError:
            raise AgentError(f"it gave no answer within {patience:g} s") from None
        except OSError as error:
            raise AgentError(error.strerror or str(error)) from None
        if answer[0] == _FAILURE:
            raise AgentError("the agent refused")
        if answer[0] != expected:
            raise AgentError("what it answers is no message of an agent")
        return paramiko.Message(answer[1:])

    def _read(self, size: int, deadline: float) -> bytes:
        content = b""
        while len(content) < size:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            more = self._socket.recv(size - len(content))
            if not more:
                raise AgentError("it ended the connection")
            content += more
        return content
