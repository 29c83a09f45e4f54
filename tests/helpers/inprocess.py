"""Kernels inside this process: their cells, what they may change, and programs that have one."""

from __future__ import annotations

import builtins
import getpass
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kernel_mgmt import KernelClient, Message
from kernel_mgmt.channels import Heartbeat
from waiting import eventually

__all__ = [
    "ROOT",
    "RUNTIME_DIR",
    "TYPE",
    "beats",
    "begun",
    "busy_subshell",
    "printed",
    "process_state",
    "run",
    "run_python",
    "text_of",
]

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
TYPE = "native/inprocess"


async def run(client: Any, code: str, **options: Any) -> tuple[Message, list[Message]]:
    """Run some code; give its reply and all that it put out."""
    outputs: list[Message] = []
    reply = await client.execute_interactive(code, output_hook=outputs.append, **options)
    return reply, outputs


def text_of(outputs: Iterable[Message]) -> str:
    """What was printed; it may come in any number of messages."""
    return "".join(m.content["text"] for m in outputs if m.msg_type == "stream")


async def printed(client: Any, code: str) -> str:
    """What some code prints; it must succeed."""
    reply, outputs = await run(client, code)
    assert reply.content["status"] == "ok", reply.content
    return text_of(outputs)


async def begun(request: Any) -> None:
    """Wait until a cell has printed something."""
    async for message in request:
        if message.msg_type == "stream":
            return
    raise AssertionError("the cell ended without a word")


async def busy_subshell(client: KernelClient, code: str) -> tuple[str, Any]:
    """Have a new subshell run some code that does not end; it gives its id and the request."""
    subshell: str = (await client.create_subshell()).content["subshell_id"]
    request = client.execute(f"print('begun')\n{code}", subshell_id=subshell)
    await begun(request)
    return subshell, request


async def beats(client: KernelClient) -> None:
    """Wait until a heartbeat that was asked for just now has been answered."""
    heartbeat = Heartbeat(client.connection_info)
    try:
        await eventually(lambda: heartbeat._unanswered == 0)
    finally:
        heartbeat.close()


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def process_state() -> dict[str, Any]:
    """What of the process a kernel might change."""
    sys_names = "displayhook excepthook ps1 ps2 last_value breakpointhook __stdout__ __stderr__"
    return {
        **{name: getattr(sys, name, None) for name in sys_names.split()},
        # pytest replaces these for each phase of a test, so by what they are.
        "stdout": id(sys.stdout),
        "stderr": id(sys.stderr),
        "threading.excepthook": threading.excepthook,
        "builtins": dict(vars(builtins)),
        "getpass": getpass.getpass,
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "filters": list(warnings.filters),
        "environ": dict(os.environ),
        "path": list(sys.path),
        "main": sys.modules["__main__"],
        "cwd": os.getcwd(),
    }
