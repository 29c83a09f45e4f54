"""The command itself: version, help, the log, and how long it takes to say so."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from command_line import Run


def test_version(run: Run) -> None:
    """The version is that of the distribution."""
    assert run("--version").stdout == f"kernel-mgmt {version('kernel-mgmt-cli')}\n"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(run: Run, option: str) -> None:
    """Each command is there with a sentence."""
    result = run(option)
    for command in ("list", "run", "providers"):
        assert f"\n  {command} " in result.stdout
    assert (result.returncode, result.stderr) == (0, "")


def test_help_of_run_has_the_exit_codes(run: Run) -> None:
    """What a script wants to know is in the help."""
    text = " ".join(run("run", "--help").stdout.split())
    assert "125 when the kernel could not be launched, 126 when it died" in text


def test_nothing_typed_is_the_help(run: Run) -> None:
    """Who types no command sees which there are."""
    result = run()
    assert "Commands:" in result.stdout + result.stderr


def test_verbose_shows_what_happens(run: Run, distribution_log: None) -> None:
    """With --verbose the loggers of core and providers are on standard error."""
    assert "INFO" not in run("log").stderr
    result = run("--verbose", "log")
    assert "kernel_mgmt.moon: it rises" in result.stderr


def test_a_logged_error_has_no_traceback(run: Run, distribution_log: None) -> None:
    """A traceback is for --verbose only, as everywhere."""
    assert run("log").stderr == "error: it fell\n"
    assert "ZeroDivisionError" in run("--verbose", "log").stderr


@pytest.fixture
def distribution_log(distribution: object) -> None:
    """A command that logs."""
    code = """
import logging
from kernel_mgmt_cli.plugins import hookimpl

@hookimpl
def kernel_mgmt_cli_commands(app):
    @app.command()
    def log():
        logger = logging.getLogger("kernel_mgmt.moon")
        logger.info("it rises")
        try:
            1 / 0
        except ZeroDivisionError:
            logger.exception("it fell")
"""
    distribution("kernel-mgmt-moon", "kernel_mgmt_cli", "moon", code)  # type: ignore[operator]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["providers", "--json"], ["ps", "--json"]]
)
def test_what_is_not_needed_is_not_imported(arguments: list[str]) -> None:
    """Help and lists load neither ZeroMQ nor rich: that is most of what they would take."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['kernel-mgmt', *{arguments!r}]\n"
        "try: runpy.run_module('kernel_mgmt_cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'zmq', 'tornado', 'rich', 'IPython'} & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr == "[]\n"
