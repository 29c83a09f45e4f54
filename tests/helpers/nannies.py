"""A nanny as anybody starts one, by its request, and what a manager asks it, by plain messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from kernel_mgmt import ConnectionInfo, KernelType, Session
from kernel_mgmt.channels import shared_context
from kernel_mgmt.nanny.request import NannyRequest

__all__ = ["ECHO_COMMAND", "MODULE", "RunningNanny", "ask_to_keep", "running_nanny"]

#: How long an answer may take, in seconds.
PATIENCE = 60.0

#: The nanny of this environment.
MODULE = (sys.executable, "-m", "kernel_mgmt.nanny")

#: The echo kernel of this environment.
ECHO_COMMAND = (
    *(sys.executable, "-m", "kernel_mgmt.testing.echo_kernel"),
    *("-f", "{connection_file}"),
)

ECHO = KernelType("echo", provider="echo", metadata={"supported_encryption": ["curve"]})


class RunningNanny:
    """A nanny that has answered well.

    Args:
        answer: its answer.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.pid: int = answer["pid"]
        self.connection_info = ConnectionInfo.from_dict(answer["connection_info"])
        self.connection_file = Path(answer["connection_file"])

    def ask(self, name: str, **content: Any) -> dict[str, Any]:
        """Ask it something, as a manager does; gives the content of its reply."""
        info = self.connection_info
        session = Session(info.key, info.signature_scheme)
        request = session.message(f"{name}_request", content)
        with shared_context().socket(zmq.DEALER) as socket:
            socket.linger = 0
            connect(socket, info, "nanny_control")
            socket.send_multipart(session.serialize(request))
            assert socket.poll(PATIENCE * 1000), f"{name} was not answered"
            reply = session.deserialize(socket.recv_multipart())
        assert reply.msg_type == f"{name}_reply"
        assert reply.parent_id == request.msg_id
        return reply.content


def connect(socket: zmq.Socket[bytes], info: ConnectionInfo, channel: str) -> None:
    """Connect to a socket of a nanny, encrypted where it is."""
    if info.curve_publickey:
        public, secret = zmq.curve_keypair()
        socket.curve_publickey, socket.curve_secretkey = public, secret
        socket.curve_serverkey = info.curve_publickey.encode()
    socket.connect(info.endpoint(channel))


def ask_to_keep(
    argv: Sequence[str],
    *,
    nanny: Sequence[str] = MODULE,
    kernel_type: KernelType = ECHO,
    **fields: Any,
) -> dict[str, Any]:
    """Ask a nanny to keep a kernel; gives its answer.

    Args:
        argv: the kernel's command.
        nanny: the nanny's command.
        kernel_type: the kernel's type.
        **fields: further fields of the request.
    """
    request = NannyRequest(
        kernel_id=uuid.uuid4().hex,
        kernel_type=kernel_type,
        argv=tuple(argv),
        runtime_dir=Path(os.environ["JUPYTER_RUNTIME_DIR"]),
        record_dir=Path(os.environ["JUPYTER_DATA_DIR"]) / "kernel-mgmt",
        **fields,
    )
    ended = subprocess.run(
        nanny,
        input=request.to_json(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.stdout, ended.stderr.decode()
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


@contextmanager
def running_nanny(argv: Sequence[str], **options: Any) -> Iterator[RunningNanny]:
    """Have a kernel kept by a nanny; both are gone at the end.

    Args:
        argv: the kernel's command.
        **options: those of :func:`ask_to_keep`.
    """
    answer = ask_to_keep(argv, **options)
    assert answer["status"] == "ok", answer
    nanny = RunningNanny(answer)
    try:
        yield nanny
    finally:
        if nanny.connection_file.exists():
            assert nanny.ask("stop", timeout=1)["status"] == "ok"
