"""Running code in a kernel, for tests that look at what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kernel_mgmt import KernelClient, Message

__all__ = ["Ran", "run"]


@dataclass
class Ran:
    """What came of some code."""

    reply: dict[str, Any]
    text: str = ""
    data: list[dict[str, Any]] = field(default_factory=list)


async def run(client: KernelClient, code: str, *, stdin: str = "", timeout: float = 60) -> Ran:
    """Run code in a kernel; gives its reply, and what it wrote and displayed."""
    texts: list[str] = []
    data: list[dict[str, Any]] = []

    def note(message: Message) -> None:
        if message.msg_type == "stream":
            texts.append(message.content["text"])
        elif message.msg_type in ("execute_result", "display_data"):
            data.append(message.content["data"])
        elif message.msg_type == "error":
            texts.append(f"{message.content['ename']}: {message.content['evalue']}")

    reply = await client.execute_interactive(
        code, output_hook=note, stdin_hook=lambda _: stdin, timeout=timeout
    )
    return Ran(dict(reply.content), "".join(texts), data)
