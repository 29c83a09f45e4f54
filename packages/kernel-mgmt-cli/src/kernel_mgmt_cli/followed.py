"""Work on the background loop, which the main thread follows: it shows, asks and is interrupted."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from kernel_mgmt import LaunchProgress, Prompt
from kernel_mgmt.background import background_loop, take

from .asking import answer_provider, has_terminal
from .progress import LaunchDisplay
from .signals import EndedBySignal, Signals

__all__ = ["FollowedWork"]

T = TypeVar("T")


class FollowedWork(Generic[T]):
    """A task on the background loop, and its calls into the main thread.

    No signal is handled on that loop, so nothing is cut in two.  What is to be shown, and what is
    to be asked, is called in the main thread, which signals do reach.

    Args:
        signals: handled in the main thread.
        display: shows how far a launch is.
    """

    def __init__(self, signals: Signals, display: LaunchDisplay) -> None:
        self.loop = background_loop()
        self._signals = signals
        self._display = display
        self._task: asyncio.Task[T] | None = None
        #: What the main thread shall call; None at the end of the task.
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    # -- in the main thread ----------------------------------------------------------------

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Begin."""

        def start() -> None:
            self._task = self.loop.create_task(work())
            self._task.add_done_callback(lambda _: self._calls.put(None))

        self.loop.call_soon_threadsafe(start)
        self.call_later(self._display.DELAY, self._display.show)

    def follow(self) -> T:
        """Take part until the work has ended.

        Raises:
            EndedBySignal: a signal came; the work goes on, until :meth:`stop`.
            Exception: what the work raised.
        """
        with self._signals.raising():
            while (call := take(self._calls)) is not None:
                call()
            assert self._task is not None
            return self._task.result()

    def stop(self, meanwhile: Callable[[], object] | None = None) -> T | None:
        """Cancel the work, unless it has ended, and wait until it has cleaned up.

        Args:
            meanwhile: is called on the loop just before.

        Returns:
            The result of work that ended well just before; else None.
        """
        self.loop.call_soon_threadsafe(self._cancel, meanwhile)
        while self._task is None or not self._task.done():
            take(self._calls)
        # The exception is looked at, or asyncio complains.
        if self._task.cancelled() or self._task.exception() is not None:
            return None
        return self._task.result()

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Have a function called here after a while, as long as the work is followed."""
        due = functools.partial(self._calls.put, function)
        self.loop.call_soon_threadsafe(lambda: self.loop.call_later(seconds, due))

    def _answer_provider(self, prompt: Prompt) -> str:
        with self._display.hidden():
            return answer_provider(prompt)

    def _answer(self, given: Future[str], answer: Callable[[Prompt], str], prompt: Prompt) -> None:
        if not given.set_running_or_notify_cancel():
            return
        try:
            with self._signals.prompting(given):
                value = answer(prompt)
        except EndedBySignal:
            given.set_exception(KeyboardInterrupt())  # no answer, until the work is stopped
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised where it is awaited
            given.set_exception(error)
        else:
            given.set_result(value)

    # -- on the background loop ------------------------------------------------------------

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the main thread call a function."""
        self._calls.put(functools.partial(function, *arguments))

    def show_progress(self, progress: LaunchProgress) -> None:
        """Have the main thread show how far a launch is."""
        self.call(self._display.report, progress)

    async def ask(self, answer: Callable[[Prompt], str], prompt: Prompt) -> str:
        """Have the main thread answer a question."""
        given: Future[str] = Future()
        self.call(self._answer, given, answer, prompt)
        try:
            return await asyncio.wrap_future(given)
        except asyncio.CancelledError:
            if given.running():
                self._signals.withdraw(given)
            raise

    def launch_hooks(self) -> dict[str, Any]:
        """Give ``on_progress`` and ``on_prompt`` for a launch."""
        answer = functools.partial(self.ask, self._answer_provider) if has_terminal() else None
        return {"on_progress": self.show_progress, "on_prompt": answer}

    def _cancel(self, meanwhile: Callable[[], object] | None) -> None:
        assert self._task is not None
        if meanwhile is not None:
            meanwhile()
        self._task.cancel()
