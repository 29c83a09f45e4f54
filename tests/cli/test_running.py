"""``kernel-mgmt run``: code goes in, output comes out, and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Distribution, Run, Start

NATIVE = "native/python3"
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "hello.py"


def test_a_file_runs_in_a_real_kernel(run: Run) -> None:
    """The example of the README shows its output and its last value."""
    result = run("run", NATIVE, str(EXAMPLE))
    assert result.stdout.startswith("Hello from Python ")
    assert "  5 x 5 = 25\n55\n" in result.stdout
    assert (result.returncode, result.stderr) == (0, "")


def test_code_is_given_on_the_command_line(run: Run, echo: str) -> None:
    """What follows -c is the code."""
    result = run("run", echo, "-c", "print one\nstderr two\nresult three")
    assert (result.stdout, result.stderr) == ("one\nthree\n", "two\n")
    assert result.returncode == 0


def test_code_comes_from_standard_input(run: Run, echo: str) -> None:
    """For - the code is read from standard input."""
    assert run("run", echo, "-", text="print one\n").stdout == "one\n"


def test_code_with_a_byte_order_mark_runs(run: Run, echo: str, tmp_path: Path) -> None:
    """A file as editors on Windows write it is no error."""
    (tmp_path / "code").write_bytes(b"\xef\xbb\xbfprint one\r\n")
    assert run("run", echo, str(tmp_path / "code")).stdout == "one\n"


def test_a_bare_name_is_enough_when_unambiguous(run: Run, echo: str) -> None:
    """The provider's part of an id may be left out."""
    assert run("run", "echo", "-c", "print one").stdout == "one\n"


def test_output_comes_as_it_is_made(start: Start, echo: str) -> None:
    """A line is there while the code still runs."""
    process = start("run", echo, "-c", "print one\ninput more\nprint two")
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    rest, _ = process.communicate(b"answer\n", timeout=30)
    assert rest == b"answer\ntwo\n"
    assert process.returncode == 0


def test_an_error_is_shown_with_its_traceback(run: Run) -> None:
    """Python's traceback is on standard error, without colours in a pipe, and the exit code is 1."""
    result = run("run", NATIVE, "-c", "print('before')\n1/0")
    assert result.stdout == "before\n"
    assert "----> 2 1/0" in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "\x1b" not in result.stderr
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("error SystemExit 3", (3, "")),
        ("error SystemExit None", (0, "")),
        ("error SystemExit 256", (0, "")),
        ("error SystemExit too late", (1, "too late\n")),
        ("error SomeError why", (1, "SomeError: why\n")),
    ],
)
def test_the_code_chooses_the_exit_code(
    run: Run, echo: str, code: str, expected: tuple[int, str]
) -> None:
    """What Python's sys.exit would do with an argument is what happens."""
    result = run("run", echo, "-c", code)
    assert (result.returncode, result.stderr) == expected


@pytest.mark.parametrize("code", ["import sys; sys.exit(4)", "exit(4)"])
def test_exit_in_ipython_says_nothing(run: Run, code: str) -> None:
    """IPython's hints on how to leave it are not shown, and its own exit counts too."""
    result = run("run", NATIVE, "-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (4, "", "")


def test_environment_and_directory_are_the_options(run: Run, echo: str, tmp_path: Path) -> None:
    """The kernel has the variables of --env and the working directory of --cwd."""
    arguments = ["--env", "ONE=1=2", "--env", "EMPTY=", "--cwd", str(tmp_path)]
    result = run("run", echo, *arguments, "-c", "env ONE\nenv EMPTY\ncwd")
    assert result.stdout == f"1=2\n\n{tmp_path}\n"


def test_launch_parameters_are_json_or_text(run: Run, distribution: Distribution) -> None:
    """A provider gets what --param says, as JSON where it is JSON."""
    code = """
import json
import os
import subprocess
from dataclasses import replace
from kernel_mgmt import KernelType, hookimpl
from kernel_mgmt.testing import EchoProvider

@hookimpl
def kernel_mgmt_find_kernels():
    return [KernelType("echo")]

@hookimpl
def kernel_mgmt_launch_kernel(request):
    env = {"PARAMS": json.dumps(request.launch_params)}
    return EchoProvider().kernel_mgmt_launch_kernel(replace(request, env=env, launch_params={}))
"""
    distribution("kernel-mgmt-params", "kernel_mgmt", "params", code)
    result = run("run", "params/echo", "--param", "n=[1]", "--param", "text=4G", "-c", "env PARAMS")
    assert json.loads(result.stdout) == {"n": [1], "text": "4G"}


def test_output_has_every_byte_in_any_locale(run: Run, echo: str) -> None:
    """What the encoding of the output lacks is escaped, not an error."""
    code = "print \N{SNOWMAN}"
    assert run("run", echo, "-c", code).stdout == "\N{SNOWMAN}\n"
    result = run("run", echo, "-c", code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.stdout == "\\u2603\n"


def test_much_output_is_complete(run: Run, echo: str) -> None:
    """No message of a burst is lost."""
    lines = run("run", echo, "-c", "flood 5000 20").stdout
    assert len(lines) == 5000 * 20


def test_the_module_is_the_command(run: Run) -> None:
    """The tests' ``python -m kernel_mgmt_cli`` and the installed script are one."""
    script = Path(sys.executable).with_name("kernel-mgmt")
    output = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert output.stdout == run("--version").stdout
