"""The nanny's own memory, of which there is one for each kernel."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["TUNABLES", "do_without_tls", "give_back"]

#: What a nanny's GLIBC_TUNABLES should be when it starts, for the sake of large messages: their memory
#: comes in huge pages, and is kept for the next one until :func:`give_back`.  It is for the nanny
#: alone, and not handed on to its kernel.
TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    ":glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=1073741824"
)


def do_without_tls() -> None:
    """Keep asyncio from loading OpenSSL's TLS, which the nanny has no use for: 2 MB.

    To be called before asyncio is imported, which asks for no more than it finds.
    """
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]


def give_back() -> None:
    """Give memory back to the system that is free, and that its allocator keeps for next time.

    After a burst of messages that can be as much as the burst had.  It takes 0.1 ms, or some
    milliseconds when there is much; only glibc needs to be asked.
    """
    if _trim is not None:
        _trim(0)


def _find_trim() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes

    return getattr(ctypes.CDLL(None), "malloc_trim", None)


_trim = _find_trim()
