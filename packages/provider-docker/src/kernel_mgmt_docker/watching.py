"""Noticing when containers end: one stream of events for all of an engine's, read in a thread."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, DockerException, NotFound
from kernel_mgmt import ExitStatus

from .containers import exit_status, read_state
from .errors import DockerProblem

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Watcher", "container_process"]

logger = logging.getLogger("kernel_mgmt.docker")

#: The events that tell of an end, as Docker calls them, and as Podman does where it filters by them.
#: There is no filter by label: Podman finds none by its name alone.
_ENDINGS = ["die", "destroy", "died", "remove"]
#: How often an engine that went is looked for, in seconds.
_AGAIN = 0.25
#: How long the engine may take to tell how a container ended that it said has ended, in seconds.
_TELLING = 5.0
#: How long the process of a container may be gone before that counts without the engine's word.
_WITHOUT_WORD = 3.0


class Watcher:
    """Tells how containers of one engine have ended.

    The engine may stop and start again meanwhile: where it lets containers live on ("live restore")
    they are watched on.

    Args:
        engine: which one.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._watched: dict[str, tuple[concurrent.futures.Future[ExitStatus], int]] = {}
        self._stream: Any = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        #: Whether the stream is open, so that nothing is missed.
        self._listening = False

    def watch(self, container: str, pid: int = 0) -> concurrent.futures.Future[ExitStatus]:
        """Begin to watch a container.

        Args:
            container: its id.
            pid: of its first process on this machine, when that is known.

        Returns:
            What is done when the container has ended, with how it did.
        """
        with self._lock:
            if container in self._watched:
                return self._watched[container][0]
            future: concurrent.futures.Future[ExitStatus] = concurrent.futures.Future()
            self._watched[container] = (future, pid)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="kernel-mgmt-docker-events", daemon=True
                )
                self._thread.start()
            elif self._listening:
                # It may have ended before it was watched.
                threading.Thread(
                    target=self._look,
                    args=(container,),
                    name="kernel-mgmt-docker-look",
                    daemon=True,
                ).start()
        return future

    def forget(self, container: str) -> None:
        """Watch a container no more."""
        with self._lock:
            self._watched.pop(container, None)

    def close(self) -> None:
        """Watch nothing any more, and end the thread."""
        with self._lock:
            self._closed = True
            stream, thread = self._stream, self._thread
        self._wake.set()
        _close(stream)
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    # -- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - whatever docker-py makes of a cut stream
                logger.debug("The events of %s ended: %r", self._engine.host, error)
            self._listening = False
            if self._closed:
                break
            self._look_without_engine()
            self._wake.wait(_AGAIN)

    def _listen(self) -> None:
        self._engine.probe()
        filters = {"type": "container", "event": _ENDINGS}
        stream = self._engine.api.events(decode=True, filters=filters)
        with self._lock:
            self._stream = stream
            closed = self._closed
            self._listening = True
            watched = list(self._watched)
        if closed:
            _close(stream)
            return
        try:
            for container in watched:
                self._look(container)
            for event in stream:
                container = event.get("id") or event.get("Actor", {}).get("ID", "")
                if container in self._watched:
                    self._look_until_told(container)
        finally:
            with self._lock:
                self._stream = None
            _close(stream)

    def _look_until_told(self, container: str) -> None:
        """Ask the engine about a container of which it has said that it ended."""
        deadline = time.monotonic() + _TELLING
        while container in self._watched and not self._closed:
            self._look(container)
            if time.monotonic() >= deadline:
                break
            self._wake.wait(0.02)

    def _look(self, container: str) -> None:
        """Ask the engine about one container."""
        try:
            state = read_state(self._engine.api.inspect_container(container))
        except NotFound:
            self._tell(container, ExitStatus(reason="its container was removed"))
            return
        except (APIError, DockerException, OSError):
            return  # asked again, now or when the stream of events is opened again
        if state.ended:
            self._tell(container, exit_status(state))

    def _look_without_engine(self) -> None:
        """See which processes are gone while the engine does not answer."""
        deadline = time.monotonic() + _WITHOUT_WORD
        gone = {c for c, (_, pid) in list(self._watched.items()) if pid and not _runs(pid, c)}
        while gone and not self._closed and time.monotonic() < deadline:
            if self._answers():
                return
            self._wake.wait(_AGAIN)
        for container in gone:
            reason = "the container engine does not answer, and the process is gone"
            self._tell(container, ExitStatus(reason=reason))

    def _answers(self) -> bool:
        try:
            self._engine.probe()
        except DockerProblem:
            return False
        return True

    def _tell(self, container: str, status: ExitStatus) -> None:
        with self._lock:
            future, _ = self._watched.pop(container, (None, 0))
        if future is not None and not future.done():
            future.set_result(status)


def _close(stream: Any) -> None:
    if stream is not None:
        # Closed already, or an engine over SSH whose stream cannot be.
        with suppress(Exception):
            stream.close()


def _runs(pid: int, container: str) -> bool:
    return container_process(pid, container) or not Path("/proc/self/cgroup").exists()


def container_process(pid: int, container: str) -> bool:
    """Tell whether a process of this machine is in a container.

    A pid that an engine tells means something else when the engine is in a virtual machine, or when
    the process has ended.

    Args:
        pid: the process.
        container: the container's id.
    """
    if pid <= 1 or pid == os.getpid():
        return False
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
