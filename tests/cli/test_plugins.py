"""Subcommands of other distributions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import Distribution, Run

README = Path(__file__).parents[2] / "packages" / "kernel-mgmt-cli" / "README.md"

HOOK = """
from kernel_mgmt_cli.plugins import hookimpl

@hookimpl
def kernel_mgmt_cli_commands(app):
"""

# What typer refuses only when it builds the command.
TWO_ANNOTATIONS = f"""
import typer
from typing import Annotated
{HOOK}
    def moon(x: Annotated[int, typer.Option(), typer.Argument()]): pass
    app.command()(moon)
"""


def test_the_plugin_of_the_readme_adds_a_command(run: Run, distribution: Distribution) -> None:
    """What the README shows is a whole plugin, and adds its command."""
    text = README.read_text()
    [code] = re.findall(r"```python\n# kernel_mgmt_moon.py\n(.*?)```", text, re.DOTALL)
    assert 'moon = "kernel_mgmt_moon"' in text
    distribution("kernel-mgmt-moon", "kernel_mgmt_cli", "moon", code)
    assert "  moonrise " in run("--help").stdout
    result = run("moonrise", "--day", "tomorrow")
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout == "The moon rises at 21:07 tomorrow.\n"


def test_a_group_of_commands_can_be_added(run: Run, distribution: Distribution) -> None:
    """A distribution may have one name with several commands below it."""
    code = f"""{HOOK}
    import typer
    group = typer.Typer()
    group.command("rise")(lambda: print("it rises"))
    group.command("set")(lambda: print("it sets"))
    app.add_typer(group, name="moon")
"""
    distribution("kernel-mgmt-moon", "kernel_mgmt_cli", "moon", code)
    assert run("moon", "set").stdout == "it sets\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (f"{HOOK}    raise ValueError('no\\n moon')", "ValueError: no moon"),
        (TWO_ANNOTATIONS, "'x'"),
        (
            f"{HOOK}    app.command('list')(lambda: 0)",
            "ValueError: the command list exists already",
        ),
        (HOOK.replace("_commands", "_comands") + "    pass", "PluginValidationError: "),
        (HOOK.replace("(app)", "(application)") + "    pass", "PluginValidationError: "),
        ("", "ValueError: it implements no hook"),
    ],
    ids=["import", "exit", "raise", "signature", "clash", "misspelt", "parameter", "nothing"],
)
def test_a_broken_plugin_costs_itself_only(
    run: Run, distribution: Distribution, code: str, why: str
) -> None:
    """The command goes on without it, and says whose commands are left out and why."""
    distribution("kernel-mgmt-moon", "kernel_mgmt_cli", "moon", code)
    result = run("list")
    assert "native/python3" in result.stdout
    [warning] = result.stderr.splitlines()
    assert warning.startswith("warning: The commands of kernel-mgmt-moon 1.0 are left out: ")
    assert why in warning
    assert result.returncode == 0


def test_two_plugins_with_one_name_are_told(run: Run, distribution: Distribution) -> None:
    """The first by name has the command, and the other is reported."""
    for name in ("a", "b"):
        code = f"{HOOK}    app.command('moon')(lambda: print('{name}'))"
        distribution(f"kernel-mgmt-{name}", "kernel_mgmt_cli", name, code)
    result = run("moon")
    assert result.stdout == "a\n"
    assert "The commands of kernel-mgmt-b 1.0 are left out: " in result.stderr
