"""Ending requests that the kernel has finished and never answers.

No time limit tells of those, but order does: a later question on the same channel is answered later.
ipykernel (7.4) loses the reply of a cell that is interrupted just as it begins or ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence

from .errors import KernelMgmtError, ReplyLost
from .request import Request

__all__ = ["LostReplies"]

#: How long a reply may come after the idle status that should follow it, in seconds.
_PATIENCE = 1.0


class LostReplies:
    """Asks a later question when the reply to a finished request does not come.

    Args:
        pending: the requests without a reply, by id; those whose reply is lost are taken out.
        ask: sends a request on a channel that the kernel answers.
    """

    def __init__(self, pending: dict[str, Request], ask: Callable[[str], Request]) -> None:
        self._pending = pending
        self._ask = ask
        #: Ids of requests that were finished and not answered yet.
        self._overdue: list[str] = []
        # A timer and no task: who closes the loop under it shall not be complained to.
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, request: Request) -> None:
        """Note, on the loop, that a request has been finished: its reply must be near."""
        self._overdue.append(request.msg_id)
        if len(self._overdue) == 1:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        overdue, self._overdue = self._overdue, []
        for channel in ("shell", "control"):
            unanswered = [
                request
                for msg_id in overdue
                if (request := self._pending.get(msg_id)) and request.channel == channel
            ]
            if unanswered:
                with contextlib.suppress(KernelMgmtError):  # then they have ended with it, too
                    question = self._ask(channel)
                    question.when("reply", functools.partial(self._end, unanswered))

    def _end(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if not request.answered:
                self._pending.pop(request.msg_id, None)
                request.fail(
                    ReplyLost(
                        f"The kernel finished {request.message.msg_type} and never replied, as when "
                        "it is interrupted in the wrong instant; go on, or send the request again."
                    )
                )
