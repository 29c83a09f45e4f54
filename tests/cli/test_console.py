"""``kernel-mgmt console``: what is typed in a terminal, and what comes back.

Output of the kernel stands at the beginning of a line, which what is typed never does.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from command_line import InTerminal, Run
from pseudo_terminal import PseudoTerminal

CTRL_C, CTRL_D, CTRL_R, TAB, F1 = "\x03", "\x04", "\x12", "\t", "\x1bOP"

ESCAPE = r"\x1b\[[0-9;?]*[A-Za-z]"

#: A PNG of one pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def see(terminal: PseudoTerminal, pattern: str) -> re.Match[str]:
    """Wait for a line of output; what is typed stands behind a prompt, so it is none."""
    return terminal.expect(rf"(?:(?<=[\n\r])|{ESCAPE}){pattern}\r\n")


def leave(terminal: PseudoTerminal) -> None:
    """Leave the console by Ctrl-D, twice."""
    terminal.send(CTRL_D)
    terminal.expect(r"Leave the console and stop the kernel")
    terminal.send(CTRL_D)
    assert terminal.wait() == 0


def test_a_sitting(console: InTerminal, echo: str) -> None:
    """Streams, results, errors and rich output are shown, each in its form, until Ctrl-D."""
    with console(echo) as terminal:
        terminal.expect("The echo kernel: it does what it is told")
        terminal.expect(r"In \[1\]: ")
        terminal.send("print hello\r")
        see(terminal, "hello")
        terminal.expect(r"In \[2\]: ")
        terminal.send("stderr oh\r")
        see(terminal, "oh")
        terminal.send("result 42\r")
        terminal.expect(r"Out\[3\]: .*42\r\n")
        terminal.send("error Bad luck\r")
        see(terminal, "Bad: luck")
        terminal.send("display text/plain shown\r")
        see(terminal, "shown")
        terminal.send("display text/latex $x$\r")
        see(terminal, r"\$x\$")
        terminal.expect(r"In \[7\]: ")
        leave(terminal)


def test_ctrl_d_asks(console: InTerminal, echo: str) -> None:
    """Who answers no stays, and who presses Enter leaves."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send(CTRL_D)
        terminal.expect(r"Leave the console and stop the kernel \(\[y\]/n\)\?")
        terminal.send("n\r")
        terminal.expect(r"In \[1\]: ")
        terminal.send("print stayed\r")
        see(terminal, "stayed")
        terminal.send(CTRL_D)
        terminal.expect("Leave the console")
        terminal.send("\r")
        assert terminal.wait() == 0


def test_incomplete_code_gets_another_line(console: InTerminal, echo: str) -> None:
    """Enter runs what the kernel calls complete; what is typed ahead waits for its turn."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("print one \\\rprint two\rprint three\r")
        terminal.expect(r"\.\.\.: ")
        see(terminal, "one \\\\\r\ntwo")
        see(terminal, "three")
        leave(terminal)


def test_several_lines_are_pasted(console: InTerminal, echo: str) -> None:
    """A bracketed paste is one cell, which nothing runs before Enter."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("\x1b[200~print one\rprint two\x1b[201~")
        terminal.expect("print two")
        assert "\none\r\n" not in terminal.output
        terminal.send("\r")
        see(terminal, "one\r\ntwo")
        terminal.expect(r"In \[2\]: ")
        leave(terminal)


def test_tab_completes(console: InTerminal, echo: str) -> None:
    """Tab asks the kernel: a single completion is taken, of several one is chosen."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("pri" + TAB)
        terminal.expect("nt")
        terminal.send(" ok\r")
        see(terminal, "ok")
        terminal.send("no" + TAB)
        terminal.expect("noidle")
        terminal.send(TAB + "\r\r")
        terminal.expect(r"Out\[|In \[3\]: ")
        leave(terminal)


def test_f1_explains(console: InTerminal, echo: str) -> None:
    """What the kernel knows of a name is shown above what is being typed, which stays."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("print still" + F1)
        terminal.expect("``print TEXT``: a line on stdout")
        terminal.send(" here\r")
        see(terminal, "still here")
        leave(terminal)


def test_history_lasts(console: InTerminal, echo: str, tmp_path: Path) -> None:
    """What was typed comes back in the next sitting, by the arrow or a search."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("print first\r")
        see(terminal, "first")
        terminal.send("print second\r")
        see(terminal, "second")
        leave(terminal)
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("\x1b[A")
        terminal.expect("print second")
        terminal.send("\r")
        see(terminal, "second")
        terminal.send(CTRL_R + "fir")
        terminal.expect("I-search backward: .*fir")
        terminal.send("\r\r")
        see(terminal, "first")
        leave(terminal)
    path = tmp_path / "data" / "kernel-mgmt" / "history" / "echo.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_code_asks(console: InTerminal, echo: str) -> None:
    """What is typed at its prompts is the code's; a password is not shown."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("input Name? \r")
        terminal.expect(rf"{ESCAPE}Name\?")
        terminal.send("Ada\r")
        see(terminal, "Ada")
        terminal.send("password Secret? \r")
        terminal.expect(rf"{ESCAPE}Secret\?")
        terminal.send("xyzzy")
        terminal.expect(r"\*{5}")
        assert "xyzzy" not in terminal.output
        terminal.send("\r")
        see(terminal, "xyzzy")
        terminal.send("input More? \r")
        terminal.expect(rf"{ESCAPE}More\?")
        terminal.send(CTRL_D)
        terminal.expect("EOFError")
        terminal.send("input Again? \r")
        terminal.expect(rf"{ESCAPE}Again\?")
        terminal.send(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        terminal.expect(r"In \[5\]: ")
        leave(terminal)


def test_ctrl_c_clears_the_line(console: InTerminal, echo: str) -> None:
    """At the prompt it throws away what was typed, and the console goes on."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("print no")
        terminal.expect("print no")
        terminal.send(CTRL_C)
        terminal.expect(r"In \[1\]: ")
        terminal.send("print yes\r")
        see(terminal, "yes")
        leave(terminal)


def test_ctrl_c_interrupts_the_kernel(console: InTerminal, echo: str) -> None:
    """While a cell runs it is the kernel's, as often as it is pressed, and the console goes on."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        for number in (1, 2):
            terminal.send(f"print on {number}\x1b\rsleep 1000\r")
            see(terminal, f"on {number}")
            terminal.send(CTRL_C)
            see(terminal, "KeyboardInterrupt")
        terminal.send("print fine\r")
        see(terminal, "fine")
        leave(terminal)


def test_exit_leaves(console: InTerminal, echo: str) -> None:
    """The word alone leaves, in any language, and asks nothing."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("exit\r")
        assert terminal.wait() == 0


def test_an_image_is_saved(console: InTerminal, echo: str) -> None:
    """A hint names the file, which nobody else can read and which goes with the console."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send(f"display image/png {PNG}\r")
        path = Path(see(terminal, r"\[image: (?P<path>\S+\.png)\]")["path"])
        assert path.read_bytes() == base64.b64decode(PNG)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        leave(terminal)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("environment", "options", "shown"),
    [
        ({"TERM": "xterm-kitty"}, [], rf"\x1b_Ga=T,f=100,q=2,m=0;{re.escape(PNG)}\x1b\\"),
        (
            {"TERM_PROGRAM": "iTerm.app"},
            [],
            rf"\x1b\]1337;File=inline=1;[^:]*:{re.escape(PNG)}\x07",
        ),
        ({"TERM": "xterm-kitty"}, ["--images", "file"], r"\[image: /\S+\.png\]"),
    ],
    ids=["kitty", "iterm", "file"],
)
def test_an_image_is_shown(
    console: InTerminal, echo: str, environment: dict[str, str], options: list[str], shown: str
) -> None:
    """A terminal that can show images, or is said to, gets them in its own form."""
    with console(echo, *options, extra_env=environment) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send(f"display image/png {PNG}\r")
        terminal.expect(shown)
        terminal.send("exit\r")
        assert terminal.wait() == 0


def test_late_output_comes_above_the_prompt(console: InTerminal, echo: str) -> None:
    """What the kernel prints after a cell is shown at once, and what is being typed stays."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("late 0.5 news\r")
        terminal.expect(r"In \[2\]: ")
        terminal.send("print st")
        see(terminal, "news")
        terminal.send("ill\r")
        see(terminal, "still")
        leave(terminal)


def test_a_kernel_that_forgets_how_a_cell_ends(console: InTerminal, echo: str) -> None:
    """A cell without its idle status, or without its reply, ends all the same."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("noidle\r")
        terminal.expect(r"In \[2\]: ")
        terminal.send("noreply\r")
        terminal.expect("has ended the cell without a reply")
        terminal.send("print fine\r")
        see(terminal, "fine")
        leave(terminal)


def test_options_of_the_launch(console: InTerminal, echo: str, tmp_path: Path) -> None:
    """Directory and environment are the kernel's."""
    with console(echo, "--cwd", str(tmp_path), "--env", "GREETING=Hello") as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("cwd\r")
        see(terminal, f"{re.escape(str(tmp_path))}")
        terminal.send("env GREETING\r")
        see(terminal, "Hello")
        leave(terminal)


def test_python(console: InTerminal) -> None:
    """With a real kernel: blocks, results, colours of errors, progress, its pager and its exit."""
    with console("native/python3", extra_env={"PAGER": "sed s/^/paged-/"}) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("def f(x):\rreturn x * 2\r\r")
        terminal.expect(r"In \[2\]: ")
        terminal.send("f(21)\r")
        terminal.expect(r"Out\[2\]: .*42\r\n")
        terminal.send("1/0\r")
        terminal.expect("\x1b\\[[0-9;]*mZeroDivisionError")
        terminal.send("print('1%', end='\\r'); print('2%', end='\\r'); print('done')\r")
        see(terminal, "1%\r2%\rdone")
        terminal.send("f?\r")
        terminal.expect("Signature:")
        terminal.send("from IPython.core.page import page; page('long\\n' * 100)\r")
        terminal.expect("(paged-long\r\n){100}")
        terminal.send("get_ipython().set_next_input('print(6 * 7)')\r")
        terminal.expect(r"In \[8\]: ")
        terminal.send("\r")
        see(terminal, "42")
        terminal.send("exit()\r")
        assert terminal.wait() == 0


def test_python_that_ignores_ctrl_c(console: InTerminal) -> None:
    r"""A second Ctrl-C says how to leave; Ctrl-\ does, and the kernel ends with the console."""
    code = """
import time
while True:
    try:
        print('on'); time.sleep(1000)
    except KeyboardInterrupt:
        print('ignored')
"""
    with console("native/python3") as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send(f"\x1b[200~{code}\x1b[201~\r\r")
        see(terminal, "on")
        terminal.send(CTRL_C)
        terminal.expect("ignored\r\n")
        terminal.send(CTRL_C)
        terminal.expect(r"has not reacted to Ctrl-C.*Ctrl-\\ leaves at once, to stop the kernel")
        terminal.expect("ignored\r\n")
        terminal.send("\x1c")
        assert terminal.wait() == 131


def test_a_pipe_is_no_terminal(run: Run, echo: str) -> None:
    """Without a terminal the console says what to use in its place."""
    result = run("console", echo, text="print no\n")
    assert result.stderr == (
        "error: a console needs a terminal for its input and output; "
        "'kernel-mgmt run TYPE -' runs what comes from standard input.\n"
    )
    assert (result.stdout, result.returncode) == ("", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is neither a TYPE nor --existing FILE; give one of them."),
        (["x", "--existing", "y"], "there is both a TYPE and --existing FILE; give one of them."),
        (["--existing", "y", "--cwd", "."], "--cwd, --env and --param are for a kernel that is"),
        (["x", "--env", "A"], "--env 'A' is not NAME=VALUE"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], message: str) -> None:
    """Each mistake is a sentence of its own."""
    result = run("console", *arguments)
    assert result.stderr.startswith(f"error: {message}")
    assert result.returncode == 2


def test_an_unknown_type(console: InTerminal) -> None:
    """It is an error like that of the command run."""
    with console("native/nothing") as terminal:
        terminal.expect("error:.* 'native/nothing'")
        assert terminal.wait() == 125
