"""A kernel on a host as this process reaches it: its part of the connection, given back in time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from kernel_mgmt import ConnectionInfo
from kernel_mgmt.records import records_dir, remove_record

from .connection import HostConnection

__all__ = ["Reach"]


class Reach:
    """The local sockets of a kernel on a host, and the connection that they need.

    Both are given back by :meth:`close`, or with the manager that has this.

    Args:
        connection: to the host; retained by the caller, and released here.
        forward: the name of the forward.
        kernel_id: the kernel's id, by which its record is found.
        record: what ``attach`` needs to find it again.
    """

    def __init__(
        self, connection: HostConnection, forward: str, kernel_id: str, record: Mapping[str, Any]
    ) -> None:
        self.connection = connection
        self.record = dict(record)
        self._kernel_id = kernel_id
        # No method of this: that would keep it for ever.
        self._give_back = weakref.finalize(self, _give_back, connection, forward)
        # At exit the process that holds the connection sees to everything.
        self._give_back.atexit = False

    @classmethod
    async def to(
        cls,
        connection: HostConnection,
        kernel_id: str,
        info: ConnectionInfo,
        record: Mapping[str, Any],
    ) -> tuple[Reach, ConnectionInfo]:
        """Reach a kernel by local sockets.

        Args:
            connection: to the host.
            kernel_id: the kernel's id.
            info: where the kernel listens on the host.
            record: what ``attach`` needs, with ``pid`` and ``identity`` of what listens there.

        Returns:
            The reach, and where the local sockets are.

        Raises:
            SshError: the sockets cannot be made, or the connection is lost.
        """
        far = {name: record[name] for name in ("pid", "identity")}
        forward, local = await connection.forward(info, far)
        return cls(connection, forward, kernel_id, record), local

    def close(self, *, forget: bool = False) -> None:
        """Remove the local sockets, and let go of the connection; safe to call twice.

        Args:
            forget: whether to remove the kernel's record, too: the kernel is gone.
        """
        if forget:
            remove_record(records_dir(), self._kernel_id)
        self._give_back()


def _give_back(connection: HostConnection, forward: str) -> None:
    connection.unforward(forward)
    connection.release()
