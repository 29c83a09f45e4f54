"""Whether a server is the one that its user knows: the files of host keys.

sshd(8), SSH_KNOWN_HOSTS FILE FORMAT. Keys are only read here, never added: what is new or has
changed is told to the user, with the command that accepts exactly that key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SshError
from ..routes import Hop

__all__ = ["KnownHosts", "Line", "fingerprint", "names_match", "parse_line"]

#: Which signatures a kind of key can make; of all others the name of the key is the algorithm.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True)
class Line:
    """A line of a file of host keys.

    Args:
        marker: ``""``, ``@revoked`` or ``@cert-authority``.
        names: patterns with commas between them, or one hashed name.
        kind: of the key, as ``ssh-ed25519``.
        key: the key itself.
        path: of the file.
        number: of the line, from 1.
    """

    marker: str
    names: str
    kind: str
    key: bytes
    path: str = ""
    number: int = 0

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"line {self.number} of {self.path}"


def parse_line(text: str, path: str = "", number: int = 0) -> Line | None:
    """Read a line; None for comments and for what is none (as ssh does, which goes on)."""
    words = text.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#") or marker not in _MARKERS:
        return None
    names, kind, encoded = words[:3]
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    # A key begins with the name of its kind (RFC 4253, 6.6).
    if key[:4] != len(kind).to_bytes(4, "big") or key[4 : 4 + len(kind)] != kind.encode():
        return None
    return Line(marker, names, kind, key, path, number)


_MARKERS = ("", "@revoked", "@cert-authority")


def names_match(patterns: str, name: str) -> bool:
    """Whether the names of a line mean a host.

    Args:
        patterns: with commas between them; ``*`` and ``?`` stand for others, ``!`` before one
            excludes what it matches; or one hashed name (``|1|salt|hash``).
        name: of the host, ``[name]:port`` for another port than 22.
    """
    name = name.lower()
    if patterns.startswith("|"):
        return _hash_matches(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        excluded = pattern.startswith("!")
        if _matches(pattern.removeprefix("!"), name):
            if excluded:
                return False
            found = True
    return found


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern with ``*`` and ``?`` means a name; brackets are nothing special here."""
    # The pieces between stars in a regular expression would take exponential time to fail.
    at = position = 0
    star, resume = -1, 0
    while position < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[position]):
            at += 1
            position += 1
        elif star >= 0:
            # The last star takes one more; giving an earlier one more would change nothing.
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


def _hash_matches(text: str, name: str) -> bool:
    parts = text.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, expected = (base64.b64decode(part, validate=True) for part in parts[2:])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), expected)


def fingerprint(key: bytes) -> str:
    """Give the fingerprint of a key, as ``ssh-keygen -l`` shows it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


class KnownHosts:
    """What the files of a hop say about it, read when this is made.

    Args:
        hop: whose host keys are wanted.

    Raises:
        SshError: of kind ``config``: the file of revoked keys cannot be read.
    """

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        lines = [line for path in hop.known_hosts for line in _read(path)]
        # ssh_config(5), HostKeyAlias: it stands for the host and its port.
        self._name = hop.host_key_alias or _with_port(hop.hostname, hop.port)
        self._revoked = [
            line
            for line in lines
            if line.marker == "@revoked" and names_match(line.names, self._name)
        ]
        self._lines = self._named(lines, self._name)
        if not self._lines and not hop.host_key_alias and hop.port != 22:
            # As ssh does: a key that is known for the host without a port is trusted at others.
            self._fallback = self._named(lines, hop.hostname)
        else:
            self._fallback = []
        #: Who may sign for the host, by a certificate.
        self._authorities = [
            line
            for line in lines
            if line.marker == "@cert-authority" and names_match(line.names, self._name)
        ]
        self._revoked_keys = _revoked_keys(hop.revoked_host_keys)

    @staticmethod
    def _named(lines: Sequence[Line], name: str) -> list[Line]:
        return [line for line in lines if not line.marker and names_match(line.names, name)]

    def order(self, algorithms: Sequence[str]) -> tuple[str, ...]:
        """Give algorithms of host keys, those for keys that are known first.

        A server has several keys; so the one that is known is what it is asked to prove.
        """
        known = self._algorithms()
        return (
            *(name for name in algorithms if name in known),
            *(name for name in algorithms if name not in known),
        )

    def _algorithms(self) -> set[str]:
        kinds = {line.kind for line in (*self._lines, *self._fallback)}
        return {name for kind in kinds for name in _ALGORITHMS.get(kind, (kind,))}

    def check(self, kind: str, key: bytes, algorithms: Sequence[str] = ()) -> None:
        """Look whether a key is one that is known for the host.

        Args:
            kind: of the key, as ``ssh-ed25519``.
            key: what the server has proved to have.
            algorithms: all that the server was offered.

        Raises:
            SshError: of kind ``revoked-host-key``, ``changed-host-key`` or ``unknown-host-key``.
        """
        revoked = next((line.place for line in self._revoked if line.key == key), "")
        if not revoked and key in self._revoked_keys:
            revoked = self._hop.revoked_host_keys
        if revoked:
            raise self._error(
                f"The host key of {self._hop.address}, {kind} {fingerprint(key)}, is revoked by"
                f" {revoked}.",
                "revoked-host-key",
                "Somebody may have stolen it: do not connect; ask who runs the host for its new"
                " key.",
            )
        if any(line.key == key for line in (*self._lines, *self._fallback)):
            return
        # Of a kind that was asked for first, and that the server has not any more, counts, too.
        others = [
            line
            for line in self._lines
            if line.kind == kind or set(_ALGORITHMS.get(line.kind, (line.kind,))) & set(algorithms)
        ]
        if others:
            raise self._changed(kind, key, others)
        raise self._unknown(kind, key)

    def _changed(self, kind: str, key: bytes, known: Sequence[Line]) -> SshError:
        line = next((line for line in known if line.kind == kind), known[0])
        command = shlex.join(["ssh-keygen", "-R", self._name, "-f", line.path])
        return self._error(
            f"THE HOST KEY OF {self._hop.address} HAS CHANGED: it is {kind} {fingerprint(key)},"
            f" where {line.place} has {line.kind} {fingerprint(line.key)}; somebody may be between"
            " you and the host.",
            "changed-host-key",
            "Ask who runs the host; only when the change is meant, remove the old key with"
            f" `{command}` and connect again.",
        )

    def _unknown(self, kind: str, key: bytes) -> SshError:
        command = self._accept_command(kind, key)
        advice = (
            "Compare the fingerprint with what who runs the host tells you, and accept this key"
            f" with `{command}`."
            if command
            else "Name a file of host keys with UserKnownHostsFile in your ssh_config."
        )
        but = (
            f" (certificates of hosts, as {self._authorities[0].place} expects one, are not"
            " supported)"
            if self._authorities
            else ""
        )
        return self._error(
            f"The host key of {self._hop.address} is not known: {kind} {fingerprint(key)}{but}.",
            "unknown-host-key",
            advice,
        )

    def _accept_command(self, kind: str, key: bytes) -> str:
        """Give the shell command that adds exactly this key; empty when there is no file."""
        path = self._hop.accept_file
        if not path:
            return ""
        line = f"{self._name.lower()} {kind} {base64.b64encode(key).decode()}"
        folder = os.path.dirname(path)
        prepare = (
            f"{shlex.join(['mkdir', '-p', '-m', '700', folder])} && "
            if folder and not os.path.isdir(folder)
            else ""
        )
        # Behind a last line without its end, the new one would be a part of that.
        start = r"\n" if _is_unfinished(path) else ""
        return f"{prepare}printf '{start}%s\\n' {shlex.quote(line)} >> {shlex.quote(path)}"

    def _error(self, cause: str, kind: str, advice: str) -> SshError:
        return SshError(cause, kind=kind, advice=advice)


def _with_port(hostname: str, port: int) -> str:
    return hostname if port == 22 else f"[{hostname}]:{port}"


def _read(path: str) -> Iterator[Line]:
    """Give the lines of a file; none when it is not there or may not be read."""
    with contextlib.suppress(OSError, ValueError):
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        for number, content in enumerate(text.split("\n"), 1):
            line = parse_line(content, path, number)
            if line is not None:
                yield line


def _revoked_keys(path: str) -> frozenset[bytes]:
    """Read ssh_config(5), RevokedHostKeys: public keys, one a line.

    As ssh does, a file that cannot be read revokes everything: here, before connecting.
    """
    if not path:
        return frozenset()
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SshError(
            f"RevokedHostKeys of your ssh_config, {path}, cannot be read: {error.strerror}.",
            kind="config",
        ) from None
    if content.startswith(b"SSHKRL\n"):
        raise SshError(
            f"RevokedHostKeys of your ssh_config, {path}, is a binary list, which is not supported.",
            kind="config",
            advice="Name a text file with one public key a line.",
        )
    # A public key is a line without names.
    lines = (parse_line(f"* {line}") for line in content.decode(errors="replace").split("\n"))
    return frozenset(line.key for line in lines if line is not None)


def _is_unfinished(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return (
                file.seek(0, os.SEEK_END) > 0
                and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"
            )
    except (OSError, ValueError):
        return False
