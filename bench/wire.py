"""The wire protocol by hand: hmac, orjson and nothing else, as the floor that others stand on."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

DELIMITER = b"<IDS|MSG>"


class Wire:
    """Signs, encodes, verifies and decodes messages; no replay protection, no laziness, no types.

    Args:
        key: the shared secret of the connection.
    """

    def __init__(self, key: str) -> None:
        # Copied for each message, which is faster than hmac.digest with the key.
        self._mac = hmac.new(key.encode(), digestmod="sha256")
        self._session = uuid.uuid4().hex
        self._sent = 0

    def header(self, msg_type: str) -> dict[str, Any]:
        """Make a header with a fresh message id."""
        self._sent += 1
        return {
            "msg_id": f"{self._session}_{self._sent}",
            "msg_type": msg_type,
            "username": "bench",
            "session": self._session,
            "date": datetime.now(UTC).isoformat(),
            "version": "5.5",
        }

    def encode(
        self, header: dict[str, Any], parent: dict[str, Any], content: dict[str, Any]
    ) -> list[bytes]:
        """Give the signed frames of a message."""
        body = (orjson.dumps(header), orjson.dumps(parent), b"{}", orjson.dumps(content))
        return [DELIMITER, self._sign(body), *body]

    def decode(self, frames: Sequence[bytes]) -> tuple[Any, Any, Any, Any]:
        """Verify frames; give header, parent header, metadata and content, all decoded."""
        start = frames.index(DELIMITER) + 1
        signature, *body = frames[start : start + 5]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise ValueError("The signature does not fit.")
        header, parent, metadata, content = body
        return (
            orjson.loads(header),
            orjson.loads(parent),
            orjson.loads(metadata),
            orjson.loads(content),
        )

    def _sign(self, body: Sequence[bytes]) -> bytes:
        mac = self._mac.copy()
        mac.update(b"".join(body))
        return mac.hexdigest().encode()


def execute_content(code: str) -> dict[str, Any]:
    """Give the content of an execute_request."""
    return {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }


def stream_content(number: int) -> dict[str, Any]:
    """Give the content of a stream message of 200 bytes of text."""
    return {"name": "stdout", "text": f"{number} ".ljust(200, "x")}
