"""Managers of kernels on other machines: the nanny's, and that of a host without pyzmq."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from kernel_mgmt import ConnectionInfo, ExitStatus, KernelManager
from kernel_mgmt.link import Link
from kernel_mgmt.nanny_client.manager import RemoteKernelManager

from .errors import SshError
from .reach import Reach

__all__ = ["PlainSshManager", "SshKernelManager"]

#: How long to wait before asking again when the connection was lost, in seconds.
_PAUSE = 0.1
#: The last of Linux's real-time signals (signal(7)).
_LAST_SIGNAL = 64


class SshKernelManager(RemoteKernelManager):
    """Manages a kernel on another machine by the nanny that keeps it there.

    Args:
        connection_info: the local sockets that stand for the nanny's.
        kernel_id: the kernel's id.
        reach: what carries them.
    """

    def __init__(self, connection_info: ConnectionInfo, *, kernel_id: str, reach: Reach) -> None:
        super().__init__(connection_info, kernel_id=kernel_id, link=reach.connection.link)
        self._reach = reach

    async def stop(self, timeout: float = 5) -> None:
        """End the kernel and its nanny, and let go of the connection to the host.

        Args:
            timeout: seconds that the kernel may take to end when it was asked; with 0 it is killed.
        """
        await super().stop(timeout)
        self._reach.close(forget=True)

    def record(self) -> dict[str, Any]:
        """Give what ``attach`` needs beside the connection info: the host, and how to get there."""
        return {"host": self._reach.record["host"], "ssh": self._reach.record}


class PlainSshManager(KernelManager):
    """Manages a kernel on a host whose Python has no pyzmq: no nanny, and no restart behind the client.

    What is asked goes through the agent to the supervisor of the kernel.

    Args:
        kernel_id: the kernel's id.
        reach: what carries it; its record has ``control``, the supervisor's socket.
    """

    def __init__(self, *, kernel_id: str, reach: Reach) -> None:
        self.kernel_id = kernel_id
        self._reach = reach
        self._end: ExitStatus | None = None
        self._tail = ""

    def __repr__(self) -> str:
        return f"<PlainSshManager {self.kernel_id} on {self._reach.connection.link.name}>"

    @property
    def link(self) -> Link:
        """The connection to the host."""
        return self._reach.connection.link

    async def is_alive(self) -> bool:
        """Tell whether the kernel's process exists."""
        reply = await self._ask("is_alive")
        return reply is not None and reply.get("alive") is True

    async def wait(self) -> ExitStatus:
        """Wait until the kernel has ended, over any loss of the connection."""
        while self._end is None:
            try:
                reply = await self._ask_once("wait")
            except SshError as error:
                if error.kind != "lost":
                    raise self._error(error) from error
                await self.link.wait_until_up()
                await asyncio.sleep(_PAUSE)
                continue
            if reply is None:
                self._end = ExitStatus(reason="its supervisor ended, and the kernel with it")
            else:
                self._end = ExitStatus.from_dict(reply.get("exit_status"))
                self._tail = str(reply.get("log_tail", ""))
        return self._end

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and its children.

        Raises:
            ValueError: no system has such a signal.
        """
        if not 0 <= signum <= _LAST_SIGNAL:
            raise ValueError(f"{signum} is the number of no signal.")
        await self._ask("signal", signum=int(signum))

    async def interrupt(self) -> None:
        """Interrupt what the kernel runs."""
        await self._ask("interrupt")

    async def terminate(self) -> None:
        """Ask the kernel's process to end."""
        await self._ask("terminate")

    async def kill(self) -> None:
        """End the kernel and its children by force; returns when they are gone."""
        await self._ask("kill")

    async def cleanup(self) -> None:
        """End the supervisor, which removes all that there is of the kernel."""
        if self._end is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await self.wait()
        await self._ask("stop", timeout=0)
        self._reach.close(forget=True)

    async def log_tail(self, lines: int = 50) -> str:
        """Give the last lines of the kernel's own output."""
        reply = await self._ask("log_tail", lines=lines)
        text = self._tail if reply is None else str(reply.get("text", ""))
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def record(self) -> dict[str, Any]:
        """Give what ``attach`` needs beside the connection info."""
        return {"host": self._reach.record["host"], "ssh": self._reach.record}

    async def _ask(self, name: str, **content: Any) -> dict[str, Any] | None:
        try:
            return await self._ask_once(name, **content)
        except SshError as error:
            raise self._error(error) from error

    async def _ask_once(self, name: str, **content: Any) -> dict[str, Any] | None:
        """Ask the supervisor; gives None when it is gone, and the kernel with it."""
        request = {"op": name, **content}
        try:
            return await self._reach.connection.request(
                "plain", control=self._reach.record["control"], request=request
            )
        except SshError as error:
            if error.kind == "gone":
                return None
            raise

    def _error(self, error: SshError) -> Exception:
        if error.kind == "lost":
            return self.link.error("the manager's request")
        return error.to_launch_error()
