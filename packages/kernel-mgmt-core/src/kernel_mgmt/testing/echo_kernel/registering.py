"""The kernel's side of the startup handshake, well done and badly done.

Source: *Messaging in Jupyter*, section "Kernel startup handshake" (5.6).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import zmq

from ...connection import CHANNELS, ConnectionInfo
from ...protocol import DELIMITER, Session

__all__ = ["WAYS", "info_to_bind", "register"]

#: The ways to register.
WAYS = ("well", "twice", "never", "bad-id", "bad-port", "same-ports", "nonsense")

#: How long the acknowledgement is waited for, in milliseconds.
_PATIENCE = 5000


def info_to_bind(file: dict[str, Any]) -> ConnectionInfo:
    """Give what to bind for a registration file: ports of the kernel's choice."""
    # Of TCP ports the system knows which are free; the numbers of paths are ours to choose.
    tcp = file["transport"] == "tcp"
    ports = {f"{c}_port": 0 if tcp else 1000 + n for n, c in enumerate(CHANNELS)}
    return ConnectionInfo.from_dict({**file, **ports})


def register(file: dict[str, Any], ports: dict[str, int], way: str) -> None:
    """Tell the launcher the ports, and wait for its acknowledgement.

    Args:
        file: the content of the registration file.
        ports: by channel.
        way: one of :data:`WAYS`.

    Raises:
        SystemExit: there is no acknowledgement, or it is forged.
    """
    if way == "never":
        return
    session = Session(file["key"], file["signature_scheme"], username="echo")
    values: dict[str, Any] = {f"{channel}_port": str(port) for channel, port in ports.items()}
    values["kernel_id"] = file["kernel_id"]
    if way == "bad-id":
        values["kernel_id"] = "another"
    elif way == "bad-port":
        values["shell_port"] = "-1"
    elif way == "same-ports":
        values["shell_port"] = values["iopub_port"]
    content = json.dumps(values).encode() if way != "nonsense" else b"hello"
    signature = session.sign([content])
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        separator = ":" if file["transport"] == "tcp" else "-"
        address = f"{file['registration_ip']}{separator}{file['registration_port']}"
        socket.connect(f"{file['transport']}://{address}")
        for _ in range(2 if way == "twice" else 1):
            socket.send_multipart([DELIMITER, signature, content])
        if not socket.poll(_PATIENCE):
            sys.exit("Nobody acknowledged the registration.")
        delimiter, signature, content = socket.recv_multipart()
        if delimiter != DELIMITER or signature != session.sign([content]):
            sys.exit("The acknowledgement is forged.")
    finally:
        context.destroy(linger=0)
