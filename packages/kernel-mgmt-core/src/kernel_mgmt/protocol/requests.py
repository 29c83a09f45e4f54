"""One typed constructor for each request of the messaging protocol, through version 5.5.

Each returns a :class:`Message` that a :class:`Session` completes and signs when it is sent.
The names of the parameters are those of the specification.

Source: *Messaging in Jupyter*, the section that each docstring names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .message import Buffer, JSONObject, Message

__all__ = [
    "CONTROL_REQUESTS",
    "comm_close",
    "comm_info_request",
    "comm_msg",
    "comm_open",
    "complete_request",
    "create_subshell_request",
    "debug_request",
    "delete_subshell_request",
    "execute_request",
    "history_request",
    "input_reply",
    "inspect_request",
    "interrupt_request",
    "is_complete_request",
    "kernel_info_request",
    "list_subshell_request",
    "shutdown_request",
]

#: The requests that belong on the control channel, where they do not wait behind a running cell.
CONTROL_REQUESTS = frozenset(
    {
        "create_subshell_request",
        "debug_request",
        "delete_subshell_request",
        "interrupt_request",
        "list_subshell_request",
        "shutdown_request",
    }
)


def _request(
    msg_type: str,
    content: JSONObject,
    *,
    metadata: Mapping[str, Any] | None = None,
    buffers: Sequence[Buffer] = (),
) -> Message:
    return Message({"msg_type": msg_type}, {}, dict(metadata or {}), content, buffers)


def execute_request(
    code: str,
    *,
    silent: bool = False,
    store_history: bool | None = None,
    user_expressions: Mapping[str, str] | None = None,
    allow_stdin: bool = False,
    stop_on_error: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Message:
    """Run code ("Execute").

    Args:
        code: source in the kernel's language.
        silent: run it as quietly as possible: no history, no execute_result.
        store_history: enter it into the history; by default unless silent.
        user_expressions: expressions to evaluate afterwards, by name.
        allow_stdin: whether the code may ask the client for input.
        stop_on_error: whether an error aborts the requests queued behind this one.
        metadata: the message's metadata.
    """
    return _request(
        "execute_request",
        {
            "code": code,
            "silent": silent,
            "store_history": (not silent) if store_history is None else store_history,
            "user_expressions": dict(user_expressions or {}),
            "allow_stdin": allow_stdin,
            "stop_on_error": stop_on_error,
        },
        metadata=metadata,
    )


def inspect_request(code: str, cursor_pos: int | None = None, *, detail_level: int = 0) -> Message:
    """Ask what the name at the cursor is ("Introspection").

    Args:
        code: the source around it.
        cursor_pos: in Unicode code points; the end of the code by default.
        detail_level: 0 for the docstring, 1 for the source.
    """
    return _request(
        "inspect_request",
        {
            "code": code,
            "cursor_pos": len(code) if cursor_pos is None else cursor_pos,
            "detail_level": detail_level,
        },
    )


def complete_request(code: str, cursor_pos: int | None = None) -> Message:
    """Ask for completions ("Completion").

    Args:
        code: the source to complete in.
        cursor_pos: in Unicode code points; the end of the code by default.
    """
    return _request(
        "complete_request",
        {"code": code, "cursor_pos": len(code) if cursor_pos is None else cursor_pos},
    )


def history_request(
    *,
    hist_access_type: str = "range",
    raw: bool = True,
    output: bool = False,
    session: int = 0,
    start: int = 0,
    stop: int | None = None,
    n: int | None = None,
    pattern: str | None = None,
    unique: bool = False,
) -> Message:
    """Ask for inputs of the past ("History").

    Args:
        hist_access_type: ``range``, ``tail`` or ``search``.
        raw: inputs as typed, not as transformed.
        output: give the outputs too.
        session: for ``range``: which session; 0 is this one, negative counts back.
        start: for ``range``: the first line.
        stop: for ``range``: the line after the last.
        n: for ``tail`` and ``search``: at most this many.
        pattern: for ``search``: with ``*`` and ``?``.
        unique: for ``search``: each input once.
    """
    content: JSONObject = {"hist_access_type": hist_access_type, "raw": raw, "output": output}
    if hist_access_type == "range":
        content.update(session=session, start=start, stop=stop)
    elif hist_access_type == "tail":
        content.update(n=n)
    elif hist_access_type == "search":
        content.update(n=n, pattern="*" if pattern is None else pattern, unique=unique)
    else:
        raise ValueError(
            f"hist_access_type is {hist_access_type!r}; it must be 'range', 'tail' or 'search'."
        )
    return _request("history_request", content)


def is_complete_request(code: str) -> Message:
    """Ask whether code can be run as it is ("Code completeness")."""
    return _request("is_complete_request", {"code": code})


def comm_info_request(target_name: str | None = None) -> Message:
    """Ask which comms are open, all or those of one target ("Comm info")."""
    return _request(
        "comm_info_request", {} if target_name is None else {"target_name": target_name}
    )


def kernel_info_request() -> Message:
    """Ask who the kernel is and what it can do ("Kernel info")."""
    return _request("kernel_info_request", {})


def shutdown_request(*, restart: bool = False) -> Message:
    """Ask the kernel to end itself ("Kernel shutdown"); goes on control."""
    return _request("shutdown_request", {"restart": restart})


def interrupt_request() -> Message:
    """Ask the kernel to interrupt what it runs ("Kernel interrupt"); goes on control."""
    return _request("interrupt_request", {})


def debug_request(content: Mapping[str, Any]) -> Message:
    """Pass on a request of the Debug Adapter Protocol ("Debug request"); goes on control."""
    return _request("debug_request", dict(content))


def create_subshell_request() -> Message:
    """Ask for a new subshell ("Create subshell", JEP 91); goes on control."""
    return _request("create_subshell_request", {})


def delete_subshell_request(subshell_id: str) -> Message:
    """Ask for the end of a subshell ("Delete subshell", JEP 91); goes on control."""
    return _request("delete_subshell_request", {"subshell_id": subshell_id})


def list_subshell_request() -> Message:
    """Ask which subshells there are ("List subshells", JEP 91); goes on control."""
    return _request("list_subshell_request", {})


def input_reply(value: str) -> Message:
    """Answer an ``input_request`` ("Messages on the stdin channel")."""
    return _request("input_reply", {"status": "ok", "value": value})


def comm_open(
    target_name: str,
    comm_id: str,
    data: Mapping[str, Any] | None = None,
    *,
    target_module: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    buffers: Sequence[Buffer] = (),
) -> Message:
    """Open a comm ("Opening a Comm").

    Args:
        target_name: what the kernel registered to handle such comms.
        comm_id: a unique id of the caller's choice.
        data: the comm's own opening data.
        target_module: a module to take the target from.
        metadata: the message's metadata.
        buffers: binary data to go with it.
    """
    content: JSONObject = {
        "comm_id": comm_id,
        "target_name": target_name,
        "data": dict(data or {}),
    }
    if target_module is not None:
        content["target_module"] = target_module
    return _request("comm_open", content, metadata=metadata, buffers=buffers)


def comm_msg(
    comm_id: str,
    data: Mapping[str, Any] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    buffers: Sequence[Buffer] = (),
) -> Message:
    """Send data over an open comm ("Comm Messages")."""
    content = {"comm_id": comm_id, "data": dict(data or {})}
    return _request("comm_msg", content, metadata=metadata, buffers=buffers)


def comm_close(
    comm_id: str,
    data: Mapping[str, Any] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Message:
    """Close a comm ("Tearing Down Comms")."""
    return _request("comm_close", {"comm_id": comm_id, "data": dict(data or {})}, metadata=metadata)
