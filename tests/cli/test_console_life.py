"""What ends a console, what ends its kernel, and a kernel that was there before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jupyter_client
import pytest
from command_line import InTerminal
from jupyter_core.utils import ensure_event_loop
from kernel_mgmt import BlockingKernelClient, ConnectionInfo, run_kernel_blocking
from kernel_mgmt.connection import CHANNELS
from kernel_mgmt.endpoints import accepts
from pseudo_terminal import PseudoTerminal
from waiting import eventually_sync

CTRL_D = "\x04"
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


@pytest.fixture
def shared(echo: str) -> Iterator[tuple[BlockingKernelClient, Path]]:
    """An echo kernel that runs anyway: a client of it, and its connection file."""
    with run_kernel_blocking(echo) as client:
        assert client.manager is not None
        yield client, RUNTIME_DIR / f"kernel-{client.manager.kernel_id}.json"


@pytest.fixture(scope="session")
def jupyters_loop() -> None:
    """Make the event loop that jupyter_client keeps for its blocking calls, once."""
    ensure_event_loop()


@pytest.fixture
def jupyters_kernel(jupyters_loop: None) -> Iterator[Path]:
    """The connection file of a kernel that jupyter_client has launched, and that listens."""
    file = RUNTIME_DIR / "kernel-jupyters.json"
    manager = jupyter_client.KernelManager(kernel_name="python3", connection_file=str(file))
    manager.start_kernel()
    try:
        info = ConnectionInfo.read(file)
        eventually_sync(lambda: all(accepts(info, channel) for channel in CHANNELS), timeout=30)
        yield file
    finally:
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


def kernel_pid(terminal: PseudoTerminal) -> int:
    """Ask the echo kernel for its process id."""
    terminal.send("pid\r")
    return int(terminal.expect(r"\[\?2004l(\d+)\r\n")[1])


# -- the kernel's end ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["idle", "busy", "asking"])
def test_a_kernel_that_dies_is_restarted(console: InTerminal, echo: str, moment: str) -> None:
    """Whatever it did, its end is told, a new one is there, and numbers begin anew."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        pid = kernel_pid(terminal)
        terminal.expect(r"In \[2\]: ")
        if moment == "busy":
            terminal.send("print on\x1b\rsleep 1000\r")
            terminal.expect("on\r\n")
        elif moment == "asking":
            terminal.send("password Secret? \r")
            terminal.expect(r"\[0mSecret\?")
        os.kill(pid, signal.SIGKILL)
        terminal.expect("The kernel died: killed by SIGKILL")
        terminal.expect("The kernel was restarted; what it had in memory is gone")
        terminal.expect(r"In \[1\]: ")
        assert kernel_pid(terminal) != pid
        terminal.send("exit\r")
        assert terminal.wait() == 0


def test_a_kernel_that_dies_too_often(console: InTerminal, echo: str) -> None:
    """The console ends with an error, and its last words were shown."""
    with console(echo) as terminal:
        for _ in range(6):
            terminal.expect(r"In \[1\]: ")
            terminal.send("outside-stderr farewell\x1b\rexit 3\r")
            terminal.expect("The kernel died: exit code 3")
            terminal.expect("farewell")
        terminal.expect("error:.* the kernel is not started again.*The kernel died: exit code 3")
        assert terminal.wait() == 126


# -- the console's end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signum", "busy"), [(signal.SIGTERM, True), (signal.SIGHUP, False)], ids=["busy", "idle"]
)
def test_a_signal_stops_the_kernel(
    console: InTerminal, echo: str, signum: signal.Signals, busy: bool
) -> None:
    """SIGTERM and SIGHUP end console and kernel, and leave the terminal as it was."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        if busy:
            terminal.send("print on\x1b\rsleep 1000\r")
            terminal.expect("on\r\n")
        terminal.process.send_signal(signum)
        assert terminal.wait() == 128 + signum
        assert terminal.echoes()
        assert "Traceback" not in terminal.output


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_closed_terminal_stops_the_kernel(console: InTerminal, echo: str, busy: bool) -> None:
    """When the window is closed nothing is left."""
    with console(echo) as terminal:
        terminal.expect(r"In \[1\]: ")
        if busy:
            terminal.send("print on\x1b\rsleep 1000\r")
            terminal.expect("on\r\n")
        terminal.hang_up()
        assert terminal.process.wait(30) == 129


def test_ctrl_c_ends_a_launch(console: InTerminal, gated: str, tmp_path: Path) -> None:
    """Before the kernel is there, it ends the console."""
    with console(gated, "--param", f'gate="{tmp_path}/none"') as terminal:
        terminal.expect("pull")
        terminal.send("\x03")
        terminal.expect("interrupted:.* the launch was given up")
        assert terminal.wait() == 130


def test_a_provider_asks(console: InTerminal, gated: str) -> None:
    """A provider's question is answered in the terminal, hidden when it is secret."""
    arguments = ["--param", "ask=Passphrase:", "--param", "secret=true"]
    with console(gated, *arguments) as terminal:
        terminal.expect("Passphrase:")
        terminal.send("xyzzy\r")
        terminal.expect(r"In \[1\]: ")
        assert "xyzzy" not in terminal.output
        terminal.send("env ANSWER\r")
        terminal.expect("xyzzy\r\n")
        terminal.send("exit\r")
        assert terminal.wait() == 0


# -- existing kernels ------------------------------------------------------------------------------


def test_an_existing_kernel_of_jupyter(console: InTerminal, jupyters_kernel: Path) -> None:
    """A kernel that jupyter_client launched is used, interrupted by message, and lives on."""
    with console("--existing", str(jupyters_kernel)) as terminal:
        terminal.expect(r"In \[1\]: ")
        terminal.send("kept = 42; kept\r")
        terminal.expect(r"Out\[1\]: .*42\r\n")
        terminal.send("import time; print('on'); time.sleep(1000)\r")
        terminal.expect("on\r\n")
        terminal.send("\x03")
        terminal.expect("KeyboardInterrupt")
        terminal.expect(r"In \[3\]: ")
        terminal.send(CTRL_D)
        terminal.expect("Leave the console and leave the kernel running")
        terminal.send("\r")
        assert terminal.wait() == 0
    with console("--existing", jupyters_kernel.name) as terminal:
        terminal.expect(r"In \[3\]: ")
        terminal.send("kept\r")
        terminal.expect(r"Out\[3\]: .*42\r\n")
        terminal.send("exit\r")
        assert terminal.wait() == 0


def test_other_clients(console: InTerminal, shared: tuple[BlockingKernelClient, Path]) -> None:
    """What others run is shown with a mark when that is wanted, and else not."""
    client, path = shared
    with console("--existing", path.stem, "--others") as terminal:
        terminal.expect(r"In \[1\]: ")
        client.execute_interactive("print theirs", timeout=20)
        terminal.expect(r"\[other\] .*In \[1\]: .*print theirs\r\n")
        terminal.expect(r"\[other\] theirs\r\n")
        terminal.expect(r"In \[2\]: ")
        terminal.send("exit\r")
        assert terminal.wait() == 0
    with console("--existing", str(path)) as terminal:
        terminal.expect(r"In \[2\]: ")
        client.execute_interactive("print theirs", timeout=20)
        terminal.send("print ours\r")
        terminal.expect("\\[\\?2004lours\r\n")
        terminal.send("exit\r")
        assert terminal.wait() == 0
        assert "theirs" not in terminal.output


def test_an_existing_kernel_that_ends(
    console: InTerminal, shared: tuple[BlockingKernelClient, Path]
) -> None:
    """A kernel that is gone without a word is told of by its heartbeat."""
    client, path = shared
    with console("--existing", str(path)) as terminal:
        terminal.expect(r"In \[1\]: ")
        assert client.manager is not None
        client.manager.kill()
        terminal.expect("warning:.* The kernel does not answer its heartbeat")
        terminal.send("\x1c")
        assert terminal.wait() == 131


def test_an_existing_kernel_that_is_shut_down(console: InTerminal, jupyters_kernel: Path) -> None:
    """When another client shuts it down the console ends and says so."""
    with console("--existing", str(jupyters_kernel)) as terminal:
        terminal.expect(r"In \[1\]: ")
        with BlockingKernelClient(ConnectionInfo.read(jupyters_kernel)) as client:
            client.wait_for_ready(30)
            client.shutdown_or_terminate()
        terminal.expect("error:.* the kernel was shut down by another client")
        assert terminal.wait() == 126


def test_existing_kernels_that_are_none(console: InTerminal, tmp_path: Path) -> None:
    """A file that is missing, unreadable or left over is a sentence that says so."""
    left = ConnectionInfo.for_tcp().write(tmp_path / "kernel-left.json")
    (tmp_path / "broken.json").write_text("{")
    for name, message in {
        "nothing": "No kernel's connection file has a name like 'nothing'",
        str(tmp_path / "none.json"): "There is no connection file",
        str(tmp_path / "broken.json"): "is not JSON",
        str(left): "No kernel listens where",
    }.items():
        with console("--existing", name, columns=400) as terminal:
            terminal.expect(f"error:.*{message}")
            assert terminal.wait() == 125
