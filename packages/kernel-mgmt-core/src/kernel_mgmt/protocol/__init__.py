"""The Jupyter messaging protocol without any I/O: no sockets, no event loop.

:class:`Message` is one message, :class:`Session` turns messages into signed frames and verifies
received ones, and :mod:`~kernel_mgmt.protocol.requests` has a typed constructor per request.
:func:`adapt` translates between the major versions 4 and 5 of the protocol.
Imports nothing but the standard library, and orjson when it is there.
"""

from . import requests
from .adapter import adapt
from .message import Buffer, JSONObject, Message
from .session import DELIMITER, PROTOCOL_VERSION, Session

__all__ = [
    "DELIMITER",
    "PROTOCOL_VERSION",
    "Buffer",
    "JSONObject",
    "Message",
    "Session",
    "adapt",
    "requests",
]
