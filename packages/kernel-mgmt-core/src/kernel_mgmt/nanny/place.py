"""Where a nanny is to be found: its addresses, and the files that tell of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..connection import CHANNELS, NANNY_CHANNELS, ConnectionInfo, free_tcp_ports
from ..endpoints import (
    announce,
    check_endpoints,
    choose_endpoints,
    is_socket_directory,
    private_directory,
    remove_connection,
    remove_directory,
)
from ..launch import KernelRecord, LaunchRequest
from ..machine import process_identity, this_machine
from ..records import journal_directory, remove_record, write_record
from .listening import listened_channels
from .request import NannyRequest
from .watchdog import Watchdog

__all__ = ["Place"]


class Place:
    """Where the nanny listens and what tells of it: sockets' directory, connection file, record.

    Args:
        request: what it keeps.
        watchdog: removes all of it, should the nanny be killed.

    Raises:
        LaunchError: a file cannot be made, or the endpoints are taken; nothing was left behind.
    """

    def __init__(self, request: NannyRequest, watchdog: Watchdog) -> None:
        self._request = request
        self._has_record = False
        given = request.connection_info
        check_endpoints(given)
        launch_request = LaunchRequest(
            request.kernel_type, request.kernel_id, connection_info=given
        )
        self.info = _with_nanny_ports(
            choose_endpoints(launch_request, "ipc"),
            journal=request.options.journal_limit is not None,
        )
        self.connection_file = announce(self.info, request.runtime_dir, request.kernel_id)
        watchdog.watch_path(self.connection_file)
        #: A private directory for what the kernels need.
        self.home = Path(self.info.ip).parent
        try:
            if given is not None or self.info.transport != "ipc":
                self.home = private_directory()
            for path in (self.home, *_paths(self.info)):
                watchdog.watch_path(path)
        except BaseException:
            self.leave()
            raise

    @property
    def journal_directory(self) -> Path | None:
        """Where the journal is spooled; None when none is on disk."""
        request = self._request
        if not request.options.journal_limit:
            return None
        if request.record_dir is None:  # by which it could be found again
            return self.home / "journal"
        return journal_directory(request.record_dir, request.kernel_id)

    def write_record(self, watchdog: Watchdog) -> None:
        """Write the record by which the kernel is found again.

        Raises:
            LaunchError: it cannot be written.
        """
        request = self._request
        if request.record_dir is None:
            return
        nanny = {
            "pid": os.getpid(),
            "identity": process_identity(os.getpid()),
            "directory": str(self.home),
        }
        record = KernelRecord(
            kernel_id=request.kernel_id,
            type_id=request.kernel_type.id,
            connection_info=self.info,
            manager={"nanny": nanny},
            name=request.options.name,
            started=time.time(),
            cwd="" if request.cwd is None else str(request.cwd),
            machine=this_machine(),
            connection_file=self.connection_file,
        )
        self._has_record = True
        watchdog.watch_path(write_record(request.record_dir, record))

    def leave(self) -> None:
        """Remove all of it."""
        remove_connection(self.connection_file, self.info)
        remove_directory(self.home)  # unless it is not made yet, and this is the user's own
        if self._has_record and self._request.record_dir is not None:
            remove_record(self._request.record_dir, self._request.kernel_id)


def _with_nanny_ports(info: ConnectionInfo, *, journal: bool) -> ConnectionInfo:
    """Choose the ports of the nanny's own sockets that are not given.

    Args:
        info: where it listens.
        journal: whether it keeps one; without it that has no port.
    """
    taken = {getattr(info, f"{channel}_port") for channel in CHANNELS}
    if info.transport == "tcp":
        # More than are needed: those that were given may be free still, and among them.
        candidates = free_tcp_ports(len(NANNY_CHANNELS) + len(taken), info.ip)
    else:
        candidates = list(range(len(CHANNELS) + 1, 20))
    ports: dict[str, int | None] = {}
    for channel in NANNY_CHANNELS:
        if channel == "nanny_journal" and not journal:
            ports[f"{channel}_port"] = None
            continue
        port = getattr(info, f"{channel}_port")
        if not port:
            port = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(port)
        ports[f"{channel}_port"] = port
    return info.replace(**ports)


def _paths(info: ConnectionInfo) -> list[Path]:
    """Give the Unix sockets, and the directory that goes with them."""
    if info.transport != "ipc":
        return []
    directory = Path(info.ip).parent
    paths = [info.socket_path(channel) for channel in listened_channels(info)]
    return [*paths, directory] if is_socket_directory(directory) else paths
