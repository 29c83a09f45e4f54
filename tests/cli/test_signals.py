"""How ``kernel-mgmt run`` ends early: Ctrl-C, signals, and output that nobody reads.

That no process, file or directory is left is what the leak check around each test sees to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import InTerminal, Start, WriteSpec
from kernel_mgmt_cli.signals import EndedBySignal, Signals
from waiting import eventually_sync

CTRL_C = "\x03"


def lines_until(process: subprocess.Popen[bytes], last: bytes) -> None:
    """Read output up to a line."""
    assert process.stdout is not None
    for line in process.stdout:
        if line == last:
            return
    raise AssertionError(f"{last!r} did not come")


# What these cells print is not flushed: ipykernel does that a moment later, when they sleep. A signal
# that comes while Python runs a finalizer or a callback of the garbage collector is lost.


def test_ctrl_c_interrupts_the_kernel(in_terminal: InTerminal) -> None:
    """The code gets its KeyboardInterrupt, and the exit code is 130."""
    code = "import time; print('on'); time.sleep(1000)"
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        assert terminal.wait() == 130
        assert "stopped" not in terminal.output


def test_ctrl_c_that_costs_the_reply_is_an_interrupt(in_terminal: InTerminal, echo: str) -> None:
    """When the kernel never replies to the cell that was interrupted, the exit code is 130 too."""
    with in_terminal("run", echo, "-c", "noreply\nprint on\nsleep 1000") as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        terminal.expect("KeyboardInterrupt")
        assert terminal.wait() == 130
        assert "error:" not in terminal.output


def test_code_that_catches_ctrl_c_goes_on(in_terminal: InTerminal) -> None:
    """The first Ctrl-C is the code's alone: it may clean up, and end well."""
    code = """
import time
try:
    print('on'); time.sleep(1000)
except KeyboardInterrupt:
    print('cleaned up')
"""
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        terminal.expect("cleaned up")
        assert terminal.wait() == 0


def test_the_code_chooses_its_exit_code_after_ctrl_c(in_terminal: InTerminal) -> None:
    """A sys.exit in answer to Ctrl-C counts."""
    code = """
import sys, time
try:
    print('on'); time.sleep(1000)
except KeyboardInterrupt:
    sys.exit(7)
"""
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        assert terminal.wait() == 7


def test_a_second_ctrl_c_stops_the_kernel(in_terminal: InTerminal) -> None:
    """Code that ignores the first is killed at once."""
    code = """
import time
while True:
    try:
        print('on')
        time.sleep(1000)
    except KeyboardInterrupt:
        print('ignored')
"""
    with in_terminal("run", "native/python3", "-c", code) as terminal:
        terminal.expect("on\r\n")
        terminal.send(CTRL_C)
        terminal.expect("ignored\r\non\r\n")
        pressed = time.monotonic()
        terminal.send(CTRL_C)
        terminal.expect("interrupted:.* the kernel was stopped.\r\n")
        assert terminal.wait() == 130
        assert time.monotonic() - pressed < 1


def test_many_ctrl_c_are_one_end(in_terminal: InTerminal, echo: str) -> None:
    """Whoever keeps on pressing gets no traceback and leaves no kernel."""
    with in_terminal("run", echo, "-c", "print on\nhang") as terminal:
        terminal.expect("on\r\n")
        for _ in range(50):
            terminal.send(CTRL_C)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.output


def test_a_late_ctrl_c_does_nothing(own_signals: None) -> None:
    """One that comes when the command has been ended and is about to exit is ignored."""
    with pytest.raises(EndedBySignal), Signals() as signals, signals.raising():
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


def test_ctrl_c_ends_a_launch(in_terminal: InTerminal, gated: str, tmp_path: Path) -> None:
    """One is enough while no code runs."""
    gate = f'gate="{tmp_path}/none"'
    with in_terminal("run", gated, "--param", gate, "-c", "print no") as terminal:
        terminal.expect("pull")
        terminal.send(CTRL_C)
        terminal.expect("interrupted")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.output
        assert terminal.output.count("\x1b[?25h") >= 1  # the cursor is back


def test_ctrl_c_ends_a_slow_stop(in_terminal: InTerminal, write_spec: WriteSpec) -> None:
    """A kernel that does not want to end after its code has ended is killed."""
    options = ["-f", "{connection_file}", "--ignore-shutdown", "--ignore-sigterm"]
    write_spec("stubborn", [sys.executable, "-m", "kernel_mgmt.testing.echo_kernel", *options])
    with in_terminal("run", "spec/stubborn", "-c", "print on") as terminal:
        terminal.expect("on\r\n")
        started = time.monotonic()
        # The code may not have quite ended, so that the first one is still the code's.
        eventually_sync(
            lambda: terminal.send(CTRL_C) or terminal.process.poll() is not None, interval=0.2
        )
        assert terminal.wait() == 130
        assert time.monotonic() - started < 4  # asking it takes seven


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGTERM, "sleep 1000"),
        (signal.SIGTERM, "hang"),
        (signal.SIGTERM, "input ?"),
        (signal.SIGHUP, "sleep 1000"),
    ],
)
def test_a_signal_stops_the_kernel(
    start: Start, echo: str, signum: signal.Signals, code: str
) -> None:
    """SIGTERM and SIGHUP end the command quietly, whatever the kernel does."""
    process = start("run", echo, "-c", f"print on\n{code}")
    lines_until(process, b"on\n")
    process.send_signal(signum)
    assert process.wait(30) == 128 + signum
    assert process.stderr is not None
    assert process.stderr.read() in {b"", b"?"}


def test_a_signal_ends_a_launch(start: Start, gated: str, tmp_path: Path) -> None:
    """SIGTERM during a launch ends it."""
    params = {"started": tmp_path / "started", "gate": tmp_path / "none"}
    options = [word for name, path in params.items() for word in ("--param", f"{name}={path}")]
    process = start("run", gated, *options, "-c", "print no")
    eventually_sync(params["started"].exists, timeout=30)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 143


def test_a_closed_terminal_stops_the_kernel(in_terminal: InTerminal, echo: str) -> None:
    """When the window is closed the command ends, and its kernel with it."""
    with in_terminal("run", echo, "-c", "print on\nsleep 1000") as terminal:
        terminal.expect("on\r\n")
        terminal.hang_up()
        assert terminal.process.wait(30) in {129, -signal.SIGHUP}


def test_closed_output_stops_the_kernel(start: Start, echo: str) -> None:
    """When the reader has enough, as head has, the command ends without a word."""
    process = start("run", echo, "-c", "\n".join(["print on", "sleep 0.01"] * 1000))
    lines_until(process, b"on\n")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_output_that_was_never_open_is_no_error(start: Start, echo: str) -> None:
    """Code runs although its output goes nowhere."""
    process = start(
        "run", echo, "-c", "print on\nstderr on", preexec_fn=lambda: (os.close(1), os.close(2))
    )
    assert process.wait(30) == 0


def test_output_on_a_full_disk_is_an_error(start: Start, echo: str) -> None:
    """The error says so, and the kernel is stopped."""
    with open("/dev/full", "wb") as full:
        process = start("run", echo, "-c", "print on\nsleep 1000", stdout=full)
        _, errors = process.communicate(timeout=30)
    assert errors.decode() == (
        "error: cannot write the kernel's output to <stdout>: No space left on device; "
        "check what is there, and whether it has room.\n"
    )
    assert process.returncode == 125


def test_what_a_shell_ignores_stays_ignored(start: Start, echo: str) -> None:
    """Under nohup SIGHUP does nothing."""
    process = start(
        "run",
        echo,
        "-c",
        "print on\ninput ?",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    lines_until(process, b"on\n")
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(b"answer\n", timeout=30)
    assert (output, process.returncode) == (b"answer\n", 0)
