"""``attach`` shows what was missed: what a kernel has said while nobody was there, once."""

from __future__ import annotations

import re

import pytest
from command_line import InTerminal, Kept, Run, Start
from kernel_mgmt import Message
from kernel_mgmt_cli.console.former import FormerCells
from kernel_mgmt_cli.detached.commands import _attach
from kernel_mgmt_cli.detached.plain import plain_text
from kernel_mgmt_cli.errors import CommandError
from pseudo_terminal import PseudoTerminal

CTRL_C, CTRL_BACKSLASH = "\x03", "\x1c"


def leave(terminal: PseudoTerminal) -> None:
    """Leave a console at once, in whatever it is."""
    terminal.send(CTRL_BACKSLASH)
    terminal.expect("the kernel lives on")
    assert terminal.wait() == 131


# -- what is shown ---------------------------------------------------------------------------------


def test_what_was_missed_is_shown_once(in_terminal: InTerminal, run: Run, kept: Kept) -> None:
    """Code and output of who is no reader come at the next attach, and not at the one after that."""
    kernel_id = kept()
    run("run", "--on", kernel_id, "-c", "print one\nresult two\nerror Wrong thing")
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect("journal:.* what the kernel has said since somebody last read:\r\n")
        terminal.expect(r"In \[1\]: \S*print one\r\nresult two\r\nerror Wrong thing\r\none\r\n")
        terminal.expect(r"Out\[1\]: \S*two\r\nWrong: thing\r\n")
        terminal.expect(r"In \[2\]: ")
        terminal.send("print mine\r")
        terminal.expect("\\[\\?2004lmine\r\n")
        leave(terminal)
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect(r"In \[3\]: ")
        leave(terminal)
        assert "journal:" not in terminal.output
        assert "print" not in terminal.output


def test_what_was_missed_without_a_terminal(run: Run, kept: Kept) -> None:
    """It comes as plain text before the kernel's state, and has been read then."""
    kernel_id = kept()
    missed = "In [1]: print one\nresult two\none\nOut[1]: two\n"
    restarted = "[The kernel was restarted; what it had in memory is gone.]\n"
    run("run", "--on", kernel_id, "-c", "print one\nresult two")
    run("restart", kernel_id)
    result = run("attach", kernel_id)
    assert (result.returncode, result.stderr) == (0, "")
    shown, _, facts = result.stdout.partition("\n\n")
    assert f"{shown}\n" == missed + restarted
    assert re.search("^clients +0$", facts, re.MULTILINE)
    for options in (["--all"], ["--since", "1h"]):
        assert missed + restarted in run("attach", kernel_id, *options).stdout
    assert run("attach", kernel_id).stdout.startswith("id ")


def test_what_cannot_be_meant() -> None:
    """It is told before a kernel is looked for."""
    with pytest.raises(
        CommandError, match=r"^there is both --all and --since; give one of them\.$"
    ):
        _attach("nobody", everything=True, since="1h")
    with pytest.raises(CommandError, match="--since 'noon' is no time"):
        _attach("nobody", since="noon")


# -- the former client's cell ----------------------------------------------------------------------


def test_a_cell_that_still_runs(
    in_terminal: InTerminal, start: Start, run: Run, kept: Kept
) -> None:
    """The output of who was killed goes on where the missed part ends: each line once, in order."""
    kernel_id = kept()
    code = "\n".join(f"print {number}\nsleep 0.015" for number in range(300))
    former = start("run", "--on", kernel_id, "-c", code)
    assert former.stdout is not None
    assert former.stdout.readline() == b"0\n"
    former.kill()
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect("journal:")
        terminal.expect(r"(?:\n|l)299\r\n")
        run("run", "--on", kernel_id, "-c", "print theirs")
        terminal.send("print ours\r")
        terminal.expect("\\[\\?2004lours\r\n")
        leave(terminal)
        numbers = re.findall(r"(?:\n|\[\?2004l)(\d+)\r(?=\n)", terminal.output)
        assert numbers == [str(number) for number in range(300)]
        assert re.search(r"\[\?2004l\d+\r\n", terminal.output)  # some came above the prompt
        assert "[other]" not in terminal.output
        assert "theirs" not in terminal.output


# -- what is missing, or too much ------------------------------------------------------------------


def test_much_was_missed(in_terminal: InTerminal, run: Run, kept: Kept) -> None:
    """What is missing is told; what was shown is read, and no more; Ctrl-C leaves out the rest."""
    kernel_id = kept("--journal-limit", "0")
    assert run("run", "--on", kernel_id, "-c", "flood 10000 1000").returncode == 0
    gap = r"Messages \d+ to \d+ \(\d+ MiB\) are missing: the journal could not keep them\."
    result = run("export", kernel_id, "-o", "-")
    assert re.fullmatch(f"warning: {gap}\n", result.stderr)
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect("journal:")
        terminal.expect(f"warning:.* {gap}\r\n")
        terminal.expect("xxx")
        terminal.process.kill()
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect("journal:")
        terminal.expect("xxx")
        terminal.send(CTRL_C)
        terminal.expect("hint:.* The rest is left out; 'attach --all' shows it", timeout=60)
        terminal.expect(r"In \[2\]: ")
        leave(terminal)
    assert run("attach", kernel_id).stdout.startswith("id ")


def test_last_words(in_terminal: InTerminal, run: Run, kept: Kept) -> None:
    """Of a kernel that is dead what it has said is shown, and then how it ended."""
    kernel_id = kept("--no-restart")
    assert run("run", "--on", kernel_id, "-c", "print one\nexit 9").returncode == 126
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect(r"In \[1\]: print one\r\nexit 9\r\none\r\n")
        terminal.expect(r"\[The kernel died: exit code 9\.\]\r\n")
        terminal.expect("error:.* The kernel died: exit code 9")
        assert terminal.wait() == 126


# -- parts -----------------------------------------------------------------------------------------


def of(request: str, msg_type: str = "stream", state: str = "", **content: object) -> Message:
    """Make an iopub message that belongs to a request."""
    parent = {"msg_id": request, "msg_type": "execute_request"}
    content = {**content, "execution_state": state} if state else content
    return Message({"msg_id": "m", "msg_type": msg_type}, parent, {}, content, channel="iopub")


def told(event: str, **content: object) -> Message:
    """Make a message of a nanny."""
    return Message({"msg_id": "m", "msg_type": event}, {}, {}, content, channel="nanny")


def test_former_cells() -> None:
    """A cell goes on that began before, until it is idle; neither one that was, nor a later one."""
    former = FormerCells()
    for message in (
        of("ended", "status", "busy"),
        of("ended"),
        of("running", "status", "busy"),
        of("ended", "status", "idle"),
    ):
        former.note(message)
    assert former.includes(of("running"))
    assert former.includes(of("unheard of"))
    assert not former.includes(of("ended"))
    assert not former.includes(of("later", "status", "busy"))
    assert not former.includes(of("later"))
    assert not former.includes(of("later", "status", "idle"))
    assert not former.includes(of("later"))
    assert former.includes(of("running", "status", "idle"))
    assert not former.includes(of("running"))
    assert not former.includes(Message({"msg_id": "m", "msg_type": "stream"}, {}, {}, {}))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (of("a", text=["one\n", "two"]), "one\ntwo"),
        (of("a", "execute_input", code="1", execution_count=4), "In [4]: 1\n"),
        (
            of("a", "execute_result", data={"text/plain": "1\n2"}, execution_count=4),
            "Out[4]: \n1\n2\n",
        ),
        (of("a", "display_data", data={"text/plain": "<Figure>"}), "<Figure>\n"),
        (of("a", "display_data", data={"image/png": "AAAA"}), ""),
        (of("a", "display_data", data=7), ""),
        (of("a", "error", traceback=["\x1b[31mone\x1b[0m", "two"]), "one\ntwo\n"),
        (of("a", "error", ename="E", evalue="no", traceback=[]), "E: no\n"),
        (of("a", "status", "idle"), ""),
        (of("a", "clear_output"), ""),
        (
            told("journal_gap", first=3, last=4, bytes=7),
            "[Messages 3 to 4 (7 bytes) are missing: the journal could not keep them.]\n",
        ),
        (told("ready", kernel=2), ""),
    ],
)
def test_plain_text(message: Message, text: str) -> None:
    """Each kind of message is shown without a terminal's means."""
    assert plain_text(message) == text
