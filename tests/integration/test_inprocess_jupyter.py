"""Jupyter's own tools attach to a live application by the connection file of its kernel."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyter_client
import pytest
from jupyter_core.utils import ensure_event_loop
from kernel_mgmt import run_kernel_blocking
from pseudo_terminal import PseudoTerminal

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


@pytest.fixture(scope="module", autouse=True)
def _jupyters_loop() -> None:
    """Make the event loop that jupyter_client keeps for its blocking calls, once."""
    ensure_event_loop()


@pytest.fixture
def application() -> dict[str, Any]:
    """What the application holds."""
    return {"orders": ["tea", "cake"]}


@pytest.fixture
def connection_file(application: dict[str, Any]) -> Iterator[Path]:
    """The connection file of a kernel in this process."""
    params = {"user_ns": application}
    with run_kernel_blocking("native/inprocess", launch_params=params) as client:
        assert client.manager is not None
        yield RUNTIME_DIR / f"kernel-{client.manager.kernel_id}.json"


def test_jupyter_console_looks_at_a_live_application(
    application: dict[str, Any], connection_file: Path
) -> None:
    """`jupyter console --existing FILE`, a process of its own, sees and changes this one's
    objects, and this one's output does not mix with it.
    """
    console = shutil.which("jupyter-console", path=Path(sys.executable).parent)
    assert console, "jupyter_console is not installed beside this Python"
    argv = [console, "--simple-prompt", "--existing", str(connection_file)]
    with PseudoTerminal(argv) as tty:
        tty.expect(r"In \[\d+\]: ")
        tty.send("print(len(orders), 'orders in', __import__('os').getpid())\n")
        tty.expect(f"2 orders in {os.getpid()}")
        print("printed by the application")
        tty.expect(r"In \[\d+\]: ")
        tty.send("orders.append(input('what else? '))\n")
        tty.expect(r"what else\? ")
        tty.send("milk\n")
        tty.expect(r"In \[\d+\]: ")
        tty.send("\x04")
        tty.expect("Do you really want to exit")
        tty.send("y\n")
        tty.wait()
        assert "printed by the application" not in tty.output
    assert application["orders"] == ["tea", "cake", "milk"]


def test_jupyter_client_interrupts_and_ends_the_kernel(
    application: dict[str, Any], connection_file: Path
) -> None:
    """Its messages reach the cell and the kernel's thread, and leave the process alone."""
    begun = application["begun"] = threading.Event()
    client = jupyter_client.BlockingKernelClient(connection_file=str(connection_file))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        client.execute("begun.set()\nwhile True: pass")
        assert begun.wait(30)
        client.control_channel.send(client.session.msg("interrupt_request", {}))
        assert client.get_shell_msg(timeout=30)["content"]["ename"] == "KeyboardInterrupt"
        reply = client.shutdown(reply=True, timeout=30)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)
    assert application["orders"] == ["tea", "cake"]
