"""One Jupyter message, decoded no further than it is looked at.

Source: *Messaging in Jupyter*, section "General Message Format".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..errors import MalformedMessage

if TYPE_CHECKING:
    from typing import TypeAlias

try:
    import orjson
except ImportError:  # the nanny runs on hosts that have nothing but pyzmq
    orjson = None  # type: ignore[assignment]

__all__ = ["Buffer", "JSONObject", "Message", "dump_json", "load_json"]

Buffer: TypeAlias = "bytes | bytearray | memoryview"
JSONObject: TypeAlias = "dict[str, Any]"


def load_json(frame: Buffer) -> Any:
    """Decode a JSON frame; with orjson an integer beyond 64 bits becomes a float.

    Raises:
        MalformedMessage: the frame is not JSON in UTF-8.
    """
    if orjson is not None:
        try:
            return orjson.loads(frame)
        except ValueError:
            pass  # kernels do send NaN and Infinity, which orjson refuses
    try:
        return json.loads(bytes(frame))
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"A frame is not JSON: {error}.") from None


def dump_json(value: Any) -> bytes:
    """Encode a value as a JSON frame, compact, in UTF-8; NaN and Infinity are let through.

    Raises:
        MalformedMessage: the value has no JSON form.
    """
    if orjson is not None:
        try:
            frame = orjson.dumps(value, default=_plain_and_finite)
        except TypeError:
            pass  # integers over 64 bits, lone surrogates, keys that are no strings
        else:
            # orjson writes NaN and Infinity as null, which would change the value in silence.
            if b"null" not in frame or not _has_non_finite(value):
                return frame
    try:
        return json.dumps(value, default=_plain, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"The value has no JSON form: {error}.") from None


def _has_non_finite(value: Any) -> bool:
    """Whether a float in the value is NaN or infinite (finite ones equal themselves minus nought)."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if item - item != 0:
                return True
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return False


def _plain(value: Any) -> Any:
    """Give the JSON form of what the field commonly sends beyond plain JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        import base64

        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return list(value)
    item = getattr(value, "item", None)  # numpy scalars
    if callable(item) and getattr(value, "shape", None) == ():
        return item()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _plain_and_finite(value: Any) -> Any:
    """Do as `_plain`, but leave to json what orjson would write as null."""
    plain = _plain(value)
    if _has_non_finite(plain):
        raise TypeError
    return plain


def parse_date(text: Any) -> datetime:
    """Parse an ISO 8601 date of a header; a date without a zone is taken as UTC.

    Raises:
        MalformedMessage: this is no ISO 8601 date.
    """
    if not isinstance(text, str):
        # Not shown: the repr of a deeply nested value raises.
        raise MalformedMessage(f"The date is no text but {type(text).__name__}.")
    try:
        # Before Python 3.11 fromisoformat does not know the suffix Z.
        date = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise MalformedMessage(f"The date {text[:40]!r} is not ISO 8601.") from None
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)


class Message:
    """A message to or from a kernel.

    The header and the parent header are dicts.  Metadata and content of a received message stay
    JSON until they are first looked at, so that routing a message costs two small frames.
    Looking at one that is not a JSON object raises :class:`~kernel_mgmt.errors.MalformedMessage`.

    Args:
        header: the message header; a :class:`Session` completes it when it sends the message.
        parent_header: header of the message that this one answers, or an empty dict.
        metadata: a dict, or its JSON as received.
        content: a dict, or its JSON as received.
        buffers: binary frames that follow the content, uncopied.
        idents: ZeroMQ routing identities (or the iopub topic) in front of the message.
        channel: the channel it was received on (``"shell"``, ``"iopub"``, …); empty otherwise.

    Attributes:
        journal_number: its number in the journal of the kernel's nanny; 0 when it comes from none.
    """

    __slots__ = (
        "__weakref__",
        "_content",
        "_metadata",
        "buffers",
        "channel",
        "header",
        "idents",
        "journal_number",
        "parent_header",
    )

    def __init__(
        self,
        header: JSONObject,
        parent_header: JSONObject,
        metadata: JSONObject | bytes,
        content: JSONObject | bytes,
        buffers: Sequence[Buffer] = (),
        idents: Sequence[bytes] = (),
        channel: str = "",
    ) -> None:
        self.header = header
        self.parent_header = parent_header
        self._metadata = metadata
        self._content = content
        self.buffers = buffers
        self.idents = idents
        self.channel = channel
        self.journal_number = 0

    @property
    def content(self) -> JSONObject:
        """The content, decoded on first access."""
        content = self._content
        if isinstance(content, bytes):
            content = self._content = _load_object(content, "content")
        return content

    @property
    def metadata(self) -> JSONObject:
        """The metadata, decoded on first access."""
        metadata = self._metadata
        if isinstance(metadata, bytes):
            metadata = self._metadata = _load_object(metadata, "metadata")
        return metadata

    @property
    def msg_id(self) -> str:
        """The message's own id; empty for a message that was not sent yet."""
        return self.header.get("msg_id", "")  # type: ignore[no-any-return]

    @property
    def msg_type(self) -> str:
        """The message type, such as ``execute_request``."""
        return self.header["msg_type"]  # type: ignore[no-any-return]

    @property
    def parent_id(self) -> str:
        """The id of the message that this one answers; empty when it answers none."""
        parent_id = self.parent_header.get("msg_id", "")
        return parent_id if isinstance(parent_id, str) else ""

    @property
    def session(self) -> str:
        """The id of the sender's session; empty when it does not say."""
        session = self.header.get("session", "")
        return session if isinstance(session, str) else ""

    @property
    def date(self) -> datetime | None:
        """When the sender made the message, with its time zone; None when it does not say.

        Raises:
            MalformedMessage: the header's date is not ISO 8601.
        """
        date = self.header.get("date")
        return None if date is None else parse_date(date)

    def to_dict(self) -> dict[str, Any]:
        """Give the message as the dict that Jupyter's tools exchange, everything decoded."""
        return {
            "header": self.header,
            "msg_id": self.msg_id,
            "msg_type": self.msg_type,
            "parent_header": self.parent_header,
            "metadata": self.metadata,
            "content": self.content,
            "buffers": list(self.buffers),
        }

    def __repr__(self) -> str:
        # Content stays out: it may be large, not decodable, or somebody's password.
        channel = f" on {self.channel}" if self.channel else ""
        parent = f" to {self.parent_id}" if self.parent_id else ""
        return f"<Message {self.header.get('msg_type')} {self.msg_id}{parent}{channel}>"


def _load_object(frame: bytes, what: str) -> JSONObject:
    value = load_json(frame)
    if not isinstance(value, dict):
        raise MalformedMessage(f"The {what} of a message is not a JSON object.")
    return value
