"""Running code in a kernel, as ``python FILE`` would run it here."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from kernel_mgmt import KernelClient, KernelRecord, Message, Prompt, ReplyLost, run_kernel

from .asking import answer_code
from .errors import INTERRUPTED, say
from .followed import FollowedWork
from .output import OutputWriter
from .progress import LaunchDisplay
from .signals import EndedBySignal, Signals

__all__ = ["run_code", "run_code_on"]

#: How long a kernel that is stopped while it runs code may take to end when it is asked to, in
#: seconds.
_BUSY_PATIENCE = 1.0
#: Output takes another way than a question. So long after one comes what was printed before it, in
#: seconds; else it would be shown after the answer.
_LATE_OUTPUT = 0.01
#: How long code may wait for that of others until the user is told, in seconds.
_TURN_PATIENCE = 1.0


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
    kernel = functools.partial(_own_kernel, type_id, **launch_options)
    with Signals() as signals, LaunchDisplay() as display:
        return _Run(signals, display, no_input=no_input).run(kernel, code)


def run_code_on(
    kernel_id: str, code: str, *, no_input: bool = False, startup_timeout: float = 60
) -> int:
    """Run code in a kernel that lives on, however this ends.

    Args:
        kernel_id: the kernel: an id, a unique beginning of one, or a name.
        code: what to run.
        no_input: whether the code is told that there is no input when it asks for some.
        startup_timeout: seconds until the kernel must answer.

    Returns:
        The exit code.

    Raises:
        KernelMgmtError: the kernel is not there, does not answer, or died.
        EndedBySignal: a signal ended the command; the code runs on.
        BrokenPipeError: nobody reads the output any more; likewise.
        CommandError: the output cannot be written; likewise. Or the kernel is on another machine.
    """
    from .detached.finding import find_here

    record = find_here(kernel_id)
    kernel = functools.partial(_kept_kernel, record, startup_timeout)
    with Signals() as signals, LaunchDisplay() as display:
        return _RunOn(record, signals, display, no_input=no_input).run(kernel, code)


#: Gives a kernel for as long as a block lasts; is given the hooks for a launch.
_Kernel = Callable[..., AbstractAsyncContextManager[KernelClient]]


@asynccontextmanager
async def _own_kernel(type_id: str, **options: Any) -> AsyncIterator[KernelClient]:
    async with run_kernel(type_id, **options) as client:
        try:
            yield client
        except asyncio.CancelledError:
            # An idle kernel gets more time than one that may never listen.
            await client.shutdown_or_terminate(_BUSY_PATIENCE)
            raise


@asynccontextmanager
async def _kept_kernel(
    record: KernelRecord, timeout: float, **_hooks: Any
) -> AsyncIterator[KernelClient]:
    from kernel_mgmt.detached import attach_kernel

    from .detached.finding import reaching

    with reaching(record):
        _, client = await attach_kernel(record, timeout=timeout, counts_as_reader=False)
    try:
        yield client
    finally:
        client.close()


class _Run:
    """One run of code, in a kernel that ends with it."""

    def __init__(self, signals: Signals, display: LaunchDisplay, *, no_input: bool) -> None:
        self._signals = signals
        self._display = display
        self._no_input = no_input
        self._work: FollowedWork[None] = FollowedWork(signals, display)
        self._output = OutputWriter()
        self._exit_code = 0
        self._client: KernelClient | None = None
        self._killing: asyncio.Task[None] | None = None

    # -- in the main thread ----------------------------------------------------------------

    def run(self, kernel: _Kernel, code: str) -> int:
        """Run the code; returns the exit code."""
        self._work.start(functools.partial(self._live, kernel, code))
        try:
            self._work.follow()
        except BaseException as error:
            self._give_up(error)
            raise
        return self._exit_code

    def _give_up(self, error: BaseException) -> None:
        """Stop the kernel, whatever it does, unless it has ended."""
        by_user = isinstance(error, EndedBySignal) and error.signum == signal.SIGINT
        self._work.stop(self._kill if by_user else None)
        if by_user:
            say("interrupted", "the kernel was stopped.")

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
        asyncio.run_coroutine_threadsafe(self._client.interrupt(), self._work.loop)

    def _answer(self, prompt: Prompt) -> str:
        return answer_code(prompt, no_input=self._no_input)

    def _show(self, message: Message) -> None:
        self._output.write(message)

    # -- on the background loop ------------------------------------------------------------

    async def _live(self, kernel: _Kernel, code: str) -> None:
        async with kernel(**self._work.launch_hooks()) as client:
            self._client = client
            self._work.call(self._code_begins)
            reply = None
            try:
                reply = await client.execute_interactive(
                    code,
                    output_hook=functools.partial(self._work.call, self._show),
                    stdin_hook=self._ask,
                )
            except ReplyLost:
                if not self._signals.interrupted:  # which is what can cost the reply
                    raise
            self._work.call(self._code_ended, reply)

    async def _ask(self, prompt: Prompt) -> str:
        await asyncio.sleep(_LATE_OUTPUT)
        return await self._work.ask(self._answer, prompt)

    def _kill(self) -> None:
        if self._client is not None and self._client.manager is not None:
            self._killing = self._work.loop.create_task(self._client.manager.kill())


class _RunOn(_Run):
    """One run of code in a kernel that lives on, and may be busy with the code of others."""

    def __init__(self, record: KernelRecord, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._record = record
        #: Whether the code was sent, and whether the kernel has begun to run it.
        self._sent = self._begun = False

    def _give_up(self, error: BaseException) -> None:
        self._work.stop()
        if self._sent and isinstance(error, EndedBySignal):
            say("left", f"the kernel runs on, and so does the code; {self._how_to_interrupt}.")

    def _code_begins(self) -> None:
        super()._code_begins()
        self._sent = True
        self._work.call_later(_TURN_PATIENCE, self._tell_that_it_waits)

    def _tell_that_it_waits(self) -> None:
        if not self._begun:
            say("hint", "the kernel is busy with other code, and this code waits for its turn.")

    def _show(self, message: Message) -> None:
        if not self._begun:  # and now it has
            self._begun = True
            self._signals.interrupted = False
            self._signals.interrupt = self._interrupt
        super()._show(message)

    def _interrupt(self) -> None:
        if self._begun:
            super()._interrupt()
        else:
            # Not said here, in a signal handler, which may interrupt the very same.
            hint = f"this code does not run yet; {self._how_to_interrupt}, Ctrl-C leaves."
            self._work.call(say, "hint", hint)

    @property
    def _how_to_interrupt(self) -> str:
        known_as = self._record.name or self._record.kernel_id
        return f"'kernel-mgmt interrupt {known_as}' interrupts what the kernel runs"
