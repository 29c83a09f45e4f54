"""A socket that is there to be connected to: by it the tunnel learns what the server forwards.

OpenSSH answers "connect failed" for a path that is not there and for one that is not allowed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading

from .host_paths import socket_base

__all__ = ["Probe"]


class Probe:
    """At most one socket at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._directory = ""

    def open(self) -> str:
        """Listen anew; gives the path, which is gone after one connection.

        Raises:
            AgentError: there is no directory for it.
            OSError: there is no room for it.
        """
        self.close()
        directory = tempfile.mkdtemp(prefix="km-", dir=socket_base())
        path = os.path.join(directory, "probe")
        listener = socket.socket(socket.AF_UNIX)
        with self._lock:
            self._listener, self._directory = listener, directory
        try:
            listener.bind(path)
            listener.listen(1)
        except OSError:
            self.close()
            raise
        threading.Thread(target=self._serve, args=(listener,), name="probe", daemon=True).start()
        return path

    def close(self) -> None:
        """Remove it."""
        with self._lock:
            listener, directory = self._listener, self._directory
            self._listener, self._directory = None, ""
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # which ends accept
            listener.close()
            shutil.rmtree(directory, ignore_errors=True)

    def _serve(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # it was closed
            return
        connection.close()
        with self._lock:
            ours = listener is self._listener
        if ours:
            self.close()
