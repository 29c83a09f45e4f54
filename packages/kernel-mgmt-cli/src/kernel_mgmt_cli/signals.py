"""What the signals that end a command do while a kernel is there to be stopped."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

__all__ = ["EndedBySignal", "QuestionWithdrawn", "Signals"]

if sys.platform == "win32":
    # SIGBREAK is Ctrl-Break, and the end of the window or of the user's session.
    _ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    _ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    #: Wakes the main thread when it waits for an answer that nobody wants any more.
    _WITHDRAW = signal.SIGUSR1


class EndedBySignal(SystemExit):
    """A signal ends the command; the exit code is a shell's for that signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class QuestionWithdrawn(Exception):
    """The question that is being answered is no longer asked."""


class Signals:
    """Handles signals, in the main thread, for as long as a block lasts.

    The first Ctrl-C is the code's, while it runs; any other signal ends the command, once: from
    then on all are ignored, so that nothing cuts short how the kernel is stopped.  Exceptions are
    raised in the blocks :meth:`raising` and :meth:`prompting` alone.
    """

    def __init__(self) -> None:
        #: What the first Ctrl-C does; None when no code runs that could be interrupted.
        self.interrupt: Callable[[], object] | None = None
        #: Whether there was that first Ctrl-C.
        self.interrupted = False
        self._ended: EndedBySignal | None = None
        self._raising = False
        #: The question that is being answered, and one whose answer nobody wants any more.
        self._question: object = None
        self._withdrawn: object = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for signum in _ENDING:
            # What nohup, or a shell for its background jobs, set to be ignored stays so.
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._handle)
        if sys.platform != "win32":
            # Not restored at the end: a late withdrawal must not end the process.
            signal.signal(_WITHDRAW, self._handle_withdrawal)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Who has pressed Ctrl-C may press it again, and the command is about to exit anyway.
        late = signal.SIG_IGN if self.interrupted or self._ended is not None else None
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if late is None else late)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise EndedBySignal where the signal comes, or at once when it has come before."""
        self._raising = True
        try:
            if self._ended is not None:
                raise self._ended
            yield
        finally:
            self._raising = False

    @contextmanager
    def prompting(self, question: object) -> Iterator[None]:
        """Raise KeyboardInterrupt for the code's Ctrl-C, and QuestionWithdrawn.

        Args:
            question: what :meth:`withdraw` knows this block by.
        """
        self._question = question
        try:
            if self._withdrawn is question:
                raise QuestionWithdrawn
            yield
        finally:
            self._question = None

    def withdraw(self, question: object) -> None:
        """Raise QuestionWithdrawn in the block of a question; called from any thread.

        On Windows nothing wakes a thread that waits for the keyboard: the question stays until
        Enter is pressed, and the answer is dropped.
        """
        self._withdrawn = question
        if sys.platform != "win32":
            signal.pthread_kill(threading.main_thread().ident or 0, _WITHDRAW)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self._ended is not None:
            return
        if signum == signal.SIGINT and self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            self.interrupted = True
            if self._question is not None:
                raise KeyboardInterrupt
            interrupt()
            return
        self._ended = EndedBySignal(signum)
        if self._raising:
            raise self._ended

    def _handle_withdrawal(self, _signum: int, _frame: FrameType | None) -> None:
        if self._question is not None and self._withdrawn is self._question:
            self._question = None  # once
            raise QuestionWithdrawn
