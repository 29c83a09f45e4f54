"""The cells that ran before a console was there, and go on."""

from __future__ import annotations

from kernel_mgmt import Message

__all__ = ["FormerCells"]


class FormerCells:
    """Tells which of what a kernel says belongs to code that ran already when a console began.

    A cell that began before has no busy status after, since a journal leaves nothing out.
    """

    def __init__(self) -> None:
        #: The requests that have ended, and those that have begun since.
        self._over: set[str] = set()
        self._later: set[str] = set()

    def note(self, message: Message) -> None:
        """Take notice of what was said before the console was there."""
        if _state(message) == "idle":
            self._over.add(message.parent_id)

    def includes(self, message: Message) -> bool:
        """Take the next message since; tell whether it belongs to a cell that goes on."""
        if message.parent_header.get("msg_type") != "execute_request":
            return False
        request, state = message.parent_id, _state(message)
        if state == "busy":
            self._later.add(request)
        goes_on = request not in self._over and request not in self._later
        if state == "idle":
            self._later.discard(request)
            self._over.add(request)
        return goes_on


def _state(message: Message) -> object:
    """Give the state that a message tells of; None when it tells of none."""
    if message.channel != "iopub" or message.msg_type != "status":
        return None
    return message.content.get("execution_state")
