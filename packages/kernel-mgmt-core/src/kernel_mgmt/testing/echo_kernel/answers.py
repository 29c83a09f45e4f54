"""The echo kernel's replies to questions: functions of the request's content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ...protocol import JSONObject
from .cell import COMMANDS

__all__ = [
    "comm_info",
    "complete",
    "failure",
    "history",
    "inspect",
    "is_complete",
    "kernel_info",
]


def failure(ename: str, evalue: str) -> JSONObject:
    """Give a reply that says what went wrong."""
    return {"status": "error", "ename": ename, "evalue": evalue, "traceback": []}


def kernel_info(protocol_version: str) -> JSONObject:
    """Tell who the kernel is."""
    return {
        "status": "ok",
        "protocol_version": protocol_version,
        "implementation": "echo",
        "implementation_version": "1.0",
        "language_info": {
            "name": "echo",
            "version": "1.0",
            "mimetype": "text/plain",
            "file_extension": ".txt",
        },
        "banner": "The echo kernel: it does what it is told.",
        "help_links": [],
        "supported_features": [],
    }


def complete(content: JSONObject) -> JSONObject:
    """Complete the first word of a line to a command."""
    cursor = content.get("cursor_pos", len(content["code"]))
    word = content["code"][:cursor].rpartition("\n")[2]
    return {
        "status": "ok",
        "matches": [name for name in COMMANDS if name.startswith(word)],
        "cursor_start": cursor - len(word),
        "cursor_end": cursor,
        "metadata": {},
    }


def inspect(content: JSONObject) -> JSONObject:
    """Describe the command of the line that the cursor is in."""
    code = content["code"]
    start = code.rfind("\n", 0, content.get("cursor_pos")) + 1
    command = COMMANDS.get(code[start:].split("\n")[0].split(" ")[0])
    data = {} if command is None else {"text/plain": command.__doc__}
    return {"status": "ok", "found": bool(data), "data": data, "metadata": {}}


def is_complete(content: JSONObject) -> JSONObject:
    """Tell whether more lines are wanted: a backslash at the end says so."""
    if content["code"].endswith("\\"):
        return {"status": "incomplete", "indent": ""}
    return {"status": "complete"}


def history(content: JSONObject, entries: Sequence[tuple[int, str]]) -> JSONObject:
    """Give inputs of the past.

    Args:
        content: of the request.
        entries: all of them, as execution counts and codes.
    """
    access = content.get("hist_access_type")
    if access == "range":
        start, stop = content.get("start") or 0, content.get("stop") or float("inf")
        entries = [entry for entry in entries if start <= entry[0] < stop]
    elif access == "search":
        pattern = content.get("pattern") or "*"
        entries = [entry for entry in entries if fnmatchcase(entry[1], pattern)]
    if access in ("tail", "search") and content.get("n"):
        entries = entries[-content["n"] :]
    output = content.get("output")
    shown = [[1, line, [code, None] if output else code] for line, code in entries]
    return {"status": "ok", "history": shown}


def comm_info(content: JSONObject, comms: Mapping[str, str]) -> JSONObject:
    """Tell which comms are open.

    Args:
        content: of the request.
        comms: the open ones' targets by id.
    """
    wanted = content.get("target_name")
    shown = {
        comm_id: {"target_name": target}
        for comm_id, target in comms.items()
        if wanted is None or target == wanted
    }
    return {"status": "ok", "comms": shown}
