"""``kernel-mgmt logs``: what a kernel's process has written, and what it goes on to write."""

from __future__ import annotations

import asyncio

from kernel_mgmt import KernelEvent
from kernel_mgmt.errors import KernelDied
from kernel_mgmt.nanny_client.manager import RemoteKernelManager

from ..errors import KERNEL_DIED, KERNEL_MGMT_FAILED, CommandError, say
from ..output import write_text
from .finding import find_here, manager_of
from .words import label

__all__ = ["last_lines", "show_logs"]

#: More lines than any nanny keeps.
_ALL = 2**31 - 1

#: Why it is stopped, for people.
_REASONS = {
    "asked": "somebody asked for it",
    "shutdown_request": "a client has shut it down",
    "lease": "its lease has run out",
    "idle": "it was idle for too long",
    "unattended": "nothing was attached to it for too long",
    "signal": "a signal ended its nanny",
}


def show_logs(kernel_id: str, *, lines: int | None, follow: bool) -> None:
    """Write a kernel's log to standard output.

    Args:
        kernel_id: the kernel.
        lines: so many of the last lines; None for all that there are.
        follow: go on with what comes, across restarts, until the kernel is stopped.

    Raises:
        KernelMgmtError: it is not there, or does not answer.
        CommandError: it is dead, on another machine, or cannot be followed; or its nanny died.
        BrokenPipeError: nobody reads the output any more.
    """
    asyncio.run(_show(kernel_id, _ALL if lines is None else lines, follow))


async def _show(kernel_id: str, lines: int, follow: bool) -> None:
    record = find_here(kernel_id)
    manager = await manager_of(record)
    if not follow:
        write_text("stdout", await manager.log_tail(lines))
    elif isinstance(manager, RemoteKernelManager):
        await _Follower(manager).follow(lines)
    else:
        raise CommandError(
            f"the log of the kernel {label(record)} cannot be followed, since it has no nanny; "
            "leave out -f.",
            KERNEL_MGMT_FAILED,
        )


class _Follower:
    """Shows a log and what is added to it, each piece once.

    What a kernel wrote before it was listened to is in its log, and what it writes while the log is
    asked for is told as well; where both have it, the position tells.

    Args:
        manager: tells both.
    """

    def __init__(self, manager: RemoteKernelManager) -> None:
        self._manager = manager
        #: The kernel, and how many bytes of what it wrote, that have been shown.
        self._shown = (0, 0)
        self._stopping = False

    async def follow(self, lines: int) -> None:
        """Show the last lines, and go on until the nanny ends.

        Raises:
            CommandError: it has ended, and nobody has asked it to.
        """
        events = self._manager.events()
        await events.listening()
        log = await self._manager.log(_ALL)
        write_text("stdout", last_lines(log.text, lines))
        self._shown = (log.kernel, log.position)
        async for event in events:
            self._show(event)
        if not self._stopping:
            raise CommandError(
                "the kernel's nanny has ended without a word, and the kernel with it.", KERNEL_DIED
            )

    def _show(self, event: KernelEvent) -> None:
        self._stopping = self._stopping or event.name == "stopping"
        if event.name == "output":
            if (event.kernel, event.position) > self._shown:
                write_text("stdout", event.text)
        elif words := self._words(event):
            say(*words)

    def _words(self, event: KernelEvent) -> tuple[str, str] | None:
        """Give what an event says to the user; an end that was asked for says nothing."""
        if event.name == "died" and isinstance(event.error, KernelDied) and not self._stopping:
            return "warning", event.error.summary
        if event.name == "restarting":
            return "hint", "The kernel is started again."
        if event.name == "ready":
            return "hint", "The kernel answers."
        if event.name == "failed":
            return "warning", str(event.error)
        if event.name == "stopping":
            return "hint", f"The kernel is stopped: {_REASONS.get(event.text, event.text)}."
        return None


def last_lines(log: str, lines: int) -> str:
    """Give the last lines of a log."""
    return "".join(log.splitlines(keepends=True)[-lines:]) if lines else ""
