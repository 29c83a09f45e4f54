"""Kernels that run on are used: ``run --on``, ``attach``, ``logs``, ``interrupt``, ``restart``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from command_line import InTerminal, Kept, Ps, Run, Start, WriteSpec
from waiting import eventually_sync

CTRL_C, CTRL_D, CTRL_BACKSLASH = "\x03", "\x04", "\x1c"


def read_until(process: subprocess.Popen[bytes], last: str) -> list[str]:
    """Read output up to a line; gives what came before it."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line.decode() == f"{last}\n":
            return lines
        lines.append(line.decode().removesuffix("\n"))
    raise AssertionError(f"{last!r} did not come, but {lines}")


def pid_of(run: Run, kernel_id: str) -> int:
    """Ask an echo kernel for its process id."""
    return int(run("run", "--on", kernel_id, "-c", "pid").stdout)


# -- run --on ------------------------------------------------------------------------------------


def test_code_finds_what_code_before_it_left(run: Run, records: Path, tmp_path: Path) -> None:
    """A real kernel keeps its variables from one command to the next; files and errors are as ever."""
    kernel_id = run("start", "native/python3").stdout.removesuffix("\n")
    assert run("run", "--on", kernel_id, "-c", "n = 41").returncode == 0
    (tmp_path / "code.py").write_text("n += 1\nn")
    assert run("run", "--on", kernel_id, str(tmp_path / "code.py")).stdout == "42\n"
    assert run("run", "--on", kernel_id, "-", text="print(n)").stdout == "42\n"
    assert run("run", "--on", kernel_id, "-c", "n = input('? '); n", text="7\n").stdout == "'7'\n"
    result = run("run", "--on", kernel_id, "-c", "1/0")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert run("run", "--on", kernel_id, "-c", "import sys; sys.exit(4)").returncode == 4
    assert run("run", "--on", kernel_id, "-c", "n").stdout == "'7'\n"
    assert run("stop", kernel_id).returncode == 0


def test_ctrl_c_interrupts_the_code_alone(in_terminal: InTerminal, run: Run, kept: Kept) -> None:
    """The code gets it, and the kernel lives on."""
    kernel_id = kept()
    pid = pid_of(run, kernel_id)
    with in_terminal("run", "--on", kernel_id, "-c", "print on\nsleep 1000") as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        assert terminal.wait() == 130
    assert pid_of(run, kernel_id) == pid


def test_a_second_ctrl_c_leaves(
    in_terminal: InTerminal, run: Run, records: Path, tmp_path: Path
) -> None:
    """Code that ignores the first runs on without us, until it is interrupted otherwise."""
    kernel_id = run("start", "native/python3").stdout.removesuffix("\n")
    code = f"""
import pathlib, time
print('on')
for n in range(1000):
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        print('ignored')
        if n: break
pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    with in_terminal("run", "--on", kernel_id, "-c", code) as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        terminal.expect("ignored\r\n")
        terminal.send(CTRL_C)
        terminal.expect("left:.* the kernel runs on, and so does the code")
        assert terminal.wait() == 130
    assert not (tmp_path / "done").exists()
    assert run("interrupt", kernel_id).returncode == 0
    eventually_sync((tmp_path / "done").exists, timeout=20)
    assert run("stop", kernel_id).returncode == 0


def test_other_code_is_not_interrupted(
    in_terminal: InTerminal, start: Start, run: Run, kept: Kept
) -> None:
    """Ctrl-C while our code waits for that of others says so; then it is ours again."""
    kernel_id = kept()
    others = start("run", "--on", kernel_id, "-c", "print theirs\ninput go")
    read_until(others, "theirs")
    with in_terminal("run", "--on", kernel_id, "-c", "print ours\nsleep 1000") as terminal:
        terminal.expect("hint:.* the kernel is busy with other code, and this code waits")
        terminal.send(CTRL_C)
        terminal.expect("hint:.* this code does not run yet; 'kernel-mgmt interrupt")
        rest, _ = others.communicate(b"answer\n", timeout=30)
        assert (others.returncode, rest) == (0, b"answer\n")
        terminal.expect("ours\r\n")
        terminal.send(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        assert terminal.wait() == 130


def test_a_restart_ends_the_code(start: Start, run: Run, kept: Kept) -> None:
    """Who waits for code of the old kernel learns of its end at once; the new one is ready."""
    kernel_id = kept()
    pid = pid_of(run, kernel_id)
    waiting = start("run", "--on", kernel_id, "-c", "print on\nsleep 1000")
    read_until(waiting, "on")
    result = run("restart", kernel_id)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    _, errors = waiting.communicate(timeout=30)
    assert (waiting.returncode, errors.startswith(b"error: The kernel was restarted")) == (
        126,
        True,
    )
    assert pid_of(run, kernel_id) != pid


def test_interrupt_ends_the_code_of_others(start: Start, run: Run, kept: Kept) -> None:
    """The code gets its KeyboardInterrupt, whoever runs it."""
    kernel_id = kept()
    waiting = start("run", "--on", kernel_id, "-c", "print on\nsleep 1000")
    read_until(waiting, "on")
    result = run("interrupt", kernel_id)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    _, errors = waiting.communicate(timeout=30)
    assert (waiting.returncode, errors) == (1, b"KeyboardInterrupt\n")


# -- attach --------------------------------------------------------------------------------------


def test_two_consoles_at_one_kernel(
    console: InTerminal, kept: Kept, in_terminal: InTerminal
) -> None:
    """Each sees what the other does if it wants to, and leaving does no harm."""
    kernel_id = kept("--name", "train")
    with in_terminal("attach", "train", "--others") as first:
        first.expect("console:.* train spec/echo")
        first.expect(r"In \[1\]: ")
        with in_terminal("attach", kernel_id) as second:
            second.expect(r"In \[1\]: ")
            second.send("print here\r")
            second.expect("\\[\\?2004lhere\r\n")
            first.expect(r"\[other\] here\r\n")
            second.send(CTRL_D)
            second.expect("Leave the console and leave the kernel running")
            second.send("\r")
            second.expect("hint:.* the kernel lives on; 'kernel-mgmt attach train' comes back")
            assert second.wait() == 0
        first.send("print still\r")
        first.expect("\\[\\?2004lstill\r\n")
        first.send(CTRL_BACKSLASH)
        first.expect("'kernel-mgmt stop train' ends it")
        assert first.wait() == 131


def test_a_console_goes_on_after_a_restart(in_terminal: InTerminal, run: Run, kept: Kept) -> None:
    """One that was asked for and one after a death are shown, and numbers begin anew."""
    kernel_id = kept()
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("print one\r")
        terminal.expect(r"In \[2\]: ")
        assert run("restart", kernel_id).returncode == 0
        terminal.expect("hint:.* The kernel is being restarted")
        terminal.expect("The kernel was restarted; what it had in memory is gone")
        terminal.expect(r"In \[1\]: ")
        terminal.send("outside-stderr farewell\x1b\rsignal 9\r")
        terminal.expect("warning:.* The kernel died: killed by SIGKILL")
        terminal.expect("farewell")
        terminal.expect("The kernel was restarted")
        terminal.expect(r"In \[1\]: ")
        terminal.send("print two\r")
        terminal.expect("\\[\\?2004ltwo\r\n")
        assert run("stop", kernel_id).returncode == 0
        terminal.expect("error:.* the kernel has ended, and is not started again")
        assert terminal.wait() == 126


def test_attach_without_a_terminal(run: Run, kept: Kept) -> None:
    """What there is to see is shown: what was missed, the state and the last of the log."""
    kernel_id = kept("--name", "train", "--lease", "500")
    run("run", "--on", "train", "-c", "outside logged")
    result = run("attach", "train")
    assert (result.returncode, result.stderr) == (0, "")
    missed, _, rest = result.stdout.partition("\n\n")
    assert missed == "In [1]: outside logged"
    facts, _, log = rest.partition("\n\nThe last of its log:\n")
    assert log == "logged\n"
    lines = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert (lines["id"], lines["name"], lines["state"]) == (kernel_id, "train", "idle")
    assert "ends in         8 min" in facts


# -- logs ----------------------------------------------------------------------------------------


def test_logs(run: Run, kept: Kept) -> None:
    """What the process has written, or its last lines."""
    kernel_id = kept()
    assert run("logs", kernel_id).stdout == ""
    run("run", "--on", kernel_id, "-c", "outside one\nsleep 0.1\noutside-stderr two")
    eventually_sync(lambda: run("logs", kernel_id).stdout == "one\ntwo\n")
    assert run("logs", kernel_id, "-n", "1").stdout == "two\n"
    assert run("logs", kernel_id, "-n", "0").stdout == ""


def test_following_across_a_restart(start: Start, run: Run, kept: Kept) -> None:
    """Old and new lines come once each, restarts are told beside them, and a stop ends it."""
    kernel_id = kept()
    run("run", "--on", kernel_id, "-c", "outside one")
    following = start("logs", "-f", kernel_id)
    assert read_until(following, "one") == []
    run("run", "--on", kernel_id, "-c", "outside two")
    assert read_until(following, "two") == []
    assert run("restart", kernel_id).returncode == 0
    run("run", "--on", kernel_id, "-c", "outside three")
    assert read_until(following, "three") == []
    assert run("stop", kernel_id).returncode == 0
    rest, errors = following.communicate(timeout=30)
    assert (following.returncode, rest) == (0, b"")
    assert errors.decode().splitlines() == [
        "hint: The kernel is started again.",
        "hint: The kernel answers.",
        "hint: The kernel is stopped: somebody asked for it.",
    ]


def test_nothing_is_lost_while_following_begins(start: Start, kept: Kept) -> None:
    """Of lines that come while the log is being asked for, each comes once."""
    kernel_id = kept()
    lines = [f"line {number}" for number in range(400)]
    code = "\n".join(f"outside {line}\nsleep 0.005" for line in lines)
    writing = start("run", "--on", kernel_id, "-c", f"print on\n{code}")
    read_until(writing, "on")
    followers = [start("logs", "-f", kernel_id) for _ in range(3)]
    for follower in followers:
        assert read_until(follower, lines[-1]) == lines[:-1]
        follower.terminate()
    assert writing.wait(30) == 0


def test_what_a_new_kernel_writes_first_is_followed(
    start: Start, run: Run, records: Path, write_spec: WriteSpec
) -> None:
    """Also what it wrote before it could be talked to."""
    kernel = f"{sys.executable} -m kernel_mgmt.testing.echo_kernel -f {{connection_file}}"
    write_spec("loud", ["sh", "-c", f"echo hello; exec {kernel}"])
    kernel_id = run("start", "spec/loud").stdout.removesuffix("\n")
    following = start("logs", "-f", kernel_id)
    assert read_until(following, "hello") == []
    assert run("restart", kernel_id).returncode == 0
    assert read_until(following, "hello") == []
    assert run("stop", kernel_id).returncode == 0
    rest, _ = following.communicate(timeout=30)
    assert (following.returncode, rest) == (0, b"")


def test_ctrl_c_ends_following(in_terminal: InTerminal, run: Run, kept: Kept) -> None:
    """The exit code is 130, and nothing else is said."""
    kernel_id = kept()
    run("run", "--on", kernel_id, "-c", "outside one")
    with in_terminal("logs", "-f", kernel_id) as terminal:
        terminal.expect("one\r\n")
        terminal.send(CTRL_C)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.output


def test_following_ends_when_nobody_reads(start: Start, run: Run, kept: Kept) -> None:
    """The next line that cannot be written ends it, with 141."""
    kernel_id = kept()
    run("run", "--on", kernel_id, "-c", "outside one")
    following = start("logs", "-f", kernel_id)
    read_until(following, "one")
    assert following.stdout is not None
    following.stdout.close()
    run("run", "--on", kernel_id, "-c", "outside two")
    assert following.wait(30) == 141


def test_a_nanny_that_is_killed_ends_all(
    start: Start, in_terminal: InTerminal, run: Run, kept: Kept, ps: Ps
) -> None:
    """Who follows its log, runs code or sits at a console learns of it at once."""
    kernel_id = kept()
    following = start("logs", "-f", kernel_id)
    with in_terminal("attach", kernel_id) as terminal:
        terminal.expect(r"In \[1\]: ")
        running = start("run", "--on", kernel_id, "-c", "print on\noutside on\nsleep 1000")
        read_until(running, "on")
        read_until(following, "on")
        os.kill(ps()[0]["nanny_pid"], signal.SIGKILL)
        terminal.expect("error:.* the kernel has ended, and is not started again")
        assert terminal.wait() == 126
    _, errors = following.communicate(timeout=30)
    assert (following.returncode, errors) == (
        126,
        b"error: the kernel's nanny has ended without a word, and the kernel with it.\n",
    )
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 126
    assert b"its nanny ended, and the kernel with it" in errors


def test_a_console_that_is_given_up(in_terminal: InTerminal, start: Start, kept: Kept) -> None:
    """Ctrl-C while a stopped kernel is waited for leaves it alone, and says how to come back."""
    kernel_id = kept("--name", "train")
    stopped = start("run", "--on", kernel_id, "-c", "print on\nhang")
    read_until(stopped, "on")
    with in_terminal("attach", "train") as terminal:
        terminal.expect("Waiting for the kernel to answer")
        terminal.send(CTRL_C)
        terminal.expect("interrupted:.* the kernel was left alone")
        terminal.expect("'kernel-mgmt attach train' comes back")
        assert terminal.wait() == 130
    stopped.terminate()
    assert stopped.wait(30) == 143
