"""A message is decoded no further than it is looked at, and what it holds is JSON or an error."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from kernel_mgmt import MalformedMessage, Message
from kernel_mgmt.protocol.message import dump_json, load_json
from strategies import json_frames, json_values, quickly

NO_OBJECTS = {
    "empty": b"",
    "not JSON": b"spam",
    "cut off": b'{"a": 1',
    "two objects": b"{}{}",
    "list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "nested too deeply": b"[" * 100_000 + b"]" * 100_000,
    "number too long": b'{"a": ' + b"9" * 5000 + b"}",
}


def received(**changes: Any) -> Message:
    """A message as it comes out of a session."""
    values: dict[str, Any] = {
        "header": {"msg_id": "i", "msg_type": "status"},
        "parent_header": {"msg_id": "p"},
        "metadata": b"{}",
        "content": b'{"execution_state": "idle"}',
    }
    return Message(**{**values, **changes})


class Scalar:
    """Looks like a numpy scalar to those who do not ask for its class."""

    shape = ()

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        """The plain Python value."""
        return self.value


# --- laziness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["content", "metadata"])
def test_decoded_once(part: str) -> None:
    """Content and metadata are decoded on first access, and are the same object from then on."""
    message = received(**{part: b'{"a": [1]}'})
    assert getattr(message, part) == {"a": [1]}
    assert getattr(message, part) is getattr(message, part)


@pytest.mark.parametrize("part", ["content", "metadata"])
@pytest.mark.parametrize("frame", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_malformed_on_access_only(part: str, frame: bytes) -> None:
    """A part that is no JSON object spoils nothing before it is looked at, and then every time."""
    message = received(**{part: frame})
    assert (message.msg_id, message.msg_type, message.parent_id) == ("i", "status", "p")
    assert repr(message)
    for _ in range(2):
        with pytest.raises(MalformedMessage):
            getattr(message, part)
    with pytest.raises(MalformedMessage):
        message.to_dict()


def test_a_dict_is_taken_as_it_is() -> None:
    """A message that was made here gives the very dicts that it was made of."""
    content, metadata = {"a": 1}, {"b": 2}
    message = received(content=content, metadata=metadata)
    assert message.content is content
    assert message.metadata is metadata


# --- properties ----------------------------------------------------------------------------------


def test_repr_tells_ids_and_no_content() -> None:
    """The repr is for logs: type, ids and channel, and never what a user typed."""
    message = received(content=b'{"value": "hunter2"}', channel="stdin")
    assert repr(message) == "<Message status i to p on stdin>"


def test_to_dict() -> None:
    """A message becomes the dict that Jupyter's tools exchange."""
    message = received(buffers=[b"x", memoryview(b"y")])
    assert message.to_dict() == {
        "header": {"msg_id": "i", "msg_type": "status"},
        "msg_id": "i",
        "msg_type": "status",
        "parent_header": {"msg_id": "p"},
        "metadata": {},
        "content": {"execution_state": "idle"},
        "buffers": [b"x", b"y"],
    }


def test_before_it_is_sent() -> None:
    """A message without ids says so with empty texts."""
    message = Message({"msg_type": "status"}, {}, {}, {})
    assert (message.msg_id, message.parent_id, message.session, message.date) == ("", "", "", None)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, 5, [1], {"a": 1}, nested(5000)],
    ids=["null", "int", "list", "dict", "nested"],
)
def test_ids_that_are_no_texts(value: object) -> None:
    """A parent id or session id that is no text counts as none."""
    message = received(
        header={"msg_id": "i", "msg_type": "t", "session": value}, parent_header={"msg_id": value}
    )
    assert message.parent_id == ""
    assert message.session == ""
    assert repr(message) == "<Message t i>"


# --- dates ---------------------------------------------------------------------------------------

NOON = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-02-29T12:00:00Z", NOON),
        ("2024-02-29T12:00:00.000001Z", NOON + timedelta(microseconds=1)),
        ("2024-02-29T12:00:00+00:00", NOON),
        ("2024-02-29T14:30:00+02:30", NOON),
        ("2024-02-29T12:00:00", NOON),
        ("2024-02-29 12:00:00.500", NOON + timedelta(seconds=0.5)),
    ],
)
def test_date(text: str, date: datetime) -> None:
    """A date comes with a time zone; one without is UTC."""
    parsed = received(header={"msg_type": "t", "date": text}).date
    assert parsed == date
    assert parsed is not None
    assert parsed.tzinfo is not None


def test_date_keeps_its_offset() -> None:
    """A date with an offset stays in the sender's time zone."""
    parsed = received(header={"msg_type": "t", "date": "2024-02-29T14:30:00+02:30"}).date
    assert parsed is not None
    assert parsed.tzinfo == timezone(timedelta(hours=2.5))


@pytest.mark.parametrize(
    "value",
    ["", "Z", "today", "2024-02-30T12:00:00Z", "\ud800", "0" * 100_000, 5, [], {}, nested(5000)],
    ids=["empty", "Z", "today", "30th", "surrogate", "long", "int", "list", "dict", "nested"],
)
def test_garbage_for_a_date(value: object) -> None:
    """A date that is none is a malformed message with a message of readable length."""
    message = received(header={"msg_type": "t", "date": value})
    with pytest.raises(MalformedMessage) as caught:
        _ = message.date
    assert len(str(caught.value)) < 200


# --- JSON ----------------------------------------------------------------------------------------


@quickly
@given(json_values)
def test_json_round_trip(value: object) -> None:
    """Any JSON value comes back as it went."""
    assert load_json(dump_json(value)) == value


@quickly
@given(json_values)
def test_json_that_others_write_and_read(value: object) -> None:
    """What we write the standard library reads, and the other way round."""
    assert json.loads(dump_json(value)) == value
    assert load_json(json.dumps(value).encode()) == value


@quickly
@given(json_frames)
def test_any_frame_is_json_or_malformed(frame: bytes) -> None:
    """Whatever a frame holds, decoding it gives a value or MalformedMessage."""
    with suppress(MalformedMessage):
        load_json(frame)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda number: number, lambda value: value),
        (lambda number: {"a": [None, {"b": number}]}, lambda value: value["a"][1]["b"]),
        (lambda number: [(None, number)], lambda value: value[0][1]),
        (lambda number: [None, Scalar(number)], lambda value: value[1]),
        (lambda number: [None, {number}], lambda value: value[1][0]),
    ],
    ids=["bare", "nested", "tuple", "numpy", "set"],
)
def test_non_finite_numbers(
    number: float, wrap: Callable[[float], Any], unwrap: Callable[[Any], float]
) -> None:
    """NaN and infinities go out as Python's json writes them, never as null, and come back."""
    frame = dump_json(wrap(number))
    for value in (unwrap(load_json(frame)), unwrap(json.loads(frame))):
        assert math.isnan(value) if math.isnan(number) else value == number


@pytest.mark.parametrize(
    ("value", "frame"),
    [
        ({}, b"{}"),
        ({"a": "ü"}, None),
        ({"a": None, "b": 1.5}, b'{"a":null,"b":1.5}'),
        ((1, 2), b"[1,2]"),
        ({3}, b"[3]"),
        ({1: "a"}, b'{"1":"a"}'),
        (2**70, b"1180591620717411303424"),
        ("\ud800", b'"\\ud800"'),
        (b"\x00\xff", b'"AP8="'),
        (bytearray(b"\x00\xff"), b'"AP8="'),
        (memoryview(b"\x00\xff"), b'"AP8="'),
        (Scalar(3), b"3"),
    ],
    ids=[
        "empty",
        "umlaut",
        "null",
        "tuple",
        "set",
        "int key",
        "big int",
        "surrogate",
        "bytes",
        "bytearray",
        "memoryview",
        "numpy",
    ],
)
def test_dump(value: object, frame: bytes | None) -> None:
    """Values have one compact form, plain or not."""
    expected = frame if frame is not None else json.dumps(value).encode()
    assert json.loads(dump_json(value)) == json.loads(expected)
    assert b" " not in dump_json(value)


def test_dump_of_a_date() -> None:
    """A datetime goes out in the form in which headers carry it."""
    assert datetime.fromisoformat(load_json(dump_json(NOON))) == NOON


def circular() -> object:
    """A list that holds itself."""
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {"a": {"b": object()}}, {(1, 2): 3}, circular(), nested(100_000), 10**5000],
    ids=["object", "object inside", "key", "circular", "nested", "number too long"],
)
def test_values_without_json_form(value: object) -> None:
    """What has no JSON form is refused by our own error."""
    with pytest.raises(MalformedMessage, match="has no JSON form"):
        dump_json(value)


# --- without orjson ------------------------------------------------------------------------------


def test_without_orjson(tmp_path: Path) -> None:
    """Everything about JSON holds as well where orjson is not installed."""
    (tmp_path / "orjson.py").write_text("raise ImportError('not installed')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-k", "not without_orjson and not replay and not digest and not scheme"]
    command += [__file__, str(Path(__file__).with_name("test_session.py"))]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "KERNEL_MGMT_NO_ORJSON": "1"}
    process = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


def test_orjson_is_used_where_it_is_installed() -> None:
    """The run without orjson runs without it, and any other one with it."""
    from kernel_mgmt.protocol import message

    assert (message.orjson is None) == ("KERNEL_MGMT_NO_ORJSON" in os.environ)
