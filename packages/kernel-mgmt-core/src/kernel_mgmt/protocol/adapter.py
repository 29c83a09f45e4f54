"""Messages of protocol 4 as messages of protocol 5, and back.

Version 4 is what kernels of the age of IPython 1 and 2 speak.  What differs is in the table
``_ROWS``: a message type that is not there has the same name and content in both.

Sources: *Messaging in Jupyter*, section "Changelog"; *Messaging in IPython*, version 4.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple, Optional

from ..errors import MalformedMessage
from .message import JSONObject, Message, dump_json

__all__ = ["NEW_IN_5", "adapt", "major_version"]

#: Message types that protocol 4 does not know by this name, and the version that brought each.
NEW_IN_5 = {
    "execute_input": "5.0",
    "execute_result": "5.0",
    "error": "5.0",
    "inspect_request": "5.0",
    "inspect_reply": "5.0",
    "is_complete_request": "5.0",
    "is_complete_reply": "5.0",
    "comm_info_request": "5.1",
    "comm_info_reply": "5.1",
    "update_display_data": "5.1",
    "interrupt_request": "5.3",
    "interrupt_reply": "5.3",
    "iopub_welcome": "5.5",
    "debug_request": "5.5",
    "debug_reply": "5.5",
    "debug_event": "5.5",
    "create_subshell_request": "5.5",
    "create_subshell_reply": "5.5",
    "delete_subshell_request": "5.5",
    "delete_subshell_reply": "5.5",
    "list_subshell_request": "5.5",
    "list_subshell_reply": "5.5",
}

#: The replies on shell and control, which have a status in version 5.
_REPLIES = frozenset(
    {
        "execute_reply",
        "complete_reply",
        "object_info_reply",
        "inspect_reply",
        "history_reply",
        "connect_reply",
        "kernel_info_reply",
        "shutdown_reply",
    }
)
#: What an adapted message says that it speaks.
_VERSION_4 = [4, 1]
_VERSION_5 = "5.0"


def adapt(message: Message, to_major: int, request: Message | None = None) -> Message:
    """Give a message in the words of another major version of the protocol.

    The message itself is never changed, and is returned as it is when it speaks that version
    already, or one that is neither 4 nor 5.  A type that the other version does not have
    (:data:`NEW_IN_5`) keeps its name and content.

    Args:
        message: as received, or with the complete header of one that was sent.  A header without
            a version speaks 4, which did not have the field.
        to_major: 4 or 5.
        request: what a reply answers, in the words of version 5.  Some replies cannot be told
            exactly without it: in 4 a ``complete_reply`` says which text it replaces, in 5 where.
            Without the request ``cursor_end`` becomes None, for the position of the cursor, and
            ``cursor_start`` relative to it; None for the same position.

    Raises:
        MalformedMessage: what is to be adapted is not what the protocol says.
    """
    header = message.header
    version = header.get("version") if "version" in header else 4
    direction = _DIRECTIONS.get((major_version(version) or 0, to_major))
    return message if direction is None else direction.adapt(message, request)


def major_version(version: Any) -> int | None:
    """Give the major version of "5.3", of [4, 1] or of 5; None when it is no version.

    Args:
        version: of a header or of a kernel_info reply.
    """
    if isinstance(version, list):
        version = version[0] if version else None
    if isinstance(version, str):
        numbers = _version_list(version)
        return numbers[0] if numbers else None
    return version if type(version) is int else None


# -- looking at contents -------------------------------------------------------------------------


def _text(content: JSONObject, name: str, default: str | None = None) -> str:
    value = content.get(name, default)
    if not isinstance(value, str):
        raise MalformedMessage(f"The field {name!r} of a message is missing or no text.")
    return value


def _number(content: JSONObject, name: str, default: int) -> int:
    value = content.get(name, default)
    if type(value) is not int:
        raise MalformedMessage(f"The field {name!r} of a message is no integer.")
    return value


def _object(content: JSONObject, name: str) -> JSONObject:
    """Give a field that may be missing or null for an empty object."""
    value = content.get(name) or {}
    if not isinstance(value, dict):
        raise MalformedMessage(f"The field {name!r} of a message is no object.")
    return value


def _list(content: JSONObject, name: str) -> list[Any]:
    value = content.get(name) or []
    if not isinstance(value, list):
        raise MalformedMessage(f"The field {name!r} of a message is no list.")
    return value


def _without(content: JSONObject, *names: str) -> JSONObject:
    return {name: value for name, value in content.items() if name not in names}


def _renamed(content: JSONObject, old: str, new: str) -> JSONObject:
    """Give the content with a field renamed; one that has the new name already stays."""
    if old not in content or new in content:
        return content
    return {new if name == old else name: value for name, value in content.items()}


def _code_and_cursor(content: JSONObject) -> tuple[str, int]:
    code = _text(content, "code")
    return code, min(max(_number(content, "cursor_pos", len(code)), 0), len(code))


#: The code and the cursor of the request that a reply answers, where known.
_Asked = Optional[tuple[str, int]]


def _asked_at(request: Message | None) -> _Asked:
    if request is None or "code" not in request.content:
        return None
    return _code_and_cursor(request.content)


# -- execute -------------------------------------------------------------------------------------


def _execute_request_to_4(content: JSONObject) -> JSONObject:
    return {"user_variables": [], **content}


def _execute_request_to_5(content: JSONObject) -> JSONObject:
    names = _list(content, "user_variables")
    if not all(isinstance(name, str) for name in names):
        raise MalformedMessage("A name in 'user_variables' is no text.")
    expressions = {**{name: name for name in names}, **_object(content, "user_expressions")}
    return {**_without(content, "user_variables"), "user_expressions": expressions}


def _execute_reply_to_4(content: JSONObject) -> JSONObject:
    results = _each(_bundle_to_4, _object(content, "user_expressions"))
    pages = [_page_to_4(payload) for payload in _list(content, "payload")]
    return {**content, "user_variables": {}, "user_expressions": results, "payload": pages}


def _execute_reply_to_5(content: JSONObject) -> JSONObject:
    results = {**_object(content, "user_variables"), **_object(content, "user_expressions")}
    return {
        **_without(content, "user_variables"),
        "user_expressions": _each(_bundle_to_5, results),
        "payload": [_page_to_5(payload) for payload in _list(content, "payload")],
    }


#: Fields of a pager's payload in 4, and the MIME type of each in 5.
_PAGE_FIELDS = {"text": "text/plain", "html": "text/html"}


def _is_page(payload: Any) -> bool:
    return isinstance(payload, dict) and payload.get("source") == "page"


def _page_to_4(payload: Any) -> Any:
    if not _is_page(payload):
        return payload
    data = _object(payload, "data")
    fields = {field: data[mime] for field, mime in _PAGE_FIELDS.items() if mime in data}
    return {**_without(_renamed(payload, "start", "start_line_number"), "data"), **fields}


def _page_to_5(payload: Any) -> Any:
    if not _is_page(payload):
        return payload
    data = {
        mime: payload[field]
        for field, mime in _PAGE_FIELDS.items()
        if payload.get(field) is not None
    }
    rest = _without(_renamed(payload, "start_line_number", "start"), *_PAGE_FIELDS)
    return {**rest, "data": {**data, **_object(payload, "data")}}


# -- what is displayed ---------------------------------------------------------------------------

_JSON = "application/json"


def _bundle_to_4(content: JSONObject) -> JSONObject:
    """Put JSON data into a text of JSON, which is how version 4 has it."""
    data = _object(content, "data")
    if _JSON not in data:
        return content
    return {**content, "data": {**data, _JSON: dump_json(data[_JSON]).decode()}}


def _bundle_to_5(content: JSONObject) -> JSONObject:
    data = _object(content, "data")
    if not isinstance(data.get(_JSON), str):
        return content
    try:
        value = json.loads(data[_JSON])
    except (ValueError, RecursionError):
        return content  # a kernel that has put a plain text there; it stays what it is
    return {**content, "data": {**data, _JSON: value}}


def _each(convert: Callable[[JSONObject], JSONObject], bundles: JSONObject) -> JSONObject:
    return {
        name: convert(bundle) if isinstance(bundle, dict) else bundle
        for name, bundle in bundles.items()
    }


def _display_data_to_4(content: JSONObject) -> JSONObject:
    return {"source": "display", **_without(_bundle_to_4(content), "transient")}


def _display_data_to_5(content: JSONObject) -> JSONObject:
    return {**_without(_bundle_to_5(content), "source"), "transient": {}}


def _stream_to_4(content: JSONObject) -> JSONObject:
    return _renamed(content, "text", "data")


def _stream_to_5(content: JSONObject) -> JSONObject:
    return _renamed(content, "data", "text")


def _clear_output_to_5(content: JSONObject) -> JSONObject:
    # Version 4.0 could clear streams one by one; since 4.1 that is to be ignored.
    return {"wait": False, **_without(content, "stdout", "stderr", "display", "other")}


# -- completion ----------------------------------------------------------------------------------


def _complete_request_to_4(content: JSONObject) -> JSONObject:
    code, cursor = _code_and_cursor(content)
    start, end = _line_around(code, cursor)
    # An empty text leaves the lexing to the kernel.
    return {"text": "", "line": code[start:end], "block": code, "cursor_pos": cursor - start}


def _complete_request_to_5(content: JSONObject) -> JSONObject:
    code = _text(content, "line", "") or _text(content, "text")
    return {"code": code, "cursor_pos": _number(content, "cursor_pos", len(code))}


def _complete_reply_to_4(content: JSONObject, asked: _Asked) -> JSONObject:
    start, end = content.get("cursor_start"), content.get("cursor_end")
    matched = ""
    if type(start) is int and type(end) is int:
        if asked is not None:
            matched = asked[0][max(start, 0) : max(end, 0)]
        else:
            matches = _list(content, "matches")
            first = matches[0] if matches and isinstance(matches[0], str) else ""
            matched = first[: max(end - start, 0)]
    rest = _without(content, "cursor_start", "cursor_end", "metadata")
    return {**rest, "matched_text": matched}


def _complete_reply_to_5(content: JSONObject, asked: _Asked) -> JSONObject:
    matched = _text(content, "matched_text", "")
    start, end = (-len(matched) or None, None)
    if asked is not None:
        end = asked[1]
        start = max(end - len(matched), 0)
    return {
        "metadata": {},
        **_without(content, "matched_text"),
        "matches": _list(content, "matches"),
        "cursor_start": start,
        "cursor_end": end,
    }


def _line_around(code: str, cursor: int) -> tuple[int, int]:
    """Give where the line that the cursor is in begins and ends."""
    start = code.rfind("\n", 0, cursor) + 1
    end = code.find("\n", cursor)
    return start, len(code) if end < 0 else end


# -- inspection ----------------------------------------------------------------------------------

_DOTTED_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_CLOSING = {")": "(", "]": "[", "}": "{"}
_OPENING = frozenset(_CLOSING.values())

#: Of each group of fields of an object_info_reply, the first that is there is shown.
_SHOWN_OF_OBJECT = (
    ("call_def", "init_definition", "definition"),
    ("call_docstring", "init_docstring", "docstring", "class_docstring"),
    ("source",),
)


def _inspect_request_to_4(content: JSONObject) -> JSONObject:
    name = _name_at(*_code_and_cursor(content))
    return {"oname": name, "detail_level": content.get("detail_level", 0)}


def _inspect_request_to_5(content: JSONObject) -> JSONObject:
    name = _text(content, "oname")
    return {
        "code": name,
        "cursor_pos": len(name),
        "detail_level": content.get("detail_level", 0),
    }


def _inspect_reply_to_4(content: JSONObject, asked: _Asked) -> JSONObject:
    reply: JSONObject = {
        "status": "ok",
        "name": "" if asked is None else _name_at(*asked),
        "found": bool(content.get("found")),
    }
    text = _object(content, "data").get("text/plain")
    if text is not None:
        reply["docstring"] = text
    return reply


def _inspect_reply_to_5(content: JSONObject, _: _Asked) -> JSONObject:
    found = bool(content.get("found"))
    shown = [
        text
        for group in _SHOWN_OF_OBJECT
        for text in [_first_text(content, group)]
        if text and text != "None"  # which is what "no source" is written as
    ] or [_first_text(content, ("string_form", "type_name"))]
    data = {"text/plain": "\n\n".join(shown)} if found else {}
    return {"status": "ok", "found": found, "data": data, "metadata": {}}


def _first_text(content: JSONObject, names: Iterable[str]) -> str:
    values = (content.get(name) for name in names)
    return next((value for value in values if value and isinstance(value, str)), "")


def _name_at(code: str, cursor: int) -> str:
    """Give the name at the cursor; else what is called around it; else the last one in the line.

    Of a dotted name it is what comes up to the part that the cursor is in.  This lexing suits most
    languages and knows nothing of strings and comments; version 5 has left it to the kernel.
    """
    start, end = _line_around(code, cursor)
    for match in _DOTTED_NAME.finditer(code, start, end):
        if match.start() <= cursor <= match.end():
            dot = code.find(".", cursor, match.end())
            return code[match.start() : match.end() if dot < 0 else dot]
    before = code[start:cursor]
    bracket = _open_bracket(code, cursor)
    if bracket is not None:
        before = code[_line_around(code, bracket)[0] : bracket]
    names = _DOTTED_NAME.findall(before)
    return names[-1] if names else ""


def _open_bracket(code: str, cursor: int) -> int | None:
    """Give the position of the innermost round bracket that is open at the cursor."""
    closed: list[str] = []
    for position in range(cursor - 1, -1, -1):
        character = code[position]
        if character in _CLOSING:
            closed.append(_CLOSING[character])
        elif character in _OPENING:
            if closed:
                closed.pop()
            elif character == "(":
                return position
    return None


# -- kernel_info ---------------------------------------------------------------------------------


_NUMBERS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")


def _kernel_info_to_4(content: JSONObject) -> JSONObject:
    language = _object(content, "language_info")
    version = _version_list(_text(content, "protocol_version", ""))
    reply: JSONObject = {
        "status": "ok",
        # Of a kernel of version 5 too: what is read here are messages of version 4.
        "protocol_version": version if version[:1] == [4] else list(_VERSION_4),
        "language": _text(language, "name", ""),
        "language_version": _version_list(_text(language, "version", "")),
    }
    if content.get("implementation") == "ipython":
        version = _version_list(_text(content, "implementation_version", ""))
        # Three numbers and what follows a development version; nothing for a release.
        reply["ipython_version"] = [*version[:3], ""]
    return reply


def _kernel_info_to_5(content: JSONObject) -> JSONObject:
    ipython = _version_text(content.get("ipython_version"))
    language = {
        "name": _text(content, "language", ""),
        "version": _version_text(content.get("language_version")),
        **_object(content, "language_info"),
    }
    rest = _without(content, "ipython_version", "language", "language_version")
    return {
        "implementation": "ipython" if ipython else "",
        "implementation_version": ipython,
        "banner": "",
        "help_links": [],
        "supported_features": [],
        **rest,
        "protocol_version": _version_text(content.get("protocol_version"))
        or _version_text(_VERSION_4),
        "language_info": language,
    }


def _version_list(text: str) -> list[int]:
    """Give the numbers that a version begins with: [3, 13, 0] of "3.13.0rc1"."""
    begin = _NUMBERS.match(text)
    return [int(number) for number in begin.group().split(".")] if begin else []


def _version_text(value: Any) -> str:
    """Give "2.0.0" of [2, 0, 0, ""]; a text stays."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    return ".".join(str(part) for part in parts if isinstance(part, (int, str)) and part != "")


# -- input ---------------------------------------------------------------------------------------


def _input_request_to_4(content: JSONObject) -> JSONObject:
    return _without(content, "password")


def _input_request_to_5(content: JSONObject) -> JSONObject:
    return {"password": False, **content}


def _input_reply_to_4(content: JSONObject) -> JSONObject:
    return _without(content, "status")


def _same(content: JSONObject) -> JSONObject:
    return content


# -- the table -----------------------------------------------------------------------------------

_Convert = Callable[[JSONObject], JSONObject]
_ConvertAnswer = Callable[[JSONObject, _Asked], JSONObject]


class _Row(NamedTuple):
    in_4: str
    in_5: str
    to_4: _Convert
    to_5: _Convert


class _AnswerRow(NamedTuple):
    """A reply that has another meaning for another request."""

    in_4: str
    in_5: str
    to_4: _ConvertAnswer
    to_5: _ConvertAnswer


_ROWS = (
    _Row("execute_request", "execute_request", _execute_request_to_4, _execute_request_to_5),
    _Row("execute_reply", "execute_reply", _execute_reply_to_4, _execute_reply_to_5),
    _Row("complete_request", "complete_request", _complete_request_to_4, _complete_request_to_5),
    _Row("object_info_request", "inspect_request", _inspect_request_to_4, _inspect_request_to_5),
    _Row("kernel_info_reply", "kernel_info_reply", _kernel_info_to_4, _kernel_info_to_5),
    _Row("pyin", "execute_input", _same, _same),
    _Row("pyout", "execute_result", _bundle_to_4, _bundle_to_5),
    _Row("pyerr", "error", _same, _same),
    _Row("stream", "stream", _stream_to_4, _stream_to_5),
    _Row("display_data", "display_data", _display_data_to_4, _display_data_to_5),
    _Row("clear_output", "clear_output", _same, _clear_output_to_5),
    _Row("input_request", "input_request", _input_request_to_4, _input_request_to_5),
    _Row("input_reply", "input_reply", _input_reply_to_4, _same),
)
_ANSWER_ROWS = (
    _AnswerRow("complete_reply", "complete_reply", _complete_reply_to_4, _complete_reply_to_5),
    _AnswerRow("object_info_reply", "inspect_reply", _inspect_reply_to_4, _inspect_reply_to_5),
)
_TYPES = [(row.in_4, row.in_5) for row in (*_ROWS, *_ANSWER_ROWS)]


class _Direction(NamedTuple):
    """How to get from one version to the other; message types are those of the first."""

    types: dict[str, str]
    contents: dict[str, _Convert]
    answers: dict[str, _ConvertAnswer]
    header: _Convert
    #: What all replies have in common.
    reply: _Convert

    def adapt(self, message: Message, request: Message | None) -> Message:
        return Message(
            self._header(message.header),
            self._header(message.parent_header) if message.parent_header else {},
            message._metadata,
            self._content(message, request),
            message.buffers,
            message.idents,
            message.channel,
        )

    def _header(self, header: JSONObject) -> JSONObject:
        header = self.header(header)
        msg_type = header.get("msg_type")
        if isinstance(msg_type, str) and msg_type in self.types:
            header["msg_type"] = self.types[msg_type]
        return header

    def _content(self, message: Message, request: Message | None) -> JSONObject | bytes:
        msg_type = message.header.get("msg_type")
        if not isinstance(msg_type, str):
            raise MalformedMessage("The header of a message has no msg_type.")
        if msg_type in _REPLIES:
            content = self.reply(message.content)
            if content.get("status", "ok") != "ok":
                return content
            if msg_type in self.answers:
                return self.answers[msg_type](content, _asked_at(request))
        elif msg_type in self.contents:
            content = message.content
        else:
            return message._content  # not even decoded
        return self.contents.get(msg_type, _same)(content)


def _header_to_4(header: JSONObject) -> JSONObject:
    return _without(header, "version", "subshell_id")


def _header_to_5(header: JSONObject) -> JSONObject:
    # A parent header is as its sender has sent it, and that was maybe in version 5.
    spoken = header.get("version")
    return {**header, "version": spoken if major_version(spoken) == 5 else _VERSION_5}


def _reply_to_5(content: JSONObject) -> JSONObject:
    # In 4 only some replies have a status, and its text calls "abort" what 5 calls "aborted".
    status = content.get("status", "ok")
    return {**content, "status": "aborted" if status == "abort" else status}


_DIRECTIONS = {
    (5, 4): _Direction(
        {in_5: in_4 for in_4, in_5 in _TYPES},
        {row.in_5: row.to_4 for row in _ROWS},
        {row.in_5: row.to_4 for row in _ANSWER_ROWS},
        _header_to_4,
        _same,
    ),
    (4, 5): _Direction(
        dict(_TYPES),
        {row.in_4: row.to_5 for row in _ROWS},
        {row.in_4: row.to_5 for row in _ANSWER_ROWS},
        _header_to_5,
        _reply_to_5,
    ),
}
