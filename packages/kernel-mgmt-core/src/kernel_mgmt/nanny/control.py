"""What managers ask of the nanny: verified, checked, done, answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Callable

from ..errors import KernelMgmtError, NannyError, ProtocolError, one_line
from ..protocol import Buffer, JSONObject, Message, Session
from .protocol import EVENTS, REQUESTS, BadRequest, check_content
from .supervisor import KernelFailed, Supervisor

__all__ = ["Control"]

logger = logging.getLogger("kernel_mgmt")

#: The requests that may wait for ever, also when who asked has gone: nothing tells of that.
_WAITING = frozenset({"wait", "wait_ready"})
#: How many of them may be under way before the oldest is given up for one more.
_LIMIT = 1000
#: Dropped messages are logged up to this many, then each thousandth.
_LOGGED_DROPS = 10


class Control:
    """Serves the requests of managers, and tells them of events.

    Args:
        supervisor: does what is asked.
        session: verifies requests, signs replies and events.
        send_reply: sends the frames of a reply, from any thread.
        send_event: sends the frames of an event, from any thread.
        loop: where requests are served.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        session: Session,
        *,
        send_reply: Callable[[Sequence[Buffer]], object],
        send_event: Callable[[Sequence[Buffer]], object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._supervisor = supervisor
        self._session = session
        self._send_reply = send_reply
        self._send_event = send_event
        self._loop = loop
        self._dropped = 0
        self._tasks: set[asyncio.Task[None]] = set()
        #: Of those, the ones that may wait for ever, with their requests, the oldest first.
        self._waiting: dict[asyncio.Task[None], Message] = {}

    def receive(self, frames: list[bytes]) -> None:
        """Take a message from ``nanny_control``, in the thread of its socket.

        What is malformed, unsigned, forged or replayed ends here.
        """
        try:
            message = self._session.deserialize(frames)
            message.content  # noqa: B018 - decoded here, where a broken one is dropped
        except ProtocolError as error:
            self._dropped += 1
            if self._dropped <= _LOGGED_DROPS or self._dropped % 1000 == 0:
                logger.warning("Dropped control message number %d: %s", self._dropped, error)
            return
        self._loop.call_soon_threadsafe(self._begin, message)

    def tell(self, event: str, content: JSONObject) -> None:
        """Tell all managers of an event."""
        assert event in EVENTS
        message = self._session.message(event, content, idents=(event.encode(),))
        self._send_event(self._session.serialize(message))

    async def finish(self) -> None:
        """Let the requests under way end: the kernel has, and the nanny is about to."""
        tasks = self._tasks - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    # -- on the loop -----------------------------------------------------------------------

    def _begin(self, request: Message) -> None:
        task = self._loop.create_task(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        if request.msg_type.removesuffix("_request") in _WAITING:
            self._waiting[task] = request
            if len(self._waiting) > _LIMIT:
                self._give_up(next(iter(self._waiting)))

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._waiting.pop(task, None)

    def _give_up(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._reply(
            self._waiting.pop(task),
            _error(NannyError(f"More than {_LIMIT} requests wait; ask again.")),
        )

    async def _serve(self, request: Message) -> None:
        name = request.msg_type[: -len("_request")]
        try:
            if name not in REQUESTS or not request.msg_type.endswith("_request"):
                raise UnknownRequest(
                    f"This nanny does not know {request.msg_type[:80]!r}; it knows "
                    f"{', '.join(REQUESTS)}."
                )
            fields = check_content(name, request.content)
            content = await getattr(self._supervisor, name)(**fields)
        except KernelMgmtError as error:
            self._reply(request, _error(error))
        except Exception as error:
            logger.exception("The nanny failed at %s", request.msg_type)
            self._reply(request, _error(NannyError(f"The nanny has a defect: {one_line(error)}.")))
        else:
            self._reply(request, {"status": "ok", **content})

    def _reply(self, request: Message, content: JSONObject) -> None:
        name = request.msg_type.removesuffix("_request")
        reply = self._session.message(
            f"{name}_reply", content, parent=request, idents=request.idents
        )
        self._send_reply(self._session.serialize(reply))


class UnknownRequest(NannyError):
    """A request that this nanny does not know: of a later version, or of something else."""


#: The errors that have a name of their own on the wire.
_NAMED: tuple[type[KernelMgmtError], ...] = (UnknownRequest, BadRequest, KernelFailed)


def _error(error: KernelMgmtError) -> dict[str, Any]:
    ename = next((kind.__name__ for kind in _NAMED if isinstance(error, kind)), "NannyError")
    return {"status": "error", "ename": ename, "evalue": one_line(error) + "."}
