"""Every mistake is a sentence on standard error, with what to do, and an exit code."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from command_line import Distribution, InTerminal, Run, WriteSpec

ECHO_KERNEL = [sys.executable, "-m", "kernel_mgmt.testing.echo_kernel", "-f", "{connection_file}"]


def expect_error(run: Run, exit_code: int, *arguments: str) -> str:
    """Run the command, and give its one line of error."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (exit_code, "")
    label, _, message = result.stderr.partition("error: ")
    assert label == ""
    assert "Traceback" not in message
    return message.removesuffix("\n")


@pytest.mark.parametrize("type_id", ["spec/ehco", "ehco"])
def test_an_unknown_type_shows_near_ones(run: Run, echo: str, type_id: str) -> None:
    """A typing error in a name is answered with what was meant."""
    message = expect_error(run, 125, "run", type_id, "-c", "print no")
    assert message == f"There is no kernel type {type_id!r}; did you mean spec/echo?"


def test_an_unknown_provider_shows_near_ones(run: Run, echo: str) -> None:
    """A typing error in a provider's id likewise."""
    message = expect_error(run, 125, "run", "sepc/echo", "-c", "print no")
    assert message.startswith("There is no provider 'sepc' for 'sepc/echo'; did you mean spec")


def test_an_ambiguous_name_shows_all(run: Run, write_spec: WriteSpec) -> None:
    """A bare name that two providers have is answered with both ids."""
    write_spec("python3", ECHO_KERNEL)
    message = expect_error(run, 125, "run", "python3", "-c", "print no")
    assert "native/python3, spec/python3" in message


def test_a_type_of_a_broken_provider_says_why(run: Run, distribution: Distribution) -> None:
    """The reason why the provider could not be loaded is in the error."""
    distribution("kernel-mgmt-broken", "kernel_mgmt", "broken", "import no_such_module")
    message = expect_error(run, 125, "run", "broken/any", "-c", "print no")
    assert "No module named 'no_such_module'" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "there is nothing to run; give a FILE, or - for standard input, or -c CODE."),
        (
            ["file", "-c", "code"],
            "there is both a file and -c CODE; give a FILE, or - for standard input, or -c CODE.",
        ),
        (
            ["/nowhere/code.py"],
            (
                "cannot read '/nowhere/code.py': No such file or directory; "
                "check the path and its rights."
            ),
        ),
        (["/"], "cannot read '/': Is a directory; check the path and its rights."),
        (["-c", "1", "--env", "A"], "--env 'A' is not NAME=VALUE; write for example A=1."),
        (["-c", "1", "--env", "=1"], "--env '=1' is not NAME=VALUE; write for example A=1."),
        (["-c", "1", "--param", "a"], "--param 'a' is not NAME=VALUE; write for example A=1."),
    ],
)
def test_wrong_usage_is_told_before_a_launch(run: Run, arguments: list[str], expected: str) -> None:
    """What cannot be run, set or read is exit code 2, whatever the kernel type."""
    assert expect_error(run, 2, "run", "no/such", *arguments) == expected


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"one\ntwo \xff\n", "byte 0xff in line 2"), (b"\x7fELF\0", "it has null bytes")],
)
def test_a_file_that_is_no_text_is_an_error(
    run: Run, tmp_path: Path, content: bytes, why: str
) -> None:
    """The error says where the file stops being UTF-8."""
    (tmp_path / "code").write_bytes(content)
    message = expect_error(run, 2, "run", "no/such", str(tmp_path / "code"))
    assert message.endswith(f"is not text in UTF-8 ({why}); give a file of source code.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lst"], "No such command 'lst'"),
        (["list", "--jsn"], "--json"),
        (["run"], "Missing argument 'TYPE'"),
        (["run", "no/such", "-c", "1", "--timeout", "soon"], "Invalid value for '--timeout'"),
    ],
)
def test_a_typing_error_points_to_the_help(run: Run, arguments: list[str], expected: str) -> None:
    """What the command line does not know is exit code 2, with the usage."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert expected in result.stderr
    assert "--help' for help" in result.stderr


def test_a_directory_that_does_not_exist_is_an_error(run: Run, echo: str) -> None:
    """The error names the option."""
    message = expect_error(run, 125, "run", echo, "--cwd", "/nowhere", "-c", "print no")
    assert "'/nowhere' does not exist" in message
    assert "--cwd" in message


def test_a_command_that_does_not_exist_is_an_error(run: Run, write_spec: WriteSpec) -> None:
    """The error names the first word of the kernelspec's argv."""
    write_spec("moon", ["/nowhere/moon", "{connection_file}"])
    message = expect_error(run, 125, "run", "spec/moon", "-c", "print no")
    assert "'/nowhere/moon' was not found" in message


def test_a_kernel_that_exits_at_once_is_an_error(run: Run, write_spec: WriteSpec) -> None:
    """The error has the exit code and the kernel's own words, and takes no timeout."""
    write_spec("moon", [*ECHO_KERNEL, "--exit", "9", "--message", "no moon today"])
    started = time.monotonic()
    message = expect_error(run, 125, "run", "spec/moon", "-c", "print no")
    assert "exit code 9" in message
    assert message.endswith("The last output of the kernel:\n  | no moon today")
    assert time.monotonic() - started < 5


def test_a_kernel_that_never_answers_is_an_error(run: Run, write_spec: WriteSpec) -> None:
    """The error names the phase, the time and the option that gives more of it."""
    write_spec("mute", [*ECHO_KERNEL, "--never-answer"])
    message = expect_error(run, 125, "run", "spec/mute", "--timeout", "1", "-c", "print no")
    assert "(phase 'ready')" in message
    assert "within 1 s" in message
    assert "--timeout" in message


@pytest.mark.parametrize(("code", "how"), [("exit 3", "exit code 3"), ("signal 9", "SIGKILL")])
def test_a_kernel_that_dies_is_an_error(run: Run, echo: str, code: str, how: str) -> None:
    """The error says how, has the kernel's last words, and is exit code 126."""
    result = run("run", echo, "-c", f"print on\noutside-stderr last words\nsleep 0.1\n{code}")
    assert result.stdout == "on\n"
    assert result.stderr.startswith("error: The kernel died: ")
    assert how in result.stderr
    assert result.stderr.endswith("  | last words\n")
    assert result.returncode == 126


def test_a_defect_is_a_sentence_too(run: Run, distribution: Distribution) -> None:
    """What nobody expected is told in one line, and with a traceback for --verbose."""
    code = """
from kernel_mgmt_cli.plugins import hookimpl

@hookimpl
def kernel_mgmt_cli_commands(app):
    @app.command()
    def fail():
        raise RuntimeError("of a sort")
"""
    distribution("kernel-mgmt-fail", "kernel_mgmt_cli", "fail", code)
    message = expect_error(run, 125, "fail")
    assert message == (
        "kernel-mgmt has a defect (RuntimeError: of a sort); run it as 'kernel-mgmt --verbose "
        "...' to see the traceback, and report that."
    )
    assert 'raise RuntimeError("of a sort")' in run("--verbose", "fail").stderr


@pytest.mark.parametrize(
    ("no_color", "label"), [("", "\x1b[1;31merror:\x1b[0m "), ("1", "error: ")]
)
def test_a_terminal_shows_errors_in_red(in_terminal: InTerminal, no_color: str, label: str) -> None:
    """The label is coloured unless NO_COLOR is set."""
    with in_terminal("run", "no/such", extra_env={"NO_COLOR": no_color}) as terminal:
        assert terminal.wait() == 2
        assert terminal.output.startswith(f"{label}there is nothing to run")
