"""The nanny's archive, kept in memory: put once by the tunnel, run as often as a kernel is started."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import io
import threading
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from . import memory_import
from .failing import AgentError
from .frames import LONGEST
from .memory_import import make_program

__all__ = ["Archives", "source_of"]

#: What a zip file begins with, and nothing that zlib has compressed.
_ZIP = b"PK"


class Archives:
    """Archives by the SHA-256 of their bytes."""

    def __init__(self) -> None:
        self._sources: dict[str, dict[str, str]] = {}
        self._programs: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()

    def put(self, digest: str, data: str) -> None:
        """Take an archive.

        Args:
            digest: the SHA-256 of its bytes, in hexadecimal.
            data: its bytes, in base64; better compressed by zlib before.

        Raises:
            AgentError: it is none, or another.
        """
        try:
            content = _unpacked(base64.b64decode(data, validate=True))
            if hashlib.sha256(content).hexdigest() != digest:
                raise AgentError("The archive came damaged.", kind="protocol")
            sources = _sources(content)
        except (binascii.Error, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise AgentError(f"The archive cannot be read: {error}.", kind="protocol") from None
        with self._lock:
            self._sources[digest] = sources

    def program(self, digest: str, main: str, more: Mapping[str, str] | None = None) -> bytes:
        """Give a program that runs one of an archive's modules.

        Args:
            digest: which archive.
            main: the module with the function ``main``.
            more: modules beside those of the archive, as ``MemoryImporter`` takes them.

        Raises:
            AgentError: the archive was not put.
        """
        with self._lock:
            if digest not in self._sources:
                raise AgentError("The agent has no such archive.", kind="no-archive")
            program = self._programs.get((digest, main))
            if program is None:
                sources = {**self._sources[digest], **(more or {})}
                program = make_program(source_of(memory_import.__name__), sources, main)
                self._programs[digest, main] = program
            return program


def _unpacked(data: bytes) -> bytes:
    """Give the bytes of a zip file that may have been compressed as a whole."""
    if data.startswith(_ZIP):
        return data
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, LONGEST)
    if not unpacker.eof:
        raise ValueError("it is too long, or cut off")
    return content


def _sources(content: bytes) -> dict[str, str]:
    """Give the modules of a zip file as ``MemoryImporter`` takes them."""
    sources = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for file in archive.namelist():
            name = file[: -len(".py")].replace("/", ".")
            if not file.endswith(".py") or "." not in name:
                continue  # __main__, which tells an old Python what the agent has told it
            if name.endswith(".__init__"):
                name = name[: -len("__init__")]
            sources[name] = archive.read(file).decode()
    return sources


def source_of(name: str) -> str:
    """Give the text of a module, sent or installed."""
    spec = importlib.util.find_spec(name)
    loader: Any = None if spec is None else spec.loader
    return str(loader.get_source(name))
