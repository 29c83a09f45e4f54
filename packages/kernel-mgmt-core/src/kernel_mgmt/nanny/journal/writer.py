"""The thread that puts a journal's records on disk, so that nobody else waits for it."""

from __future__ import annotations

import threading

from .pieces import Gap, Losses
from .spool import Spool
from .tail import Block, Tail

__all__ = ["Writer"]

#: Seconds in which more may come, to be written together.
_COLLECT = 0.02
#: With so many bytes waiting, they are written at once.
_HURRY = 2**20
#: Bytes to be written at once.  The thread waits for its turn after each time, while others are busy.
_PORTION = 2**21
#: Seconds between attempts at a disk that takes nothing.
_PAUSE = 0.5


class Writer:
    """Writes what waits in a :class:`.tail.Tail`.

    Args:
        tail: where it waits.
        spool: where it goes.
        losses: where that is counted which is more than all of the spool.
    """

    def __init__(self, tail: Tail, spool: Spool, losses: Losses) -> None:
        self._tail = tail
        self._spool = spool
        self._losses = losses
        self._portion = min(_PORTION, spool.limit // 16)
        self._thread: threading.Thread | None = None
        #: Whether the thread knows that there is something.
        self._stirred = False
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        #: Whether nothing is to be written any more.
        self._discard = False

    def stir(self) -> None:
        """Have written what was added; costs next to nothing when that is under way."""
        if not self._stirred:
            self._stirred = True
            self._work.set()
            if self._thread is None:
                # Not before: the process may have been forked since it has a journal.
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()
        if self._tail.waiting > _HURRY and not self._hurry.is_set():
            self._hurry.set()

    def close(self, timeout: float, *, discard: bool) -> bool:
        """Write the rest and end.

        Args:
            discard: whether to leave the rest unwritten.
            timeout: how long that may take, in seconds.

        Returns:
            whether the thread ended.  If not, the disk does not answer; it ends when that does.
        """
        self._discard = discard
        self._closing.set()
        self._hurry.set()
        self._work.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        closing = False
        while not closing:
            self._work.wait()
            self._work.clear()
            self._hurry.wait(_COLLECT)
            self._hurry.clear()
            # From here on whoever adds says so again.
            self._stirred = False
            # Seen before the last look at what waits, so that nothing is left behind.
            closing = self._closing.is_set()
            self._write_all()

    def _write_all(self) -> None:
        while not self._discard:
            blocks = self._tail.take(self._portion)
            if not blocks:
                return
            if blocks[0].size > self._spool.limit:
                self._give_up(blocks[0])
                del blocks[1:]
            else:
                try:
                    self._spool.write(blocks)
                except OSError:
                    # No room, most likely.  It is tried again, until there is too much.
                    self._tail.put_back()
                    del blocks
                    if self._closing.wait(_PAUSE):
                        return
                    continue
            self._tail.settle(blocks)
            # Nothing of it is kept for as long as nothing else comes.
            del blocks

    def _give_up(self, block: Block) -> None:
        gap = Gap(block.first, block.last, block.size)
        self._losses.add(gap, block.last - block.first + 1)
