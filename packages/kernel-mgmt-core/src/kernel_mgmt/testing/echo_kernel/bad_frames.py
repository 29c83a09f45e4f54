"""Messages that no good kernel sends, made of a good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...protocol import Buffer

__all__ = ["bad_frames"]

# A good message on iopub: topic, delimiter, signature, header, parent, metadata, content.
_DELIMITER, _SIGNATURE, _HEADER, _CONTENT = 1, 2, 3, 6

Sign = Callable[[Sequence[Any]], bytes]


def bad_frames(kind: str, frames: list[Buffer], sign: Sign) -> list[list[Buffer]]:
    """Give the messages to send for one kind of badness.

    Args:
        kind: a key of the table below.
        frames: a good message.
        sign: signs the four frames behind the signature.

    Raises:
        LookupError: there is no such kind.
    """
    return _KINDS[kind](frames, sign)


def _with(frames: list[Buffer], position: int, frame: bytes) -> list[Buffer]:
    return [*frames[:position], frame, *frames[position + 1 :]]


def _signed(frames: list[Buffer], sign: Sign) -> list[Buffer]:
    return _with(frames, _SIGNATURE, sign(frames[_HEADER:]))


_KINDS: dict[str, Callable[[list[Buffer], Sign], list[list[Buffer]]]] = {
    "unsigned": lambda frames, _: [_with(frames, _SIGNATURE, b"")],
    "forged": lambda frames, _: [_with(frames, _SIGNATURE, b"0" * 64)],
    "replayed": lambda frames, _: [frames, frames],
    "truncated": lambda frames, _: [frames[:_CONTENT]],
    "notjson": lambda frames, sign: [_signed(_with(frames, _HEADER, b"{not json"), sign)],
    "nodelimiter": lambda frames, _: [frames[:_DELIMITER] + frames[_DELIMITER + 1 :]],
    "badcontent": lambda frames, sign: [_signed(_with(frames, _CONTENT, b"[1, 2"), sign)],
    "empty": lambda _frames, _: [[b""]],
}
