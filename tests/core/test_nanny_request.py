"""The request that starts a nanny: written, read, and what is none."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt import ConnectionInfo, KernelType, NannyError, RestartPolicy
from kernel_mgmt.launch import NannyOptions
from kernel_mgmt.nanny.request import NannyRequest
from nannies import request_to_keep
from strategies import json_frames, json_objects, json_values, quickly

LEAST = {
    "version": 1,
    "kernel_id": "k",
    "kernel_type": {"provider": "p", "name": "n"},
    "argv": ["kernel"],
    "runtime_dir": "/run",
}
FIELDS = [*LEAST, "record_dir", "cwd", "env", "transport", "encryption", "handshake"]
FIELDS += ["connection_info", "options", "startup_timeout"]


def read(**changes: Any) -> NannyRequest:
    """Read the least request with some changes."""
    return NannyRequest.from_json(json.dumps({**LEAST, **changes}).encode())


def test_least() -> None:
    """What may be left out has its defaults."""
    assert read() == NannyRequest(
        kernel_id="k",
        kernel_type=KernelType("n", provider="p"),
        argv=("kernel",),
        runtime_dir=Path("/run"),
    )


def test_there_and_back() -> None:
    """A request is read as it was written."""
    request = request_to_keep(
        ["kernel", "-f", "{connection_file}", "ü\udc80"],
        kernel_type=KernelType("n", "N", "l", "message", provider="p", metadata={"a": [1]}),
        cwd=Path("/tmp"),
        env={"A": "b", "C": None, "ü": "\udc80"},
        encryption="required",
        handshake=True,
        connection_info=ConnectionInfo.for_tcp(),
        options=NannyOptions(
            "name", RestartPolicy(1, 2, 3, 4), lease=5, idle_timeout=6.5, unattended_timeout=7
        ),
        startup_timeout=7.5,
    )
    assert NannyRequest.from_json(request.to_json()) == request
    never = request_to_keep(options=NannyOptions(restart_policy=None))
    assert NannyRequest.from_json(never.to_json()) == never


def test_cannot_be_written() -> None:
    """What has no JSON form is said to have none."""
    request = request_to_keep(kernel_type=KernelType("n", metadata={"a": {1, 2}}))
    with pytest.raises(NannyError, match="has no JSON form"):
        request.to_json()


@pytest.mark.parametrize("line", [b"", b"\n", b"{", b"[]", b"7", b'"version"', b"{}", b"[" * 99999])
def test_no_request(line: bytes) -> None:
    """What is no JSON object with a version is no request."""
    with pytest.raises(NannyError, match="is no JSON object with a version"):
        NannyRequest.from_json(line)


@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0, None, [1], 10**400])
def test_version(version: object) -> None:
    """A request of another version is refused, with what to do."""
    with pytest.raises(NannyError, match="this nanny knows 1; install the same version"):
        read(version=version)


@pytest.mark.parametrize("field", sorted(set(LEAST) - {"version"}))
def test_missing(field: str) -> None:
    """What must be there is named when it is missing."""
    content = {name: value for name, value in LEAST.items() if name != field}
    with pytest.raises(NannyError, match=f"The request lacks '{field}'"):
        NannyRequest.from_json(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_id": 5}, "kernel_id must be a string"),
        ({"kernel_id": ""}, "kernel_id must be up to 128 letters"),
        ({"kernel_id": "../../etc/passwd"}, "kernel_id must be up to 128 letters"),
        ({"kernel_id": "a\0"}, "kernel_id holds NUL"),
        ({"kernel_id": "x" * 129}, "kernel_id must be up to 128 letters"),
        ({"kernel_type": []}, "kernel_type must be an object"),
        ({"kernel_type": {"name": 5}}, "name must be a string"),
        ({"kernel_type": {"provider": "p"}}, "name"),
        ({"kernel_type": {"name": "n", "colour": "red"}}, "colour"),
        ({"kernel_type": {"name": "n", "metadata": []}}, "metadata must be an object"),
        ({"kernel_type": {"name": "n", "interrupt_mode": "shout"}}, "one of signal, message"),
        ({"argv": []}, "argv is empty"),
        ({"argv": "kernel"}, "argv must be a list"),
        ({"argv": ["kernel", 5]}, "a word of argv must be a string"),
        ({"argv": ["a\0b"]}, "a word of argv holds NUL"),
        ({"argv": ["\ud800"]}, "surrogates not allowed"),
        ({"runtime_dir": "run"}, "runtime_dir is no absolute path"),
        ({"runtime_dir": None}, "runtime_dir must be a string"),
        ({"record_dir": "/a\0"}, "record_dir holds NUL"),
        ({"cwd": 5}, "cwd must be a string"),
        ({"env": {"A": 5}}, "A must be a string"),
        ({"env": [["A", "b"]]}, "env must be an object"),
        ({"env": {"A\0": "b"}}, "holds NUL"),
        ({"transport": "pigeon"}, "transport must be one of ipc, tcp"),
        ({"transport": ["ipc"]}, "transport must be one of ipc, tcp"),
        ({"encryption": "rot13"}, "encryption must be one of auto, required, off"),
        ({"handshake": 1}, "handshake must be true or false"),
        ({"connection_info": {"key": "k"}}, "lacks shell_port"),
        ({"connection_info": "tcp://"}, "connection_info must be an object"),
        ({"options": []}, "options must be an object"),
        ({"options": {"lease": -1}}, "lease is no positive number of seconds"),
        ({"options": {"lease": float("nan")}}, "lease is no positive number of seconds"),
        ({"options": {"idle_timeout": "1"}}, "idle_timeout is no positive number of seconds"),
        ({"options": {"idle_timeout": 10**400}}, "idle_timeout is no positive number"),
        ({"options": {"unattended_timeout": 0}}, "unattended_timeout is no positive number"),
        ({"options": {"colour": "red"}}, "colour"),
        ({"options": {"name": ["n"]}}, "name must be a string"),
        ({"options": {"restart_policy": []}}, "restart_policy must be an object"),
        ({"options": {"restart_policy": {"limit": "5"}}}, "limit of restart_policy is no number"),
        ({"options": {"restart_policy": {"window": 0}}}, "window is 0"),
        ({"options": {"restart_policy": {"window": float("nan")}}}, "window of restart_policy"),
        ({"startup_timeout": 0}, "startup_timeout is no positive number of seconds"),
        ({"startup_timeout": True}, "startup_timeout is no positive number of seconds"),
        ({"startup_timeout": float("inf")}, "startup_timeout is no positive number"),
        ({"startup_timeout": 10**400}, "startup_timeout is no positive number"),
    ],
)
def test_bad_field(changes: dict[str, Any], message: str) -> None:
    """A field that cannot be used is named, in one sentence."""
    with pytest.raises(NannyError) as caught:
        read(**changes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("The request cannot be used: ")
    assert str(caught.value).count("\n") == 0


def test_unknown_field() -> None:
    """A field of the request that is not known is left out."""
    assert read(colour="red") == read()


# --- anything ------------------------------------------------------------------------------------


@quickly
@given(json_frames)
def test_any_frame(line: bytes) -> None:
    """Whatever is read, it is a request or a NannyError."""
    try_to_read(line)


@quickly
@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_object(content: dict[str, Any]) -> None:
    """Whatever the fields of a request hold, it is a request or a NannyError."""
    try_to_read(json.dumps({"version": 1, **content}).encode())


@quickly
@given(st.sampled_from(FIELDS), json_values)
def test_any_value(field: str, value: object) -> None:
    """Whatever one field of a good request holds, it is a request or a NannyError."""
    try_to_read(json.dumps({**LEAST, field: value}).encode())


@quickly
@given(st.sampled_from(["kernel_type", "options", "connection_info", "env"]), json_objects)
def test_any_inner_object(field: str, value: dict[str, Any]) -> None:
    """Whatever an object in a good request holds, it is a request or a NannyError."""
    try_to_read(json.dumps({**LEAST, field: value}).encode())


def try_to_read(line: bytes) -> None:
    """Read a line; what is a request can be written again, and is the same then."""
    with contextlib.suppress(NannyError):
        request = NannyRequest.from_json(line)
        assert NannyRequest.from_json(request.to_json()) == request
