"""A registry of images on loopback, as slow as a test wants it.

Source: OCI Distribution Specification 1.1, "Pull".
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from typing import Any

__all__ = ["Registry"]

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """Serves one image of a few layers, of which nobody could make a kernel.

    Args:
        layers: how many.
        size: bytes of each.
        labels: of the image.
    """

    def __init__(
        self, layers: int = 2, size: int = 400_000, labels: dict[str, str] | None = None
    ) -> None:
        #: While it is not set, the last layer stops in the middle.
        self.flowing = threading.Event()
        #: Set when the middle of the last layer is reached.
        self.stuck = threading.Event()
        #: With what the manifest is refused; 0 to give it.
        self.refusal = 0
        self._blobs: dict[str, bytes] = {}
        self._make(layers, size, labels or {})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        #: The name of the image, registry and all.
        self.image = f"127.0.0.1:{self._server.server_port}/kernel-mgmt-test:1"

    def close(self) -> None:
        """Serve nobody any more."""
        self.flowing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _make(self, layers: int, size: int, labels: dict[str, str]) -> None:
        archives = [_archive(f"file-{number}", os.urandom(size)) for number in range(layers)]
        config = json.dumps(
            {
                "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
                "os": "linux",
                "config": {"Labels": {"kernel-mgmt-test": "1", **labels}},
                "rootfs": {"type": "layers", "diff_ids": [_digest(a) for a in archives]},
            }
        ).encode()
        for blob in (config, *archives):
            self._blobs[_digest(blob)] = blob
        self._last = _digest(archives[-1])
        self._manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _entry(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [
                    _entry(a, "application/vnd.docker.image.rootfs.diff.tar") for a in archives
                ],
            }
        ).encode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, body: bool = True) -> None:
                if "/manifests/" in self.path:
                    if registry.refusal:
                        self.send_error(registry.refusal)
                        return
                    content, kind = registry._manifest, _MANIFEST
                elif "/blobs/" in self.path:
                    content = registry._blobs[self.path.rpartition("/")[2]]
                    kind = "application/octet-stream"
                else:
                    content, kind = b"{}", "application/json"
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Docker-Content-Digest", _digest(content))
                self.end_headers()
                if body:
                    self._send(content)

            def _send(self, content: bytes) -> None:
                half = len(content) // 2
                try:
                    if _digest(content) != registry._last:
                        self.wfile.write(content)
                        return
                    self.wfile.write(content[:half])
                    registry.stuck.set()
                    registry.flowing.wait()
                    self.wfile.write(content[half:])
                except OSError:
                    pass  # the engine has hung up

        return Handler


def _archive(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _entry(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}
