"""Requests of the tunnel, each in a thread of its own until it is answered or given up."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, Callable

from .failing import AgentError

__all__ = ["Cancelled", "Operation", "Task", "Tasks"]

#: How long what is undone at the end may take, in seconds.
_UNDO_PATIENCE = 20.0


class Cancelled(Exception):
    """Nobody waits for a request's reply any more."""


class Task:
    """One request while it is being done, and afterwards as long as it can be undone.

    Args:
        number: its id, the tunnel's choice.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.cancelled = False
        #: Whether its reply is on its way.
        self.told = False
        #: Undoes what was done, should it turn out that nobody wants it.
        self.undo: Callable[[], object] | None = None
        self._lock = threading.Lock()
        #: Readable once it is cancelled, for whoever waits for other things too.
        self.wake_end, self._waker = os.pipe()

    def cancel(self) -> None:
        """Give it up."""
        with self._lock:
            self.cancelled = True
            self._close_waker()

    def check(self) -> None:
        """Raise Cancelled when it is given up."""
        if self.cancelled:
            raise Cancelled

    def close(self) -> None:
        """Let go of the pipe: nobody waits for it any more."""
        with self._lock:
            self._close_waker()
            os.close(self.wake_end)

    def _close_waker(self) -> None:
        if self._waker >= 0:
            os.close(self._waker)
            self._waker = -1


#: Does what is asked; gives the result, raises AgentError or Cancelled.
Operation = Callable[[Task, Mapping[str, Any]], Mapping[str, Any]]


class Tasks:
    """All requests that are being done or can be undone.

    Args:
        operations: what can be asked, by name.
        reply: sends a reply; called by any thread.
    """

    def __init__(
        self,
        operations: Mapping[str, Operation],
        reply: Callable[[Mapping[str, Any]], object],
    ) -> None:
        self._operations = operations
        self._reply = reply
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._running: dict[int, Task] = {}
        #: Those that were answered well, and would have to be undone if nobody heard it.
        self._undoable: dict[int, Task] = {}

    def begin(self, request: Mapping[str, Any]) -> None:
        """Do what is asked, in a thread; its end is a reply."""
        number = request.get("id")
        if type(number) is not int or number in self._running:
            self._refuse(None, "The request has no id of its own.")
            return
        operation = self._operations.get(str(request.get("op")))
        if operation is None:
            self._refuse(number, f"The agent knows no operation {request.get('op')!r}.")
            return
        try:
            task = Task(number)
            thread = threading.Thread(
                target=self._do,
                args=(task, operation, request),
                name=f"request-{number}",
                daemon=True,
            )
            with self._lock:
                self._running[number] = task
                self._threads[number] = thread
                thread.start()
        except (OSError, RuntimeError) as error:
            self._running.pop(number, None)
            self._threads.pop(number, None)
            cause = f"The host lets this user have no more files or threads: {error}."
            self._reply(_failure(number, AgentError(cause, kind="no-space")))

    def cancel(self, number: object) -> None:
        """Give a request up; what it did is undone, also when it was answered already."""
        if type(number) is not int:
            return
        with self._lock:
            task = self._running.get(number)
            done = self._undoable.pop(number, None)
            if task is not None:
                task.cancel()
        if done is not None and done.undo is not None:
            threading.Thread(target=done.undo, name=f"undo-{number}", daemon=True).start()

    def close(self) -> None:
        """Give up all that is not answered, and wait until it is undone."""
        deadline = time.monotonic() + _UNDO_PATIENCE
        with self._lock:
            threads = list(self._threads.values())
            for task in self._running.values():
                task.cancel()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for task in list(self._undoable.values()):
            if not task.told and task.undo is not None:
                task.undo()

    def note_told(self, number: int | None) -> None:
        """Note that a reply is on its way to the tunnel."""
        task = None if number is None else self._undoable.get(number)
        if task is not None:
            task.told = True

    # -- in a request's own thread ---------------------------------------------------------

    def _do(self, task: Task, operation: Operation, request: Mapping[str, Any]) -> None:
        reply: dict[str, Any] | None = None
        try:
            result = operation(task, request)
            reply = {"id": task.number, "ok": True, "result": dict(result)}
        except Cancelled:
            error = AgentError("The request was given up.", kind="cancelled")
            reply = _failure(task.number, error)
        except AgentError as error:
            reply = _failure(task.number, error)
        except Exception as error:  # noqa: BLE001 - the reply tells it
            traceback.print_exc(file=sys.stderr)
            reply = _failure(task.number, _defect(error))
        finally:
            self._forget(task, reply)
            task.close()

    def _forget(self, task: Task, reply: Mapping[str, Any] | None) -> None:
        with self._lock:
            unwanted = task.cancelled
            if task.undo is not None and not unwanted:
                self._undoable[task.number] = task
        if unwanted and task.undo is not None:
            task.undo()
        with self._lock:
            del self._running[task.number]
            del self._threads[task.number]
        if reply is not None:
            self._reply(reply)

    def _refuse(self, number: int | None, cause: str) -> None:
        self._reply(_failure(number, AgentError(cause, kind="protocol")))


def _failure(number: int | None, error: AgentError) -> dict[str, Any]:
    return {"id": number, "ok": False, "error": error.to_dict()}


def _defect(error: BaseException) -> AgentError:
    if isinstance(error, MemoryError):
        return AgentError("The host has no memory left.", kind="no-space")
    return AgentError(
        f"The agent on the host has a defect: {type(error).__name__}: {error}.",
        kind="protocol",
        log_tail=traceback.format_exc(limit=-5),
    )
