"""Jupyter's console joins a kernel that picked its ports and registered them with us."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from kernel_mgmt import KernelFinder, run_kernel_blocking
from kernel_mgmt.testing import EchoProvider
from pseudo_terminal import PseudoTerminal

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


def test_jupyter_console_joins_a_kernel_that_registered() -> None:
    """The connection file that follows the registration file is one like any other."""
    console = shutil.which("jupyter-console", path=Path(sys.executable).parent)
    assert console, "jupyter_console is not installed beside this Python"
    finder = KernelFinder({"echo": EchoProvider()})
    params = {"transport": "tcp", "encryption": "off", "handshake": True}
    with run_kernel_blocking("echo/echo", finder=finder, launch_params=params) as client:
        assert client.manager is not None
        file = RUNTIME_DIR / f"kernel-{client.manager.kernel_id}.json"
        with PseudoTerminal([console, "--simple-prompt", "--existing", str(file)]) as tty:
            tty.expect(r"In \[\d+\]: ")
            tty.send("result forty-two\n")
            tty.expect(r"Out\[\d+\]: forty-two")
            tty.expect(r"In \[\d+\]: ")
            tty.send("\x04")
            tty.expect("Do you really want to exit")
            tty.send("y\n")
            tty.wait()
        assert client.execute("print still here").reply(20).content["status"] == "ok"
