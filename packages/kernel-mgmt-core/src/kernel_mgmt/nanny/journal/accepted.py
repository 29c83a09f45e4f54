"""What clients have sent and the nanny has taken, so that what is sent again is done once."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Accepted"]

#: How many messages are remembered.
_LIMIT = 100_000
#: Longer than the id of any client's message, in characters: such a message is not remembered.
_LONGEST_ID = 1000


class _Entry(NamedTuple):
    """One message that was accepted."""

    #: The number that the next record had then: all that answers it comes after.
    position: int
    #: Tells its signature from another; None: its client does not want it to be done any more.
    fingerprint: int | None
    #: Which kernel it went to, or is to go to.
    kernel: int
    answered: bool


class Accepted:
    """Remembers messages by their ids, the latest ones.

    A message is the same when id and signature are.  To be given verified messages only: a forger
    could else block real ones.

    Args:
        limit: how many are remembered; then the oldest is forgotten.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._entries: dict[str, _Entry] = {}
        self._kernel = 0

    def __len__(self) -> int:
        return len(self._entries)

    def accept(self, msg_id: str, signature: bytes, position: int) -> bool:
        """Take a message; gives False when it was taken before.

        Args:
            msg_id: its id.
            signature: its signature.
            position: the number that the next record will have.
        """
        if len(msg_id) > _LONGEST_ID:
            return True
        # Salted for each process, so that nobody can make two that are the same.
        fingerprint = hash(signature)
        known = self._entries.pop(msg_id, None)
        if known is not None and known.fingerprint in (fingerprint, None):
            self._entries[msg_id] = known
            return False
        self._remember(msg_id, _Entry(position, fingerprint, self._kernel, False))
        return True

    def withdraw(self, msg_id: str, position: int) -> None:
        """Never accept a message that was not accepted yet: its client has given it up.

        Args:
            msg_id: its id.
            position: the number that the next record will have.
        """
        if msg_id not in self._entries and len(msg_id) <= _LONGEST_ID:
            self._remember(msg_id, _Entry(position, None, self._kernel - 1, False))

    def _remember(self, msg_id: str, entry: _Entry) -> None:
        self._entries[msg_id] = entry
        if len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]

    def answer(self, msg_id: str) -> None:
        """Take notice that a message has its reply, which counts while its kernel is there."""
        entry = self._entries.get(msg_id)
        if entry is not None and not entry.answered and entry.kernel == self._kernel:
            self._entries[msg_id] = entry._replace(answered=True)

    def lose_kernel(self) -> None:
        """Take notice that the kernel is gone; what is accepted from now on is for the next one."""
        self._kernel += 1

    def state_of(self, msg_id: str) -> str:
        """Tell what has become of a message.

        Returns:
            ``unknown``: it was not accepted, or is forgotten; ``answered``: it has its reply;
            ``gone``: it has none and never will, because its kernel is not there any more or it
            was withdrawn; ``accepted``: it waits.
        """
        entry = self._entries.get(msg_id)
        if entry is None:
            return "unknown"
        if entry.answered:
            return "answered"
        return "accepted" if entry.kernel == self._kernel else "gone"

    def position_of(self, msg_id: str) -> int | None:
        """Give the number that the next record had when a message was accepted; None if unknown."""
        entry = self._entries.get(msg_id)
        return None if entry is None else entry.position
