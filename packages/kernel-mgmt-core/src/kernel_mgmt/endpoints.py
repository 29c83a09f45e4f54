"""Where a kernel of this machine listens: its endpoints chosen, announced, looked at, removed.

Used for kernels that are processes, and for those that are not.  It travels with the nanny: only the
standard library is imported, and pyzmq where keys are made.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from .connection import CHANNELS, NANNY_CHANNELS, SUN_PATH_MAX, ConnectionInfo, write_private
from .curve import new_curve_keys
from .errors import ConnectionFileError, LaunchError, one_line
from .launch import LaunchRequest

__all__ = [
    "accepts",
    "announce",
    "check_endpoints",
    "choose_endpoints",
    "connect",
    "file_errors_as_launch_errors",
    "is_socket_directory",
    "make_connection",
    "private_directory",
    "refuses",
    "remove_connection",
    "remove_directory",
    "remove_sockets",
    "transport_for",
]

logger = logging.getLogger("kernel_mgmt")

#: The directories that this module names, and may remove, begin with this.
_SOCKET_DIR_PREFIX = "km-"

#: Unix sockets are there, with paths: not on Windows.
_HAVE_IPC = hasattr(socket, "AF_UNIX") and sys.platform != "win32"

#: How long a connection within this machine may take, in seconds: it is taken or refused at once.
_LOCAL_PATIENCE = 0.01


def make_connection(
    request: LaunchRequest, *, runtime_dir: Path, transport: str = "ipc"
) -> tuple[ConnectionInfo, Path]:
    """Choose the endpoints of a kernel that is not a process of its own, and announce them.

    Args:
        request: what to launch. Its ``connection_info``, when given, says which endpoints and
            key to use.
        runtime_dir: where to put the connection file, normally Jupyter's runtime directory.
        transport: ``ipc`` or ``tcp``; always ``tcp`` where there are no Unix sockets.

    Returns:
        The endpoints, whose directory is there and private, and the connection file.

    Raises:
        LaunchError: the endpoints are taken, or a file cannot be made; nothing was left behind.
    """
    check_endpoints(request.connection_info)
    info = choose_endpoints(request, transport)
    return info, announce(info, runtime_dir, request.kernel_id)


def transport_for(request: LaunchRequest, wanted: str) -> str:
    """Give the transport of a kernel: that of given endpoints, or what is wanted where it exists.

    Args:
        request: what to launch.
        wanted: ``ipc`` or ``tcp``.
    """
    if request.connection_info is not None:
        return request.connection_info.transport
    return wanted if _HAVE_IPC else "tcp"


def choose_endpoints(
    request: LaunchRequest,
    transport: str,
    *,
    encrypted: bool = False,
    sign_as: ConnectionInfo | None = None,
    socket_dir: Path | None = None,
) -> ConnectionInfo:
    """Give the endpoints that a launch asks for, or else fresh ones.

    Args:
        request: what to launch.
        transport: ``ipc`` or ``tcp``; always ``tcp`` where there are no Unix sockets.
        encrypted: whether fresh ones have CURVE keys.
        sign_as: has the key and signature scheme for fresh ones; a fresh key by default.
        socket_dir: the directory for fresh Unix sockets, not yet there; by default a fresh one.

    Raises:
        LaunchError: there is no directory for the sockets.
    """
    if request.connection_info is not None:
        return request.connection_info
    common: dict[str, Any] = {
        "kernel_name": request.kernel_type.name,
        "interrupt_mode": request.kernel_type.interrupt_mode,
        **(new_curve_keys() if encrypted else {}),
    }
    if sign_as is not None:
        common |= {"key": sign_as.key, "signature_scheme": sign_as.signature_scheme}
    if transport_for(request, transport) == "ipc":
        with file_errors_as_launch_errors():
            return ConnectionInfo.for_ipc(socket_dir or _new_socket_dir(), **common)
    return ConnectionInfo.for_tcp(**common)


def announce(
    info: ConnectionInfo,
    runtime_dir: Path,
    kernel_id: str,
    content: Mapping[str, Any] | None = None,
) -> Path:
    """Write the file by which a kernel and its clients find its sockets; make their directory.

    Args:
        info: the endpoints.
        runtime_dir: where to put the file.
        kernel_id: names the file.
        content: what the file shall hold instead of a connection file's content.

    Returns:
        The file's path.

    Raises:
        LaunchError: a file cannot be made; nothing was left behind.
    """
    # The file first: it names the directory, so that neither is ever unfindable.
    with file_errors_as_launch_errors():
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = write_private(
            runtime_dir / f"kernel-{kernel_id}.json", info.to_dict() if content is None else content
        )
    try:
        if info.transport == "ipc":
            _make_private(Path(info.ip).parent)
    except BaseException:
        remove_connection(file, info)
        raise
    return file


def check_endpoints(info: ConnectionInfo | None) -> None:
    """Refuse given endpoints that are incomplete, or another kernel's: we would take it for ours.

    Args:
        info: what a launch was given; None when it may choose.

    Raises:
        LaunchError: they cannot be used.
    """
    if info is None:
        return
    try:
        for channel in CHANNELS:
            info.endpoint(channel)
    except ConnectionFileError as error:
        raise LaunchError(
            one_line(error) + ".",
            phase="start",
            advice="Pass another connection_info, or none.",
            endpoints_refused=True,
        ) from error
    if info.transport == "ipc" and not _HAVE_IPC:
        raise LaunchError(
            "The given connection_info has transport 'ipc', and this system has no Unix sockets.",
            phase="start",
            advice="Pass one with transport 'tcp', or none.",
            endpoints_refused=True,
        )
    taken = [channel for channel in _channels(info) if accepts(info, channel)]
    if taken:
        raise LaunchError(
            f"Something accepts connections at the given endpoints of {', '.join(taken)} already.",
            phase="start",
            advice="End the kernel that uses them first, or pass another connection_info.",
            endpoints_refused=True,
        )


def _channels(info: ConnectionInfo) -> list[str]:
    """Give the channels, and those of a nanny that have a port."""
    return [*CHANNELS, *(name for name in NANNY_CHANNELS if getattr(info, f"{name}_port"))]


def accepts(info: ConnectionInfo, channel: str, timeout: float = _LOCAL_PATIENCE) -> bool:
    """Tell whether something listens at a channel's address.

    Args:
        info: the endpoints.
        channel: one of them.
        timeout: seconds that it may take; more for an address of another machine.
    """
    connected = connect(info, channel, timeout)
    if connected is not None:
        connected.close()
    return connected is not None


def refuses(info: ConnectionInfo, channel: str) -> bool:
    """Tell whether nothing listens at a channel's address, for certain.

    Who listens and is stopped, or has no room for further connections, does not refuse.

    Args:
        info: the endpoints.
        channel: one of them.
    """
    try:
        _connect(info, channel, _LOCAL_PATIENCE).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        pass
    return False


def connect(
    info: ConnectionInfo, channel: str, timeout: float = _LOCAL_PATIENCE
) -> socket.socket | None:
    """Connect to a channel without ZeroMQ; gives None when nothing listens there.

    Args:
        info: the endpoints.
        channel: one of them.
        timeout: seconds that it may take.
    """
    try:
        return _connect(info, channel, timeout)
    except OSError:  # refused, or accepted by a kernel that ended in the same moment
        return None


def _connect(info: ConnectionInfo, channel: str, timeout: float) -> socket.socket:
    address: str | tuple[str, int]
    if info.transport == "ipc":
        if sys.platform == "win32":
            raise ConnectionRefusedError
        family, address = socket.AF_UNIX, str(info.socket_path(channel))
    else:
        ip = _reachable(info.ip)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        address = (ip, getattr(info, f"{channel}_port"))
    probe = socket.socket(family)
    # Not done by the event loop: to be cancelled in the middle would leave it with a descriptor
    # that is closed.
    probe.settimeout(timeout)
    try:
        probe.connect(address)
        # A connection to a TCP port that nobody listens on can, rarely, meet itself.
        if info.transport == "tcp" and probe.getsockname() == probe.getpeername():
            raise ConnectionRefusedError
    except BaseException:
        probe.close()
        raise
    return probe


def _reachable(ip: str) -> str:
    """Give the address to connect to for an address to bind."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(ip, ip)  # noqa: S104


def remove_connection(connection_file: Path, info: ConnectionInfo) -> None:
    """Remove the file and what is in the directory that it names; safe to call twice."""
    _remove(connection_file.unlink)
    remove_sockets(info)


def remove_sockets(info: ConnectionInfo) -> None:
    """Remove the Unix sockets of a kernel that is gone, and their directory; safe to call twice."""
    if info.transport != "ipc":
        return
    for channel in _channels(info):
        if getattr(info, f"{channel}_port"):
            _remove(info.socket_path(channel).unlink)
    remove_directory(Path(info.ip).parent)


def remove_directory(directory: Path) -> None:
    """Remove a directory, if it is one that this module has named; safe to call twice.

    One of somebody else's choice may hold what is not ours.
    """
    if is_socket_directory(directory):
        _remove(lambda: shutil.rmtree(directory))


def _remove(remove: Callable[[], object]) -> None:
    try:
        remove()
    except FileNotFoundError:
        pass  # never made, or removed already
    except OSError as error:
        logger.warning("Left behind after a kernel: %s", error)


def is_socket_directory(directory: Path) -> bool:
    """Tell whether a directory is one that is made for sockets and goes with them."""
    return directory.name.startswith(_SOCKET_DIR_PREFIX)


def private_directory() -> Path:
    """Make a directory that is this user's alone, with a path short enough for sockets.

    Raises:
        LaunchError: it cannot be made.
    """
    with file_errors_as_launch_errors():
        directory = _new_socket_dir()
    _make_private(directory)
    return directory


def _new_socket_dir() -> Path:
    """Name a directory that does not exist yet and is short enough for socket paths."""
    name = f"{_SOCKET_DIR_PREFIX}{secrets.token_hex(4)}"
    # A kernel may choose its numbers itself; a nanny's is in a directory of its own in there.
    longest_file = len("/km-kernel/k-65535")
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - private below
        if not base or not os.access(base, os.W_OK | os.X_OK):
            continue
        path = os.path.join(os.path.abspath(base), name)
        if len(os.fsencode(path)) + longest_file <= SUN_PATH_MAX:
            return Path(path)
    raise ConnectionFileError(
        f"No directory for the kernel's sockets: their paths may have {SUN_PATH_MAX} bytes, and "
        f"{tempfile.gettempdir()!r} is too long or not writable; set TMPDIR to a shorter one."
    )


def _make_private(directory: Path) -> None:
    """Make the socket directory; one that is there already must be ours alone."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_private(directory):
            raise LaunchError(
                f"The socket directory {str(directory)!r} is not private to this user.",
                phase="start",
                advice="Use another connection_info, or remove the directory.",
                endpoints_refused=True,
            ) from None
    except OSError as error:
        raise LaunchError(
            f"The socket directory {str(directory)!r} cannot be made: {error.strerror}.",
            phase="start",
        ) from error


def _is_private(directory: Path) -> bool:
    if sys.platform == "win32":
        return False  # nor needed: there are no Unix sockets
    status = directory.lstat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


@contextmanager
def file_errors_as_launch_errors() -> Iterator[None]:
    """Raise a LaunchError for what goes wrong with files in a block."""
    try:
        yield
    except (ConnectionFileError, OSError) as error:
        raise LaunchError(
            one_line(error) + ".",
            phase="start",
            advice="Check the directory's path, room and rights.",
        ) from error
