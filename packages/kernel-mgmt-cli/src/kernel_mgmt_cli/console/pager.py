"""Text that may be longer than the terminal."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil

from .screen import Screen

__all__ = ["show_text"]

#: Rows of the terminal that short text leaves free.
_ROOM = 3


async def show_text(screen: Screen, text: str) -> None:
    """Show text: on the screen when it fits, in the user's pager when not.

    Args:
        screen: to be written to; no prompt is there at the moment.
        text: for people, possibly with colours.
    """
    text = text.rstrip("\n") + "\n"
    if text.count("\n") <= os.get_terminal_size().lines - _ROOM or not await _page(text):
        screen.end_line()
        screen.write(text)
    screen.lose_track()


async def _page(text: str) -> bool:
    """Run the pager until it is left; false when there is none."""
    command = shlex.split(os.environ.get("PAGER") or "less -R")
    if not command or shutil.which(command[0]) is None:
        return False
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, env={"LESS": "-R", **os.environ}
    )
    try:
        await process.communicate(text.encode(errors="backslashreplace"))
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return True
