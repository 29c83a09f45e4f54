"""What clients have asked a kernel and it has not answered: so that its death answers them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["PendingRequest", "PendingRequests"]

#: How many that are answered are remembered for the sake of what comes late.
_LATE_LIMIT = 1000
#: How many are remembered; a kernel that answers none of more is beyond help.
_LIMIT = 10_000


class PendingRequest(NamedTuple):
    """A request on its way to the kernel, or being worked on.

    Attributes:
        channel: ``shell`` or ``control``.
        route: the frames that a reply begins with, to reach the client.
        header: the request's header.
    """

    channel: str
    route: Sequence[bytes]
    header: dict[str, Any]


class PendingRequests:
    """The requests that one kernel owes an answer."""

    def __init__(self) -> None:
        self._requests: dict[str, PendingRequest] = {}
        #: The ids of those that run code, which keep a kernel from being idle.
        self._running: set[str] = set()
        #: The routes of those that were removed lately, by id.
        self._late: dict[str, Sequence[bytes]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def run_code(self) -> bool:
        """Whether any of them runs code, or waits to."""
        return bool(self._running)

    def add(self, request: PendingRequest) -> None:
        """Note that a request goes to the kernel."""
        msg_id = request.header["msg_id"]
        if len(self._requests) >= _LIMIT:
            self.remove(next(iter(self._requests)))
        self._requests[msg_id] = request
        if request.header["msg_type"] == "execute_request":
            self._running.add(msg_id)
        else:  # somebody has used an id again
            self._running.discard(msg_id)

    def remove(self, msg_id: str) -> None:
        """Note that the kernel has answered one, or is done with it."""
        request = self._requests.pop(msg_id, None)
        if request is None:
            return
        self._running.discard(msg_id)
        self._late[msg_id] = request.route
        if len(self._late) > _LATE_LIMIT:
            del self._late[next(iter(self._late))]

    def route_of(self, msg_id: str) -> Sequence[bytes]:
        """Give the route to the client that sent a request, also when that was removed lately.

        Empty when nothing is known of it.
        """
        request = self._requests.get(msg_id)
        if request is not None:
            return request.route
        return self._late.get(msg_id, ())

    def take(self) -> list[PendingRequest]:
        """Give all and forget them: the kernel is gone."""
        requests = list(self._requests.values())
        self._requests.clear()
        self._running.clear()
        return requests
