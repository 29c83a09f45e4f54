"""What a client's message is: verified, and recognized when it comes again."""

from __future__ import annotations

import hmac

from ..protocol import JSONObject, Session
from .frames import Envelope
from .pending import PendingRequest

__all__ = ["fingerprint", "request_in", "verified_header"]


def verified_header(session: Session, message: Envelope) -> JSONObject:
    """Give a message's header; empty when it has no id or no type, or is forged."""
    header = message.header()
    if not (isinstance(header.get("msg_id"), str) and isinstance(header.get("msg_type"), str)):
        return {}
    if session.signed and not hmac.compare_digest(
        session.sign(message.signed()), message.signature()
    ):
        return {}
    return header


def fingerprint(message: Envelope) -> bytes:
    """Give what tells a message from another with its id."""
    return message.signature() or b"".join(message.signed())


def request_in(channel: str, message: Envelope, header: JSONObject) -> PendingRequest | None:
    """Give the request that a client has sent; None when it is none.

    Args:
        channel: where it came.
        message: what came.
        header: its verified header.
    """
    if not header or not header["msg_type"].endswith("_request"):
        return None
    return PendingRequest(channel, message.route, header)
