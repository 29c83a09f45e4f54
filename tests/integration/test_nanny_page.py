"""docs/nanny.md describes the nanny that there is: its requests, fields, events, errors, versions."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import zmq
from kernel_mgmt import Session
from kernel_mgmt.channels import shared_context
from kernel_mgmt.launch import NannyOptions
from kernel_mgmt.nanny import control
from kernel_mgmt.nanny.protocol import EVENTS, PROTOCOL_VERSION, REQUESTS, BadRequest, check_content
from kernel_mgmt.nanny.request import REQUEST_VERSION, NannyRequest
from kernel_mgmt.restart_policy import RestartPolicy
from nannies import ECHO_COMMAND, PATIENCE, RunningNanny, ask_to_keep, running_nanny

PAGE = (Path(__file__).parents[2] / "docs" / "nanny.md").read_text()

Row = list[str]


def table(first_line: str) -> list[Row]:
    """The rows of the table that begins with a line, as cells."""
    lines = PAGE.partition(f"\n{first_line}")[2].splitlines()[2:]
    rows = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    assert rows, f"the page has no table that begins with {first_line!r}"
    return [[cell.strip() for cell in row.strip("|").split(" |")] for row in rows]


def words(cell: str) -> list[str]:
    """The names in a cell."""
    return re.findall(r"`(\w+)`", cell)


def column(first_line: str) -> list[str]:
    """The names in the first column of a table."""
    return [words(row[0])[0] for row in table(first_line)]


REQUEST_ROWS = {words(row[0])[0]: row for row in table("| request | content |")}
EVENT_ROWS = {words(row[0])[0]: row for row in table("| event | content |")}


def test_versions() -> None:
    """The page says which versions it describes, and those are the present ones."""
    assert (
        f"**protocol version\n{PROTOCOL_VERSION}** and **request version {REQUEST_VERSION}**"
        in PAGE
    )


def test_requests() -> None:
    """The page has each request with its content's fields and their defaults, and no other."""
    assert list(REQUEST_ROWS) == list(REQUESTS)
    for name, row in REQUEST_ROWS.items():
        fields = re.findall(r"`(\w+)`(?: = (\S+))?", row[1])
        assert [field for field, _ in fields] == list(REQUESTS[name])
        defaults = {field: json.loads(default) for field, default in fields if default}
        if len(defaults) == len(fields):
            assert check_content(name, {}) == defaults
        else:
            with pytest.raises(BadRequest, match="is missing"):
                check_content(name, {})


def test_events() -> None:
    """The page has each event, and no other."""
    assert tuple(EVENT_ROWS) == EVENTS


def test_errors() -> None:
    """The page has each error that a reply may name, and no other."""
    named = {error.__name__ for error in control._NAMED}
    assert set(column("| `ename` | meaning |")) == {*named, "NannyError"}


def test_the_request_on_standard_input() -> None:
    """The page has each field of the request, with its default, and no other."""
    rows = table("| field | type | default |")
    required = [words(row[0])[0] for row in rows if row[2] == "required"]
    assert required == ["version", "kernel_id", "kernel_type", "argv", "runtime_dir"]
    given = {"version": 1, "kernel_id": "1", "argv": ["x"], "runtime_dir": "/r"}
    minimal = {**given, "kernel_type": {"name": "x"}}
    for field in required:
        without = {name: value for name, value in minimal.items() if name != field}
        with pytest.raises(Exception, match="version" if field == "version" else field):
            NannyRequest.from_json(json.dumps(without).encode())

    written = json.loads(NannyRequest.from_json(json.dumps(minimal).encode()).to_json())
    assert [words(row[0])[0] for row in rows] == list(written)
    defaults = {words(r[0])[0]: json.loads(r[2].strip("`")) for r in rows if r[2] != "required"}
    written["options"] = {}  # whose defaults the text has
    assert {name: written[name] for name in defaults} == defaults
    policy = RestartPolicy()
    assert (policy.limit, policy.window, policy.backoff, policy.max_backoff) == (5, 60, 0.1, 10)
    assert "5 deaths in 60 s, a wait of\n0.1 s that doubles up to 10 s" in PAGE


def test_the_answers() -> None:
    """The page has each field of both answers, and no other."""
    with running_nanny(ECHO_COMMAND) as nanny:
        assert list(nanny.answer) == column("| field of a good answer |")
    assert list(ask_to_keep(["/nowhere"])) == column("| field of a bad one |")


# --- what a real nanny says ----------------------------------------------------------------------


def replied(nanny: RunningNanny, name: str, **content: Any) -> dict[str, Any]:
    """The reply to a request, which has the fields that the page says."""
    reply = nanny.ask(name, **content)
    assert reply.pop("status") == "ok"
    fields = column("| field of `nanny_info` |")
    if name != "nanny_info":
        fields = words(REQUEST_ROWS[name][2])
    assert sorted(reply) == sorted(fields)
    return reply


def test_replies_and_events() -> None:
    """A nanny's replies and events have the fields that the page says, no more and no less."""
    options = NannyOptions(restart_policy=None, lease=600, idle_timeout=600)
    with (
        running_nanny(ECHO_COMMAND, options=options) as nanny,
        shared_context().socket(zmq.SUB) as events,
        shared_context().socket(zmq.DEALER) as shell,
    ):
        info = nanny.connection_info
        session = Session(info.key)
        events.subscribe(b"")
        events.connect(info.endpoint("nanny_events"))
        shell.connect(info.endpoint("shell"))

        replied(nanny, "nanny_info")
        replied(nanny, "is_alive")
        replied(nanny, "log_tail", lines=3)
        replied(nanny, "lease", seconds=None)
        replied(nanny, "interrupt")
        replied(nanny, "signal", signum=int(signal.SIGCONT))
        replied(nanny, "wait_ready")
        replied(nanny, "restart")
        replied(nanny, "wait", kernel=1)
        for code in ("outside hello", "exit 3"):
            request = session.message("execute_request", {"code": code})
            shell.send_multipart(session.serialize(request))
        replied(nanny, "wait")
        replied(nanny, "terminate")
        replied(nanny, "kill")
        replied(nanny, "stop", timeout=0)

        told = set()
        while told < set(EVENTS):
            assert events.poll(PATIENCE * 1000), f"only {told} came"
            topic, *frames = events.recv_multipart()
            event = session.deserialize(frames)
            assert topic.decode() == event.content.get("subscription", event.msg_type)
            assert sorted(event.content) == sorted(words(EVENT_ROWS[event.msg_type][1]))
            told.add(event.msg_type)
