"""An engine's socket on a TCP port, as if it were on another machine; with TLS for both ends."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

__all__ = ["EngineProxy", "make_certificates"]


class EngineProxy:
    """Passes connections on, each by two threads.

    Args:
        path: the engine's socket.
        certificates: what :func:`make_certificates` made; None for no TLS.
    """

    def __init__(self, path: str, certificates: Path | None = None) -> None:
        self._path = path
        self._context: ssl.SSLContext | None = None
        if certificates is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
            self._context.load_verify_locations(certificates / "ca.pem")
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        #: For DOCKER_HOST.
        self.host = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._run(self._accept)

    def _run(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        self._open += [client, engine]
        try:
            engine.connect(self._path)
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._open.append(client)
                # So that two threads may share it, see kernel_mgmt_docker.relay.link.
                client.settimeout(1e6)
        except OSError:
            client.close()
            engine.close()
            return
        self._run(self._pump, engine, client)
        self._pump(client, engine)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections, and the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for _ in range(2):  # what was accepted in between
            for one in list(self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for thread in list(self._threads):
                thread.join(10)
        for one in self._open:
            one.close()


def make_certificates(directory: Path) -> Path:
    """Make ``ca.pem``, ``cert.pem`` and ``key.pem``, good for either end, as DOCKER_CERT_PATH has them."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", directory / "key.pem", "-out", directory / "cert.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    shutil.copy(directory / "cert.pem", directory / "ca.pem")
    return directory
