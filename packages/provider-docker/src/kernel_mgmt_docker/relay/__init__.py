"""The relay: connections to a kernel's ports, carried over the standard streams of an ``exec``.

For engines on other machines, and for containers without a network: nothing listens anywhere but
within the container, and on Unix sockets in a private directory of this machine.

A frame is a kind (one byte), the number of a stream and the length of what follows (four bytes each,
big-endian).  Every connection is one stream.  Each side may send :data:`~.far_end.WINDOW` bytes of
a stream and then as many as the other gives credit for, so that one connection that nobody reads
keeps none of the others waiting.
"""

from __future__ import annotations

from .near_end import Relay

__all__ = ["Relay"]
