"""Messages become a notebook: which cells, which outputs, and that it is one, whatever is said."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import Message
from kernel_mgmt_cli.notebook import Transcript
from strategies import json_objects, json_values, quickly


def said(
    msg_type: str, content: dict[str, Any], parent: str = "a", *, channel: str = "iopub"
) -> Message:
    """Make a message that answers an execute_request."""
    header = {"msg_id": parent, "msg_type": "execute_request"} if parent else {}
    return Message({"msg_id": "m", "msg_type": msg_type}, header, {}, content, channel=channel)


def ran(code: str, count: int, parent: str = "a") -> list[Message]:
    """Make what a kernel says when it begins to run code."""
    return [
        said("status", {"execution_state": "busy"}, parent),
        said("execute_input", {"code": code, "execution_count": count}, parent),
    ]


def printed(text: str, parent: str = "a", name: str = "stdout") -> Message:
    """Make a stream message."""
    return said("stream", {"name": name, "text": text}, parent)


def shown(text: str, display_id: str = "", parent: str = "a", *, update: bool = False) -> Message:
    """Make a message with rich output."""
    content = {
        "data": {"text/plain": text},
        "metadata": {},
        "transient": {"display_id": display_id} if display_id else {},
    }
    return said("update_display_data" if update else "display_data", content, parent)


def told(event: str, **content: Any) -> Message:
    """Make a message of a nanny."""
    return said(event, content, "", channel="nanny")


def gap(first: int, last: int, size: int = 0) -> Message:
    """Make what stands for messages that were not kept."""
    return told("journal_gap", first=first, last=last, bytes=size)


def notebook_of(*messages: Message, type_id: str = "") -> dict[str, Any]:
    """Make a notebook, which nbformat must find good."""
    transcript = Transcript(type_id)
    for message in messages:
        transcript.add(message)
    notebook = transcript.to_dict()
    nbformat.validate(nbformat.from_dict(notebook))
    return notebook


def cells(*messages: Message) -> list[tuple[Any, ...]]:
    """Make a notebook; give number, code and outputs of code cells, the text of others."""
    found: list[tuple[Any, ...]] = []
    for cell in notebook_of(*messages)["cells"]:
        if cell["cell_type"] == "markdown":
            found.append((cell["source"],))
            continue
        outputs = [
            output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
            for output in cell["outputs"]
        ]
        found.append((cell["execution_count"], cell["source"], outputs))
    return found


# -- cells -----------------------------------------------------------------------------------------


def test_each_code_that_ran_is_a_cell() -> None:
    """It has its number and its own output, also what comes late or amid that of others."""
    assert cells(
        *ran("one", 1, "a"),
        printed("1\n", "a"),
        *ran("two", 2, "b"),
        printed("2\n", "b"),
        printed("late\n", "a"),
        said("input_request", {"prompt": "?"}, "b", channel="stdin"),
        said("execute_reply", {"status": "ok"}, "b", channel="shell"),
    ) == [(1, "one", ["1\nlate\n"]), (2, "two", ["2\n"])]


def test_silent_requests_have_no_cell() -> None:
    """Neither have they an output; what names no request at all belongs to the latest cell."""
    assert cells(
        printed("of nobody\n", ""),
        said("status", {"execution_state": "busy"}, "silent"),
        printed("of a silent one\n", "silent"),
        *ran("one", 1),
        printed("of a silent one\n", "silent"),
        printed("of a thread\n", ""),
    ) == [(1, "one", ["of a thread\n"])]


def test_streams_are_merged() -> None:
    """Pieces of one stream are one output, until something else comes in between."""
    assert cells(
        *ran("one", 1),
        printed("1"),
        printed("2\n"),
        printed("wrong\n", name="stderr"),
        printed("3\n"),
        shown("a picture"),
        printed("4\n"),
        printed("5\n"),
    ) == [(1, "one", ["12\n", "wrong\n", "3\n", "a picture", "4\n5\n"])]


def test_displays_are_updated_wherever_they_are() -> None:
    """All that were shown under an id change, in all cells; nothing is added."""
    assert cells(
        shown("too early", "x", update=True),
        *ran("one", 1, "a"),
        shown("old", "x", "a"),
        shown("other", "y", "a"),
        *ran("two", 2, "b"),
        shown("old too", "x", "b"),
        shown("new", "x", "b", update=True),
        shown("of no id", "z", "b", update=True),
    ) == [(1, "one", ["new", "other"]), (2, "two", ["new"])]


def test_output_is_cleared() -> None:
    """At once, or with the next output when the kernel says to wait; that of its cell alone."""
    clear, wait = said("clear_output", {"wait": False}), said("clear_output", {"wait": True})
    other = [*ran("other", 1, "b"), printed("kept\n", "b")]
    assert cells(*other, *ran("one", 2), printed("1\n"), clear)[1] == (2, "one", [])
    assert cells(*ran("one", 1), printed("1\n"), clear, printed("2\n"))[0] == (1, "one", ["2\n"])
    assert cells(*ran("one", 1), printed("1\n"), wait)[0] == (1, "one", ["1\n"])
    assert cells(*other, *ran("one", 2), printed("1\n"), wait, shown("2"), printed("3\n")) == [
        (1, "other", ["kept\n"]),
        (2, "one", ["2", "3\n"]),
    ]


def test_results_and_errors() -> None:
    """A result has its number, and an error what it is called and where it was."""
    (cell,) = notebook_of(
        *ran("one", 3),
        said(
            "execute_result",
            {"data": {"text/plain": "7"}, "metadata": {"a": 1}, "execution_count": 3},
        ),
        said("error", {"ename": "ValueError", "evalue": "no", "traceback": ["line 1", "line 2"]}),
    )["cells"]
    assert cell["outputs"] == [
        {
            "output_type": "execute_result",
            "data": {"text/plain": "7"},
            "metadata": {"a": 1},
            "execution_count": 3,
        },
        {
            "output_type": "error",
            "ename": "ValueError",
            "evalue": "no",
            "traceback": ["line 1", "line 2"],
        },
    ]


# -- between the cells -----------------------------------------------------------------------------


def test_gaps_are_told() -> None:
    """Where something is missing it says so; output whose code is missing has a cell without code."""
    assert cells(
        gap(1, 40, 5000),
        printed("going on\n", "lost"),
        *ran("one", 7),
        gap(50, 50),
        printed("1\n"),
    ) == [
        ("*Messages 1 to 40 (5 KiB) are missing: the journal could not keep them.*",),
        (None, "", ["going on\n"]),
        (7, "one", ["1\n"]),
        ("*Message 50 is missing: the journal could not keep it.*",),
    ]


def test_a_result_tells_the_number_of_a_cell_whose_code_is_missing() -> None:
    """What is known of such a cell is in it."""
    result = said("execute_result", {"data": {"text/plain": "7"}, "execution_count": 9}, "lost")
    assert cells(gap(1, 2), result)[1] == (9, "", ["7"])


def test_silent_requests_after_a_gap_have_no_cell() -> None:
    """That their code is not missing is known where their beginning is not."""
    silent = [said("status", {"execution_state": "busy"}, "s"), printed("silent\n", "s")]
    assert len(cells(gap(1, 2), *silent)) == 1


def test_restarts_are_told() -> None:
    """That of a kernel that was asked to, and of one that died; not the start of the first one."""
    status = {"code": 9, "signal": None, "reason": ""}
    restarted = "*The kernel was restarted; what it had in memory is gone.*"
    assert cells(
        told("started", kernel=1),
        told("ready", kernel=1),
        *ran("one", 1),
        told("died", kernel=1, exit_status=status, restarting=True),
        printed("of no cell\n", ""),
        told("started", kernel=2),
        told("ready", kernel=2),
        *ran("two", 1, "b"),
        told("died", kernel=2, exit_status=status, restarting=False),
        told("restarting", kernel=2, wait=0.1),
        told("started", kernel=3),
    ) == [
        (1, "one", []),
        (restarted,),
        (1, "two", []),
        (f"*The kernel died: exit code 9.*\n\n{restarted}",),
    ]


# -- metadata --------------------------------------------------------------------------------------


def test_metadata() -> None:
    """The language is what the kernel has said last, and the kernelspec's name that of its type."""
    info = {"language_info": {"name": "python", "version": "3.11.7", "mimetype": 7, "more": 1}}
    notebook = notebook_of(
        said("kernel_info_reply", {"language_info": {"name": "basic"}}, channel="shell"),
        said("kernel_info_reply", info, channel="control"),
        said("kernel_info_reply", {"language_info": {"name": 1}}, channel="shell"),
        type_id="ssh/host/python3",
    )
    assert notebook["metadata"] == {
        "kernelspec": {"name": "python3", "display_name": "python 3.11.7", "language": "python"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }


def test_metadata_that_nobody_has_told() -> None:
    """A kernel that has not said who it is has the name of its type, or none."""
    assert notebook_of(type_id="spec/echo")["metadata"] == {
        "kernelspec": {"name": "echo", "display_name": "echo"}
    }
    assert notebook_of()["metadata"] == {}


# -- whatever comes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"text/plain": ["a\n", "b"]}, {"text/plain": "a\nb"}),
        ({"text/plain": 7, "text/html": None}, {"text/plain": "7", "text/html": ""}),
        ({"application/json": [1, float("nan")]}, {"application/json": [1, None]}),
        ({"application/vnd.a+json": {"b": 1}}, {"application/vnd.a+json": {"b": 1}}),
        ("no bundle", {}),
    ],
)
def test_rich_output_that_is_odd(sent: Any, kept: dict[str, Any]) -> None:
    """Lines are joined, and what other programs would not read is made so that they do."""
    notebook = notebook_of(*ran("one", 1), said("display_data", {"data": sent}))
    assert notebook["cells"][0]["outputs"][0]["data"] == kept


def test_what_is_nested_too_deeply_is_left_out() -> None:
    """No kernel's JSON takes an export down."""
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    notebook = notebook_of(
        *ran("one", 1), said("display_data", {"data": {"application/json": deep}})
    )
    assert "null" in nbformat.writes(nbformat.from_dict(notebook))


_TYPES = (
    "status", "execute_input", "stream", "display_data", "execute_result", "update_display_data",
    "error", "clear_output", "kernel_info_reply", "journal_gap", "died", "started",
)  # fmt: skip
_FIELDS = (
    "execution_state", "code", "execution_count", "name", "text", "data", "metadata", "transient",
    "wait", "ename", "evalue", "traceback", "language_info", "first", "last", "bytes", "kernel",
    "exit_status", "restarting",
)  # fmt: skip
_values = json_values | st.sampled_from(
    ["busy", True, 3, {"text/plain": "x"}, {"display_id": "d"}, {"name": "python"}]
)
_messages = st.builds(
    lambda msg_type, parent, content, channel: Message(
        {"msg_id": "m", "msg_type": msg_type}, parent, {}, content, channel=channel
    ),
    st.sampled_from(_TYPES),
    json_objects
    | st.builds(
        lambda msg_id: {"msg_id": msg_id, "msg_type": "execute_request"}, st.sampled_from("abc")
    ),
    st.dictionaries(st.sampled_from(_FIELDS), _values, max_size=5) | st.just(b"[not JSON"),
    st.sampled_from(["iopub", "iopub", "shell", "nanny"]),
)


@quickly
@given(st.lists(_messages, max_size=30))
def test_whatever_is_said_makes_a_notebook(messages: list[Message]) -> None:
    """It is valid, is JSON, and has a cell for each code that ran."""
    notebook = notebook_of(*messages)
    assert json.loads(nbformat.writes(nbformat.from_dict(notebook)))["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    inputs = [
        message
        for message in messages
        if (message.channel, message.msg_type) == ("iopub", "execute_input")
        and message._content != b"[not JSON"
    ]
    assert len(inputs) <= len(code)
