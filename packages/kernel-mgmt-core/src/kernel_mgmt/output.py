"""Showing a kernel's output as plain text."""

from __future__ import annotations

import sys

from .protocol import Message

__all__ = ["output_text", "print_output"]


def output_text(message: Message) -> tuple[str, str]:
    """Give the text of an iopub message and the stream that it belongs on.

    Returns:
        ``("stdout", text)`` or ``("stderr", text)``; the text is empty for what shows nothing.
    """
    content = message.content
    if message.msg_type == "stream":
        return str(content.get("name", "stdout")), str(content.get("text", ""))
    if message.msg_type in ("execute_result", "display_data", "update_display_data"):
        text = content.get("data", {}).get("text/plain", "")
        return "stdout", f"{text}\n" if text else ""
    if message.msg_type == "error":
        lines = content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]
        return "stderr", "\n".join(lines) + "\n"
    return "stdout", ""


def print_output(message: Message) -> None:
    """Print an iopub message to this process's standard output or error."""
    stream, text = output_text(message)
    if text:
        file = sys.stderr if stream == "stderr" else sys.stdout
        file.write(text)
        file.flush()
