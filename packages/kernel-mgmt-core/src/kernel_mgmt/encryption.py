"""CURVE for local kernels: whether to use it, and whether the kernel really does.

The launcher makes a key pair for each launch and puts it into the connection file; the kernel binds
its sockets with it.  A client needs the public key alone, since its own keys are ephemeral.

Source: JEP 145, *Transport encryption for ZMQ communication*; ZMTP 3.1 (RFC 37).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from typing import Any

from .connection import ConnectionInfo
from .errors import LaunchError
from .launch import KernelType

__all__ = ["check_encrypted", "mechanism_of", "wants_encryption"]

logger = logging.getLogger("kernel_mgmt")

_CHOICES = ("auto", "required", "off")

#: How many bytes a ZMTP peer of version 3 opens a connection with.
_GREETING_SIZE = 64
#: What makes it send them: a signature, and "version 3.1".  The rest is left out, because a peer that
#: sees a mechanism other than its own hangs up, and may do so before its greeting has left.
_OUR_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"
#: How long it may take to answer, in seconds.  It is libzmq's own thread that does.
_GREETING_PATIENCE = 5.0


def wants_encryption(
    choice: object,
    kernel_type: KernelType,
    transport: str,
    given: ConnectionInfo | None = None,
) -> bool:
    """Decide whether a kernel's channels shall be encrypted.

    Args:
        choice: ``auto`` (over TCP, when the kernel type declares that it can and libzmq can too),
            ``required`` or ``off``.
        kernel_type: its ``metadata`` may declare ``supported_encryption``.
        transport: what the kernel will be reached by, ``tcp`` or ``ipc``.
        given: the connection info to use again, when there is one: it has keys or has none.

    Raises:
        LaunchError: the choice is none, or cannot be had.
    """
    if choice not in _CHOICES:
        raise _refusal(
            f"The launch parameter 'encryption' is {choice!r}.",
            "It must be 'auto', 'required' or 'off'.",
        )
    if given is not None:
        return _given_keys(choice, kernel_type, given)
    if choice == "off" or (choice == "auto" and transport != "tcp"):
        return False
    obstacle = _obstacle(kernel_type)
    if obstacle and choice == "required":
        raise _refusal(
            f"Encryption is required, and {obstacle}.", "Pass encryption='auto' or 'off'."
        )
    if obstacle:
        logger.debug("The channels are not encrypted: %s.", obstacle)
    return not obstacle


def _given_keys(choice: object, kernel_type: KernelType, given: ConnectionInfo) -> bool:
    """Check that the keys of a given connection info, or their absence, are what is wanted."""
    encrypted = bool(given.curve_publickey)
    if encrypted != bool(given.curve_secretkey):
        raise _refusal(
            "The given connection_info has one of the kernel's two CURVE keys.",
            "Pass one with both, or with none.",
        )
    if encrypted and choice == "off":
        raise _refusal(
            "The given connection_info has CURVE keys, and encryption is 'off'.",
            "Pass encryption='auto', or a connection_info without keys.",
        )
    if not encrypted and choice == "required":
        raise _refusal(
            "Encryption is required, and the given connection_info has no CURVE keys.",
            "Pass one with keys, or none.",
        )
    obstacle = _obstacle(kernel_type) if encrypted else ""
    if obstacle:
        raise _refusal(
            f"The given connection_info has CURVE keys, and {obstacle}.",
            "Pass one without keys, or none.",
        )
    return encrypted


def _obstacle(kernel_type: KernelType) -> str:
    """Tell why a kernel cannot be encrypted; empty when it can."""
    if not declares_curve(kernel_type.metadata):
        return f"the kernel type {kernel_type.id!r} does not declare that it supports 'curve'"
    if not _libzmq_has_curve():
        return "this libzmq was built without CURVE"
    return ""


def declares_curve(metadata: Mapping[str, Any]) -> bool:
    """Tell whether a kernelspec's metadata name ``curve``, in a list or alone, in any case."""
    declared = metadata.get("supported_encryption")
    names = [declared] if isinstance(declared, str) else declared
    if not isinstance(names, (list, tuple)):
        return False
    return any(isinstance(name, str) and name.strip().lower() == "curve" for name in names)


def _libzmq_has_curve() -> bool:
    import zmq

    return bool(zmq.has("curve"))


def mechanism_of(greeting: bytes) -> str:
    """Give the security mechanism that a ZMTP greeting announces, such as ``NULL`` or ``CURVE``.

    Args:
        greeting: the first 64 bytes that a peer sent.

    Returns:
        The name; empty when these bytes are no greeting of ZMTP 3.
    """
    if len(greeting) < _GREETING_SIZE or greeting[0] != 0xFF or greeting[9] != 0x7F:
        return ""
    if greeting[10] < 3:
        return ""
    return greeting[12:32].rstrip(b"\0").decode("ascii", "replace")


async def check_encrypted(connected: socket.socket) -> None:
    """Make sure that a kernel which was given CURVE keys uses them.

    With one that does not, each client would wait for ever: its handshakes fail in silence.

    Args:
        connected: a plain connection to one of the kernel's channels; it is closed.

    Raises:
        LaunchError: the kernel's sockets speak something else.
    """
    with connected:
        mechanism = mechanism_of(await _greeting(connected))
    if not mechanism:
        # Nothing that can be judged; a client will never send anything in plain text anyway.
        logger.info("The kernel did not tell in time whether its channels are encrypted.")
    elif mechanism != "CURVE":
        raise LaunchError(
            f"The kernel declares that it supports 'curve', was given keys, and speaks {mechanism}.",
            phase="start",
            advice="Update the kernel, or launch it with launch_params={'encryption': 'off'}.",
        )


async def _greeting(connected: socket.socket) -> bytes:
    received = b""
    deadline = time.monotonic() + _GREETING_PATIENCE
    pause = 0.001
    connected.setblocking(False)
    try:
        connected.send(_OUR_GREETING)
        while len(received) < _GREETING_SIZE and time.monotonic() < deadline:
            try:
                data = connected.recv(_GREETING_SIZE - len(received))
            except BlockingIOError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.02)
                continue
            if not data:
                break
            received += data
    except OSError:  # the kernel has ended: whoever uses it will be told
        pass
    return received


def _refusal(cause: str, advice: str) -> LaunchError:
    return LaunchError(cause, phase="resolve", advice=advice)
