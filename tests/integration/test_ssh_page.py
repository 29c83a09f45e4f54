"""The README of the provider ``ssh`` describes the configuration that there is; its code runs where there is a host."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from kernel_mgmt_ssh.config import SshKernel, read_config
from markdown_page import read_blocks

PAGE = Path(__file__).parents[2] / "packages" / "provider-ssh" / "README.md"


def block(language: str) -> str:
    """Give the first block of a language."""
    return next(block.text for block in read_blocks(PAGE) if block.language == language)


def test_each_key_is_described() -> None:
    """The table has each key that a kernel can have, and no other."""
    rows = PAGE.read_text().partition("| key |")[2].partition("\n\n")[0].splitlines()[2:]
    described = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(described) == sorted(set(SshKernel.__dataclass_fields__) - {"name"})


def test_the_example_is_right(tmp_path: Path) -> None:
    """The example of a configuration is read without a complaint, and means what it says."""
    file = tmp_path / "ssh_kernels.toml"
    file.write_text(block("toml"))
    first, second = read_config([file])
    assert isinstance(first, SshKernel)
    assert first.argv[0] == "~/env/bin/python"
    assert first.lease == SshKernel("x", "y").lease == 86400
    assert isinstance(second, SshKernel)
    assert (second.kernelspec, second.transport, second.lease) == ("ir", "tcp", 0)


def test_the_python_is_python() -> None:
    """Code that needs a host has no errors that can be seen without one."""
    sources = [block.text for block in read_blocks(PAGE) if block.language == "py"]
    assert len(sources) == 2
    for source in sources:
        compile(source, PAGE, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
