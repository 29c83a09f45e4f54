"""Jupyter's own tools and ours use each other's kernels."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jupyter_client
import pytest
from jupyter_core.utils import ensure_event_loop
from kernel_mgmt import BlockingKernelClient, ConnectionInfo, run_kernel_blocking
from pseudo_terminal import PseudoTerminal

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


@pytest.fixture(scope="session", autouse=True)
def _jupyters_loop() -> None:
    """Make the event loop that jupyter_client keeps for its blocking calls, once."""
    ensure_event_loop()


@contextmanager
def our_kernel(
    transport: str, encryption: str = "auto"
) -> Iterator[tuple[BlockingKernelClient, Path]]:
    """Run a kernel that we launched; gives our client and the connection file that we wrote."""
    params = {"transport": transport, "encryption": encryption}
    with run_kernel_blocking("native/python3", launch_params=params) as client:
        assert client.manager is not None
        yield client, RUNTIME_DIR / f"kernel-{client.manager.kernel_id}.json"


@contextmanager
def jupyters_kernel(transport: str, tmp_path: Path) -> Iterator[Path]:
    """Run a kernel that jupyter_client launched; gives the connection file that it wrote."""
    manager = jupyter_client.KernelManager(kernel_name="python3", transport=transport)
    if transport == "ipc":  # or its sockets would be in the current directory
        manager.ip = str(tmp_path / "kernel")
    manager.start_kernel()
    try:
        yield Path(manager.connection_file)
    finally:
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


def output(client: BlockingKernelClient, code: str) -> str:
    """Run code and give what it prints."""
    request = client.execute(code)
    text = "".join(m.content["text"] for m in request.outputs(30) if m.msg_type == "stream")
    assert request.reply(30).content["status"] == "ok"
    return text


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_jupyter_console_uses_our_kernel(transport: str) -> None:
    """`jupyter console --existing` works with a connection file that we wrote, beside our client,
    and leaves the kernel running.
    """
    console = shutil.which("jupyter-console", path=Path(sys.executable).parent)
    assert console, "jupyter_console is not installed beside this Python"
    # Not encrypted: its --existing reads the keys from the file and does not hand them to its client.
    with our_kernel(transport, encryption="off") as (client, connection_file):
        output(client, "shared = 'made by our client'")
        with PseudoTerminal(
            [console, "--simple-prompt", "--existing", str(connection_file)]
        ) as tty:
            tty.expect(r"In \[\d+\]: ")
            tty.send("print(shared.upper())\n")
            tty.expect("MADE BY OUR CLIENT")
            tty.expect(r"In \[\d+\]: ")
            tty.send("shared = 'made in the console'\n")
            tty.expect(r"In \[\d+\]: ")
            tty.send("\x04")
            tty.expect("Do you really want to exit")
            tty.send("y\n")
            tty.wait()
        assert output(client, "print(shared)") == "made in the console\n"


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_jupyter_client_uses_our_kernel(transport: str) -> None:
    """jupyter_client works with a connection file that we wrote."""
    with our_kernel(transport) as (_, connection_file):
        theirs = jupyter_client.BlockingKernelClient(connection_file=str(connection_file))
        theirs.load_connection_file()
        theirs.start_channels()
        try:
            theirs.wait_for_ready(timeout=30)
            seen: list[str] = []
            theirs.execute_interactive(
                "print(6 * 7)",
                timeout=30,
                output_hook=lambda message: seen.append(message["content"].get("text", "")),
            )
        finally:
            theirs.stop_channels()
            theirs.context.destroy(linger=0)
        assert "42\n" in seen


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_we_use_jupyters_kernel(transport: str, tmp_path: Path) -> None:
    """Our client works with a connection file that jupyter_client wrote, and with its kernel."""
    with jupyters_kernel(transport, tmp_path) as connection_file:
        info = ConnectionInfo.read(connection_file)
        with BlockingKernelClient(info) as client:
            client.wait_for_ready(30)
            assert output(client, "print(6 * 7)") == "42\n"
        # Nothing that Jupyter wrote is lost on the way through.
        written = json.loads(connection_file.read_text())
        assert written.items() <= info.to_dict().items()
