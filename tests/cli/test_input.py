"""What the code, and a provider, ask the user of ``kernel-mgmt run``."""

from __future__ import annotations

import os
from pathlib import Path

from command_line import InTerminal, Run, Start

CTRL_C, CTRL_D = "\x03", "\x04"


def test_input_is_asked_in_the_terminal(in_terminal: InTerminal, echo: str) -> None:
    """What is typed at the code's prompt, which can be seen, is the code's."""
    with in_terminal("run", echo, "-c", "input Name? ") as terminal:
        terminal.expect(r"Name\? ")
        assert terminal.echoes()
        terminal.send("Ada\n")
        terminal.expect("Ada\r\nAda\r\n")
        assert terminal.wait() == 0


def test_a_password_is_not_shown(in_terminal: InTerminal, echo: str) -> None:
    """What is typed at a hidden prompt is seen only when the code prints it."""
    with in_terminal("run", echo, "-c", "password Secret? ") as terminal:
        terminal.expect(r"Secret\? ")
        assert not terminal.echoes()
        terminal.send("xyzzy\n")
        assert terminal.wait() == 0
        assert terminal.output.count("xyzzy") == 1


def test_python_asks_for_both(in_terminal: InTerminal) -> None:
    """The input and getpass of a real Python kernel work."""
    code = "from getpass import getpass; print(input('Name? ') + getpass('Secret? '))"
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect(r"Name\? ")
        terminal.send("Ada\n")
        terminal.expect(r"Secret\? ")
        assert not terminal.echoes()
        terminal.send("xyzzy\n")
        terminal.expect("Adaxyzzy")
        assert terminal.wait() == 0


def test_input_comes_from_a_pipe(run: Run, echo: str) -> None:
    """Without a terminal both kinds of questions take a line of standard input each."""
    result = run("run", echo, "-c", "input A? \npassword B? ", text="one\r\ntwo\n")
    assert result.stdout == "one\ntwo\n"
    assert result.stderr == "A? B? "
    assert result.returncode == 0


def test_input_that_is_no_text_is_no_error(start: Start, echo: str) -> None:
    """Bytes that are not UTF-8 are replaced."""
    process = start("run", echo, "-c", "input A? ")
    output, _ = process.communicate(b"a\xffb\n", timeout=30)
    assert output.decode() == "a\N{REPLACEMENT CHARACTER}b\n"


def test_the_end_of_input_is_an_error_of_the_code(run: Run) -> None:
    """Python's input raises EOFError when standard input has ended."""
    result = run("run", "native/python3", "-c", "input()")
    assert "EOFError" in result.stderr
    assert result.returncode == 1


def test_there_is_no_input_beside_code_from_standard_input(run: Run, echo: str) -> None:
    """Code that was read from standard input does not get its own rest for an answer."""
    result = run("run", echo, "-", text="input A? \nprint no\n")
    assert (result.stdout, result.stderr) == ("", "EOFError\n")
    assert result.returncode == 1


def test_a_prompt_is_not_in_redirected_output(
    in_terminal: InTerminal, echo: str, tmp_path: Path
) -> None:
    """With the output in a file, the question is in the terminal all the same."""
    with (
        (tmp_path / "output").open("wb") as output,
        in_terminal("run", echo, "-c", "input Name? ", stdout=output.fileno()) as terminal,
    ):
        terminal.expect(r"Name\? ")
        terminal.send("Ada\n")
        assert terminal.wait() == 0
    assert (tmp_path / "output").read_text() == "Ada\n"


def test_ctrl_d_ends_the_input(in_terminal: InTerminal, echo: str) -> None:
    """Ctrl-D at a prompt is an EOFError in the code."""
    with in_terminal("run", echo, "-c", "input Name? ") as terminal:
        terminal.expect(r"Name\? ")
        terminal.send(CTRL_D)
        terminal.expect("EOFError")
        assert terminal.wait() == 1


def test_ctrl_c_at_a_prompt_interrupts_the_code(in_terminal: InTerminal) -> None:
    """Code that catches it goes on, and may ask again."""
    code = "try: input('A? ')\nexcept KeyboardInterrupt: print(input('B? '))"
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect(r"A\? ")
        terminal.send(CTRL_C)
        terminal.expect(r"B\? ")
        terminal.send("more\n")
        terminal.expect("more\r\nmore\r\n")
        assert terminal.wait() == 0


def test_ctrl_c_at_a_password_restores_the_terminal(in_terminal: InTerminal, echo: str) -> None:
    """The code ends with exit code 130, and typing is shown again."""
    with in_terminal("run", echo, "-c", "password Secret? ") as terminal:
        terminal.expect(r"Secret\? ")
        terminal.send(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        assert terminal.wait() == 130
        assert terminal.echoes()


def test_ctrl_c_at_a_second_prompt_stops_the_kernel(in_terminal: InTerminal) -> None:
    """The second Ctrl-C ends the command, also at a prompt."""
    code = "try: input('A? ')\nexcept KeyboardInterrupt: input('B? ')"
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect(r"A\? ")
        terminal.send(CTRL_C)
        terminal.expect(r"B\? ")
        terminal.send(CTRL_C)
        terminal.expect("interrupted:.* the kernel was stopped")
        assert terminal.wait() == 130


def test_a_kernel_that_dies_at_a_prompt_ends_the_question(
    in_terminal: InTerminal, echo: str
) -> None:
    """Nobody has to answer what no kernel asks any more."""
    with in_terminal("run", echo, "-c", "pid\npassword Name? ") as terminal:
        pid = int(terminal.expect(r"(\d+)\r\n")[1])
        terminal.expect(r"Name\? ")
        os.kill(pid, 9)
        terminal.expect("The kernel died: killed by SIGKILL")
        assert terminal.wait() == 126
        assert terminal.echoes()


def test_a_provider_asks_in_the_terminal(in_terminal: InTerminal, gated: str) -> None:
    """A provider's question during the launch is answered there, hidden when it is secret."""
    arguments = ["--param", "ask=Passphrase:", "--param", "secret=true", "-c", "env ANSWER"]
    with in_terminal("run", gated, *arguments) as terminal:
        terminal.expect("Passphrase: ")
        assert not terminal.echoes()
        terminal.send("xyzzy\n")
        terminal.expect("xyzzy")
        assert terminal.wait() == 0
        assert terminal.output.count("xyzzy") == 1


def test_a_provider_asks_beside_piped_code(
    in_terminal: InTerminal, gated: str, tmp_path: Path
) -> None:
    """The terminal is asked although the code comes from standard input."""
    (tmp_path / "code").write_text("env ANSWER\n")
    with (
        (tmp_path / "code").open("rb") as code,
        in_terminal("run", gated, "--param", "ask=User:", "-", stdin=code.fileno()) as terminal,
    ):
        terminal.expect("User: ")
        terminal.send("Ada\n")
        terminal.expect("Ada\r\n")
        terminal.expect("Ada\r\n")
        assert terminal.wait() == 0


def test_a_provider_that_has_nobody_to_ask_fails(run: Run, gated: str) -> None:
    """Without a terminal the question is an error that shows it."""
    result = run("run", gated, "--param", "ask=User:", "-c", "env ANSWER")
    assert result.stderr == (
        "error: Launch failed (phase 'connect'): 'User:' was asked, and nobody is there to "
        "answer. Run the command in a terminal, or set things up so that nothing needs to be asked.\n"
    )
    assert result.returncode == 125


def test_a_provider_that_gets_no_answer_fails(in_terminal: InTerminal, gated: str) -> None:
    """Ctrl-D at a provider's question is an error that shows the question."""
    with in_terminal("run", gated, "--param", "ask=User:", "-c", "env ANSWER") as terminal:
        terminal.expect("User: ")
        terminal.send(CTRL_D)
        terminal.expect("'User:' was asked, and there was no answer.")
        assert terminal.wait() == 125


def test_the_startup_timeout_ends_a_question(in_terminal: InTerminal, gated: str) -> None:
    """A launch that is over its time ends while its question is still unanswered."""
    arguments = ["--timeout", "1", "--param", "ask=User:", "-c", "env ANSWER"]
    with in_terminal("run", gated, *arguments) as terminal:
        terminal.expect("User: ")
        terminal.expect("did not accept connections within 1 s.*--timeout")
        assert terminal.wait() == 125
