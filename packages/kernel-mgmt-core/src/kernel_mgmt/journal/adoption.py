"""A request that another process has sent: its messages from its beginning, and its reply."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import KernelMgmtError, KernelRestarted, ProtocolError
from ..protocol import Message
from ..request import Request
from .reader import Reader
from .replay import Replay

if TYPE_CHECKING:
    from ..client import KernelClient

__all__ = ["AdoptedRequest", "adopt"]


class AdoptedRequest(Request):
    """A request whose first messages come by a replay, and the later ones as any.

    Args:
        msg_id: the request's id.
    """

    def __init__(self, msg_id: str) -> None:
        super().__init__(
            Message({"msg_id": msg_id, "msg_type": "execute_request"}, {}, {}, {}), "shell"
        )
        #: All up to this number came by the replay.
        self._replayed: float = math.inf

    def wants(self, message: Message) -> bool:
        """Tell whether a message that comes as any was not replayed, nor will be."""
        return message.journal_number > self._replayed

    def on_output(self, message: Message) -> bool:
        """Take an iopub message of this request; tell whether it was the last."""
        return self.wants(message) and super().on_output(message)

    def on_reply(self, message: Message) -> None:
        """Take the reply."""
        # One without a number comes over its channel, ahead of its turn.
        if self.wants(message):
            super().on_reply(message)

    def replay(self, message: Message) -> None:
        """Take a message of the past."""
        if message.parent_header:
            self.message.header = message.parent_header
        if message.channel == "iopub":
            super().on_output(message)
        elif message.channel in ("shell", "control"):
            self.channel = message.channel
            super().on_reply(message)

    def end_replay(self, position: int) -> None:
        """Take what comes after a number as any request does."""
        self._replayed = position


async def adopt(client: KernelClient, request: AdoptedRequest) -> None:
    """Replay a request's messages into it until those that come to the client follow on them."""
    msg_id = request.msg_id
    await client._line.until_usable()  # from then on it is known what comes as any message does
    if request.finished:
        return
    replay = Replay(
        client.connection_info,
        Reader(request=msg_id, reads=False),
        link=None if client.manager is None else client.manager.link,
        until=-1,
        requests=(msg_id,),
        on_bad=client._drop,
    )
    try:
        while not request.finished:
            for message in await replay.next_batch() or ():
                if message.parent_id == msg_id:
                    _replay_into(client, request, message, replay)
            if not replay.has_caught_up:
                continue
            assert replay.subscribed is not None
            if replay.subscribed.requests.get(msg_id) == "gone" and not request.answered:
                request.fail(KernelRestarted("The kernel was restarted before it answered."))
            elif replay.position >= client.journal_position:
                request.end_replay(replay.position)
                break
    except KernelMgmtError as error:
        request.fail(error)
    finally:
        replay.close()
        if request.answered and msg_id in client._pending:
            client._release(request)


def _replay_into(
    client: KernelClient, request: AdoptedRequest, message: Message, replay: Replay
) -> None:
    try:
        if "nanny" in message.header:
            if message.channel != "iopub":
                request.fail(client._end_said_by_nanny(message))
            return
        if client._dialect.translate is not None:
            message = client._dialect.translate(message)
        if message.channel != "stdin":
            request.replay(message)
        elif replay.subscribed is not None and (
            message.journal_number >= replay.subscribed.next
            or message.msg_id in replay.subscribed.asking
        ):
            client._have_answered(message, request)
    except ProtocolError as error:
        client._drop(message.channel, error)
