"""What signals do while a console is there: they are events of its loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from ..signals import EndedBySignal

__all__ = ["LoopSignals"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class LoopSignals:
    r"""Handles signals, on the running loop, for as long as a block lasts.

    Each but Ctrl-C ends the console, once: the task that entered the block is cancelled, and stops
    the kernel on its way out.  From then on all are ignored, but for a Ctrl-C or Ctrl-\ of
    somebody who does not want to wait.
    """

    def __init__(self) -> None:
        #: What Ctrl-C does; None: it ends the console, too.
        self.interrupt: Callable[[], object] | None = None
        #: What Ctrl-C does once the console ends.
        self.hurry: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._hurrying: asyncio.Task[None] | None = None
        #: What has ended the console.
        self.ended: EndedBySignal | None = None
        self._task: asyncio.Task[object] | None = None
        self._handled: list[int] = []

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for signum in _ENDING:
            # What nohup, or a shell for its background jobs, set to be ignored stays so.
            if signal.getsignal(signum) != signal.SIG_IGN:
                loop.add_signal_handler(signum, self._handle, signum)
                self._handled.append(signum)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum in self._handled:
            asyncio.get_running_loop().remove_signal_handler(signum)

    @property
    def by_user(self) -> bool:
        """Whether a key has ended the console, so that the kernel is not given time."""
        return self.ended is not None and self.ended.signum in (signal.SIGINT, signal.SIGQUIT)

    def end(self, signum: int) -> None:
        """End the console as a signal would."""
        if self.ended is None:
            self.ended = EndedBySignal(signum)
            assert self._task is not None
            self._task.cancel()

    def _handle(self, signum: int) -> None:
        by_key = signum in (signal.SIGINT, signal.SIGQUIT)
        if by_key and self.hurry is not None:
            self._hurrying = asyncio.get_running_loop().create_task(self.hurry())
        elif signum == signal.SIGINT and self.interrupt is not None and self.ended is None:
            self.interrupt()
        else:
            self.end(signum)
