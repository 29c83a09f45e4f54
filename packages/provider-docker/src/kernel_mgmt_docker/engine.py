"""The engine that runs containers: which one it is, and calls of it that never block the event loop.

It is the one of ``DOCKER_HOST``, else of the current context (``docker context``), else one that
listens where engines do: Docker's, or Podman's with the compatible API.

Source: Docker Engine API, https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import docker
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env
from kernel_mgmt import LaunchError
from kernel_mgmt.background import finish, in_thread, result_of
from kernel_mgmt.errors import one_line

from .errors import DockerProblem

if TYPE_CHECKING:
    from .watching import Watcher

__all__ = ["Engine", "find_host"]

logger = logging.getLogger("kernel_mgmt.docker")

T = TypeVar("T")

#: How long one call may take, in seconds; the engine answers most at once, but not when it is busy.
_PATIENCE = 60
#: How long it may take to answer the first time.
_CONNECT_PATIENCE = 10
#: How many connections are kept for the next call.
_POOL = 32

_DOCKER_SOCKET = "/var/run/docker.sock"

_lock = threading.Lock()
#: Those that are in use in this process.
_engines: dict[tuple[int, str], Engine] = {}


class Engine:
    """A connection to an engine, shared by all who use that engine in this process.

    Get one by :meth:`connect`, and call :meth:`close` when it is not needed any more.

    Attributes:
        host: where it listens, as in ``DOCKER_HOST``.
        api: docker-py's client; its methods block, so they are for :meth:`call`.
    """

    def __init__(self, host: str, api: docker.APIClient) -> None:
        self.host = host
        self.api = api
        self._users = 0
        self._watcher: Watcher | None = None

    def __repr__(self) -> str:
        return f"<Engine {self.host}>"

    @property
    def socket_path(self) -> str:
        """The path of the Unix socket at which it listens; empty when it is elsewhere."""
        return self.host.removeprefix("unix://") if self.host.startswith("unix://") else ""

    @property
    def is_local(self) -> bool:
        """Whether it listens at a Unix socket: it is on this machine, or in a virtual one of it."""
        return bool(self.socket_path)

    # -- life ------------------------------------------------------------------------------

    @classmethod
    async def connect(cls, host: str = "", *, patience: int = _CONNECT_PATIENCE) -> Engine:
        """Connect to an engine.

        Args:
            host: where it listens; by default where :func:`find_host` says.
            patience: seconds until it must have answered.

        Raises:
            DockerProblem: why that cannot be (phase ``connect``).
        """
        waiting = in_thread("docker-connect", lambda: cls.connect_now(host, patience=patience))
        try:
            return await result_of(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(_close_unwanted)
            raise

    @classmethod
    def connect_now(cls, host: str = "", *, patience: int = _CONNECT_PATIENCE) -> Engine:
        """Connect to an engine, blocking; otherwise as :meth:`connect`."""
        tls: Any = None
        if not host:
            host, tls = find_host()
        elif not host.startswith("unix://"):
            current, its = find_host()
            tls = its if current == host else None
        key = (os.getpid(), host)
        _probe(host)
        with _lock:
            engine = _engines.get(key)
            if engine is not None:
                engine._users += 1
        if engine is not None:
            try:
                engine._ping(patience)
            except BaseException:
                engine.close()
                raise
            return engine
        new = _open(host, tls, patience)
        with _lock:
            engine = _engines.setdefault(key, new)
            engine._users += 1
        if engine is not new:
            new.api.close()
        return engine

    def close(self) -> None:
        """Use it no more; the last user closes its connections."""
        with _lock:
            self._users -= 1
            if self._users:
                return
            _engines.pop((os.getpid(), self.host), None)
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self.api.close()

    async def release(self) -> None:
        """Use it no more, as :meth:`close` does, off the event loop."""
        await finish(result_of(in_thread("docker-close", self.close)))

    def probe(self) -> None:
        """Look whether it listens, blocking; docker-py leaves a socket open that cannot connect.

        Raises:
            DockerProblem: it does not.
        """
        _probe(self.host)

    def _ping(self, patience: int) -> None:
        url = f"{self.api.base_url}/_ping"
        with _Explained("ping", self.host):
            self.api.get(url, timeout=patience).raise_for_status()

    @property
    def watcher(self) -> Watcher:
        """Who notices when containers of this engine end."""
        from .watching import Watcher

        with _lock:
            if self._watcher is None:
                self._watcher = Watcher(self)
            return self._watcher

    # -- calls -----------------------------------------------------------------------------

    async def call(
        self, function: Callable[..., T], *args: Any, phase: str = "start", **kwargs: Any
    ) -> T:
        """Call a method of :attr:`api` in a thread, and wait for it.

        When the caller is cancelled the call is waited for all the same, so that what it made is
        known; it takes a minute at most.

        Args:
            function: the method.
            *args: its arguments.
            phase: of a launch, for errors.
            **kwargs: its arguments by name.

        Raises:
            APIError: the engine refuses; its status says what.
            DockerProblem: the engine cannot be asked.
        """
        name = getattr(function, "__name__", "call")

        def run() -> T:
            with _Explained(name, self.host, phase):
                self.probe()
                return function(*args, **kwargs)

        waiting = in_thread(f"docker-{name}", run)
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done():
            try:
                await result_of(waiting)
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception:  # noqa: BLE001 - raised below
                break
        if cancelled is not None:
            raise cancelled
        return waiting.result()


def _close_unwanted(future: Any) -> None:
    if future.exception() is None:
        future.result().close()


# -- where it is -------------------------------------------------------------------------------


def find_host() -> tuple[str, Any]:
    """Give where the engine listens, as in ``DOCKER_HOST``, and docker-py's settings for TLS.

    Raises:
        DockerProblem: the context that was chosen does not exist.
    """
    settings = kwargs_from_env()
    if "base_url" in settings:
        return str(settings["base_url"]), settings.get("tls")
    name = os.environ.get("DOCKER_CONTEXT")
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # docker-py raises a bare one for a corrupt file
        raise DockerProblem(
            f"The current docker context cannot be read: {one_line(error)}.",
            kind="bad-host",
            advice="See 'docker context ls', or set DOCKER_HOST.",
        ) from error
    if context is None:
        raise DockerProblem(
            f"There is no docker context {name or 'of that name'!r}.",
            kind="bad-host",
            advice="See 'docker context ls', or set DOCKER_HOST.",
        )
    host = str(context.Host or "").replace("http+unix://", "unix://")
    if context.name != "default" and host:
        return host, context.TLSConfig
    for path in _sockets():
        if os.path.exists(path):
            return f"unix://{path}", None
    return host or f"unix://{_DOCKER_SOCKET}", None


def _sockets() -> list[str]:
    """Give where engines of this machine listen: Docker's, rootless Docker's, Podman's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = [f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"] if runtime else []
    return [_DOCKER_SOCKET, *own, "/run/podman/podman.sock"]


def _probe(host: str) -> None:
    """Look whether somebody listens at a Unix socket: docker-py's errors do not tell why not.

    Raises:
        DockerProblem: nobody, or not to us.
    """
    if sys.platform == "win32" or not host.startswith("unix://"):
        return
    path = host.removeprefix("unix://")
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_PATIENCE)
            probe.connect(path)
    except PermissionError:
        raise DockerProblem(
            f"This user may not use the container engine at {host}.",
            kind="no-permission",
            advice="Have an administrator add the user to the group that owns the socket (who is in "
            "it can be root on that machine), or use an engine of the user's own: rootless Docker or "
            "Podman.",
        ) from None
    except OSError as error:
        raise _down(host, error.strerror or type(error).__name__) from None


def _down(host: str, reason: str) -> DockerProblem:
    return DockerProblem(
        f"No container engine answers at {host}: {reason}.",
        kind="engine-down",
        advice="Start it (systemctl start docker), or say by DOCKER_HOST or 'docker context use' "
        "where another one is.",
    )


def _open(host: str, tls: Any, patience: int) -> Engine:
    options: dict[str, Any] = {"tls": tls} if tls else {}
    options |= {"base_url": host, "timeout": patience, "max_pool_size": _POOL}
    with _Explained("version", host):
        try:
            api = _Client(version=_api_version(host, patience), **options)
        except (ValueError, LookupError) as error:
            raise DockerProblem(
                f"{host!r} is no address of a container engine: {one_line(error)}.",
                kind="bad-host",
                advice="Mend DOCKER_HOST or the docker context.",
            ) from error
    api.timeout = _PATIENCE
    return Engine(host, api)


def _api_version(host: str, patience: int) -> str:
    """Give the version of the API that an engine of this machine speaks; ``auto`` to have it asked.

    A ping tells it five times as quickly as what docker-py asks.
    """
    if not host.startswith("unix://"):
        return "auto"
    api = _Client(base_url=host, version=DEFAULT_DOCKER_API_VERSION, timeout=patience)
    try:
        answer = api.get(f"{api.base_url}/_ping", timeout=patience)
        answer.raise_for_status()
        return str(answer.headers.get("Api-Version") or "auto")
    finally:
        api.close()


class _Client(docker.APIClient):
    """docker-py's client, whose certificates are those of the engine."""

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Keep the engine's own authority: requests prefers that of REQUESTS_CA_BUNDLE to a session's."""
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)

    def close(self) -> None:
        """Close all connections that wait for their next use: requests leaves them to be collected."""
        for adapter in self.adapters.values():
            pools = getattr(getattr(adapter, "poolmanager", None), "pools", {})
            for key in pools.keys():  # noqa: SIM118 - it is no mapping that can be iterated
                pool = pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()


class _Explained:
    """Turn what a call raises when the engine cannot be asked into a DockerProblem."""

    def __init__(self, what: str, host: str, phase: str = "connect") -> None:
        self._what, self._host, self._phase = what, host, phase

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (APIError, DockerProblem, LaunchError)):
            return
        if isinstance(error, requests.exceptions.ReadTimeout):
            raise DockerProblem(
                f"The container engine at {self._host} did not answer in time ({self._what}).",
                kind="timeout",
                advice="See whether it is overloaded, and try again.",
                phase=self._phase,
            ) from error
        # docker-py wraps what happens while it asks for the version.
        cause = error.__cause__ if isinstance(error, DockerException) else error
        if isinstance(cause, (requests.exceptions.RequestException, OSError)):
            raise _down(self._host, _reason(cause)) from error
        if isinstance(error, DockerException):
            raise DockerProblem(
                f"The container engine at {self._host} cannot be used: {one_line(error)}.",
                kind="bad-host" if self._phase == "connect" else "refused",
                phase=self._phase,
            ) from error


def _reason(error: BaseException) -> str:
    """Give the innermost reason of an error that requests has wrapped several times."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or one_line(error) or type(error).__name__
