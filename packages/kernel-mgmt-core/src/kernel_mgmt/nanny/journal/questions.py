"""Which of a kernel's questions wait for an answer."""

from __future__ import annotations

__all__ = ["Questions"]

#: How many are remembered; a kernel has one at a time, or one for each of its subshells.
_LIMIT = 1000


class Questions:
    """The ``input_request`` messages that nobody has answered yet."""

    def __init__(self) -> None:
        #: Their ids by those of the requests that they are asked for: one has one at a time.
        self._open: dict[str, str] = {}

    def ask(self, msg_id: str, parent_id: str) -> None:
        """Take notice of a question.

        Args:
            msg_id: its id.
            parent_id: the id of the request that asks it.
        """
        self._open.pop(parent_id, None)
        self._open[parent_id] = msg_id
        if len(self._open) > _LIMIT:
            del self._open[next(iter(self._open))]

    def answer(self, parent_id: str) -> None:
        """Take notice of an ``input_reply``.

        Args:
            parent_id: the id of the question that it answers; empty when it does not say, as of
                clients of ``jupyter_client``, and then it is for the one that was asked first.
        """
        for request_id, msg_id in self._open.items():
            if parent_id in ("", msg_id, request_id):
                del self._open[request_id]
                return

    def end(self, parent_id: str) -> None:
        """Take notice that a request is answered, and asks no more."""
        self._open.pop(parent_id, None)

    def end_all(self) -> None:
        """Take notice that the kernel is gone."""
        self._open.clear()

    def waiting(self) -> list[str]:
        """Give the ids of those that wait for an answer, the oldest first."""
        return list(self._open.values())
