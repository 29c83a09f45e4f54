"""``kernel-mgmt list``."""

from __future__ import annotations

import json
import os

import pytest
from command_line import InTerminal, Run, Start, WriteSpec


def test_kernel_types_are_a_table(run: Run, echo: str) -> None:
    """Each kernel type is a line with its id first."""
    result = run("list")
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["id", "language", "display", "name"]
    assert ["spec/echo", "echo", "echo"] in [row.split() for row in rows]
    assert any(row.startswith("native/python3 ") for row in rows)
    assert (result.returncode, result.stderr) == (0, "")


def test_json_has_all_that_is_known(run: Run, write_spec: WriteSpec) -> None:
    """With --json a program gets every field of a kernel type."""
    directory = write_spec(
        "moon",
        ["moon", "{connection_file}"],
        display_name="Moon",
        language="Lua",
        metadata={"a": 1},
    )
    result = run("list", "--json")
    kernels = {kernel["id"]: kernel for kernel in json.loads(result.stdout)}
    assert kernels["spec/moon"] == {
        "id": "spec/moon",
        "name": "moon",
        "display_name": "Moon",
        "language": "lua",
        "provider": "spec",
        "interrupt_mode": "signal",
        "resource_dir": str(directory),
        "metadata": {"a": 1},
    }
    assert (result.returncode, result.stderr) == (0, "")


def test_markup_in_a_name_is_text(run: Run, gated: str) -> None:
    """What looks like rich's markup in a display name is shown as it is."""
    assert "Gated [bold]echo[/bold]" in run("list").stdout


def test_a_name_cannot_command_the_terminal(run: Run, write_spec: WriteSpec) -> None:
    """Line breaks and escape sequences in a display name do nothing."""
    write_spec("evil", ["evil"], display_name="one\ntwo\x1b[2J", language="lua")
    assert (
        "spec/evil          lua        one two\N{REPLACEMENT CHARACTER}[2J\n" in run("list").stdout
    )


@pytest.mark.parametrize("columns", [30, 100])
def test_no_line_is_broken(in_terminal: InTerminal, echo: str, columns: int) -> None:
    """In a terminal of any width an id can be copied from one line."""
    with in_terminal("list", columns=columns) as terminal:
        terminal.expect(r"\x1b\[1mid +language +display name\x1b\[0m\r\n")
        terminal.expect(r"native/python3 +python +Python 3.\d+ \(this environment\)\r\n")
        terminal.expect(rf"{echo} +echo +echo\r\n")
        assert terminal.wait() == 0


def test_nobody_who_reads_is_no_error(start: Start) -> None:
    """When the reader has gone, the command ends without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("list", stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=30)[1] == b""


def test_a_bad_kernelspec_costs_itself_only(run: Run, echo: str, write_spec: WriteSpec) -> None:
    """The others are listed, with a warning that says where to look."""
    write_spec("bad", "no list")
    result = run("list")
    assert echo in result.stdout
    assert "spec/bad" not in result.stdout
    assert result.stderr == (
        "warning: something may be missing, because of problems with spec; "
        "'kernel-mgmt providers' tells what they are.\n"
    )
    assert result.returncode == 0
