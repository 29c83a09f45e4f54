"""The kernel startup handshake: the kernel picks its ports and registers them with its launcher.

Instead of a connection file the kernel is given a *registration file*.  It binds its five sockets,
connects a DEALER to the registration socket, sends one signed message with their ports, and waits
for a signed acknowledgement.  So no port can be taken between being chosen and being bound.

:class:`Registration` decides, without any I/O; :class:`RegistrationSocket` listens.

Source: *Messaging in Jupyter*, section "Kernel startup handshake" (5.6); *Making kernels for
Jupyter*, section "Registration file format"; JEP 66.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .connection import CHANNELS, ConnectionInfo
from .errors import ConnectionFileError, KernelMgmtError, LaunchError
from .protocol import DELIMITER, Session

__all__ = [
    "BadRegistration",
    "Registration",
    "RegistrationRefused",
    "RegistrationSocket",
    "speaks_handshake",
]

logger = logging.getLogger("kernel_mgmt")

#: The first version of the messaging protocol that has the handshake.
_SINCE = (5, 6)
#: What the registration socket's path ends with (transport ``ipc``).
_IPC_NUMBER = 6
#: A registration has some 200 bytes: a stranger shall not make us hold more than this.
_MESSAGE_MAX = 16_384
#: How many messages are looked at in one turn: a flood shall not hold up the loop.
_MESSAGES_PER_TURN = 100
#: How long the acknowledgement may take to leave, in milliseconds.
_LINGER = 500


class RegistrationRefused(KernelMgmtError):
    """A message is not the registration that is waited for; waiting goes on."""


class BadRegistration(KernelMgmtError):
    """The kernel itself, since it has the key, registered something that cannot be used."""


def speaks_handshake(version: str) -> bool:
    """Tell whether a ``kernel_protocol_version`` is 5.6 or later; what is no version is not."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return False
    return (major, minor) >= _SINCE


class Registration:
    """Decides which message registers one kernel: the first one that has its key and its id.

    Args:
        kernel_id: the id that the kernel was given.
        template: the kernel's connection info, all but the ports.
    """

    def __init__(self, kernel_id: str, template: ConnectionInfo) -> None:
        self._kernel_id = kernel_id
        self._template = template
        self._session = Session(template.key, template.signature_scheme, username="")
        self._done = False

    def file_content(self, port: int, *, port_as_text: bool = False) -> dict[str, Any]:
        """Give the content of the registration file.

        Args:
            port: the registration socket's.
            port_as_text: write the port as a string, as kernels based on xeus 6 want it; the
                specification has a number.
        """
        template = self._template
        return {
            "kernel_id": self._kernel_id,
            "transport": template.transport,
            # Where to bind, which the specification leaves open, and xeus wants to know.
            "ip": template.ip,
            "registration_ip": template.ip,
            "registration_port": str(port) if port_as_text else port,
            "signature_scheme": template.signature_scheme,
            "key": template.key,
            "kernel_name": template.kernel_name,
            "interrupt_mode": template.interrupt_mode,
        }

    def receive(self, frames: Sequence[bytes]) -> tuple[ConnectionInfo, list[bytes]]:
        """Take one message.

        Args:
            frames: as they came, identities first.

        Returns:
            The connection info of the kernel, and the frames of the acknowledgement.

        Raises:
            RegistrationRefused: somebody else's message, or too late.
            BadRegistration: the kernel's, and its ports are no ports.
        """
        try:
            start = list(frames).index(DELIMITER)
            signature, content = frames[start + 1 :]
        except ValueError:
            raise RegistrationRefused("it is no registration message") from None
        if not hmac.compare_digest(signature, self._session.sign([content])):
            raise RegistrationRefused(
                "its signature does not fit" if signature else "it is unsigned"
            )
        if self._done:
            raise RegistrationRefused("the kernel has registered before")
        info = self._read(content)
        self._done = True
        acknowledgement = b'{"status":"ok"}'
        reply = [DELIMITER, self._session.sign([acknowledgement]), acknowledgement]
        return info, [*frames[:start], *reply]

    def _read(self, content: bytes) -> ConnectionInfo:
        try:
            values = json.loads(content)
            if values["kernel_id"] != self._kernel_id:
                raise BadRegistration("it has another kernel's id")
            ports = {name: _port(values[name]) for name in (f"{c}_port" for c in CHANNELS)}
        except KeyError as error:
            raise BadRegistration(f"it lacks {error.args[0]!r}") from None
        except (ValueError, TypeError, RecursionError):
            raise BadRegistration("it is no JSON object") from None
        if len(set(ports.values())) < len(ports):
            raise BadRegistration("two of its ports are the same")
        try:
            return self._template.replace(**ports)
        except ConnectionFileError as error:
            raise BadRegistration(str(error)) from None


def _port(value: Any) -> int:
    """Read a port: a string of digits, says the specification; a number will do."""
    text = str(value)
    # No int() of a text that may have a million digits.
    if type(value) in (str, int) and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536:
        return int(text)
    raise BadRegistration(f"{text[:20]!r} is no port")


class RegistrationSocket:
    """Listens for one kernel's registration, on the loopback interface or in a private directory.

    Args:
        registration: decides about what comes.
        info: tells transport and address.

    Raises:
        LaunchError: it cannot be bound.
    """

    def __init__(self, registration: Registration, info: ConnectionInfo) -> None:
        import zmq

        self._zmq = zmq
        self._registration = registration
        self._refused = 0
        self._acknowledged = False
        #: Its own, so that closing it can wait for the acknowledgement to leave.
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.MAXMSGSIZE, _MESSAGE_MAX)
        #: Where to listen, when that is a path: its directory is made later.
        self._path = ""
        #: The registration socket's port, or the number that ends its path.
        self.port = _IPC_NUMBER
        if info.transport == "ipc":
            self._path = f"{info.ip}-{self.port}"
        else:
            self._bind(f"tcp://{info.ip}:*")
            endpoint: bytes = self._socket.get(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
            self.port = int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    def close(self) -> None:
        """Stop listening; an acknowledgement that was sent still leaves."""
        self._context.destroy(linger=_LINGER if self._acknowledged else 0)
        if self._path:
            Path(self._path).unlink(missing_ok=True)  # ZeroMQ leaves it

    def file_content(self, *, port_as_text: bool) -> dict[str, Any]:
        """Give the content of the registration file, see :meth:`Registration.file_content`."""
        return self._registration.file_content(self.port, port_as_text=port_as_text)

    def listen(self) -> None:
        """Begin to listen at a path, whose directory must be there by now; TCP does already.

        Raises:
            LaunchError: the path cannot be bound.
        """
        if self._path:
            self._bind(f"ipc://{self._path}")

    def _bind(self, endpoint: str) -> None:
        try:
            self._socket.bind(endpoint)
        except self._zmq.ZMQError as error:
            self.close()
            raise LaunchError(
                f"The socket for the kernel's registration cannot be bound: {error.strerror}.",
                phase="start",
                advice="Check the limits on ports and open files, and the rights in TMPDIR.",
            ) from error

    def take(self) -> ConnectionInfo | None:
        """Look at what has come; give the kernel's connection info once it has registered.

        Raises:
            BadRegistration: the kernel has registered what cannot be used.
        """
        for _ in range(_MESSAGES_PER_TURN):
            try:
                frames = self._socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                break
            try:
                info, reply = self._registration.receive(frames)
            except RegistrationRefused as error:
                self._note(error)
                continue
            self._socket.send_multipart(reply)
            self._acknowledged = True
            return info
        return None

    def _note(self, error: RegistrationRefused) -> None:
        self._refused += 1
        # Once: a stranger shall not fill the log.
        level = logging.WARNING if self._refused == 1 else logging.DEBUG
        logger.log(level, "Refused a message at the registration socket: %s.", error)
