"""Messages of protocol 4 as messages of protocol 5, and back, by the letter of the two texts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import MalformedMessage, Message
from kernel_mgmt.protocol import adapt, requests
from kernel_mgmt.protocol.adapter import NEW_IN_5, major_version
from strategies import json_frames, json_objects, json_values, quickly

JSON = dict[str, Any]


def message(
    version: int,
    msg_type: str,
    content: JSON | bytes,
    parent: str = "",
    **header: Any,
) -> Message:
    """A message of a version as it comes from a session."""
    spoken = {5: {"version": "5.3"}, 4: {}}[version]
    parent_header = {"msg_id": "p", "msg_type": parent, **spoken} if parent else {}
    return Message(
        {"msg_id": "m", "msg_type": msg_type, "session": "s", **spoken, **header},
        parent_header,
        {"some": "metadata"},
        content,
        [b"buffer"],
        [b"ident"],
        "shell",
    )


def seen(message: Message) -> tuple[object, ...]:
    """All that there is to see of a message."""
    return (
        message.header,
        message.parent_header,
        message._metadata,
        message._content,
        list(message.buffers),
        list(message.idents),
        message.channel,
    )


# -- golden cases ------------------------------------------------------------------------------

#: What each version calls a message type, and what a content is in each.  Adapting must give the
#: one from the other, both ways.
BOTH_WAYS: list[tuple[str, JSON, str, JSON]] = [
    (
        "execute_request",
        {
            "code": "1",
            "silent": False,
            "store_history": True,
            "user_variables": [],
            "user_expressions": {"a": "b"},
            "allow_stdin": True,
        },
        "execute_request",
        {
            "code": "1",
            "silent": False,
            "store_history": True,
            "user_expressions": {"a": "b"},
            "allow_stdin": True,
        },
    ),
    (
        "execute_reply",
        {
            "status": "ok",
            "execution_count": 3,
            "payload": [],
            "user_variables": {},
            "user_expressions": {},
        },
        "execute_reply",
        {"status": "ok", "execution_count": 3, "payload": [], "user_expressions": {}},
    ),
    (
        "execute_reply",
        {
            "status": "ok",
            "execution_count": 3,
            "payload": [
                {"source": "page", "text": "a", "html": "<a>", "start_line_number": 2},
                {"source": "set_next_input", "text": "x"},
            ],
            "user_variables": {},
            "user_expressions": {
                "j": {"status": "ok", "data": {"application/json": "[1, 2]"}, "metadata": {}},
                "e": {"status": "error", "ename": "E", "evalue": "v", "traceback": []},
            },
        },
        "execute_reply",
        {
            "status": "ok",
            "execution_count": 3,
            "payload": [
                {
                    "source": "page",
                    "data": {"text/plain": "a", "text/html": "<a>"},
                    "start": 2,
                },
                {"source": "set_next_input", "text": "x"},
            ],
            "user_expressions": {
                "j": {"status": "ok", "data": {"application/json": [1, 2]}, "metadata": {}},
                "e": {"status": "error", "ename": "E", "evalue": "v", "traceback": []},
            },
        },
    ),
    (
        "execute_reply",
        {"status": "error", "ename": "E", "evalue": "v", "traceback": [], "execution_count": 1},
        "execute_reply",
        {"status": "error", "ename": "E", "evalue": "v", "traceback": [], "execution_count": 1},
    ),
    (
        "complete_request",
        {"text": "", "line": "a.is", "block": "a.is", "cursor_pos": 2},
        "complete_request",
        {"code": "a.is", "cursor_pos": 2},
    ),
    (
        "object_info_request",
        {"oname": "a.b", "detail_level": 1},
        "inspect_request",
        {"code": "a.b", "cursor_pos": 3, "detail_level": 1},
    ),
    (
        "history_request",
        {"output": False, "raw": True, "hist_access_type": "tail", "n": 2},
        "history_request",
        {"output": False, "raw": True, "hist_access_type": "tail", "n": 2},
    ),
    (
        "history_reply",
        {"status": "ok", "history": [[1, 2, "a"]]},
        "history_reply",
        {"status": "ok", "history": [[1, 2, "a"]]},
    ),
    ("connect_request", {}, "connect_request", {}),
    (
        "connect_reply",
        {"status": "ok", "shell_port": 1, "iopub_port": 2, "stdin_port": 3, "hb_port": 4},
        "connect_reply",
        {"status": "ok", "shell_port": 1, "iopub_port": 2, "stdin_port": 3, "hb_port": 4},
    ),
    ("kernel_info_request", {}, "kernel_info_request", {}),
    ("shutdown_request", {"restart": True}, "shutdown_request", {"restart": True}),
    (
        "shutdown_reply",
        {"status": "ok", "restart": True},
        "shutdown_reply",
        {"status": "ok", "restart": True},
    ),
    (
        "stream",
        {"name": "stdout", "data": "hello"},
        "stream",
        {"name": "stdout", "text": "hello"},
    ),
    (
        "display_data",
        {
            "source": "display",
            "data": {"text/plain": "{}", "application/json": '{"a": null}'},
            "metadata": {"image/png": {"width": 1}},
        },
        "display_data",
        {
            "data": {"text/plain": "{}", "application/json": {"a": None}},
            "metadata": {"image/png": {"width": 1}},
            "transient": {},
        },
    ),
    (
        "pyout",
        {"execution_count": 1, "data": {"application/json": '"text"'}, "metadata": {}},
        "execute_result",
        {"execution_count": 1, "data": {"application/json": "text"}, "metadata": {}},
    ),
    (
        "pyin",
        {"code": "1", "execution_count": 1},
        "execute_input",
        {"code": "1", "execution_count": 1},
    ),
    (
        "pyerr",
        {"ename": "E", "evalue": "v", "traceback": ["t"]},
        "error",
        {"ename": "E", "evalue": "v", "traceback": ["t"]},
    ),
    ("status", {"execution_state": "busy"}, "status", {"execution_state": "busy"}),
    ("clear_output", {"wait": True}, "clear_output", {"wait": True}),
    ("data_pub", {"keys": ["a"]}, "data_pub", {"keys": ["a"]}),
    (
        "input_request",
        {"prompt": "name?"},
        "input_request",
        {"prompt": "name?", "password": False},
    ),
    ("input_reply", {"value": "Ada"}, "input_reply", {"value": "Ada"}),
    (
        "comm_open",
        {"comm_id": "c", "target_name": "t", "data": {"stdout": 1}},
        "comm_open",
        {"comm_id": "c", "target_name": "t", "data": {"stdout": 1}},
    ),
    (
        "comm_msg",
        {"comm_id": "c", "data": {"data": 1}},
        "comm_msg",
        {"comm_id": "c", "data": {"data": 1}},
    ),
    ("comm_close", {"comm_id": "c", "data": {}}, "comm_close", {"comm_id": "c", "data": {}}),
]

#: Likewise, where something is lost: one way only.
ONLY_TO_5: list[tuple[str, JSON, str, JSON]] = [
    (
        "execute_request",
        {"code": "1", "user_variables": ["a", "b"], "user_expressions": {"b": "c"}},
        "execute_request",
        {"code": "1", "user_expressions": {"a": "a", "b": "c"}},
    ),
    (
        "execute_reply",
        {
            "status": "ok",
            "user_variables": {"a": {"data": {"text/plain": "1"}}},
            "user_expressions": {"b": {"data": {"text/plain": "2"}}},
        },
        "execute_reply",
        {
            "status": "ok",
            "payload": [],
            "user_expressions": {
                "a": {"data": {"text/plain": "1"}},
                "b": {"data": {"text/plain": "2"}},
            },
        },
    ),
    (
        "execute_reply",
        {"status": "ok", "payload": [{"source": "page", "text": "a", "html": None}]},
        "execute_reply",
        {
            "status": "ok",
            "user_expressions": {},
            "payload": [{"source": "page", "data": {"text/plain": "a"}}],
        },
    ),
    ("execute_reply", {"status": "abort"}, "execute_reply", {"status": "aborted"}),
    ("complete_reply", {"status": "aborted"}, "complete_reply", {"status": "aborted"}),
    (
        "complete_request",
        {"text": "is", "line": "", "block": None, "cursor_pos": 2},
        "complete_request",
        {"code": "is", "cursor_pos": 2},
    ),
    (
        "complete_reply",
        {"matches": ["a.is", "a.it"], "matched_text": "a.i"},
        "complete_reply",
        {
            "status": "ok",
            "matches": ["a.is", "a.it"],
            "cursor_start": -3,
            "cursor_end": None,
            "metadata": {},
        },
    ),
    (
        "complete_reply",
        {"matches": [], "matched_text": "", "status": "ok"},
        "complete_reply",
        {"status": "ok", "matches": [], "cursor_start": None, "cursor_end": None, "metadata": {}},
    ),
    (
        "object_info_reply",
        {"name": "a", "found": False},
        "inspect_reply",
        {"status": "ok", "found": False, "data": {}, "metadata": {}},
    ),
    (
        "object_info_reply",
        {
            "name": "f",
            "found": True,
            "definition": "f(x)",
            "init_definition": None,
            "docstring": "Do it.",
            "string_form": "<function f>",
            "source": "def f(x): ...",
        },
        "inspect_reply",
        {
            "status": "ok",
            "found": True,
            "data": {"text/plain": "f(x)\n\nDo it.\n\ndef f(x): ..."},
            "metadata": {},
        },
    ),
    (
        "object_info_reply",
        {"name": "n", "found": True, "string_form": "42", "docstring": "", "source": "None"},
        "inspect_reply",
        {"status": "ok", "found": True, "data": {"text/plain": "42"}, "metadata": {}},
    ),
    (
        "history_reply",
        {"history": []},
        "history_reply",
        {"status": "ok", "history": []},
    ),
    (
        "kernel_info_reply",
        {
            "protocol_version": [4, 1],
            "ipython_version": [2, 0, 0, ""],
            "language_version": [2, 7, 6],
            "language": "python",
        },
        "kernel_info_reply",
        {
            "status": "ok",
            "protocol_version": "4.1",
            "implementation": "ipython",
            "implementation_version": "2.0.0",
            "language_info": {"name": "python", "version": "2.7.6"},
            "banner": "",
            "help_links": [],
            "supported_features": [],
        },
    ),
    (
        "kernel_info_reply",
        {"language": "julia"},
        "kernel_info_reply",
        {
            "status": "ok",
            "protocol_version": "4.1",
            "implementation": "",
            "implementation_version": "",
            "language_info": {"name": "julia", "version": ""},
            "banner": "",
            "help_links": [],
            "supported_features": [],
        },
    ),
    (
        "display_data",
        {"source": "x", "data": {"application/json": "{no json"}, "metadata": {}},
        "display_data",
        {"data": {"application/json": "{no json"}, "metadata": {}, "transient": {}},
    ),
    (
        "clear_output",
        {"stdout": True, "stderr": True, "other": False},
        "clear_output",
        {"wait": False},
    ),
    # Found in kernels that are half-way to version 5.
    ("stream", {"name": "stdout", "text": "new"}, "stream", {"name": "stdout", "text": "new"}),
]
ONLY_TO_4: list[tuple[str, JSON, str, JSON]] = [
    (
        "complete_request",
        {"text": "", "line": "b.c", "block": "a\nb.c\nd", "cursor_pos": 1},
        "complete_request",
        {"code": "a\nb.c\nd", "cursor_pos": 3},
    ),
    (
        "complete_reply",
        {"status": "ok", "matches": ["a.is", "a.it"], "matched_text": "a.i"},
        "complete_reply",
        {
            "status": "ok",
            "matches": ["a.is", "a.it"],
            "cursor_start": 5,
            "cursor_end": 8,
            "metadata": {},
        },
    ),
    (
        "complete_reply",
        {"status": "ok", "matches": [], "matched_text": ""},
        "complete_reply",
        {"status": "ok", "matches": [], "cursor_start": 5, "cursor_end": 5, "metadata": {}},
    ),
    (
        "object_info_reply",
        {"status": "ok", "name": "", "found": True, "docstring": "Do it."},
        "inspect_reply",
        {"status": "ok", "found": True, "data": {"text/plain": "Do it."}, "metadata": {}},
    ),
    (
        "object_info_reply",
        {"status": "ok", "name": "", "found": False},
        "inspect_reply",
        {"status": "ok", "found": False, "data": {}, "metadata": {}},
    ),
    (
        "kernel_info_reply",
        {
            "status": "ok",
            "protocol_version": [4, 1],
            "language": "python",
            "language_version": [3, 13, 0],
            "ipython_version": [9, 1, 0, ""],
        },
        "kernel_info_reply",
        {
            "status": "ok",
            "protocol_version": "5.5",
            "implementation": "ipython",
            "implementation_version": "9.1.0.dev",
            "language_info": {"name": "python", "version": "3.13.0rc1", "mimetype": "x"},
            "banner": "Hello",
            "help_links": [],
            "supported_features": ["debugger"],
        },
    ),
    (
        "kernel_info_reply",
        {"status": "ok", "protocol_version": [4, 0], "language": "", "language_version": []},
        "kernel_info_reply",
        {"status": "ok", "protocol_version": "4.0", "implementation": "echo"},
    ),
    ("input_request", {"prompt": "?"}, "input_request", {"prompt": "?", "password": True}),
    ("input_reply", {"value": "x"}, "input_reply", {"status": "ok", "value": "x"}),
    (
        "display_data",
        {"source": "display", "data": {"text/plain": "a"}, "metadata": {}},
        "display_data",
        {"data": {"text/plain": "a"}, "metadata": {}, "transient": {"display_id": "d"}},
    ),
    # What version 4 has no words for stays as it is.
    ("is_complete_request", {"code": "1"}, "is_complete_request", {"code": "1"}),
    ("update_display_data", {"data": {}}, "update_display_data", {"data": {}}),
]


def names(case: Any) -> Any:
    """The id of a case: its message types."""
    return case if isinstance(case, str) else ""


@pytest.mark.parametrize(
    ("type_4", "content_4", "type_5", "content_5"), BOTH_WAYS + ONLY_TO_5, ids=names
)
def test_to_5(type_4: str, content_4: JSON, type_5: str, content_5: JSON) -> None:
    """A message of version 4 becomes what version 5 says, in name, header and content."""
    given_ = message(4, type_4, content_4, parent="object_info_request")
    before = copy.deepcopy(seen(given_))
    adapted = adapt(given_, 5)
    assert adapted.content == content_5
    assert adapted.header == {**given_.header, "msg_type": type_5, "version": "5.0"}
    assert adapted.parent_header == {
        **given_.parent_header,
        "msg_type": "inspect_request",
        "version": "5.0",
    }
    assert seen(adapted)[2:3] + seen(adapted)[4:] == before[2:3] + before[4:]
    assert seen(given_) == before


def as_read(content: JSON) -> JSON:
    """A content of version 4 with its JSON texts read: how they are spaced is not the matter."""
    return json.loads(
        json.dumps(content),
        object_hook=lambda value: {
            k: json.loads(v) if k == "application/json" else v for k, v in value.items()
        },
    )


@pytest.mark.parametrize(
    ("type_4", "content_4", "type_5", "content_5"), BOTH_WAYS + ONLY_TO_4, ids=names
)
def test_to_4(type_4: str, content_4: JSON, type_5: str, content_5: JSON) -> None:
    """A message of version 5 becomes what version 4 says, in name, header and content."""
    given_ = message(5, type_5, content_5, parent="inspect_request", subshell_id="x")
    before = copy.deepcopy(seen(given_))
    adapted = adapt(given_, 4)
    assert as_read(adapted.content) == as_read(content_4)
    assert adapted.header == {"msg_id": "m", "msg_type": type_4, "session": "s"}
    assert adapted.parent_header == {"msg_id": "p", "msg_type": "object_info_request"}
    assert seen(adapted)[2:3] + seen(adapted)[4:] == before[2:3] + before[4:]
    assert seen(given_) == before


def test_a_parents_own_version_stays() -> None:
    """What the client had sent in version 5 is not said to have been another version."""
    given_ = message(4, "status", {"execution_state": "idle"})
    given_.parent_header = {"msg_id": "p", "msg_type": "kernel_info_request", "version": "5.5"}
    assert adapt(given_, 5).parent_header == given_.parent_header


# -- replies with their requests -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cursor", "matched", "start"),
    [
        ("a.is", 4, "a.is", 0),
        ("x = 1\na.is + 1", 10, "is", 8),
        ("𝔞.i", 3, "i", 2),
        ("", 0, "", 0),
        ("abc", 2, "", 2),
        ("a", 1, "longer", 0),
    ],
)
def test_completions_have_their_place(code: str, cursor: int, matched: str, start: int) -> None:
    """With its request, a complete_reply says in 5 where the text is that it replaces."""
    request = requests.complete_request(code, cursor)
    reply = message(4, "complete_reply", {"matches": ["m"], "matched_text": matched})
    content = adapt(reply, 5, request).content
    assert (content["cursor_start"], content["cursor_end"]) == (start, cursor)


def test_completions_have_their_text() -> None:
    """With its request, a complete_reply says in 4 which text it replaces."""
    request = requests.complete_request("x = 1\nA.is + 1", 10)
    reply = message(
        5, "complete_reply", {"matches": ["a.isalnum"], "cursor_start": 6, "cursor_end": 10}
    )
    assert adapt(reply, 4, request).content["matched_text"] == "A.is"


def test_inspected_names() -> None:
    """With its request, an object_info_reply has the name that was asked for."""
    request = requests.inspect_request("print(a.b")
    reply = message(5, "inspect_reply", {"found": False, "data": {}})
    assert adapt(reply, 4, request).content["name"] == "a.b"


@pytest.mark.parametrize(
    ("code", "name"),  # the cursor is at the |
    [
        ("|", ""),
        ("a|", "a"),
        ("|abc", "abc"),
        ("a.b|c.d", "a.bc"),
        ("a.bc.|d", "a.bc.d"),
        ("a|.bc.d", "a"),
        ("a.|", "a"),
        ("f(|", "f"),
        ("f(1, |", "f"),
        ("f(g(x), |)", "f"),
        ("f(x|", "x"),
        ("a.f({'b': (1)}, [|2])", "a.f"),
        ("f([1, 2|", "f"),
        ("f(\n  1,\n  |", "f"),
        ("f(x) + |", "x"),
        ("one\ntwo |\nthree", "two"),
        ("one\n|", ""),
        ("données.été|", "données.été"),
        ("))((]|", ""),
    ],
)
def test_the_name_at_the_cursor(code: str, name: str) -> None:
    """In 4 the client finds the name: at the cursor, called around it, or the last in the line."""
    cursor = code.index("|")
    content = requests.inspect_request(code.replace("|", ""), cursor).content
    request = message(5, "inspect_request", content)
    assert adapt(request, 4).content["oname"] == name


# -- what costs nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"a": 1}, b"{not json"])
@pytest.mark.parametrize("version", [4, 5])
def test_the_same_version_is_the_same_message(version: int, content: Any) -> None:
    """A message that speaks the wanted version is returned as it is, not even decoded."""
    given_ = message(version, "complete_reply", content)
    assert adapt(given_, version) is given_


@pytest.mark.parametrize("version", ["6.0", "3", "", "x", None, {}, [], [[]], 1e999, True])
def test_a_version_of_neither_is_left_alone(version: Any) -> None:
    """A message of a version that nobody here knows is passed through."""
    given_ = message(4, "pyout", b"{")
    given_.header["version"] = version
    assert adapt(given_, 5) is given_
    assert adapt(given_, 4) is given_


def test_contents_are_not_decoded_in_vain() -> None:
    """The content of a type that is the same in both versions stays JSON."""
    assert adapt(message(4, "comm_msg", b"{not json"), 5)._content == b"{not json"
    assert adapt(message(5, "error", b"{}", parent="execute_request"), 4).content == {}


@pytest.mark.parametrize(
    ("version", "major"),
    [("5.3", 5), ("5", 5), ([4, 1], 4), (["4", 1], 4), (5, 5), ("", None), ("²", None),
     ("9" * 5000, 999999999), (None, None), ({}, None), ([], None), (True, None)],
)  # fmt: skip
def test_major_version(version: Any, major: int | None) -> None:
    """Every form in which kernels write a version is understood."""
    assert major_version(version) == major


# -- properties ----------------------------------------------------------------------------------

TYPES_4 = sorted({row[0] for row in BOTH_WAYS + ONLY_TO_5} | {"unknown"})
TYPES_5 = sorted({row[2] for row in BOTH_WAYS + ONLY_TO_4} | {"unknown"} | set(NEW_IN_5))
#: Fields that the adapter looks at.
FIELDS = sorted(
    {
        name
        for _, old, _, new in BOTH_WAYS + ONLY_TO_5 + ONLY_TO_4
        for content in (old, new)
        for name in content
    }
)
contents = st.one_of(
    json_objects,
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6),
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.one_of(
            st.text(max_size=8),
            st.integers(-3, 9),
            st.sampled_from(
                [
                    {"application/json": "{", "text/plain": 5},
                    {"a": {"data": {"application/json": ["\ud800", float("nan")]}}},
                    [{"source": "page", "text": 1}, {"source": "page", "data": []}, 3],
                    "ok",
                    None,
                    [],
                    {},
                ]
            ),
        ),
        max_size=8,
    ),
)


@quickly
@given(
    st.sampled_from([(4, t) for t in TYPES_4] + [(5, t) for t in TYPES_5]),
    contents | json_frames,
    st.none() | st.dictionaries(st.sampled_from(["code", "cursor_pos"]), json_values),
    json_objects,
)
def test_no_content_breaks_it(
    kind: tuple[int, str], content: Any, asked: JSON | None, parent_header: JSON
) -> None:
    """Whatever a message holds, it is adapted or is malformed, and is never changed."""
    version, msg_type = kind
    given_ = message(version, msg_type, content)
    given_.parent_header = parent_header
    request = None if asked is None else message(5, "complete_request", asked)
    before = copy.deepcopy(content)
    try:
        adapted = adapt(given_, 9 - version, request)
    except MalformedMessage:
        pass
    else:
        assert major_version(adapted.header.get("version", 4)) == 9 - version
    if not isinstance(content, bytes):
        assert repr(content) == repr(before)  # by repr, since NaN is not equal to itself


@quickly
@given(st.dictionaries(st.sampled_from(["version", "msg_type", "msg_id"]), json_values))
def test_no_header_breaks_it(header: JSON) -> None:
    """Whatever a header holds, the message is adapted, passed through or malformed."""
    for major in (4, 5):
        try:
            adapt(Message(header, {"msg_type": []}, b"{}", b"{}"), major)
        except MalformedMessage:
            pass


@quickly
@given(st.text(max_size=30), st.integers(-3, 33), st.text(max_size=8))
def test_completion_survives_both_ways(code: str, cursor: int, match: str) -> None:
    """What a kernel of version 4 is asked is the line and place that the client asked about."""
    request = message(5, "complete_request", {"code": code, "cursor_pos": cursor})
    old = adapt(request, 4).content
    assert "\n" not in old["line"]
    cursor = min(max(cursor, 0), len(code))
    before, after = code[:cursor].rpartition("\n")[2], code[cursor:].partition("\n")[0]
    assert (old["line"], old["cursor_pos"]) == (before + after, len(before))
    # A reply that replaces what stands before the cursor replaces it in the words of both.
    start = cursor - len(before)
    reply = {"status": "ok", "matches": [match], "cursor_start": start, "cursor_end": cursor}
    there = adapt(message(5, "complete_reply", reply), 4, request)
    assert there.content["matched_text"] == before
    assert adapt(there, 5, request).content == {**reply, "metadata": {}}


@quickly
@given(json_objects)
def test_display_data_survives_both_ways(data: JSON) -> None:
    """Any data can be displayed through a kernel or client of the other version."""
    content = {"data": {**data, "application/json": data}, "metadata": {}, "transient": {}}
    there = adapt(message(5, "display_data", content), 4)
    assert isinstance(there.content["data"]["application/json"], str)
    assert adapt(there, 5).content == content
