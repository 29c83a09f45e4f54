"""The code of a Markdown page, and what the page says about its output.

A page is run as a reader would: its ``python`` blocks in order in one fresh interpreter, as in a
notebook, where ``await`` may stand at the top level; one that begins with ``# NAME.py`` is saved
as that file.  A ``text`` block is the output of the block before it.  In a ``console`` block each line
after ``$`` is a command, and the lines below are what it shows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "read_blocks", "read_commands", "run_python", "same_output"]

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_FILE_NAME = re.compile(r"# (\w+\.py)\n")

# Gets the code of all blocks as JSON on standard input, gives the output of each as JSON.
_INTERPRETER = """
import ast, asyncio, contextlib, inspect, io, json, sys
sys.path.insert(0, "")
outputs, namespace = [], {"__name__": "__main__"}
with asyncio.Runner() as runner:
    for number, source in json.load(sys.stdin):
        code = compile(source, f"block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            if code.co_flags & inspect.CO_COROUTINE:
                async def run():
                    await eval(code, namespace)
                runner.run(run())
            else:
                exec(code, namespace)
        outputs.append(output.getvalue())
print(json.dumps(outputs))
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


def read_blocks(page: Path) -> list[Block]:
    """Give all fenced blocks of a page."""
    return [Block(*found) for found in _FENCE.findall(page.read_text())]


def read_commands(block: Block) -> list[tuple[str, str]]:
    """Give the commands of a console block, each with what it shows."""
    commands = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        commands.append((command, output))
    return commands


def run_python(blocks: list[Block], directory: Path) -> list[tuple[str, str]]:
    """Run the Python of a page in a directory.

    Returns:
        For each text block what the block before it has printed, and what the page says.

    Raises:
        AssertionError: a block failed.
    """
    sources = []
    for number, block in enumerate(blocks):
        if block.language != "python":
            continue
        if name := _FILE_NAME.match(block.text):
            (directory / name[1]).write_text(block.text)
        else:
            sources.append((number, block.text))
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _INTERPRETER],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        timeout=100,
        cwd=directory,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr, ended.stderr
    outputs = dict(zip([number for number, _ in sources], json.loads(ended.stdout), strict=True))
    return [
        (outputs.get(number, ""), following.text)
        for number, following in enumerate(blocks[1:])
        if following.language == "text" and blocks[number].language == "python"
    ]


def same_output(actual: str, written: str) -> bool:
    """Tell whether an output is what a page says, but for widths of columns, versions and ids."""
    return _normalized(actual) == _normalized(written)


def _normalized(text: str) -> str:
    text = _UUID.sub("ID", text)
    return re.sub(r"\b3\.1\d\b", "3.11", re.sub(r"[ ]+$|[ ]{2,}", " ", text, flags=re.MULTILINE))
