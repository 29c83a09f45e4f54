"""CURVE on ZeroMQ sockets: keys made, and set at either end.

Whether a kernel shall have it is decided in :mod:`.encryption`.

Source: JEP 145, *Transport encryption for ZMQ communication*; ZMTP 3.1 (RFC 37).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zmq

    from .connection import ConnectionInfo

__all__ = ["encrypt_client", "encrypt_server", "new_curve_keys"]


def new_curve_keys() -> dict[str, str]:
    """Make a fresh key pair for a kernel, as the fields of a :class:`ConnectionInfo` (Z85)."""
    import zmq

    public, secret = zmq.curve_keypair()
    return {"curve_publickey": public.decode("ascii"), "curve_secretkey": secret.decode("ascii")}


def encrypt_client(socket: zmq.Socket[bytes], info: ConnectionInfo) -> None:
    """Have a socket that is about to connect encrypt what it says, when the other end has keys.

    Its own keys are ephemeral: whoever knows the kernel's public key may connect, and the signature
    decides what it may do.

    Args:
        socket: not connected yet.
        info: has the other end's public key, or none.
    """
    if not info.curve_publickey:
        return
    import zmq

    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, info.curve_publickey.encode())


def encrypt_server(socket: zmq.Socket[bytes], info: ConnectionInfo) -> None:
    """Have a socket that is about to bind take encrypted connections alone, when it has keys.

    Args:
        socket: not bound yet.
        info: has its two keys, or none.
    """
    if not (info.curve_publickey and info.curve_secretkey):
        return
    import zmq

    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, info.curve_secretkey.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, info.curve_publickey.encode())
