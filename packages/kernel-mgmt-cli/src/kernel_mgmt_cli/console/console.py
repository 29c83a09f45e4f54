"""A sitting at a kernel: what is typed is run, and what comes is shown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from kernel_mgmt import Message, Prompt, Request
from kernel_mgmt.errors import (
    ConnectionLost,
    KernelDied,
    KernelMgmtError,
    KernelRestarted,
    ReplyLost,
)
from prompt_toolkit.application import in_terminal

from ..errors import CommandError, LogToUser, say
from ..happenings import is_gap, sentence_of
from .display import Display
from .former import FormerCells
from .history import KernelHistory, history_file
from .images import Images
from .kernels import ConsoleKernel, Tell
from .pager import show_text
from .prompts import CodePrompt, LineCleared, ask, at_prompt, press_ctrl_c
from .screen import Screen
from .signals import LoopSignals
from .terminal import keys_kept

__all__ = ["Console"]

#: What leaves the console when nothing else is typed, in whichever language.
_LEAVE = frozenset({"exit", "quit"})
#: How long a cell's output may pause between the reply and the idle status that ends it, in seconds.
_IDLE_PATIENCE = 1.0
#: How long a kernel may take to tell which number its cells are at, in seconds.
_COUNT_PATIENCE = 1.0
#: How many messages of the past are shown until others get their turn.
_TURN = 50


class Console:
    """One sitting at one kernel.

    Args:
        kernel: ready.
        signals: handled on the running loop.
        images: shows or saves images.
        others: whether what other clients of the kernel do is shown.
    """

    def __init__(
        self, kernel: ConsoleKernel, signals: LoopSignals, images: Images, *, others: bool
    ) -> None:
        self._kernel = kernel
        self._client = kernel.client
        self._signals = signals
        self._screen = Screen()
        #: What is to be shown of the time before this sitting, if that was kept.
        self._past = kernel.past
        self._display = Display(
            self._screen,
            self._client,
            images,
            others=others,
            former=None if self._past is None else FormerCells(),
        )
        #: What has come while the past is being shown; None when it has its turn.
        self._waiting: list[Message] | None = None if self._past is None else []
        self._past_cut_short = False
        language = self._client.kernel_info_content.get("language_info") or {}
        self._prompt = CodePrompt(
            self._client,
            self._screen,
            KernelHistory(history_file(str(language.get("name", "")))),
            number=self._next_number,
            leave=self._leave_at_once,
        )
        #: Held by the prompt that is on the screen: one that ends, because nobody wants its answer
        #: any more, has left the screen when the next one comes.
        self._prompting = asyncio.Lock()
        #: What is to be written above the prompt, in this order.
        self._above: deque[Callable[[], object]] = deque()
        self._writing: asyncio.Task[None] | None = None
        #: Why nothing can be written any more.
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: What is under way for the user's sake, and nobody waits for.
        self._tasks: set[asyncio.Task[None]] = set()
        #: The cell that runs, and how often it was interrupted.
        self._running: Request | None = None
        self._interrupts = 0
        #: What the kernel wants the next cell to begin with.
        self._next_input = ""
        self._left = False

    async def sit(self) -> None:
        """Take code and run it until the user leaves, or the kernel is gone for good.

        Raises:
            KernelMgmtError: it is.
            CommandError: likewise, or the terminal is gone.
        """
        self._signals.interrupt = self._on_ctrl_c
        self._client.add_handler(self._on_output, {"iopub"})
        # What was said up to here was not handed on to that, and is the past; the rest will be.
        begin = self._client.journal_position
        with keys_kept(), _log_to(self._tell):
            self._greet()
            life = [
                self._start(self._take_turns(begin)),
                self._start(self._kernel.watch(self._tell, self._restarted)),
                self._broken,
            ]
            try:
                await asyncio.wait(life, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._client.remove_handler(self._on_output)
                await _cancel({*self._tasks, self._broken})
                self._write_all()  # what there was no time to write above the prompt
        for part in life:
            if not part.cancelled():
                part.result()

    def _greet(self) -> None:
        banner = str(self._client.kernel_info_content.get("banner", "")).strip()
        self._screen.write(f"{banner}\n" if banner else "")
        say(
            "console",
            f"{self._kernel.title}. Tab completes, F1 explains, Ctrl-R searches, Ctrl-D leaves.",
        )

    # -- the past ----------------------------------------------------------------------------

    async def _show_past(self, end: int) -> None:
        """Show what was said before, up to a number, and then what has come meanwhile."""
        if self._past is None:
            return
        heading = self._past.heading
        count = 0
        try:
            # Read is what was shown, however this ends.
            async for message in self._past.messages(end, counts_as_read=True):
                sentence = sentence_of(message) if message.channel == "nanny" else ""
                if heading and (sentence or self._shows(message)):
                    self._tell("journal", heading)
                    heading = ""
                if sentence:
                    self._tell("warning" if is_gap(message) else "hint", sentence)
                elif message.channel == "iopub":
                    self._write(functools.partial(self._display.show_past, message))
                count += 1
                if count % _TURN == 0:
                    await asyncio.sleep(0)  # where Ctrl-C is noticed
                if self._past_cut_short:
                    self._tell("hint", "The rest is left out; 'attach --all' shows it.")
                    break
        except KernelMgmtError as error:
            self._tell("warning", f"What was said before cannot be shown: {error}")
        self._client.count_as_reader()
        waiting, self._waiting = self._waiting or (), None
        for message in waiting:
            self._on_output(message)

    def _shows(self, message: Message) -> bool:
        return message.channel == "iopub" and self._display.shows(message)

    # -- turns -----------------------------------------------------------------------------

    async def _take_turns(self, begin: int) -> None:
        await self._show_past(begin)
        await self._learn_number()
        while not self._left:
            code = await self._read()
            if code is None or code.strip() in _LEAVE:
                return
            if code.strip():
                await self._run(code)

    async def _learn_number(self) -> None:
        """Ask the kernel which cell was the latest; one that is busy leaves that open."""
        with contextlib.suppress(TimeoutError, KernelMgmtError):
            async with asyncio.timeout(_COUNT_PATIENCE):
                reply = await self._client.execute("", silent=True)
            self._take_number(reply)

    def _take_number(self, reply: Message) -> None:
        count = reply.content.get("execution_count")
        if isinstance(count, int):
            self._display.execution_count = count

    def _restarted(self) -> None:
        self._display.execution_count = 0

    def _next_number(self) -> int | None:
        count = self._display.execution_count
        return None if count is None else count + 1

    async def _read(self) -> str | None:
        """Read a cell; None when the user leaves."""
        while True:
            default, self._next_input = self._next_input, ""
            self._screen.end_line()
            self._screen.lose_track()
            try:
                async with self._prompting:
                    return await self._prompt.read(default)
            except LineCleared:
                continue
            except EOFError:
                if await self._asks_to_leave():
                    return None

    async def _asks_to_leave(self) -> bool:
        question = f"Leave the console and {self._kernel.at_end} ([y]/n)? "
        try:
            answer = await ask(Prompt(question, secret=False))
        except EOFError:
            return True
        except LineCleared:
            return False
        return answer.strip().lower() in ("", "y", "yes")

    async def _run(self, code: str) -> None:
        await self._kernel.wait_until_usable()
        self._display.begin()
        self._interrupts = 0
        try:
            self._running = self._client.execute(code, allow_stdin=True)
            self._running.stdin_hook = self._answer
            reply = await _finish(self._running)
        except KernelDied:
            self._kernel.note_death()  # told where it is watched
            return
        except KernelRestarted:
            return
        except ConnectionLost as error:
            if error.final:
                raise
            self._tell("warning", str(error))
            return
        except ReplyLost:
            self._tell("warning", "The kernel has ended the cell without a reply.")
            return
        finally:
            self._running = None
        await self._take_reply(reply)

    async def _take_reply(self, reply: Message) -> None:
        content = reply.content
        self._take_number(reply)
        if content.get("status") == "aborted":
            self._tell("warning", "The kernel did not run this, because a cell before it failed.")
        for payload in content.get("payload") or ():
            await self._take_payload(payload)

    async def _take_payload(self, payload: Any) -> None:
        source = payload.get("source")
        if source == "ask_exit":
            self._left = True
        elif source == "set_next_input":
            self._next_input = str(payload.get("text", ""))
        elif source == "page":
            text = (payload.get("data") or {}).get("text/plain") or payload.get("text")
            if text:
                await show_text(self._screen, str(text))

    # -- what the user does while a cell runs --------------------------------------------------

    async def _answer(self, prompt: Prompt) -> str:
        """Answer a question of the running code."""
        self._screen.end_line()
        try:
            async with self._prompting:
                return await ask(prompt)
        except LineCleared:
            self._interrupts += 1
            raise KeyboardInterrupt from None
        finally:
            self._screen.lose_track()

    def _on_ctrl_c(self) -> None:
        if at_prompt():
            press_ctrl_c()
        elif self._waiting is not None:
            self._past_cut_short = True
        elif self._running is not None:
            self._interrupts += 1
            _ = self._start(self._interrupt(again=self._interrupts > 1))

    async def _interrupt(self, *, again: bool) -> None:
        if again:
            self._tell(
                "hint",
                "The kernel has not reacted to Ctrl-C yet, and gets another one; "
                f"Ctrl-\\ leaves at once, to {self._kernel.at_end}.",
            )
        try:
            await self._client.interrupt()
        except (KernelDied, KernelRestarted):
            pass  # told where it is watched
        except KernelMgmtError as error:
            self._tell("warning", str(error))

    def _leave_at_once(self) -> None:
        self._signals.end(signal.SIGQUIT)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what comes --------------------------------------------------------------------------

    def _on_output(self, message: Message) -> None:
        if self._waiting is not None:
            self._waiting.append(message)
        else:
            self._write(lambda: self._display.show(message))

    def _tell(self, kind: str, sentence: str) -> None:
        def tell() -> None:
            self._screen.end_line()
            say(kind, sentence)
            self._screen.lose_track()

        self._write(tell)

    def _write(self, write: Callable[[], object]) -> None:
        """Write now, or above the prompt that is on the screen."""
        self._above.append(write)
        if not at_prompt():
            self._write_all()
        elif self._writing is None or self._writing.done():
            self._writing = self._start(self._write_above())

    async def _write_above(self) -> None:
        async with in_terminal():
            self._screen.lose_track()
            self._write_all()

    def _write_all(self) -> None:
        try:
            while self._above:
                self._above.popleft()()
            if at_prompt():
                self._screen.end_line()
        except (CommandError, OSError) as error:
            if not self._broken.done():
                self._broken.set_exception(error)


async def _finish(request: Request) -> Message:
    """Wait for the end of a cell, also of one whose kernel forgets to tell of it.

    Returns:
        The reply.

    Raises:
        KernelDied: or another end of the request.
    """

    async def drain() -> None:
        async for _ in request.take_outputs():
            pass  # shown by the handler, which sees what comes in its order

    idle = asyncio.ensure_future(drain())
    try:
        reply = await request
        seen = -1
        while not idle.done() and request.output_count != seen:
            seen = request.output_count
            await asyncio.wait({idle}, timeout=_IDLE_PATIENCE)
        return reply
    finally:
        await _cancel({idle})


async def _cancel(futures: Iterable[asyncio.Future[Any]]) -> None:
    for future in futures:
        future.cancel()
    # Looked at, or asyncio complains of errors that nobody has seen.
    await asyncio.gather(*futures, return_exceptions=True)


@contextlib.contextmanager
def _log_to(tell: Tell) -> Iterator[None]:
    """Have the log shown where it does not disturb the prompt, for as long as a block lasts."""
    loop = asyncio.get_running_loop()
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, LogToUser)]
    for handler in handlers:  # which may be called in any thread
        handler.tell = functools.partial(_soon, loop, tell)
    try:
        yield
    finally:
        for handler in handlers:
            handler.tell = say


def _soon(loop: asyncio.AbstractEventLoop, tell: Tell, kind: str, sentence: str) -> None:
    loop.call_soon_threadsafe(tell, kind, sentence)
