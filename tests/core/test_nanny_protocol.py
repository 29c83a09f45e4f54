"""What is asked of a nanny: checked contents, versions."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt.nanny.protocol import (
    PROTOCOL_VERSION,
    REQUESTS,
    BadRequest,
    check_content,
    is_compatible,
)
from kernel_mgmt.nanny.supervisor import Supervisor
from strategies import json_objects, json_values, quickly

names = st.sampled_from(sorted(REQUESTS))
fields = st.sampled_from(sorted({field for content in REQUESTS.values() for field in content}))


@pytest.mark.parametrize(
    ("name", "content", "checked"),
    [
        ("nanny_info", {}, {}),
        ("nanny_info", {"later": "version"}, {}),
        ("wait", {}, {"kernel": None}),
        ("wait", {"kernel": 0}, {"kernel": 0}),
        ("wait_ready", {"after": 3}, {"after": 3}),
        ("signal", {"signum": 2}, {"signum": 2}),
        ("restart", {}, {"timeout": 0.0}),
        ("restart", {"timeout": 1}, {"timeout": 1}),
        ("log_tail", {}, {"lines": 50}),
        ("lease", {"seconds": None}, {"seconds": None}),
        ("lease", {"seconds": 0.5}, {"seconds": 0.5}),
        ("stop", {"timeout": 0}, {"timeout": 0}),
    ],
)
def test_good(name: str, content: dict[str, Any], checked: dict[str, Any]) -> None:
    """Good fields are given, missing ones have their defaults, others are left out."""
    assert check_content(name, content) == checked


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wait", [], "The content of wait_request is not an object."),
        ("wait", {"kernel": -1}, "kernel of wait_request is -1; it must be the number of a kernel"),
        ("wait", {"kernel": True}, "kernel of wait_request is True"),
        ("wait", {"kernel": 1.0}, "kernel of wait_request is 1.0"),
        ("wait", {"kernel": 2**31}, "kernel of wait_request is 2147483648"),
        ("signal", {}, "signum of signal_request is missing; it must be the number of a signal."),
        ("signal", {"signum": 0}, "signum of signal_request is 0"),
        ("lease", {}, "seconds of lease_request is missing"),
        ("lease", {"seconds": 0}, "it must be a positive number of seconds or null."),
        ("lease", {"seconds": float("nan")}, "seconds of lease_request is nan"),
        ("stop", {"timeout": None}, "timeout of stop_request is None"),
        ("stop", {"timeout": float("inf")}, "timeout of stop_request is inf"),
        ("stop", {"timeout": 10**400}, "timeout of stop_request is 1000"),
        ("stop", {"timeout": 10**5000}, "timeout of stop_request is "),
        ("log_tail", {"lines": "x" * 1000}, "lines of log_tail_request is 'xxx"),
    ],
)
def test_bad(name: str, content: Any, message: str) -> None:
    """A field that cannot be used is named, with what it must be; no value is shown at length."""
    with pytest.raises(BadRequest) as caught:
        check_content(name, content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def deep() -> object:
    """Give a value that is nested deeper than Python can show."""
    value: object = 0
    for _ in range(100_000):
        value = [value]
    return value


def test_deep_value() -> None:
    """A value that is nested too deeply to be shown is refused like any other."""
    value = deep()
    with pytest.raises(BadRequest, match="kernel of wait_request is "):
        check_content("wait", {"kernel": value})
    while isinstance(value, list):  # to free it all at once would need as much depth
        value = value.pop()


@quickly
@given(names, json_objects | json_values)
def test_any_content(name: str, content: Any) -> None:
    """Whatever a content is, its fields can be used, or it is a BadRequest."""
    check_or_refuse(name, content)


@quickly
@given(names, st.dictionaries(fields, json_values))
def test_any_fields(name: str, content: dict[str, Any]) -> None:
    """Whatever the known fields hold, they can be used, or it is a BadRequest."""
    check_or_refuse(name, content)


def check_or_refuse(name: str, content: Any) -> None:
    """Check a content: what is good has exactly the fields of its request."""
    with contextlib.suppress(BadRequest):
        checked = check_content(name, content)
        assert checked.keys() == REQUESTS[name].keys()
        assert check_content(name, checked) == checked


def test_all_are_answered() -> None:
    """Each request has somebody who answers it."""
    assert all(callable(getattr(Supervisor, name)) for name in REQUESTS)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (PROTOCOL_VERSION, True),
        ("1", True),
        ("1.99", True),
        ("0.9", False),
        ("2.0", False),
        ("11.0", False),
        ("", False),
        (None, False),
        (1.0, False),
    ],
)
def test_versions(version: object, expected: bool) -> None:
    """Whoever has the same major version can be talked to."""
    assert is_compatible(version) is expected
