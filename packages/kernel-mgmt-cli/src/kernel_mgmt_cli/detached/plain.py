"""What a kernel has said, as plain text: code, output, and what its nanny tells."""

from __future__ import annotations

from kernel_mgmt import Message

from ..happenings import sentence_of
from ..notebook.values import text_of
from ..output import without_colours, write_text

__all__ = ["PlainWriter"]


class PlainWriter:
    """Writes messages of a journal to standard output."""

    def __init__(self) -> None:
        #: The request whose output was written last, and whether that has ended its line.
        self._parent = ""
        self._in_line = False
        self._begun = False

    def write(self, message: Message) -> None:
        """Write a message, if it is one that shows something.

        Raises:
            BrokenPipeError: nobody reads the output any more.
            CommandError: it cannot be written.
        """
        text = plain_text(message)
        if not text:
            return
        goes_on = message.msg_type == "stream" and message.parent_id == self._parent
        if self._in_line and not goes_on:
            text = f"\n{text}"
        write_text("stdout", text)
        self._parent = message.parent_id
        self._in_line = not text.endswith("\n")
        self._begun = True

    def end(self) -> None:
        """End the last line, and part it all from what follows, if there was anything."""
        if self._begun:
            write_text("stdout", "\n\n" if self._in_line else "\n")


def plain_text(message: Message) -> str:
    """Give what a message shows; empty for one that shows nothing."""
    if message.channel == "nanny":
        sentence = sentence_of(message)
        return f"[{sentence}]\n" if sentence else ""
    if message.channel != "iopub":
        return ""
    content, kind = message.content, message.msg_type
    count = content.get("execution_count", " ")
    if kind == "stream":
        return text_of(content.get("text"))
    if kind == "execute_input":
        return f"In [{count}]: {text_of(content.get('code'))}\n"
    if kind == "error":
        traceback = content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]
        lines = traceback if isinstance(traceback, list) else [traceback]
        return without_colours("\n".join(map(text_of, lines))) + "\n"
    if kind not in ("execute_result", "display_data", "update_display_data"):
        return ""
    data = content.get("data")
    text = text_of(data.get("text/plain")) if isinstance(data, dict) else ""
    prompt = f"Out[{count}]: " if kind == "execute_result" else ""
    several = "\n" if prompt and "\n" in text else ""
    return f"{prompt}{several}{text}\n" if text else ""
