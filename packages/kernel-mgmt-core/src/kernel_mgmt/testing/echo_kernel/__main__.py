"""The command line of the echo kernel."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from ...connection import ConnectionInfo
from .registering import WAYS, info_to_bind, register


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kernel_mgmt.testing.echo_kernel",
        description="A Jupyter kernel that does what it is told, for tests and benchmarks.",
    )
    add = parser.add_argument
    add("-f", dest="connection_file", required=True, help="the connection file")
    add("--exit", type=int, metavar="CODE", help="end at once with this status")
    add("--message", default="", metavar="TEXT", help="with --exit: write this to stderr first")
    add("--startup-delay", type=float, default=0, metavar="S", help="bind the sockets later")
    add("--never-answer", action="store_true", help="bind the sockets, then do nothing")
    add("--answer-delay", type=float, default=0, metavar="S", help="answer kernel_info later")
    add("--no-welcome", action="store_true", help="send no iopub_welcome")
    add("--ignore-shutdown", action="store_true", help="answer shutdown_request and stay")
    add("--ignore-sigterm", action="store_true", help="do not end on SIGTERM")
    add("--no-curve", action="store_true", help="do not encrypt, keys or not")
    add("--register", default="well", choices=WAYS, help="how to answer a registration file")
    add("--wait-for", metavar="PATH", help="bind the sockets when this file is there")
    add("--protocol", default="5.5", metavar="VERSION", help="report this; 4.1 is spoken, too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the kernel until it is shut down."""
    options = _parse(arguments)
    if options.exit is not None:
        sys.stderr.write(f"{options.message}\n" if options.message else "")
        return int(options.exit)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(options.startup_delay)
    while options.wait_for and not os.path.exists(options.wait_for):
        time.sleep(0.01)

    from .kernel import EchoKernel

    file = json.loads(Path(options.connection_file).read_bytes())
    registers = "registration_port" in file
    info = info_to_bind(file) if registers else ConnectionInfo.read(options.connection_file)
    if options.no_curve:
        info = info.replace(curve_publickey=None, curve_secretkey=None)
    kernel = EchoKernel(
        info,
        welcome=not options.no_welcome,
        answer_delay=options.answer_delay,
        ignore_shutdown=options.ignore_shutdown,
        protocol=options.protocol,
        parent_pid=int(os.environ.get("JPY_PARENT_PID") or 0),
    )
    try:
        if registers:
            register(file, kernel.ports, options.register)
        if options.never_answer:
            kernel.stay_mute()
        else:
            kernel.serve()
    finally:
        kernel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
