"""Messages become signed frames, and only genuine frames become messages, each one once."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
)
from kernel_mgmt import InvalidSignature, MalformedMessage, Message, ProtocolError, Session
from kernel_mgmt.protocol import DELIMITER, PROTOCOL_VERSION
from strategies import json_frames, json_objects, quickly

KEY = b"a0436f6c-1916-498b-8eb9-e81ab9368e84"
#: 2024-02-29, noon, and a bit
NOON = 1709208000.25

# Written by hand from the specification, so that nothing here agrees with our own mistakes.
HEADER = (
    b'{"msg_id":"abc_1","msg_type":"execute_request","username":"alice","session":"abc",'
    b'"date":"2024-02-29T12:00:00.250000Z","version":"5.5"}'
)
CONTENT = b'{"code":"1+1"}'


def hmac_of(*frames: bytes, key: bytes = KEY, digest: str = "sha256") -> bytes:
    """The signature that the specification asks for."""
    return hmac.new(key, b"".join(frames), digest).hexdigest().encode()


def signed(*frames: bytes, idents: tuple[bytes, ...] = (), buffers: tuple[bytes, ...] = ()) -> Any:
    """The frames of a message as another implementation would send it."""
    return [*idents, b"<IDS|MSG>", hmac_of(*frames), *frames, *buffers]


def genuine(number: int = 1, **changes: Any) -> list[bytes]:
    """The frames of a good message from somebody else."""
    header = {"msg_id": f"m{number}", "msg_type": "status", **changes}
    return list(signed(json.dumps(header).encode(), b"{}", b"{}", b"{}"))


@pytest.fixture
def session() -> Session:
    """One end of a conversation, with nothing left to chance."""
    return Session(KEY, session_id="abc", username="alice", clock=lambda: NOON)


# --- the wire format -----------------------------------------------------------------------------


def test_golden_frames(session: Session) -> None:
    """A message becomes idents, delimiter, signature, four JSON frames and its buffers."""
    message = session.message(
        "execute_request", {"code": "1+1"}, buffers=[b"\x00", b"\x01"], idents=[b"id", b"topic"]
    )
    assert session.serialize(message) == [
        b"id",
        b"topic",
        b"<IDS|MSG>",
        hmac_of(HEADER, b"{}", b"{}", CONTENT),
        HEADER,
        b"{}",
        b"{}",
        CONTENT,
        b"\x00",
        b"\x01",
    ]


def test_golden_frames_are_read() -> None:
    """The frames of another implementation become the message that they are."""
    parent = b'{"msg_id": "p1", "session": "s"}'
    frames = signed(HEADER, parent, b'{"m": 1}', CONTENT, idents=(b"id",), buffers=(b"\x00",))
    message = Session(KEY).deserialize(frames, "shell")
    assert message.header == json.loads(HEADER)
    assert message.parent_header == json.loads(parent)
    assert message.metadata == {"m": 1}
    assert message.content == {"code": "1+1"}
    assert list(message.idents) == [b"id"]
    assert list(message.buffers) == [b"\x00"]
    assert (message.channel, message.msg_id, message.parent_id) == ("shell", "abc_1", "p1")


def test_header(session: Session) -> None:
    """A header has the fields of the specification, and ids that count up."""
    first, second = session.header("status"), session.header("status")
    assert first == {
        "msg_id": "abc_1",
        "msg_type": "status",
        "username": "alice",
        "session": "abc",
        "date": "2024-02-29T12:00:00.250000Z",
        "version": "5.5",
    }
    assert second["msg_id"] == "abc_2"
    assert PROTOCOL_VERSION == "5.5"


def test_sessions_differ() -> None:
    """Two sessions never use the same ids."""
    assert Session(KEY).session_id != Session(KEY).session_id


def test_username_without_login_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The username is the login name, or what the caller says, even nothing."""
    monkeypatch.setenv("LOGNAME", "bob")
    assert Session(KEY).username == "bob"
    assert Session(KEY, username="").username == ""


@given(st.floats(0, 4e9))
@quickly
def test_dates_are_to_the_microsecond(now: float) -> None:
    """The date of a message is the clock's, at most a microsecond early."""
    session = Session(KEY, clock=lambda: now)
    date = session.message("status").date
    assert date is not None
    assert -2e-6 < date.timestamp() - now < 1e-6


def test_dates_follow_the_clock() -> None:
    """The second that is kept between messages is the clock's, also when that goes back."""
    times = [10.5, 10.6, 11.0, 9.25]
    clock = iter(times)
    session = Session(KEY, clock=lambda: next(clock))
    dates = [session.message("status").date for _ in times]
    assert [date.timestamp() for date in dates if date] == pytest.approx(times, abs=2e-6)


def test_incomplete_header_is_completed(session: Session) -> None:
    """A message without an id gets one, and keeps what its header has already."""
    for header in ({"msg_type": "status", "username": "eve"}, {"msg_type": "status", "msg_id": ""}):
        message = Message(header, {}, {}, {})
        session.serialize(message)
        assert message.msg_id.startswith("abc_")
        assert message.header["username"] == header.get("username", "alice")


def test_sent_again_under_its_id(session: Session) -> None:
    """A message that has an id keeps it when it is serialized again."""
    message = session.message("status")
    assert session.serialize(message) == session.serialize(message)


def test_parent(session: Session) -> None:
    """A message can answer a message, a header, or nothing."""
    parent = session.message("status")
    assert session.message("x", parent=parent).parent_header == parent.header
    assert session.message("x", parent={"msg_id": "p"}).parent_id == "p"
    assert session.message("x").parent_header == {}


def test_frames_of_a_received_message_are_passed_on(session: Session) -> None:
    """A relayed message's content and metadata go out byte for byte, decoded by nobody."""
    frames = signed(HEADER, b"{}", b'{ "m" :1}', b'{ "spam" }')
    relayed = session.serialize(session.deserialize(frames))
    assert relayed[4:6] == [b'{ "m" :1}', b'{ "spam" }']


def test_buffers_are_not_copied(session: Session) -> None:
    """Buffers leave and arrive as the very objects that they were."""
    data = [bytearray(b"x" * 10), memoryview(b"y" * 10)]
    frames = session.serialize(session.message("comm_msg", buffers=data))
    assert frames[-2] is data[0]
    assert frames[-1] is data[1]
    message = Session(KEY).deserialize(frames)
    assert message.buffers[0] is data[0]
    assert message.buffers[1] is data[1]


def test_content_without_json_form(session: Session) -> None:
    """A message that cannot be written as JSON is refused before anything is sent."""
    with pytest.raises(MalformedMessage):
        session.serialize(session.message("status", {"a": object()}))


@quickly
@given(
    content=json_objects,
    metadata=json_objects,
    parent=json_objects,
    buffers=st.lists(st.binary(max_size=20), max_size=3),
    idents=st.lists(st.binary(max_size=20).filter(lambda ident: ident != DELIMITER), max_size=3),
)
def test_round_trip(
    content: Any, metadata: Any, parent: Any, buffers: list[bytes], idents: list[bytes]
) -> None:
    """Whatever a message holds arrives at the other end."""
    here, there = Session(KEY), Session(KEY)
    sent = here.message(
        "x", content, parent=parent, metadata=metadata, buffers=buffers, idents=idents
    )
    message = there.deserialize(here.serialize(sent))
    assert message.to_dict() == sent.to_dict()
    assert message.parent_header == parent
    assert list(message.idents) == idents


# --- signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", ["md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256"])
@pytest.mark.parametrize("length", [1, 36, 63, 64, 65, 128, 129, 500])
def test_schemes_equal_the_standard_library(digest: str, length: int) -> None:
    """For each scheme and length of key the signature is the one that hmac gives."""
    key = bytes(range(1, 251))[:length] * (length // 250 + 1)
    frames = [HEADER, b"{}", b"{}", CONTENT]
    expected = hmac_of(*frames, key=key, digest=digest)
    assert Session(key, f"hmac-{digest}").sign(frames) == expected
    assert Session(key, f"hmac-{digest}").sign(frames) == expected


def test_key_as_text() -> None:
    """A key from a connection file is text, and counts in UTF-8."""
    assert Session("schlüssel").sign([b"x"]) == hmac_of(b"x", key="schlüssel".encode())


@pytest.mark.parametrize(
    "scheme", ["", "hmac", "hmac-", "sha256", "hmac-spam", "rsa-sha256", "hmac-sha256-x", "-"]
)
@pytest.mark.parametrize("key", [KEY, b""])
def test_unknown_scheme(scheme: str, key: bytes) -> None:
    """An unknown signature scheme is an error that names it, with a key and without."""
    with pytest.raises(ProtocolError, match="signature scheme"):
        Session(key, scheme)


@pytest.mark.parametrize("digest", sorted(hashlib.algorithms_available))
def test_digests_that_make_no_hmac(digest: str) -> None:
    """Any digest that hashlib lists signs as hmac does, or is refused as a scheme."""
    try:
        expected = hmac_of(b"x", digest=digest)
    except (ValueError, TypeError, AttributeError):
        with pytest.raises(ProtocolError):
            Session(KEY, f"hmac-{digest}")
    else:
        assert Session(KEY, f"hmac-{digest}").sign([b"x"]) == expected


def test_without_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """An empty key means unsigned messages both ways, any number of times, and a warning."""
    with caplog.at_level(logging.WARNING, "kernel_mgmt"):
        session = Session(b"")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no key" in caplog.text
    frames = session.serialize(session.message("status"))
    assert frames[1] == b""
    session.deserialize(frames)
    session.deserialize(frames)
    session.deserialize(genuine())


def test_with_a_key_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A signed session says nothing, and no repr shows its key."""
    with caplog.at_level(logging.DEBUG):
        session = Session(KEY)
        assert KEY.decode() not in repr(session)
    assert caplog.text == ""


def test_repr_warns() -> None:
    """An unsigned session says so in its repr."""
    assert "UNSIGNED" in repr(Session(b""))


@pytest.mark.parametrize(
    "forge",
    [
        lambda frames: [*frames[:1], b"", *frames[2:]],
        lambda frames: [*frames[:1], b"0" * 64, *frames[2:]],
        lambda frames: [*frames[:1], frames[1].upper(), *frames[2:]],
        lambda frames: [*frames[:1], frames[1][:-1], *frames[2:]],
        lambda frames: [*frames[:1], "ä".encode() * 32, *frames[2:]],
        lambda frames: [*frames[:2], frames[2].replace(b"status", b"stream"), *frames[3:]],
        lambda frames: [*frames[:5], b'{"a": 1}'],
        lambda frames: [*frames[:3], b'{"msg_id": "p"}', *frames[4:]],
        lambda frames: [*frames[:4], b'{"m": 1}', *frames[5:]],
        lambda frames: [*frames[:1], hmac_of(*frames[2:], key=b"another"), *frames[2:]],
    ],
    ids=[
        "unsigned", "zeros", "upper case", "short", "not ASCII",
        "header", "content", "parent", "metadata", "another key",
    ],
)  # fmt: skip
def test_forged(forge: Any) -> None:
    """A message that is not signed with our key, or was changed, is refused and blocks nothing."""
    session = Session(KEY)
    with pytest.raises(InvalidSignature):
        session.deserialize(forge(genuine()))
    assert session.deserialize(genuine()).msg_id == "m1"


def test_replayed() -> None:
    """A message is taken once, also when idents or buffers, which nobody signs, are others."""
    session = Session(KEY)
    session.deserialize(genuine())
    for frames in (genuine(), [b"ident", *genuine()], [*genuine(), b"buffer"]):
        with pytest.raises(InvalidSignature, match="replayed"):
            session.deserialize(frames)


def test_replay_memory_is_bounded_and_long() -> None:
    """At least the last 65,536 messages are known again, and not many more are remembered."""
    window = 65_536
    session = Session(KEY)
    frames = [genuine(number) for number in range(2 * window + 1)]
    for number in range(window):
        session.deserialize(frames[number])
    with pytest.raises(InvalidSignature):
        session.deserialize(frames[0])
    for number in range(window, 2 * window):
        session.deserialize(frames[number])
    with pytest.raises(InvalidSignature):
        session.deserialize(frames[window])
    session.deserialize(frames[-1])
    assert session.deserialize(frames[0]).msg_id == "m0"  # forgotten, as it must be at some time
    with pytest.raises(InvalidSignature):
        session.deserialize(frames[window + 1])
    assert len(session._seen) + len(session._seen_before) <= 2 * window


# --- nothing but ProtocolError -------------------------------------------------------------------


def look_at_everything(message: Message) -> None:
    """Use each part of a message that decodes something; a part may be malformed."""
    assert isinstance(repr(message), str)
    assert isinstance(message.msg_id, str)
    assert isinstance(message.msg_type, str)
    assert isinstance(message.parent_id, str)
    assert isinstance(message.session, str)
    for decode in (
        lambda: message.content,
        lambda: message.metadata,
        lambda: message.date,
        message.to_dict,
    ):
        with suppress(ProtocolError):
            decode()


def take(session: Session, frames: list[bytes]) -> None:
    """Read frames of any sort."""
    with suppress(ProtocolError):
        look_at_everything(session.deserialize(frames, "iopub"))


@pytest.mark.parametrize("number", range(5))
def test_too_few_frames(number: int) -> None:
    """A message that ends before its content is malformed."""
    with pytest.raises(MalformedMessage, match=f"{number} frames"):
        Session(KEY).deserialize([b"<IDS|MSG>", *genuine()[1:][:number]])


@pytest.mark.parametrize("frames", [[], [b""], [b"x"] * 10, [b"<IDS|MSG"] * 7])
def test_no_delimiter(frames: list[bytes]) -> None:
    """Frames without the delimiter are malformed."""
    with pytest.raises(MalformedMessage, match="delimiter"):
        Session(KEY).deserialize(frames)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"spam",
        b"null",
        b"[]",
        b"{}",
        b'{"msg_id": "m"}',
        b'{"msg_type": "t"}',
        b'{"msg_id": 5, "msg_type": "t"}',
        b'{"msg_id": "m", "msg_type": null}',
        b'{"msg_id": ["m"], "msg_type": "t"}',
        b"[" * 5000 + b"]" * 5000,
    ],
    ids=lambda header: header.decode()[:40],
)
def test_headers_that_are_none(header: bytes) -> None:
    """A signed message without an id or a type, or with one that is no text, is malformed."""
    with pytest.raises(MalformedMessage):
        Session(KEY).deserialize(signed(header, b"{}", b"{}", b"{}"))


@pytest.mark.parametrize("parent", [b"{}", b" {} ", b"null"])
def test_no_parent(parent: bytes) -> None:
    """An empty parent header and null, which some kernels send, are both none."""
    message = Session(KEY).deserialize(signed(HEADER, parent, b"{}", b"{}"))
    assert message.parent_header == {}
    assert message.parent_id == ""


@pytest.mark.parametrize("parent", [b"", b"[]", b"5", b'"p"', b"spam"])
def test_parents_that_are_none(parent: bytes) -> None:
    """A parent header that is no object is malformed."""
    with pytest.raises(MalformedMessage):
        Session(KEY).deserialize(signed(HEADER, parent, b"{}", b"{}"))


@pytest.mark.parametrize("key", [KEY, b""], ids=["signed", "unsigned"])
@quickly
@given(frames=st.lists(json_frames | st.sampled_from([DELIMITER, HEADER]), max_size=9))
def test_random_frames(key: bytes, frames: list[bytes]) -> None:
    """Random frames raise nothing but ProtocolError."""
    take(Session(key), frames)


@pytest.mark.parametrize("number", [2, 3, 4, 5], ids=["header", "parent", "metadata", "content"])
@quickly
@given(frame=json_frames)
def test_signed_nonsense(number: int, frame: bytes) -> None:
    """A well-signed message with anything in one of its frames raises only ProtocolError."""
    frames = genuine()
    frames[number] = frame
    take(Session(KEY), signed(*frames[2:]))


@quickly
@given(
    header=st.fixed_dictionaries({}, optional=dict.fromkeys(
        ["msg_id", "msg_type", "username", "session", "date", "version"],
        st.text(max_size=5) | st.none() | st.integers() | json_objects,
    )),
    parent=json_objects | st.none() | st.fixed_dictionaries({"msg_id": json_objects | st.text()}),
)  # fmt: skip
def test_signed_headers_of_any_shape(header: Any, parent: Any) -> None:
    """Header fields of any type raise nothing but ProtocolError."""
    frames = [json.dumps(part).encode() for part in (header, parent, {}, {})]
    take(Session(KEY), signed(*frames))


@quickly
@given(st.data())
def test_mutated_frames(data: st.DataObject) -> None:
    """A good message that lost, won or changed bytes or frames raises nothing but ProtocolError."""
    frames = [b"ident", *genuine(date="2024-02-29T12:00:00Z"), b"buffer"]
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(frames) - 1))
        frame = bytearray(frames[number])
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(frame))] * 2)))
        frame[start:end] = data.draw(st.binary(max_size=4))
        replacement = [[bytes(frame)], [], [bytes(frame), frames[number]]]
        frames[number : number + 1] = data.draw(st.sampled_from(replacement))
        if not frames:
            break
    for key in (KEY, b""):
        take(Session(key), list(frames))


# --- a hostile wire ------------------------------------------------------------------------------


class HostileWire(RuleBasedStateMachine):
    """Two sessions, and between them somebody who drops, copies, reorders and changes messages."""

    genuine = Bundle("genuine")
    tampered = Bundle("tampered")

    @initialize()
    def start(self) -> None:
        """Give both ends the same key."""
        self.here = Session(KEY)
        self.there = Session(KEY)
        self.sent: dict[str, dict[str, Any]] = {}
        self.delivered: set[str] = set()

    @rule(target=genuine, content=json_objects, buffers=st.lists(st.binary(), max_size=2))
    def send(self, content: dict[str, Any], buffers: list[bytes]) -> list[bytes]:
        """One end sends a message."""
        message = self.here.message("x", content, buffers=buffers)
        self.sent[message.msg_id] = message.to_dict()
        return [bytes(frame) for frame in self.here.serialize(message)]

    @rule(frames=consumes(genuine))
    def drop(self, frames: list[bytes]) -> None:
        """The wire loses a message."""

    @rule(target=genuine, frames=consumes(genuine))
    def duplicate(self, frames: list[bytes]) -> Any:
        """The wire makes two of a message."""
        return multiple(frames, frames)

    @rule(
        target=tampered,
        frames=genuine,
        number=st.integers(1, 5),
        position=st.integers(0, 10_000),
        flip=st.integers(1, 255),
    )
    def flip_bits(self, frames: list[bytes], number: int, position: int, flip: int) -> list[bytes]:
        """The wire changes bits of a frame that the signature covers, or of the signature."""
        frame = bytearray(frames[number])
        frame[position % len(frame)] ^= flip
        return [*frames[:number], bytes(frame), *frames[number + 1 :]]

    @rule(target=tampered, frames=genuine, other=genuine, number=st.integers(1, 5))
    def splice(self, frames: list[bytes], other: list[bytes], number: int) -> Any:
        """The wire puts a frame of one message into another."""
        if frames[number] == other[number]:
            return multiple()
        return [*frames[:number], other[number], *frames[number + 1 :]]

    @rule(target=tampered, frames=genuine, number=st.integers(0, 5))
    def truncate(self, frames: list[bytes], number: int) -> list[bytes]:
        """The wire cuts a message off before its content."""
        return frames[:number]

    @rule(frames=consumes(genuine))
    def deliver(self, frames: list[bytes]) -> None:
        """A message arrives: the first time it is delivered, and then never again."""
        msg_id = json.loads(frames[2])["msg_id"]
        if msg_id in self.delivered:
            with pytest.raises(InvalidSignature):
                self.there.deserialize(frames)
        else:
            assert self.there.deserialize(frames).to_dict() == self.sent[msg_id]
            self.delivered.add(msg_id)

    @rule(frames=consumes(tampered))
    def deliver_tampered(self, frames: list[bytes]) -> None:
        """A changed message arrives, and is refused."""
        with pytest.raises(ProtocolError):
            self.there.deserialize(frames)


TestHostileWire = HostileWire.TestCase
TestHostileWire.settings = settings(quickly, max_examples=30, stateful_step_count=30)
