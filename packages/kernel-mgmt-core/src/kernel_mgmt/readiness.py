"""Whether a kernel answers, and none of its output is missed: how a client finds that out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import ConnectionLost, RequestTimeout
from .line import Line
from .manager import KernelManager
from .protocol import JSONObject, Message, requests
from .request import Request

if TYPE_CHECKING:
    from .client import KernelClient

__all__ = ["Readiness", "last_output"]

#: A kernel that has not answered on shell for this long, in seconds, is asked on control too.
_BUSY_AFTER = 0.5


class Readiness:
    """Asks a kernel who it is until it answers.

    Args:
        client: who asks.
    """

    def __init__(self, client: KernelClient) -> None:
        self._client = client

    async def until_ready(self) -> JSONObject:
        """Wait until the kernel has answered; gives the content of its kernel_info reply."""
        client = self._client
        while True:
            await client._settled.wait()
            client._check_usable()
            if not client._line.is_usable:
                await client._line.until_usable()
                continue
            try:
                return await self._probe_until_answered()
            except ConnectionLost as error:
                if error.final:
                    raise

    async def _probe_until_answered(self) -> JSONObject:
        probes = [self.ask_who_it_is()]
        pause = _BUSY_AFTER
        try:
            while (reply := await _first_reply(probes, pause)) is None:
                # On shell the question waits behind a running cell, on control it does not; but a
                # control request that comes before the kernel is up may never be answered.
                probes.append(self.ask_who_it_is("control"))
                pause = min(pause * 2, 5)
            await self.until_heard(probes)
        finally:
            self._forget_probes(probes)
        return reply.content

    async def until_heard(self, probes: list[Request]) -> None:
        """Ask the kernel until it has been heard on iopub; what was asked is added to the probes."""
        client = self._client
        if client._line.keeps_all:
            return
        assert isinstance(client._line, Line)
        try:
            # Some subscriptions take longer than the reply; each question makes some output, in
            # protocol 4 only code does.
            pause = 0.05
            while not await self._hears_iopub(pause):
                probes.append(
                    self._probe(requests.execute_request("", silent=True))
                    if client._dialect.is_4
                    else self.ask_who_it_is(probes[-1].channel)
                )
                pause = min(pause * 2, 1)
            pause = 0.001
            while not client._line.is_connected("stdin"):
                # ZeroMQ has no event for it; it is as good as always connected by now.
                await asyncio.sleep(pause)
                client._check_usable()
                pause = min(pause * 2, 0.05)
        finally:
            self._forget_probes(probes)

    def ask_who_it_is(self, channel: str = "shell") -> Request:
        """Ask for the kernel's kernel_info; raises what :meth:`_probe` raises."""
        return self._probe(requests.kernel_info_request(), channel)

    def _probe(self, message: Message, channel: str = "shell") -> Request:
        """Send a message that waits for nothing.

        Raises:
            ConnectionLost: the connection to the kernel's machine is lost.
            KernelMgmtError: the client is closed, or the kernel gone.
        """
        client = self._client
        client._check_usable()
        client._line.check(message.msg_type)
        request, frames = client._prepare(message, channel)
        client._post_now(request, frames)
        return request

    def _forget_probes(self, probes: Sequence[Request]) -> None:
        for probe in probes:
            self._client._pending.pop(probe.msg_id, None)
            self._client._line.forget(probe.msg_id)

    async def _hears_iopub(self, patience: float) -> bool:
        try:
            async with asyncio.timeout(patience):
                await self._client._line.iopub_heard.wait()  # type: ignore[union-attr]
        except TimeoutError:
            return False
        return True

    async def explain(self, seconds: float) -> RequestTimeout:
        """Give the error for a kernel that has not answered for so long."""
        client = self._client
        message = f"The kernel did not answer within {seconds:g} s (phase 'ready')"
        if client._line.is_cut:
            return RequestTimeout(
                f"{message}; the connection to {client._line.leads_to} is lost, and is being made "
                "again: give it more time",
                phase="ready",
                seconds=seconds,
            )
        if not client._settled.is_set():
            return RequestTimeout(
                f"{message}; it is gone, and none has come in its place yet: give it more time",
                phase="ready",
                seconds=seconds,
            )
        if client.manager is None:
            return RequestTimeout(
                f"{message}; is it running, and is the connection info current?",
                phase="ready",
                seconds=seconds,
            )
        tail = (await last_output(client.manager, 5)).strip()
        heard = f"; its last output: {tail}" if tail else ""
        return RequestTimeout(
            f"{message}; its process is alive, so give it more time or stop it{heard}",
            phase="ready",
            seconds=seconds,
        )


async def last_output(manager: KernelManager, lines: int = 50) -> str:
    """Give the last words of a kernel, unless they are out of reach."""
    try:
        return await manager.log_tail(lines)
    except ConnectionLost:
        return ""


async def _first_reply(probes: Sequence[Request], patience: float) -> Message | None:
    """Give the first reply to any of some requests, or None when none came in time."""
    waiting = [asyncio.ensure_future(probe) for probe in probes]
    try:
        done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result() if done else None
    finally:
        for task in waiting:
            task.cancel()
        for task in waiting:
            if task.done() and not task.cancelled():
                task.exception()  # looked at, or asyncio complains
