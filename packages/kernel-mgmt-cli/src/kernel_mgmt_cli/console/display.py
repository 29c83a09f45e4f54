"""What a kernel publishes, shown as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from kernel_mgmt import KernelClient, Message

from ..errors import wants_colour
from ..output import without_colours
from .former import FormerCells
from .images import Images
from .mime import image_of, text_of
from .screen import Mark, Screen

__all__ = ["Display"]

#: What stands before the output of other clients.
_OTHERS = "[other] "


class Display:
    """Shows iopub messages on the screen.

    Args:
        screen: where to.
        client: tells whose output a message is.
        images: shows or saves images.
        others: whether the code and the output of the kernel's other clients are shown, too.
        former: knows which cells of others ran before; None where that is not known. Their output
            goes on being shown.
    """

    def __init__(
        self,
        screen: Screen,
        client: KernelClient,
        images: Images,
        *,
        others: bool,
        former: FormerCells | None = None,
    ) -> None:
        #: The number of the latest cell, whoever ran it; None when it is not known.
        self.execution_count: int | None = None
        self._screen = screen
        self._client = client
        self._images = images
        self._others = others
        self._former = former
        self._colour = wants_colour(sys.stdout)
        #: Where the output of the running cell begins.
        self._begin = screen.mark()
        #: Whether clear_output waits for the next output.
        self._clear_later = False
        #: Whose output was written last: the id of a request.
        self._latest_parent = ""
        #: Between which lines each display_id was shown last.
        self._shown: dict[str, tuple[Mark, Mark]] = {}
        self._show: Mapping[str, Callable[[Message], None]] = {
            "execute_input": self._show_input,
            "stream": self._show_stream,
            "execute_result": self._show_result,
            "display_data": self._show_data,
            "update_display_data": self._update_data,
            "clear_output": self._clear,
            "error": self.show_error,
        }

    def begin(self) -> None:
        """Take it that a cell begins to run, in the line where the cursor is."""
        self._begin = self._screen.mark()
        self._clear_later = False

    def show(self, message: Message) -> None:
        """Show a message, if it is one that shows something.

        Raises:
            BrokenPipeError: the terminal is gone.
            CommandError: likewise.
        """
        ours = self._is_ours(message)
        goes_on = not ours and self._former is not None and self._former.includes(message)
        if not self.shows(message):
            return
        if message.msg_type == "execute_input":
            self._take_number(message)
            if ours:  # it was typed here
                return
        if ours or goes_on or self._others:
            self._show_any(message, ours=ours or goes_on)

    def show_past(self, message: Message) -> None:
        """Show a message from before, whoever asked for it; its code as well.

        Raises:
            BrokenPipeError: the terminal is gone.
            CommandError: likewise.
        """
        if self._former is not None:
            self._former.note(message)
        if not self.shows(message):
            return
        self._show_any(message, ours=True)
        if message.msg_type == "execute_input":
            self._take_number(message)
            self.begin()

    def shows(self, message: Message) -> bool:
        """Tell whether a message is of a kind that shows something."""
        return message.msg_type in self._show

    def _take_number(self, message: Message) -> None:
        count = message.content.get("execution_count")
        self.execution_count = count if isinstance(count, int) else None

    def _show_any(self, message: Message, *, ours: bool) -> None:
        if message.msg_type != "clear_output":
            if self._clear_later:
                self._clear_now()
            self._begin_output(message, ours=ours)
        self._show[message.msg_type](message)

    def show_error(self, message: Message) -> None:
        """Show an ``error``, or the reply that tells of one."""
        content = message.content
        traceback = content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]
        lines = traceback if isinstance(traceback, list) else [traceback]
        text = "\n".join(map(str, lines))
        self._write_alone(text if self._colour else without_colours(text))

    def _is_ours(self, message: Message) -> bool:
        """Tell whether this console asked for it, or nobody did."""
        asked_by = message.parent_header.get("session")
        return not asked_by or asked_by == self._client.session.session_id

    def _begin_output(self, message: Message, *, ours: bool) -> None:
        """Go to a new line, unless a stream goes on, and say whose output it is."""
        if message.msg_type != "stream" or message.parent_id != self._latest_parent:
            self._screen.end_line()
        self._latest_parent = message.parent_id
        if not ours and not self._screen.in_line:
            self._screen.write(_OTHERS)

    def _show_input(self, message: Message) -> None:
        count = self._paint(32, f"In [{message.content.get('execution_count', ' ')}]: ")
        self._screen.write(f"{count}{message.content.get('code', '')}\n")

    def _show_stream(self, message: Message) -> None:
        self._screen.write(str(message.content.get("text", "")))

    def _show_result(self, message: Message) -> None:
        text = self._text(message.content)
        if text:
            several = "\n" if "\n" in text.rstrip("\n") else ""
            prompt = self._paint(31, f"Out[{message.content.get('execution_count', ' ')}]: ")
            self._write_alone(f"{prompt}{several}{text}")

    def _show_data(self, message: Message) -> None:
        start = self._screen.mark()
        text = self._text(message.content)
        if text:
            self._write_alone(text)
        display_id = _display_id(message)
        if display_id:
            self._shown[display_id] = (start, self._screen.mark())

    def _update_data(self, message: Message) -> None:
        """Show the new content in place of the old, if that is the last thing on the screen."""
        start, end = self._shown.get(_display_id(message), (None, None))
        if start is not None and end is not None and self._screen.is_at(end):
            self._screen.erase_to(start)
        self._show_data(message)

    def _write_alone(self, text: str) -> None:
        """Write text that ends its last line."""
        self._screen.write(text if text.endswith("\n") else f"{text}\n")

    def _clear(self, message: Message) -> None:
        if message.content.get("wait"):
            self._clear_later = True
        else:
            self._clear_now()

    def _clear_now(self) -> None:
        self._clear_later = False
        self._screen.erase_to(self._begin)

    def _text(self, content: Mapping[str, Any]) -> str:
        """Give what stands for rich output: text, and an image or where it is."""
        data = content.get("data")
        if not isinstance(data, dict):
            return ""
        parts = [text_of(data)]
        image = image_of(data)
        if image is not None:
            parts.append(self._images.show(*image))
        return "\n".join(part for part in parts if part)

    def _paint(self, colour: int, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _display_id(message: Message) -> str:
    transient = message.content.get("transient")
    return str(transient.get("display_id", "")) if isinstance(transient, dict) else ""
