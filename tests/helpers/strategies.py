"""Hypothesis strategies for JSON as kernels, and those who would break a client, send it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

__all__ = ["json_frames", "json_objects", "json_values", "quickly"]

#: As many examples as find what there is to find; a busy machine fails no deadline.
quickly = settings(max_examples=75, deadline=None)

#: Any text that JSON can hold, lone surrogates included: kernels do send those.
_texts = st.text(st.characters(exclude_categories=()), max_size=20)

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    # Beyond 64 bits orjson reads a float.
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    _texts,
)

#: Any JSON value; NaN and Infinity, which are no JSON, are not among them.
json_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)

#: Any JSON object.
json_objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(_texts, json_values, max_size=4)


def _nested(depth: int, brackets: tuple[bytes, bytes]) -> bytes:
    opening, closing = brackets
    return opening * depth + b"0" + closing * depth


#: Frames that are JSON, nearly JSON, or anything else.
json_frames: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps(value).encode("utf-16")),
    json_values.map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    st.builds(
        _nested,
        st.sampled_from([1, 100, 500, 900, 990, 1000, 1020, 1100, 20_000]),
        st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]),
    ),
    st.sampled_from(
        [
            b"",
            b" ",
            b"{",
            b"{}{}",
            b"null",
            b"NaN",
            b'{"a": -Infinity}',
            b'{"a": 1e999}',
            b'{"a": ' + b"9" * 400 + b"}",
            b'{"a": ' + b"9" * 5000 + b"}",
            b'{"a": 1, "a": [2]}',
            b'{"a": "\\ud800"}',
            b'{"a": "\xed\xa0\x80"}',
            b"\xef\xbb\xbf{}",
            b'{"a": "\x00"}',
            b'{"msg_id": 5, "msg_type": "x"}',
        ]
    ),
)
