"""Completion: the kernel's, asked for without holding up what is typed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from kernel_mgmt import KernelClient
from kernel_mgmt.errors import KernelMgmtError
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

__all__ = ["KernelCompleter", "completions_of"]

#: How long a kernel may take to answer, in seconds: one that runs a cell of another client may not
#: do so for long.
_PATIENCE = 4.0


class KernelCompleter(Completer):
    """Asks the kernel; an answer that does not come in time is none."""

    def __init__(self, client: KernelClient) -> None:
        self._client = client

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> list[Completion]:
        """Give nothing: whoever asks without waiting cannot have the kernel's answer."""
        return []

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Give the kernel's completions at the cursor."""
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await self._client.complete(document.text, document.cursor_position)
        except (KernelMgmtError, TimeoutError):
            return
        for completion in completions_of(reply.content, document.cursor_position):
            yield completion


def completions_of(content: Mapping[str, Any], cursor: int) -> Iterable[Completion]:
    """Read the content of a complete_reply.

    IPython puts more into its metadata than the protocol knows: the type of each match, and the
    signature of what can be called.

    Args:
        content: of the reply.
        cursor: where the cursor was, in code points.
    """
    if content.get("status") != "ok":
        return
    metadata = content.get("metadata")
    typed = metadata.get("_jupyter_types_experimental") if isinstance(metadata, dict) else None
    if not isinstance(typed, list) or not typed:
        typed = [{"text": match} for match in content.get("matches") or ()]
    for match in typed:
        start = match.get("start", content.get("cursor_start", cursor))
        text = match.get("text")
        if not isinstance(text, str) or not isinstance(start, int) or not 0 <= start <= cursor:
            continue
        kind, signature = match.get("type"), match.get("signature")
        yield Completion(
            text,
            start_position=start - cursor,
            display=f"{text}{signature}" if signature else text,
            display_meta="" if kind in (None, "<unknown>") else str(kind),
        )
