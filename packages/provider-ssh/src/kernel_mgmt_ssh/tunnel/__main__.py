"""``python -m kernel_mgmt_ssh.tunnel DIRECTORY``: holds one connection to a host until its input ends.

``DIRECTORY`` is where local sockets are; it is removed at the end, however the application ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any


def main() -> int:
    """Serve one application; returns when it is gone."""
    directory = sys.argv[1]
    # Ctrl-C in a terminal is meant for the application, which ends this process by its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _raise_descriptor_limit()
    lock = threading.Lock()
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints does not disturb

    def say(message: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        with lock, contextlib.suppress(OSError):  # the application is gone
            while line:
                line = line[os.write(answers, line) :]

    # After the signal: importing paramiko takes a while.
    from .service import Tunnel

    tunnel = Tunnel(say)
    try:
        for line in sys.stdin.buffer:
            tunnel.take(json.loads(line))
    finally:
        tunnel.close()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _raise_descriptor_limit() -> None:
    """Have as many descriptors as may be: each connection of a client takes one."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    # Not sys.exit: threads that wait for a dead host must not keep this process.
    code = main()
    os._exit(code)
