"""What a nanny tells amid the output of its kernel, in sentences."""

from __future__ import annotations

from kernel_mgmt import ExitStatus, Message
from kernel_mgmt.errors import KernelDied

from .detached.words import quantity

__all__ = ["gap_sentence", "is_gap", "sentence_of"]

_RESTARTED = "The kernel was restarted; what it had in memory is gone."


def is_gap(message: Message) -> bool:
    """Tell whether a message stands for others that the journal could not keep."""
    return message.channel == "nanny" and message.msg_type == "journal_gap"


def gap_sentence(first: int, last: int, size: int) -> str:
    """Tell of messages that the journal could not keep.

    Args:
        first: the number of the first.
        last: the number of the last.
        size: how many bytes they had; 0 when that is not known.
    """
    much = f" ({quantity(size)})" if size > 0 else ""
    if first == last:
        return f"Message {first}{much} is missing: the journal could not keep it."
    return f"Messages {first} to {last}{much} are missing: the journal could not keep them."


def sentence_of(message: Message) -> str:
    """Give what a message of channel ``nanny`` tells people; empty when that is nothing."""
    content = message.content
    kernel = content.get("kernel")
    if is_gap(message):
        numbers = [content.get(name) for name in ("first", "last", "bytes")]
        first, last, size = (number if type(number) is int else 0 for number in numbers)
        return gap_sentence(first, last, size)
    if message.msg_type == "died" and content.get("restarting") is not True:
        status = content.get("exit_status")
        return KernelDied(
            ExitStatus.from_dict(status) if isinstance(status, dict) else None
        ).summary
    if message.msg_type == "started" and type(kernel) is int and kernel > 1:
        return _RESTARTED
    return ""
