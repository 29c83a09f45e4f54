"""Running code in a new kernel, as ``python FILE`` would run it here."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from queue import SimpleQueue
from typing import Any

from kernel_mgmt import KernelClient, LaunchProgress, Message, Prompt, ReplyLost, run_kernel
from kernel_mgmt.background import background_loop, take

from .asking import answer_code, answer_provider, has_terminal
from .errors import INTERRUPTED, say
from .output import OutputWriter
from .progress import LaunchDisplay
from .signals import EndedBySignal, Signals

__all__ = ["run_code"]

#: How long a kernel that is stopped while it runs code may take to end when it is asked to, in
#: seconds.
_BUSY_PATIENCE = 1.0


def run_code(type_id: str, code: str, *, no_input: bool = False, **launch_options: Any) -> int:
    """Launch a kernel, run code in it with this process's standard streams, and stop it.

    Args:
        type_id: the kernel type.
        code: what to run.
        no_input: whether the code is told that there is no input when it asks for some.
        launch_options: further arguments of :func:`kernel_mgmt.run_kernel`.

    Returns:
        The exit code.

    Raises:
        KernelMgmtError: the kernel could not be launched, or died.
        EndedBySignal: a signal ended the code or the launch.
        BrokenPipeError: nobody reads the output any more.
        CommandError: the output cannot be written.
    """
    with Signals() as signals, LaunchDisplay() as display:
        run = _Run(signals, display, no_input=no_input)
        run.start(functools.partial(run_kernel, type_id, **launch_options), code)
        try:
            with signals.raising():
                return run.follow()
        except EndedBySignal as error:
            by_user = error.signum == signal.SIGINT
            run.stop(at_once=by_user)
            if by_user:
                say("interrupted", "the kernel was stopped.")
            raise
        except BaseException:
            run.stop()
            raise


class _Run:
    """One kernel's life, from its launch to its end: a task on the background loop.

    No signal is handled there, so nothing is cut in two.  What is to be shown, and what is to be
    asked, is called here in the main thread, which signals do reach.
    """

    def __init__(self, signals: Signals, display: LaunchDisplay, *, no_input: bool) -> None:
        self._signals = signals
        self._display = display
        self._no_input = no_input
        self._output = OutputWriter()
        self._exit_code = 0
        self._loop = background_loop()
        self._task: asyncio.Task[None] | None = None
        self._client: KernelClient | None = None
        self._killing: asyncio.Task[None] | None = None
        #: What the main thread shall call; None at the end of the task.
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    # -- in the main thread ----------------------------------------------------------------

    def start(
        self, launch: Callable[..., AbstractAsyncContextManager[KernelClient]], code: str
    ) -> None:
        """Begin: launch the kernel, run the code, stop the kernel."""

        def start() -> None:
            self._task = self._loop.create_task(self._live(launch, code))
            self._task.add_done_callback(lambda _: self._calls.put(None))
            self._loop.call_later(self._display.DELAY, self._calls.put, self._display.show)

        self._loop.call_soon_threadsafe(start)

    def follow(self) -> int:
        """Take part until the kernel has ended; returns the exit code."""
        while (call := take(self._calls)) is not None:
            call()
        assert self._task is not None
        self._task.result()
        return self._exit_code

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the kernel, whatever it does, unless it has ended; returns when it is gone."""
        self._loop.call_soon_threadsafe(self._cancel, at_once)
        while self._task is None or not self._task.done():
            take(self._calls)
        if not self._task.cancelled():
            self._task.exception()  # looked at, or asyncio complains

    def _code_begins(self) -> None:
        self._display.end()
        self._signals.interrupt = self._interrupt

    def _code_ended(self, reply: Message | None) -> None:
        self._signals.interrupt = None
        if reply is None:
            self._exit_code = INTERRUPTED
        else:
            self._exit_code = self._output.finish(reply, interrupted=self._signals.interrupted)

    def _interrupt(self) -> None:
        assert self._client is not None
        asyncio.run_coroutine_threadsafe(self._client.interrupt(), self._loop)

    def _answer_code(self, prompt: Prompt) -> str:
        return answer_code(prompt, no_input=self._no_input)

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
            given.set_exception(KeyboardInterrupt())  # no answer, until the kernel is stopped
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised where it is awaited
            given.set_exception(error)
        else:
            given.set_result(value)

    # -- on the background loop ------------------------------------------------------------

    async def _live(
        self, launch: Callable[..., AbstractAsyncContextManager[KernelClient]], code: str
    ) -> None:
        on_prompt = functools.partial(self._ask, self._answer_provider) if has_terminal() else None
        async with launch(on_progress=self._show_progress, on_prompt=on_prompt) as client:
            self._client = client
            self._calls.put(self._code_begins)
            reply = None
            try:
                reply = await client.execute_interactive(
                    code,
                    output_hook=self._show_output,
                    stdin_hook=functools.partial(self._ask, self._answer_code),
                )
            except ReplyLost:
                if not self._signals.interrupted:  # which is what can cost the reply
                    raise
            except asyncio.CancelledError:
                # An idle kernel gets more time than one that may never listen.
                await client.shutdown_or_terminate(_BUSY_PATIENCE)
                raise
            self._calls.put(functools.partial(self._code_ended, reply))

    def _show_progress(self, progress: LaunchProgress) -> None:
        self._calls.put(functools.partial(self._display.report, progress))

    def _show_output(self, message: Message) -> None:
        self._calls.put(functools.partial(self._output.write, message))

    async def _ask(self, answer: Callable[[Prompt], str], prompt: Prompt) -> str:
        """Have the main thread answer."""
        given: Future[str] = Future()
        self._calls.put(functools.partial(self._answer, given, answer, prompt))
        try:
            return await asyncio.wrap_future(given)
        except asyncio.CancelledError:
            if given.running():
                self._signals.withdraw(given)
            raise

    def _cancel(self, at_once: bool) -> None:
        assert self._task is not None
        if at_once and self._client is not None and self._client.manager is not None:
            self._killing = self._loop.create_task(self._client.manager.kill())
        self._task.cancel()
