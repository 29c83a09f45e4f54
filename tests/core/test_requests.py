"""Each request has the fields that the messaging specification gives it, protocol 5.5."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from kernel_mgmt import Message, Session
from kernel_mgmt.protocol import requests as r

# (request, its message type, its content), copied from the specification's tables.
TABLE: list[tuple[Message, str, dict[str, Any]]] = [
    (
        r.execute_request("1+1"),
        "execute_request",
        {
            "code": "1+1",
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        },
    ),
    (
        r.execute_request(
            "x", silent=True, user_expressions={"a": "b"}, allow_stdin=True, stop_on_error=False
        ),
        "execute_request",
        {
            "code": "x",
            "silent": True,
            "store_history": False,
            "user_expressions": {"a": "b"},
            "allow_stdin": True,
            "stop_on_error": False,
        },
    ),
    (
        r.inspect_request("a.b", 1, detail_level=1),
        "inspect_request",
        {"code": "a.b", "cursor_pos": 1, "detail_level": 1},
    ),
    (
        r.inspect_request("𝔞b"),
        "inspect_request",
        {"code": "𝔞b", "cursor_pos": 2, "detail_level": 0},
    ),
    (r.complete_request("pri"), "complete_request", {"code": "pri", "cursor_pos": 3}),
    (r.complete_request("pri", 0), "complete_request", {"code": "pri", "cursor_pos": 0}),
    (
        r.history_request(session=-1, start=2, stop=5),
        "history_request",
        {
            "output": False,
            "raw": True,
            "hist_access_type": "range",
            "session": -1,
            "start": 2,
            "stop": 5,
        },
    ),
    (
        r.history_request(hist_access_type="tail", n=3, output=True, raw=False),
        "history_request",
        {"output": True, "raw": False, "hist_access_type": "tail", "n": 3},
    ),
    (
        r.history_request(hist_access_type="search", n=3, pattern="a*", unique=True),
        "history_request",
        {
            "output": False,
            "raw": True,
            "hist_access_type": "search",
            "n": 3,
            "pattern": "a*",
            "unique": True,
        },
    ),
    (
        r.history_request(hist_access_type="search"),
        "history_request",
        {
            "output": False,
            "raw": True,
            "hist_access_type": "search",
            "n": None,
            "pattern": "*",
            "unique": False,
        },
    ),
    (r.is_complete_request("if 1:"), "is_complete_request", {"code": "if 1:"}),
    (r.comm_info_request(), "comm_info_request", {}),
    (r.comm_info_request("t"), "comm_info_request", {"target_name": "t"}),
    (r.kernel_info_request(), "kernel_info_request", {}),
    (r.shutdown_request(), "shutdown_request", {"restart": False}),
    (r.shutdown_request(restart=True), "shutdown_request", {"restart": True}),
    (r.interrupt_request(), "interrupt_request", {}),
    (
        r.debug_request({"type": "request", "seq": 1, "command": "attach"}),
        "debug_request",
        {"type": "request", "seq": 1, "command": "attach"},
    ),
    (r.create_subshell_request(), "create_subshell_request", {}),
    (r.delete_subshell_request("s"), "delete_subshell_request", {"subshell_id": "s"}),
    (r.list_subshell_request(), "list_subshell_request", {}),
    (r.input_reply("42"), "input_reply", {"status": "ok", "value": "42"}),
    (
        r.comm_open("t", "c", {"a": 1}),
        "comm_open",
        {"comm_id": "c", "target_name": "t", "data": {"a": 1}},
    ),
    (
        r.comm_open("t", "c", target_module="m"),
        "comm_open",
        {"comm_id": "c", "target_name": "t", "target_module": "m", "data": {}},
    ),
    (r.comm_msg("c", {"a": 1}), "comm_msg", {"comm_id": "c", "data": {"a": 1}}),
    (r.comm_close("c"), "comm_close", {"comm_id": "c", "data": {}}),
]


@pytest.mark.parametrize(("request_", "msg_type", "content"), TABLE)
def test_fields(request_: Message, msg_type: str, content: dict[str, Any]) -> None:
    """A request has the type and the content of the specification, and nothing else."""
    assert request_.msg_type == msg_type
    assert request_.content == content
    assert request_.metadata == {}
    assert request_.parent_header == {}
    assert list(request_.buffers) == []


def constructors() -> list[str]:
    """The names of all request constructors."""
    return [name for name in r.__all__ if inspect.isfunction(getattr(r, name))]


def test_table_is_complete() -> None:
    """Every constructor is tested above."""
    assert {msg_type for _, msg_type, _ in TABLE} == set(constructors())


@pytest.mark.parametrize(("request_", "msg_type", "content"), TABLE)
def test_sent(request_: Message, msg_type: str, content: dict[str, Any]) -> None:
    """A request that a session sends arrives complete."""
    message = Session(b"key").deserialize(Session(b"key").serialize(request_))
    assert message.content == content
    assert set(message.header) == {
        "msg_id",
        "msg_type",
        "username",
        "session",
        "date",
        "version",
    }


def test_control_requests() -> None:
    """The requests that go on control are those that the specification puts there."""
    assert {
        "create_subshell_request",
        "debug_request",
        "delete_subshell_request",
        "interrupt_request",
        "list_subshell_request",
        "shutdown_request",
    } == r.CONTROL_REQUESTS
    assert set(constructors()) >= r.CONTROL_REQUESTS


@pytest.mark.parametrize(
    "make",
    [
        lambda **kwargs: r.comm_open("t", "c", **kwargs),
        lambda **kwargs: r.comm_msg("c", **kwargs),
    ],
    ids=["comm_open", "comm_msg"],
)
def test_comm_extras(make: Any) -> None:
    """Comm messages carry metadata and uncopied buffers."""
    buffer = memoryview(b"x")
    message = make(metadata={"m": 1}, buffers=[buffer])
    assert message.metadata == {"m": 1}
    assert message.buffers[0] is buffer


def test_other_metadata() -> None:
    """What else may have metadata has it."""
    assert r.comm_close("c", metadata={"m": 1}).metadata == {"m": 1}
    assert r.execute_request("x", metadata={"m": 1}).metadata == {"m": 1}


def test_the_callers_dicts_are_copied() -> None:
    """A request keeps what it was made of, whatever becomes of the caller's dicts."""
    data: dict[str, Any] = {"a": 1}
    made = [
        r.comm_open("t", "c", data, metadata=data),
        r.comm_msg("c", data, metadata=data),
        r.comm_close("c", data, metadata=data),
        r.debug_request(data),
        r.execute_request("x", user_expressions=data, metadata=data),
    ]
    before = [str((message.content, message.metadata)) for message in made]
    data["b"] = 2
    assert [str((message.content, message.metadata)) for message in made] == before


def test_unknown_history_access() -> None:
    """A way of access that does not exist is the caller's mistake and says what does."""
    with pytest.raises(ValueError, match="'range', 'tail' or 'search'"):
        r.history_request(hist_access_type="all")
