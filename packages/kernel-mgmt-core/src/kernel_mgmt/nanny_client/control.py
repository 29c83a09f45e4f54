"""Asking a nanny: requests on its control socket, and their replies.

The wire format is described in ``docs/nanny.md``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..channels import Channel
from ..connection import ConnectionInfo
from ..endpoints import refuses
from ..errors import NannyError, ProtocolError
from ..protocol import JSONObject, Session

__all__ = ["ConnectionCut", "NannyControl", "NannyGone", "NannyRefusal"]

logger = logging.getLogger("kernel_mgmt")

#: Dropped replies are logged up to this many, then each thousandth.
_LOGGED_DROPS = 10


class NannyGone(NannyError):
    """Nothing listens where the nanny did."""

    def __init__(self) -> None:
        super().__init__("The nanny has ended, and the kernel with it; start a new kernel.")


class ConnectionCut(NannyError):
    """The connection was lost before the reply came, which will not come any more.

    Attributes:
        request: what was asked.
    """

    def __init__(self, request: str) -> None:
        super().__init__(
            f"The connection to the nanny was cut before it answered {request}; whether it was done "
            "is not known: look at the kernel, and ask again."
        )
        self.request = request


class NannyRefusal(NannyError):
    """The nanny's reply is an error.

    Attributes:
        ename: its name, as the reply gives it.
    """

    def __init__(self, request: str, ename: object, evalue: object) -> None:
        super().__init__(f"The nanny refused {request} ({ename}): {evalue}")
        self.ename = ename


class NannyControl:
    """One end of the control channel; all of it happens on the shared background loop.

    The socket is open as long as a request is under way, so that there is nothing to be closed.

    Args:
        connection_info: where the nanny is.
    """

    def __init__(self, connection_info: ConnectionInfo) -> None:
        self._info = connection_info
        self._session = Session(connection_info.key, connection_info.signature_scheme)
        #: What is under way: the request's name and its reply, by message id.
        self._asked: dict[str, tuple[str, asyncio.Future[JSONObject]]] = {}
        self._channel: Channel | None = None
        self._dropped = 0

    async def ask(self, name: str, content: JSONObject) -> JSONObject:
        """Send a request and wait for its reply, without limit.

        Args:
            name: of :data:`kernel_mgmt.nanny.protocol.REQUESTS`.
            content: its fields.

        Returns:
            The content of the reply, whose status is ok.

        Raises:
            NannyGone: nothing listens there.
            ConnectionCut: the connection was lost meanwhile.
            NannyRefusal: the reply's status is error.
            NannyError: the reply makes no sense.
        """
        message = self._session.message(f"{name}_request", content)
        reply: asyncio.Future[JSONObject] = asyncio.get_running_loop().create_future()
        # Each attempt is a message of its own: one that is sent twice would be taken for a replay.
        self._asked[message.msg_id] = name, reply
        try:
            self._open().send(self._session.serialize(message))
            return _checked(name, await reply)
        finally:
            del self._asked[message.msg_id]
            if not self._asked:
                self._close()

    def _open(self) -> Channel:
        if self._channel is None:
            # No identity: a nanny that still holds the last connection would refuse it.
            self._channel = Channel(
                self._info, "nanny_control", b"", self._on_frames, on_link=self._on_link
            )
        return self._channel

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _on_frames(self, channel: str, frames: list[Any]) -> None:
        try:
            message = self._session.deserialize(frames, channel)
            name, reply = self._asked.get(message.parent_id, ("", None))
            content = message.content
        except ProtocolError as error:
            self._dropped += 1
            if self._dropped <= _LOGGED_DROPS or self._dropped % 1000 == 0:
                logger.warning("Dropped reply number %d of a nanny: %s", self._dropped, error)
            return
        if reply is not None and not reply.done() and message.msg_type == f"{name}_reply":
            reply.set_result(content)

    def _on_link(self, event: str) -> None:
        if event == "lost":
            self._fail(lost=True)
        elif refuses(self._info, "nanny_control"):
            self._fail(lost=False)

    def _fail(self, *, lost: bool) -> None:
        for name, reply in self._asked.values():
            if not reply.done():
                reply.set_exception(ConnectionCut(name) if lost else NannyGone())


def _checked(name: str, content: JSONObject) -> JSONObject:
    if content.get("status") == "ok":
        return content
    if content.get("status") == "error":
        raise NannyRefusal(name, content.get("ename"), content.get("evalue"))
    raise NannyError(
        f"The nanny's reply to {name} has no status ok or error; is it a nanny of kernel-mgmt?"
    )
