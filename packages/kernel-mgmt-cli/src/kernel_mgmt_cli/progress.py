"""How far a launch is, shown on standard error while it takes long."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kernel_mgmt import LaunchProgress

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table

__all__ = ["LaunchDisplay"]

_BAR_WIDTH = 24


class LaunchDisplay:
    """One line at the bottom of the terminal, from :meth:`show` to the end of the block.

    Where standard error is no terminal, or tells more already, there is nothing to see.
    """

    #: A launch that is quicker, in seconds, shall show nothing.
    DELAY = 0.5

    def __init__(self) -> None:
        self._latest = LaunchProgress("resolve", "Looking for the kernel type")
        self._started = time.monotonic()
        self._ended = False
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def report(self, progress: LaunchProgress) -> None:
        """Take the next step of the launch."""
        self._latest = progress

    def show(self) -> None:
        """Show it from now on, unless it has ended already."""
        verbose = logging.getLogger("kernel_mgmt").isEnabledFor(logging.DEBUG)
        if self._ended or verbose or sys.stderr is None or not sys.stderr.isatty():
            return
        # Here and not above: a quick launch does without it.
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("dots")
        self._live = Live(
            get_renderable=lambda: self._render(spinner),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=12,
            redirect_stdout=False,
        )
        self._live.start()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Show nothing for as long as a block lasts."""
        live = self._live
        if live is not None:
            live.stop()
        try:
            yield
        finally:
            if live is not None:
                live.start()

    def end(self) -> None:
        """Show nothing any more."""
        self._ended = True
        if self._live is not None:
            self._live.stop()

    def _render(self, spinner: Spinner) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        latest = self._latest
        text = Text(latest.phase, style="bold")
        if latest.message:
            text.append(f"  {latest.message}", style="not bold")
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, overflow="ellipsis")
        row: list[Spinner | Text | ProgressBar] = [spinner, text]
        if latest.fraction is not None:
            fraction = min(max(latest.fraction, 0.0), 1.0)
            row += [
                ProgressBar(total=1.0, completed=fraction, width=_BAR_WIDTH),
                Text(f"{fraction:4.0%}"),
            ]
        row.append(Text(f"{time.monotonic() - self._started:.0f} s", style="dim"))
        line.add_row(*row)
        return line
