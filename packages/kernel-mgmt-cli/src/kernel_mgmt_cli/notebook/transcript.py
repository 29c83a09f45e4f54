"""Which messages belong to which cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kernel_mgmt import Message
from kernel_mgmt.errors import ProtocolError

from ..happenings import is_gap, sentence_of
from .cells import Cell, CodeCell, Note
from .values import bundle_of, count_of, metadata_of, plain, text_of

__all__ = ["Transcript"]

#: What is taken from a kernel's ``language_info``, which must be text.
_LANGUAGE_TEXTS = ("name", "version", "mimetype", "file_extension", "pygments_lexer")


class Transcript:
    """Takes the messages of a kernel in their order, and gives them as a notebook.

    There is one code cell for each ``execute_input``; requests that are silent have none, and what they
    put out is left out.  What a nanny tells in between, and what its journal could not keep, stands
    in markdown cells.

    Args:
        type_id: the kernel's type, for the notebook's kernelspec; may be empty.
    """

    def __init__(self, type_id: str = "") -> None:
        self._type_name = type_id.rpartition("/")[2]
        self._cells: list[Cell] = []
        #: The cells by the requests that ran them, and the latest one.
        self._by_request: dict[str, CodeCell] = {}
        self._latest: CodeCell | None = None
        #: The outputs that can be updated, by their display_id.
        self._displays: dict[str, list[dict[str, Any]]] = {}
        self._language: dict[str, Any] = {}
        #: Whether anything is missing, and the requests whose beginning is not: since the latest gap.
        self._has_gap = False
        self._begun: set[str] = set()
        self._on_iopub: Mapping[str, Callable[[Message], None]] = {
            "status": self._on_status,
            "execute_input": self._on_input,
            "stream": self._on_stream,
            "display_data": self._on_data,
            "execute_result": self._on_data,
            "update_display_data": self._on_update,
            "error": self._on_error,
            "clear_output": self._on_clear,
        }

    def add(self, message: Message) -> None:
        """Take the next message of any channel; one that cannot be understood is left out."""
        try:
            if message.channel == "iopub":
                take = self._on_iopub.get(message.msg_type)
                if take is not None:
                    take(message)
            elif message.channel == "nanny":
                self._on_nanny(message)
            elif message.msg_type == "kernel_info_reply":
                self._on_kernel_info(message)
        except ProtocolError:
            pass  # its content is no JSON object

    def to_dict(self) -> dict[str, Any]:
        """Give the notebook as JSON, of format 4.5."""
        return {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": self._metadata(),
            "cells": [
                cell.to_dict(f"cell-{number}") for number, cell in enumerate(self._cells, start=1)
            ],
        }

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        language = self._language
        if self._type_name:
            words = [str(language.get(word, "")) for word in ("name", "version")]
            metadata["kernelspec"] = {
                "name": self._type_name,
                "display_name": " ".join(filter(None, words)) or self._type_name,
                **({"language": language["name"]} if language else {}),
            }
        if language:
            metadata["language_info"] = language
        return metadata

    # -- where a message belongs -----------------------------------------------------------

    def _cell_of(self, message: Message) -> CodeCell | None:
        """Give the cell that an output belongs to; None for what no cell has put out."""
        parent = message.parent_header
        cell = self._by_request.get(message.parent_id)
        if cell is not None:
            return cell
        if not parent:  # a thread of the kernel that does not know who has begun it
            return self._latest
        if (
            self._has_gap
            and message.parent_id not in self._begun
            and parent.get("msg_type") == "execute_request"
        ):
            return self._add_code(message.parent_id, CodeCell("", None))  # its code is missing
        return None

    def _add_code(self, request: str, cell: CodeCell) -> CodeCell:
        self._cells.append(cell)
        self._by_request[request] = self._latest = cell
        return cell

    # -- messages --------------------------------------------------------------------------

    def _on_status(self, message: Message) -> None:
        if message.content.get("execution_state") == "busy":
            self._begun.add(message.parent_id)

    def _on_input(self, message: Message) -> None:
        content = message.content
        count = count_of(content.get("execution_count"))
        self._add_code(message.parent_id, CodeCell(text_of(content.get("code")), count))

    def _on_stream(self, message: Message) -> None:
        if cell := self._cell_of(message):
            name = message.content.get("name")
            text = text_of(message.content.get("text"))
            cell.add_stream(name if isinstance(name, str) else "stdout", text)

    def _on_data(self, message: Message) -> None:
        cell = self._cell_of(message)
        if cell is None:
            return
        content = message.content
        output: dict[str, Any] = {"output_type": message.msg_type, **_shown(content)}
        if message.msg_type == "execute_result":
            count = output["execution_count"] = count_of(content.get("execution_count"))
            if cell.execution_count is None:
                cell.execution_count = count
        cell.add(output)
        if display_id := _display_id(content):
            self._displays.setdefault(display_id, []).append(output)

    def _on_update(self, message: Message) -> None:
        for output in self._displays.get(_display_id(message.content), ()):
            output.update(_shown(message.content))

    def _on_error(self, message: Message) -> None:
        if cell := self._cell_of(message):
            content = message.content
            traceback = content.get("traceback")
            lines = traceback if isinstance(traceback, list) else [traceback or ""]
            cell.add(
                {
                    "output_type": "error",
                    "ename": text_of(content.get("ename")),
                    "evalue": text_of(content.get("evalue")),
                    "traceback": [text_of(line) for line in lines],
                }
            )

    def _on_clear(self, message: Message) -> None:
        cell = self._by_request.get(message.parent_id)
        if cell is not None:
            cell.clear(wait=message.content.get("wait") is True)

    def _on_nanny(self, message: Message) -> None:
        if is_gap(message):
            self._has_gap = True
            self._begun.clear()
        elif message.msg_type in ("died", "started"):
            self._latest = None  # what another kernel says is not of its cells
        sentence = sentence_of(message)
        last = self._cells[-1] if self._cells else None
        if sentence and isinstance(last, Note):
            last.add(sentence)
        elif sentence:
            self._cells.append(Note(sentence))

    def _on_kernel_info(self, message: Message) -> None:
        info = message.content.get("language_info")
        if not isinstance(info, dict) or not isinstance(info.get("name"), str):
            return
        self._language = {
            name: info[name] for name in _LANGUAGE_TEXTS if type(info.get(name)) is str
        }
        mode = info.get("codemirror_mode")
        if isinstance(mode, (str, dict)):
            self._language["codemirror_mode"] = plain(mode)


def _shown(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data": bundle_of(content.get("data")),
        "metadata": metadata_of(content.get("metadata")),
    }


def _display_id(content: Mapping[str, Any]) -> str:
    transient = content.get("transient")
    found = transient.get("display_id") if isinstance(transient, dict) else None
    return found if isinstance(found, str) else ""
