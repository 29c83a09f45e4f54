"""The cells of a notebook while messages add to them."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Cell", "CodeCell", "Note"]

#: An output, or a cell, as the format of notebooks has it.
JSONDict = dict[str, Any]


class Cell(Protocol):
    """A part of a notebook."""

    def to_dict(self, cell_id: str) -> JSONDict:
        """Give its JSON form."""


class CodeCell:
    """Code that ran, and what it put out.

    Args:
        source: the code.
        execution_count: the kernel's number for it, if known.
    """

    def __init__(self, source: str, execution_count: int | None) -> None:
        self.execution_count = execution_count
        self._source = source
        self._outputs: list[JSONDict] = []
        #: Whether the next output takes the place of all that are there.
        self._clear_later = False

    def add(self, output: JSONDict) -> None:
        """Take an output."""
        self._clear_if_due()
        self._outputs.append(output)

    def add_stream(self, name: str, text: str) -> None:
        """Take text, which goes on with the last output where that is of the same stream."""
        self._clear_if_due()
        last = self._outputs[-1] if self._outputs else {}
        if last.get("output_type") == "stream" and last["name"] == name:
            last["text"].append(text)
        else:
            self._outputs.append({"output_type": "stream", "name": name, "text": [text]})

    def clear(self, *, wait: bool) -> None:
        """Remove all outputs, now or as soon as there is another one."""
        self._clear_later = True
        if not wait:
            self._clear_if_due()

    def _clear_if_due(self) -> None:
        if self._clear_later:
            self._outputs.clear()
            self._clear_later = False

    def to_dict(self, cell_id: str) -> JSONDict:
        """Give its JSON form."""
        return {
            "cell_type": "code",
            "id": cell_id,
            "metadata": {},
            "execution_count": self.execution_count,
            "source": self._source,
            "outputs": [_joined(output) for output in self._outputs],
        }


def _joined(output: JSONDict) -> JSONDict:
    """Give an output with its text in one piece."""
    if output["output_type"] != "stream":
        return output
    return {**output, "text": "".join(output["text"])}


class Note:
    """Sentences between the code."""

    def __init__(self, sentence: str) -> None:
        self._sentences = [sentence]

    def add(self, sentence: str) -> None:
        """Add a paragraph."""
        self._sentences.append(sentence)

    def to_dict(self, cell_id: str) -> JSONDict:
        """Give its JSON form."""
        text = "\n\n".join(f"*{sentence}*" for sentence in self._sentences)
        return {"cell_type": "markdown", "id": cell_id, "metadata": {}, "source": text}
