"""``export``: a notebook of what ran in a kernel that runs on, or ran on until its nanny was killed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import nbformat
import pytest
from command_line import Kept, Ps, Run, Start
from kernel_mgmt import KernelRecord
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.records import read_record, record_path, write_record
from kernel_mgmt_cli.detached.notebook_file import NotebookFile
from kernel_mgmt_cli.errors import CommandError
from waiting import eventually_sync

EMPTY: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


def read(path: Path) -> list[tuple[str, list[str]]]:
    """Read a notebook, which must be good; give the code, and the texts that it put out."""
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return [
        (cell.source, [output.get("text", "") for output in cell.get("outputs", ())])
        for cell in notebook.cells
    ]


def kill_nanny(ps: Ps, records: Path) -> KernelRecord:
    """Kill the nanny of the only kernel; give the record that was there until then."""
    (known,) = ps()
    record = read_record(record_path(records, known["id"]))
    os.kill(known["nanny_pid"], signal.SIGKILL)
    eventually_sync(lambda: not record_path(records, known["id"]).exists(), 30)
    return record


# -- kernels -----------------------------------------------------------------------------------


def test_a_living_kernel(run: Run, start: Start, kept: Kept, records: Path, tmp_path: Path) -> None:
    """All that ran is in it, also what runs still; it is exported at once, and is not read by that."""
    kernel_id = kept("--name", "train")
    record = record_path(records, kernel_id)
    run("run", "--on", "train", "-c", "print one\nstderr \N{SNOWMAN}")
    running = start("run", "--on", "train", "-c", "print three\nhang")
    assert running.stdout is not None
    assert running.stdout.readline() == b"three\n"
    path = tmp_path / "out.ipynb"
    before = last_read(record)
    result = run("export", "train", "-o", str(path))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert read(path) == [
        ("print one\nstderr \N{SNOWMAN}", ["one\n", "\N{SNOWMAN}\n"]),
        ("print three\nhang", ["three\n"]),
    ]
    metadata = nbformat.read(path, nbformat.NO_CONVERT).metadata
    assert metadata.kernelspec.name == "echo"
    assert metadata.language_info.name == "echo"
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    result = run("export", "train", "-o", "-", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.stdout == path.read_text()  # for programs, whatever a terminal's encoding is
    assert last_read(record) == before
    process = start("export", "train", "-o", "-")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 141  # for a program that has gone


def last_read(record: Path) -> int:
    """Ask the nanny of a kernel what somebody has read of its journal."""

    async def ask() -> int:
        info = await RemoteKernelManager(read_record(record).connection_info).info()
        return int(info["journal"]["read"])

    return asyncio.run(ask())


def test_a_kernel_whose_nanny_was_killed(run: Run, kept: Kept, ps: Ps, records: Path) -> None:
    """What is left is found by its id, or with a record by name; what is damaged or gone is told of."""
    kernel_id = kept("--name", "train")
    run("run", "--on", "train", "-c", "print one\nprint two\nprint three")
    record = kill_nanny(ps, records)
    result = run("export", kernel_id[:8], "-o", "-")
    assert (result.returncode, result.stderr) == (0, "")
    (cell,) = nbformat.reads(result.stdout, nbformat.NO_CONVERT).cells
    assert cell.outputs[0].text == "one\ntwo\nthree\n"
    (segment,) = (records / f"journal-{kernel_id}").glob("*.journal")
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"text":"two\\n"', b'"text":"2wo\\n"'))
    assert segment.read_bytes() != data
    write_record(records, record)
    result = run("export", "train", "-o", "-")
    assert result.returncode == 0
    assert re.fullmatch("warning: Message \\d+ .* missing: the journal .*\n", result.stderr)
    notebook = nbformat.reads(result.stdout, nbformat.NO_CONVERT)
    assert notebook.metadata.kernelspec.name == "echo"
    assert [cell.cell_type for cell in notebook.cells] == ["code", "markdown"]
    assert notebook.cells[0].outputs[0].text == "one\nthree\n"
    shutil.rmtree(segment.parent)
    result = run("export", "train", "-o", "-")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr == (
        f"error: the kernel {kernel_id} (train) is dead, and has left no journal.\n"
    )


def test_a_kernel_without_a_journal(run: Run, kept: Kept) -> None:
    """That nothing is kept is told in a sentence, also who wants to attach and see it."""
    kernel_id = kept("--no-journal", "--name", "train")
    result = run("export", "train", "-o", "-")
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr == (
        f"error: nothing has kept what the kernel {kernel_id} (train) has said: it has no nanny "
        "with a journal.\n"
    )
    result = run("attach", kernel_id, "--all")
    assert result.stdout.startswith("id ")
    assert result.stderr.startswith("warning: nothing is kept of what this kernel says")


def test_what_is_not_there(run: Run, records: Path) -> None:
    """A kernel that nobody knows is told of as everywhere."""
    result = run("export", "nobody", "-o", "-")
    assert (result.returncode, result.stdout) == (125, "")
    assert "'nobody'" in result.stderr


# -- files -----------------------------------------------------------------------------------------


def test_a_file_that_is_there(tmp_path: Path) -> None:
    """It stays as it is, whenever it came; with force it is replaced, and its rights are kept."""
    path = tmp_path / "out.ipynb"
    early = NotebookFile(str(path), replace=False)
    path.write_text("mine")
    path.chmod(0o640)
    with pytest.raises(CommandError, match="--force"):
        NotebookFile(str(path), replace=False)
    with pytest.raises(CommandError, match="there already"):
        early.write(EMPTY)
    assert path.read_text() == "mine"
    link = tmp_path / "link.ipynb"
    link.symlink_to(path)
    NotebookFile(str(link), replace=True).write(EMPTY)
    assert read(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_files_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is a sentence, and nothing is left."""
    with pytest.raises(CommandError, match="is no file"):
        NotebookFile(str(tmp_path), replace=True)
    with pytest.raises(CommandError, match="No such file"):
        NotebookFile(str(tmp_path / "no" / "out.ipynb"), replace=False).write(EMPTY)

    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "out.ipynb"
    NotebookFile(str(path), replace=False).write(EMPTY)
    assert read(path) == []
    assert [*tmp_path.iterdir()] == [path]


def test_a_lone_surrogate(tmp_path: Path) -> None:
    """What kernels send and UTF-8 does not have is written as JSON writes it."""
    path = tmp_path / "out.ipynb"
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "\ud800"}
    NotebookFile(str(path), replace=False).write({**EMPTY, "cells": [cell]})
    assert read(path) == [("\ud800", [])]
