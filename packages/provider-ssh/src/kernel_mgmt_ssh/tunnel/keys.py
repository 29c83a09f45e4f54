"""Keys and certificates in files.

PROTOCOL.key and PROTOCOL.certkeys of OpenSSH.
"""

from __future__ import annotations

import base64
import contextlib
import re
from pathlib import Path

import paramiko

from .userauth import kind_of

__all__ = ["certified_key", "public_file", "public_key", "read_key"]


def public_key(path: str) -> bytes:
    """Give the public part of a private key, without its passphrase.

    Args:
        path: of the private key; it need not be there. It may also be of a public key, whose
            private part an agent has.

    Returns:
        The public key; empty when only the passphrase would tell.
    """
    with contextlib.suppress(OSError, ValueError):
        return public_file(f"{path}.pub")
    with contextlib.suppress(OSError, ValueError):
        return _public_part(Path(path).read_text(encoding="ascii"))
    with contextlib.suppress(OSError, ValueError):
        return public_file(path)
    return b""


def public_file(path: str) -> bytes:
    """Read a file with a public key or a certificate.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    words = Path(path).read_text(encoding="utf-8", errors="replace").split()
    if len(words) < 2:
        raise ValueError(path)
    blob = base64.b64decode(words[1], validate=True)
    if kind_of(blob) != words[0]:
        raise ValueError(path)
    return blob


def _public_part(text: str) -> bytes:
    """Read the public key of a private one in OpenSSH's format, which does not encrypt it."""
    found = re.search(
        "-----BEGIN OPENSSH PRIVATE KEY-----(.*)-----END OPENSSH PRIVATE KEY-----", text, re.DOTALL
    )
    if found is None:
        raise ValueError("another format")
    m = paramiko.Message(base64.b64decode(found[1]))
    if m.get_bytes(15) != b"openssh-key-v1\0":
        raise ValueError("another format")
    for _cipher_kdf_options in range(3):
        m.get_binary()
    if m.get_int() != 1:
        raise ValueError("not one key")
    blob = bytes(m.get_binary())
    if not kind_of(blob):
        raise ValueError("cut off")
    return blob


def certified_key(blob: bytes) -> bytes:
    """Give the public key that a certificate is for; of a public key, itself.

    A certificate is its kind, a nonce, the fields of the key, and more.
    """
    name, separator, _ = kind_of(blob).partition("-cert-v01@")
    if not separator:
        return blob
    m = paramiko.Message(blob)
    _kind, _nonce = m.get_binary(), m.get_binary()
    plain = paramiko.Message()
    plain.add_string(name)
    for _field in range(1 if name == "ssh-ed25519" else 2):
        plain.add_string(m.get_binary())
    return bytes(plain.asbytes())


def read_key(path: str, blob: bytes, passphrase: str | None) -> paramiko.PKey:
    """Read a private key.

    Args:
        path: of its file.
        blob: its public part, if known: one kind of key is tried instead of all.
        passphrase: None when there is none so far.

    Raises:
        OSError: it is not there, or may not be read.
        paramiko.PasswordRequiredException: it is encrypted, and there is no passphrase.
        paramiko.SSHException: that is wrong, or it is of a kind that is not supported.
    """
    failure: Exception | None = None
    for kind in _classes(blob):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                return kind.from_private_key(file, password=passphrase)
        except (OSError, paramiko.PasswordRequiredException):
            raise
        except Exception as error:  # noqa: BLE001 - what it raises for a broken file is not listed
            failure = failure or error
    raise paramiko.SSHException(
        str(failure or "keys of its kind can be used through an agent only")
    )


def _classes(blob: bytes) -> list[type[paramiko.PKey]]:
    kinds: dict[str, type[paramiko.PKey]] = {
        "ssh-ed25519": paramiko.Ed25519Key,
        "ecdsa-": paramiko.ECDSAKey,
        "ssh-rsa": paramiko.RSAKey,
    }
    if not blob:
        return list(kinds.values())
    return [each for name, each in kinds.items() if kind_of(blob).startswith(name)]
