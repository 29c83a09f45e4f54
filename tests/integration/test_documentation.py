"""What the documentation says is true: its code runs, and shows what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import kernel_mgmt
import pytest
from kernel_mgmt import hookspecs
from markdown_page import read_blocks, read_commands, run_python, same_output

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("packages/*/*.md"),
        *ROOT.glob("bench/*.md"),
    ]
)
PROVIDER_PAGE = ROOT / "docs" / "writing-a-provider.md"


def page_id(page: Path) -> str:
    """Give a page's path as the name of its test."""
    return page.relative_to(ROOT).as_posix()


def with_language(language: str) -> list[Path]:
    """Give the pages that have a block in a language."""
    return [page for page in PAGES if any(b.language == language for b in read_blocks(page))]


@pytest.mark.parametrize("page", with_language("python"), ids=page_id)
def test_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """The Python of a page runs from top to bottom, and prints what the page says."""
    for actual, written in run_python(read_blocks(page), tmp_path):
        assert same_output(actual, written), f"it prints\n{actual}\nand the page says\n{written}"


@pytest.mark.parametrize("page", with_language("console"), ids=page_id)
def test_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """The commands of a page show what the page says."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    consoles = [block for block in read_blocks(page) if block.language == "console"]
    for command, written in [pair for block in consoles for pair in read_commands(block)]:
        ended = subprocess.run(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert same_output(ended.stdout, written), f"$ {command}\n{ended.stdout}"


def test_first_command_of_the_readme(tmp_path: Path) -> None:
    """The README's first command works in a fresh virtual environment, from built wheels."""
    command = next(b.text for b in read_blocks(ROOT / "README.md") if b.language == "sh")
    venv.create(tmp_path / "venv", with_pip=True)
    ended = run_in(tmp_path / "venv", command, ROOT)
    assert ended.returncode == 0, ended.stdout
    assert "Hello from Python" in ended.stdout
    assert ended.stdout.endswith("5 x 5 = 25\n55\n")


def test_second_command_of_the_readme() -> None:
    """The README's second command is what continuous integration runs."""
    command = [b.text for b in read_blocks(ROOT / "README.md") if b.language == "sh"][1]
    assert (ROOT / ".ci" / "run").read_text().endswith(f"\n{command}")


def test_provider_of_the_page_can_be_installed(tmp_path: Path) -> None:
    """The provider of docs/writing-a-provider.md is found when it is installed."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    blocks = read_blocks(PROVIDER_PAGE)
    (source / "pyproject.toml").write_text(next(b.text for b in blocks if b.language == "toml"))
    module = next(b.text for b in blocks if b.text.startswith("# kernel_mgmt_forgetful.py"))
    (source / "kernel_mgmt_forgetful.py").write_text(module)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, source]
    subprocess.run(install, check=True, capture_output=True, timeout=100)
    ended = subprocess.run(
        [sys.executable, "-m", "kernel_mgmt_cli", "run", "forgetful/python3", "-c", "print(6 * 7)"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("42\n", "")


def test_every_hook_is_documented() -> None:
    """Each hook has a section in docs/writing-a-provider.md, and no other has."""
    headings = re.findall(r"^### `(kernel_mgmt_\w+)\(", PROVIDER_PAGE.read_text(), re.MULTILINE)
    assert headings == [name for name in vars(hookspecs) if name.startswith("kernel_mgmt_")]


def test_every_public_name_is_documented() -> None:
    """Each public name is mentioned in the documentation."""
    text = "".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    missing = [n for n in kernel_mgmt.__all__ if n[0] != "_" and not re.search(rf"\b{n}\b", text)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link from a page to a file of the repository has that file."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


def run_in(environment: Path, command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell command in an activated virtual environment."""
    variables = {**os.environ, "VIRTUAL_ENV": str(environment)}
    variables["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"
    variables.pop("PYTHONPATH", None)
    return subprocess.run(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env=variables,
        timeout=100,
        check=False,
    )
