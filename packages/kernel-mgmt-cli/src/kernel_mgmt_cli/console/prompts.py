"""What is typed: code, with all that helps to write it, and answers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

from kernel_mgmt import KernelClient, Prompt
from kernel_mgmt.errors import KernelMgmtError
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, get_app_or_none, in_terminal
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, completion_is_selected, has_completions, has_focus
from prompt_toolkit.formatted_text import ANSI, FormattedText
from prompt_toolkit.history import DummyHistory, History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.output import Output, create_output

from .completion import KernelCompleter
from .lexing import choose_lexer
from .mime import text_of
from .multiline import line_after
from .pager import show_text
from .screen import Screen

__all__ = ["CodePrompt", "LineCleared", "ask", "at_prompt", "press_ctrl_c"]

_INDENT = "    "
#: How long a kernel may take to describe a name, in seconds.
_INSPECT_PATIENCE = 2.0


class LineCleared(Exception):
    """Ctrl-C was pressed at a prompt."""


def at_prompt() -> bool:
    """Tell whether a prompt is on the screen."""
    return get_app_or_none() is not None


def press_ctrl_c() -> None:
    """Do at the prompt on the screen what Ctrl-C does."""
    app = get_app_or_none()
    if app is not None:
        app.key_processor.send_sigint()


def _terminal() -> Output:
    output = create_output(sys.stdout)
    # The terminal is not asked where its cursor is: the answer of a slow one would be taken for
    # something typed when the code runs already.
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False
    return output


def _session(**options: Any) -> PromptSession[str]:
    return PromptSession(
        output=_terminal(), interrupt_exception=LineCleared, enable_suspend=True, **options
    )


async def _run(session: PromptSession[str], *message: Any, **options: Any) -> str:
    # Signals and exceptions are the console's own business.
    return await session.prompt_async(
        *message, **options, handle_sigint=False, set_exception_handler=False
    )


async def ask(prompt: Prompt) -> str:
    """Ask the user something.

    Raises:
        LineCleared: Ctrl-C was pressed.
        EOFError: Ctrl-D was pressed, or the terminal is gone.
    """
    session = _session(history=DummyHistory())
    return await _run(session, ANSI(prompt.message), is_password=prompt.secret)


class CodePrompt:
    r"""Reads code.

    Enter asks the kernel whether the code is complete; Esc Enter always begins a new line.

    Args:
        client: of the kernel; ready.
        screen: what is looked up is shown there.
        history: of the kernel's language.
        number: gives the number of the next cell, None when it is not known.
        leave: is called when Ctrl-\ is pressed.
    """

    def __init__(
        self,
        client: KernelClient,
        screen: Screen,
        history: History,
        *,
        number: Callable[[], int | None],
        leave: Callable[[], object],
    ) -> None:
        self._client = client
        self._screen = screen
        self._number = number
        self._leave = leave
        self._session = _session(
            message=self._message,
            multiline=True,
            prompt_continuation=self._continuation,
            history=history,
            completer=KernelCompleter(client),
            complete_while_typing=False,
            lexer=choose_lexer(client.kernel_info_content.get("language_info") or {}),
            key_bindings=self._key_bindings(),
        )

    async def read(self, default: str = "") -> str:
        """Read a cell.

        Args:
            default: what is there to begin with.

        Raises:
            LineCleared: Ctrl-C was pressed.
            EOFError: Ctrl-D was pressed on an empty line, or the terminal is gone.
        """
        return await _run(self._session, default=default)

    def _label(self) -> str:
        number = self._number()
        return f"In [{' ' if number is None else number}]: "

    def _message(self) -> FormattedText:
        return FormattedText([("ansigreen", self._label())])

    def _continuation(self, width: int, *_: object) -> FormattedText:
        return FormattedText([("ansigreen", "...: ".rjust(width))])

    # -- keys ------------------------------------------------------------------------------

    def _key_bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        in_code = has_focus(DEFAULT_BUFFER)
        bindings.add("enter", filter=in_code & ~completion_is_selected)(self._enter)
        bindings.add("enter", filter=in_code & completion_is_selected)(_take_completion)
        bindings.add("escape", "enter", filter=in_code)(_new_line)
        bindings.add("tab", filter=in_code & Condition(_at_indentation))(_indent)
        bindings.add("f1", filter=in_code)(self._inspect)
        bindings.add("s-tab", filter=in_code & ~has_completions)(self._inspect)
        bindings.add("c-\\")(lambda _: self._leave())
        return bindings

    def _enter(self, event: KeyPressEvent) -> None:
        document = event.current_buffer.document
        if document.text_after_cursor.strip() and not document.on_last_line:
            event.current_buffer.newline()
            return
        # What is typed while the kernel decides belongs behind what it decides.
        behind = event.key_processor.empty_queue()
        paused = contextlib.ExitStack()
        paused.enter_context(event.app.input.detach())
        _ = event.app.create_background_task(self._end_line(event, behind, paused))

    async def _end_line(
        self, event: KeyPressEvent, behind: list[KeyPress], paused: contextlib.ExitStack
    ) -> None:
        """Run the code or begin another line, as the kernel says."""
        buffer = event.current_buffer
        try:
            with paused:
                line = await line_after(self._client, buffer.text)
        except asyncio.CancelledError:
            # The prompt has ended meanwhile: nobody reads what the pause's end has turned on again.
            asyncio.get_running_loop().remove_reader(event.app.input.fileno())
            raise
        if line is None:
            buffer.validate_and_handle()  # the rest stays in the queue, for the next prompt
            event.key_processor.feed_multiple(behind)
            return
        buffer.cursor_position = len(buffer.text)
        buffer.insert_text(f"\n{line}")
        event.key_processor.feed_multiple(behind)
        event.key_processor.process_keys()

    def _inspect(self, event: KeyPressEvent) -> None:
        _ = event.app.create_background_task(self._show_inspection(event.current_buffer.document))

    async def _show_inspection(self, document: Document) -> None:
        """Show what the kernel knows of the name at the cursor, above the prompt."""
        try:
            async with asyncio.timeout(_INSPECT_PATIENCE):
                reply = await self._client.inspect(document.text, document.cursor_position)
        except (KernelMgmtError, TimeoutError):
            return
        if reply.content.get("found"):
            async with in_terminal():
                await show_text(self._screen, text_of(reply.content.get("data") or {}))


def _at_indentation() -> bool:
    """Tell whether Tab can only mean an indentation."""
    document = get_app().current_buffer.document
    return not document.current_line_before_cursor.strip()


def _indent(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text(_INDENT)


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.newline()


def _take_completion(event: KeyPressEvent) -> None:
    """Keep the completion that is selected in the menu, and close the menu."""
    event.current_buffer.complete_state = None
