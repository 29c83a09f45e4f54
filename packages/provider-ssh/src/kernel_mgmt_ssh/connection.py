"""The connections of this process to hosts: one per host and user, shared by all that is done there.

Each is held by a process of its own (:mod:`.tunnel`), so that passing bytes on does not take turns with
the application's own work.  All of this happens on the background loop, and can be used from any loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import compress

from kernel_mgmt import ConnectionInfo, ConnectionLost
from kernel_mgmt.background import (
    background_loop,
    call_in_background,
    finish,
    in_background,
    in_thread,
    result_of,
)
from kernel_mgmt.connection import CHANNELS, NANNY_CHANNELS
from kernel_mgmt.link import Link

from .errors import SshError
from .routes import Route, resolve
from .tunnel_process import TunnelProcess

__all__ = ["HostConnection", "close_idle_connections", "open_connection"]

#: How long a connection that nobody uses is kept for who comes next, in seconds.
_LINGER = 10.0
#: The Pythons with which the agent may run.
_PYTHONS = ("python3", "python", "/usr/bin/python3", "/usr/local/bin/python3")

Ask = Callable[[str, bool], Awaitable[str]]
Tell = Callable[[str], object]

#: The connections of this process, by the key of their route; looked at on the background loop alone.
_pool: dict[str, HostConnection] = {}
#: Taken by who makes one.
_making: dict[str, asyncio.Lock] = {}


class HostConnection:
    """A connection to a host, which is made again when it was lost.

    As an asynchronous context manager it is released at the end.

    Args:
        route: the way to the host.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        target = route.hops[-1]
        #: Tells whether the connection is there.
        self.link = Link(f"{target.user}@{target.alias}")
        #: How sockets on the host are reached: ``streamlocal``, ``tcp`` or ``relay``.
        self.forwarding = ""
        self._process = TunnelProcess(self._on_event, self._on_end)
        self._users = 0
        self._ending: asyncio.TimerHandle | None = None
        self._forwards = itertools.count(1)
        #: While it is made: who asks its user, and who is told how far it is.
        self._ask: Ask | None = None
        self._tell: Tell | None = None
        #: What the one who asks has raised.
        self._prompt_error: BaseException | None = None
        #: Tasks that answer questions.
        self._answering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<HostConnection {self.link.name} {self.link.state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    # -- what can be done with it -----------------------------------------------------------

    async def wait_until_up(self, timeout: float) -> None:
        """Wait until a connection that is lost at present is there again.

        Args:
            timeout: seconds that this may take.

        Raises:
            SshError: it did not come back in time.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.link.wait_until_up()
        except (TimeoutError, ConnectionLost):
            raise SshError(
                f"The connection to {self.link.name} is lost: {self.link.reason}.",
                kind="lost",
                advice="It is being made again all the time; try once more when the host is there.",
            ) from None

    async def request(self, op: str, /, **args: Any) -> dict[str, Any]:
        """Ask the agent on the host.

        When this is cancelled the host gives up, too, and has done so when this raises.

        Args:
            op: of :mod:`.remote.operations`.
            **args: what it takes.

        Returns:
            Its result.

        Raises:
            SshError: it failed, with ``kind`` ``lost`` when the connection was lost meanwhile.
        """
        return await in_background(self._process.request("agent", name=op, args=args))

    async def start_kernel(self, archive: bytes, **args: Any) -> dict[str, Any]:
        """Have the agent start a kernel; the nanny's archive is sent when it has not come yet.

        Args:
            archive: the nanny.
            **args: of the agent's ``start``.

        Raises:
            SshError: it failed; nothing is left on the host.
        """
        digest = sha256(archive).hexdigest()
        try:
            return await self.request("start", archive=digest, **args)
        except SshError as error:
            if error.kind != "no-archive":
                raise
        # A quarter of it has to go over the line.
        packed = await result_of(in_thread("ssh-pack", lambda: b64encode(compress(archive))))
        await self.request("put", digest=digest, data=packed.decode("ascii"))
        return await self.request("start", archive=digest, **args)

    async def forward(
        self, info: ConnectionInfo, far: Mapping[str, Any]
    ) -> tuple[str, ConnectionInfo]:
        """Make local sockets that stand for a kernel's on the host.

        Args:
            info: where the kernel listens on the host.
            far: what the agent's ``alive`` is asked with, when a socket refuses: when that is gone, the
                local sockets are removed.

        Returns:
            The name of the forward, for :meth:`unforward`, and where the local sockets are.

        Raises:
            SshError: they cannot be made.
        """
        name = str(next(self._forwards))
        local = _local(info, f"{self._process.directory}/{name}")
        sockets = {
            str(local.socket_path(channel)): _target(info, channel)
            for channel in (*CHANNELS, *NANNY_CHANNELS)
            if getattr(info, f"{channel}_port")
        }
        await in_background(
            self._process.request("forward", name=name, sockets=sockets, far=dict(far))
        )
        return name, local

    def unforward(self, name: str) -> None:
        """Remove the local sockets of a forward, soon; from any thread."""
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and the process sees it
            call_in_background(lambda: self._process.tell("unforward", name=name))

    # -- who uses it ------------------------------------------------------------------------

    def retain(self) -> None:
        """Keep it open until :meth:`release`; from any thread."""
        call_in_background(self._retain)

    def release(self) -> None:
        """Need it no more; when nobody does it is closed, after a while.  From any thread."""
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and the process sees it
            call_in_background(self._release)

    def _retain(self) -> None:
        self._users += 1
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _release(self) -> None:
        self._users -= 1
        if not self._users:
            self._ending = background_loop().call_later(_LINGER, self._begin_close)

    # -- its life, on the background loop ---------------------------------------------------

    async def _start(self, pythons: Sequence[str], ask: Ask, tell: Tell) -> None:
        self._ask, self._tell = ask, tell
        try:
            await self._process.start()
            result = await self._process.request(
                "connect", route=self.route.to_dict(), pythons=[*pythons]
            )
        except SshError:
            if self._prompt_error is not None:
                raise self._prompt_error from None
            raise
        finally:
            self._ask = self._tell = None
        self.forwarding = result["forwarding"]

    def _on_event(self, message: Mapping[str, Any]) -> None:
        match message["event"]:
            case "progress" if self._tell is not None:
                self._tell(message["message"])
            case "prompt":
                task = background_loop().create_task(self._answer(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case "lost":
                self.link.lose(message["reason"])
            case "restored":
                self.link.restore()
            case "closed":
                self.link.close(message["reason"])
                self._begin_close()

    async def _answer(self, prompt: Mapping[str, Any]) -> None:
        """Have the user answer a question of the process."""
        text: str | None = None
        try:
            if self._ask is not None:
                text = await self._ask(prompt["message"], prompt["secret"])
        except BaseException as error:  # noqa: BLE001 - raised by who opens the connection
            self._prompt_error = error
        self._process.answer(prompt["prompt"], text)

    def _on_end(self) -> None:
        self._forget()
        self.link.close("the process that held it has ended")

    def _begin_close(self) -> None:
        self._forget()
        if self._ending is not None:
            self._ending.cancel()
        self._process.begin_close()

    async def _close(self) -> None:
        self._begin_close()
        await self._process.close()

    def _forget(self) -> None:
        """Let nobody else use this."""
        if _pool.get(self.route.key) is self:
            del _pool[self.route.key]


async def open_connection(
    host: str,
    *,
    ssh_config: Path | None = None,
    identity_file: Path | None = None,
    python: str = "",
    ask: Ask,
    tell: Tell = lambda _: None,
) -> HostConnection:
    """Connect to a host, or use the connection that there is; to be released when it is not needed.

    Args:
        host: an alias of the SSH configuration, or a name; ``user@host`` too.
        ssh_config: the configuration, in place of ``~/.ssh/config``.
        identity_file: a key to log in with.
        python: a Python of the host with which the agent may run, tried before the usual ones.
        ask: asks the user, a question and whether the answer is secret; called on this loop.
        tell: is told how far it is; called on this loop.

    Raises:
        SshError: it failed.
        KernelMgmtError: what ``ask`` raised.
    """
    route = await result_of(
        in_thread(
            "ssh-resolve",
            lambda: resolve(host, ssh_config=ssh_config, identity_file=identity_file),
        )
    )
    loop = asyncio.get_running_loop()

    async def ask_here(message: str, secret: bool) -> str:
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(_awaited(ask(message, secret)), loop)
        )

    def tell_here(message: str) -> None:
        loop.call_soon_threadsafe(tell, message)

    pythons = list(dict.fromkeys(filter(None, (python, *_PYTHONS))))
    return await in_background(_open(route, pythons, ask_here, tell_here))


async def _open(route: Route, pythons: Sequence[str], ask: Ask, tell: Tell) -> HostConnection:
    async with _making.setdefault(route.key, asyncio.Lock()):
        connection = _pool.get(route.key)
        if connection is None:
            connection = HostConnection(route)
            try:
                await connection._start(pythons, ask, tell)
            except BaseException:
                await finish(connection._close())
                raise
            _pool[route.key] = connection
        connection._retain()
    try:
        await connection.wait_until_up(route.hops[-1].connect_timeout)
    except BaseException:
        connection._release()
        raise
    return connection


async def close_idle_connections() -> None:
    """Close the connections that nobody uses, at once; returns when their processes are gone."""

    async def close() -> None:
        await asyncio.sleep(0)  # so that what was released just now is
        idle = [connection for connection in _pool.values() if not connection._users]
        await asyncio.gather(*(connection._close() for connection in idle))

    await in_background(close())


async def _awaited(awaitable: Awaitable[str]) -> str:
    return await awaitable


def _local(info: ConnectionInfo, prefix: str) -> ConnectionInfo:
    """Give the connection info of a kernel's local sockets."""
    ports = {
        f"{channel}_port": number
        for number, channel in enumerate((*CHANNELS, *NANNY_CHANNELS), 1)
        if getattr(info, f"{channel}_port")
    }
    return info.replace(transport="ipc", ip=prefix, **ports)


def _target(info: ConnectionInfo, channel: str) -> dict[str, Any]:
    if info.transport == "ipc":
        return {"path": str(info.socket_path(channel))}
    return {"port": getattr(info, f"{channel}_port")}
