"""Whether Enter runs what was typed or begins another line."""

from __future__ import annotations

import asyncio

from kernel_mgmt import KernelClient
from kernel_mgmt.errors import KernelMgmtError

__all__ = ["line_after"]

#: How long a kernel may take to judge, in seconds.
_PATIENCE = 0.5


async def line_after(client: KernelClient, code: str) -> str | None:
    """Ask the kernel whether code wants another line.

    Code that can never become right wants none: the kernel's own error tells why.  Where the kernel
    does not know, or does not answer, an empty line ends the input.

    Args:
        client: of the kernel.
        code: what was typed.

    Returns:
        What the next line begins with; None when the code shall run.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            content = (await client.is_complete(code)).content
    except TimeoutError:
        content = {}
    except KernelMgmtError:
        return None  # running it tells what is wrong
    status = content.get("status")
    if status in ("complete", "invalid"):
        return None
    if status == "incomplete":
        return str(content.get("indent") or "")
    return None if not code.rpartition("\n")[2].strip() else ""
