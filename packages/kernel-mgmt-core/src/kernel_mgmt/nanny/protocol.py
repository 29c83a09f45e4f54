"""What managers and nannies say to each other, without sockets: names, versions, checked contents.

The messages are signed as all messages of Jupyter are.  A request ``NAME_request`` on
``nanny_control`` has a reply ``NAME_reply`` whose content has a ``status``; events come on
``nanny_events`` with their name as topic and type.  ``docs/nanny.md`` is the whole description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ..errors import NannyError, shown

__all__ = [
    "EVENTS",
    "PROTOCOL_VERSION",
    "REQUESTS",
    "BadRequest",
    "check_content",
    "count_in",
    "is_compatible",
    "text_in",
]

#: Major and minor version. A minor one adds requests, fields and events; nothing else changes.
PROTOCOL_VERSION = "1.1"

_ANY = object()

#: The longest time that can be asked for, in seconds: some thirty years.
_LONGEST = 1e9


class BadRequest(NannyError):
    """A request's content cannot be used."""


#: The requests, and the fields of each one's content with their defaults; those without one are
#: required.
REQUESTS: Mapping[str, Mapping[str, Any]] = {
    "nanny_info": {},
    "is_alive": {},
    "wait": {"kernel": None},
    "wait_ready": {"after": None},
    "signal": {"signum": _ANY},
    "interrupt": {},
    "terminate": {},
    "kill": {},
    "restart": {"timeout": 0.0},
    "log_tail": {"lines": 50},
    "lease": {"seconds": _ANY},
    "stop": {"timeout": 5.0},
}

#: The events.
EVENTS = ("subscribed", "started", "ready", "died", "restarting", "failed", "output", "stopping")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_seconds(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return 0 <= value <= _LONGEST


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "kernel": (lambda value: value is None or _is_count(value), "the number of a kernel or null"),
    "after": (lambda value: value is None or _is_count(value), "the number of a kernel or null"),
    "signum": (lambda value: _is_count(value) and value > 0, "the number of a signal"),
    "lines": (_is_count, "a number of lines"),
    "timeout": (_is_seconds, "a number of seconds"),
    "seconds": (
        lambda value: value is None or (_is_seconds(value) and value > 0),
        "a positive number of seconds or null",
    ),
}


def check_content(name: str, content: object) -> dict[str, Any]:
    """Give the fields of a request's content; those that are not known are left out.

    Args:
        name: one of :data:`REQUESTS`.
        content: what the message holds.

    Raises:
        BadRequest: a field is missing or has a value that cannot be used.
    """
    if not isinstance(content, dict):
        raise BadRequest(f"The content of {name}_request is not an object.")
    fields = {}
    for field, default in REQUESTS[name].items():
        value = content.get(field, default)
        accepts, what = _CHECKS[field]
        if value is _ANY or not accepts(value):
            given = "missing" if value is _ANY else shown(value)
            raise BadRequest(f"{field} of {name}_request is {given}; it must be {what}.")
        fields[field] = value
    return fields


def count_in(content: Mapping[str, Any], field: str) -> int:
    """Give a number of what a nanny has said; 0 when there is none, as an older one may leave it."""
    value = content.get(field)
    return value if type(value) is int else 0


def text_in(content: Mapping[str, Any], field: str) -> str:
    """Give a text of what a nanny has said; empty when there is none."""
    value = content.get(field)
    return value if isinstance(value, str) else ""


def is_compatible(version: object) -> bool:
    """Tell whether a peer that reports a protocol version can be talked to: same major version."""
    return (
        isinstance(version, str) and version.partition(".")[0] == PROTOCOL_VERSION.partition(".")[0]
    )
