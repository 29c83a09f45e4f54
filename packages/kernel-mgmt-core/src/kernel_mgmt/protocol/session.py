"""Messages to frames and back: signing, verifying, replay protection.

Source: *Messaging in Jupyter*, section "The Wire Protocol".
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any, Callable

from ..errors import InvalidSignature, MalformedMessage, ProtocolError
from .message import Buffer, JSONObject, Message, dump_json, load_json

__all__ = ["DELIMITER", "PROTOCOL_VERSION", "Session"]

logger = logging.getLogger("kernel_mgmt")

DELIMITER = b"<IDS|MSG>"
#: The version of the messaging protocol that this package speaks.
PROTOCOL_VERSION = "5.5"

#: Frames between the delimiter and the buffers: signature, header, parent, metadata, content.
_FIXED_FRAMES = 5
#: How many signatures are remembered at least, per generation, to refuse replays.
_REPLAY_WINDOW = 65_536

_EMPTY_OBJECT = b"{}"


class Session:
    """One end of a signed conversation.

    Give each client a session of its own: two that share a replay memory would take each
    other's messages for replays.

    Args:
        key: the shared secret of the connection; empty means unsigned messages (logged as a
            warning, since anybody who reaches the sockets can then run code).
        signature_scheme: ``hmac-`` and a name that :mod:`hashlib` knows.
        session_id: goes into every header; a fresh one by default.
        username: goes into every header; the login name by default.
        clock: gives the date of a message in seconds since the epoch.

    Raises:
        ProtocolError: the signature scheme is not known.
    """

    def __init__(
        self,
        key: bytes | str = b"",
        signature_scheme: str = "hmac-sha256",
        *,
        session_id: str | None = None,
        username: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.session_id = session_id or uuid.uuid4().hex
        self.username = username if username is not None else _login_name()
        self._clock = clock
        self._second = -1
        self._second_text = ""
        self._sent = 0
        #: The latest idents received, as they came and as they are handed on.
        self._idents_received: list[bytes] = []
        self._idents: tuple[bytes, ...] = ()
        #: The latest parent header received, as JSON and decoded.
        self._parent_frame: Buffer = _EMPTY_OBJECT
        self._parent_header: JSONObject = {}
        key = key.encode() if isinstance(key, str) else key
        self.signed = bool(key)
        self._inner, self._outer = _hmac_states(key, signature_scheme)
        # Two generations of seen signatures: a full young one becomes the old one.
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        if not self.signed:
            logger.warning(
                "The connection has no key: messages are neither signed nor verified, and "
                "whoever reaches the sockets can run code. Start the kernel with a key."
            )

    def __repr__(self) -> str:
        return f"<Session {self.session_id} {'signed' if self.signed else 'UNSIGNED'}>"

    # -- sending ---------------------------------------------------------------------------

    def header(self, msg_type: str) -> JSONObject:
        """Make a complete header with a fresh message id and the present date."""
        self._sent += 1
        return {
            "msg_id": f"{self.session_id}_{self._sent}",
            "msg_type": msg_type,
            "username": self.username,
            "session": self.session_id,
            "date": self._date(),
            "version": PROTOCOL_VERSION,
        }

    def message(
        self,
        msg_type: str,
        content: JSONObject | None = None,
        *,
        parent: Message | JSONObject | None = None,
        metadata: JSONObject | None = None,
        buffers: Sequence[Buffer] = (),
        idents: Sequence[bytes] = (),
    ) -> Message:
        """Make a message of any type that is ready to be sent.

        Args:
            msg_type: such as ``execute_request``.
            content: the message's content.
            parent: the message, or its header, that this one answers.
            metadata: the message's metadata.
            buffers: binary frames to follow the content.
            idents: routing identities to go in front.
        """
        parent_header = parent.header if isinstance(parent, Message) else (parent or {})
        return Message(
            self.header(msg_type), parent_header, metadata or {}, content or {}, buffers, idents
        )

    def serialize(self, message: Message) -> list[Buffer]:
        """Give the frames of a message, signed; a header without an id is completed first.

        The buffers are passed through uncopied.

        Raises:
            MalformedMessage: content, metadata or a header has no JSON form.
        """
        if not message.header.get("msg_id"):
            given = {name: value for name, value in message.header.items() if name != "msg_id"}
            message.header = {**self.header(message.msg_type), **given}
        parent, metadata, content = message.parent_header, message._metadata, message._content
        signed_frames = (
            dump_json(message.header),
            dump_json(parent) if parent else _EMPTY_OBJECT,
            metadata
            if isinstance(metadata, bytes)
            else (dump_json(metadata) if metadata else _EMPTY_OBJECT),
            content
            if isinstance(content, bytes)
            else (dump_json(content) if content else _EMPTY_OBJECT),
        )
        return [
            *message.idents,
            DELIMITER,
            self.sign(signed_frames),
            *signed_frames,
            *message.buffers,
        ]

    def sign(self, frames: Sequence[bytes]) -> bytes:
        """Give the hexadecimal HMAC of header, parent header, metadata and content."""
        if not self.signed:
            return b""
        inner = self._inner.copy()
        inner.update(b"".join(frames))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode("ascii")  # type: ignore[no-any-return]

    def _date(self) -> str:
        # Formatting a datetime costs more than signing the message; the second rarely changes.
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((now - second) * 1_000_000):06d}Z"

    # -- receiving -------------------------------------------------------------------------

    def deserialize(self, frames: Sequence[Any], channel: str = "") -> Message:
        """Verify received frames and decode the two headers; the rest is decoded when needed.

        Args:
            frames: bytes; the buffers may be memoryviews.
            channel: what :attr:`Message.channel` shall say.

        Raises:
            InvalidSignature: unsigned, wrongly signed, or seen before.
            MalformedMessage: not the frames of a message.
        """
        try:
            start = frames.index(DELIMITER) + 1
        except ValueError:
            raise MalformedMessage("The frames have no <IDS|MSG> delimiter.") from None
        end = start + _FIXED_FRAMES
        if len(frames) < end:
            raise MalformedMessage(
                f"{len(frames) - start} frames follow the delimiter; a message has at least 5."
            )
        signed_frames = frames[start + 1 : end]
        if self.signed:
            self._verify(frames[start], signed_frames)
        header_frame, parent_frame, metadata, content = signed_frames
        header = load_json(header_frame)
        if (
            not isinstance(header, dict)
            or type(header.get("msg_id")) is not str
            or type(header.get("msg_type")) is not str
        ):
            raise MalformedMessage("The header is not an object with msg_id and msg_type.")
        # All output of a request has the same parent header: copying it is ten times as fast.
        if parent_frame != self._parent_frame:
            self._parent_header = _load_parent(parent_frame)
            self._parent_frame = parent_frame
        return Message(
            header,
            self._parent_header.copy(),
            metadata,
            content,
            tuple(frames[end:]) if len(frames) > end else (),
            self._same_idents(frames[: start - 1]),
            channel,
        )

    def _same_idents(self, idents: Sequence[bytes]) -> tuple[bytes, ...]:
        """Give the idents as a tuple, the same one for all messages that come from one place.

        In a burst of messages the garbage collector takes longer to follow their lists than it
        takes to decode them.
        """
        if idents != self._idents_received:
            self._idents_received = list(idents)
            self._idents = tuple(idents)
        return self._idents

    def _verify(self, signature: bytes, frames: Sequence[bytes]) -> None:
        if not signature:
            raise InvalidSignature("The message is not signed.")
        if not hmac.compare_digest(signature, self.sign(frames)):
            raise InvalidSignature("The signature does not fit: forged, or another key.")
        # Only now: a forger who could fill the memory would block real messages.
        seen = self._seen
        if signature in seen or signature in self._seen_before:
            raise InvalidSignature("The message was received before: replayed.")
        if len(seen) >= _REPLAY_WINDOW:
            self._seen_before, self._seen = seen, {signature}
        else:
            seen.add(signature)


def _load_parent(frame: Buffer) -> JSONObject:
    parent = load_json(frame)
    if parent is None:  # what some kernels send for "none"
        return {}
    if not isinstance(parent, dict):
        raise MalformedMessage("The parent header is not an object.")
    return parent


def _hmac_states(key: bytes, signature_scheme: str) -> tuple[Any, Any]:
    """Give the two hash states of RFC 2104 that depend on the key alone.

    Copying them for each message takes half the time of an :class:`hmac.HMAC` object.
    """
    prefix, _, digest_name = signature_scheme.partition("-")
    try:
        digest = hashlib.new(digest_name)
        # SHAKE has no size of its own, and so makes no HMAC.
        if prefix != "hmac" or not digest.digest_size:
            raise ValueError
        block_size = digest.block_size
    except ValueError:
        raise ProtocolError(
            f"The signature scheme {signature_scheme!r} is not known; use 'hmac-sha256'."
        ) from None
    if len(key) > block_size:
        key = hashlib.new(digest_name, key).digest()
    key = key.ljust(block_size, b"\0")
    return (
        hashlib.new(digest_name, bytes(byte ^ 0x36 for byte in key)),
        hashlib.new(digest_name, bytes(byte ^ 0x5C for byte in key)),
    )


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"
