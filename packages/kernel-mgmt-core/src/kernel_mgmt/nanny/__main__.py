"""``python -m kernel_mgmt.nanny``: reads its request, leaves who started it, and keeps a kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import NannyError
from .memory import TUNABLES, do_without_tls
from .request import NannyRequest
from .watchdog import Watchdog

#: Longer than any request: what goes on and on is none.
_LONGEST_REQUEST = 64 * 1024 * 1024


def main() -> int:
    """Keep one kernel; returns when it is gone."""
    try:
        request = NannyRequest.from_json(read_line())
    except NannyError as error:
        with contextlib.suppress(OSError):  # nobody reads it
            answer(refusal(str(error)))
        return 1
    if os.environ.get("GLIBC_TUNABLES") == TUNABLES:
        del os.environ["GLIBC_TUNABLES"]
    do_without_tls()
    try:
        # Before the forks: what memory the imports alone need, and the system can load again, stays
        # behind in the process that ends.
        from .service import serve
    except ImportError as error:
        cause = f"{sys.executable} cannot import what the nanny needs: {error}."
        with contextlib.suppress(OSError):
            answer(refusal(cause, "Install pyzmq for it."))
        return 1
    leave_parent()
    watchdog = Watchdog()  # forked off while this process has one thread
    return serve(request, watchdog, answer)


def read_line() -> bytes:
    """Read the request from standard input, which has nothing else."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LONGEST_REQUEST:
        data = os.read(0, 65536)
        if not data:
            break
        line += data
    return bytes(line)


def answer(content: Mapping[str, Any]) -> None:
    """Write the one line that whoever started the nanny waits for.

    Raises:
        OSError: nobody reads it.
    """
    line = json.dumps(content).encode("ascii") + b"\n"
    while line:
        line = line[os.write(1, line) :]


def refusal(cause: str, advice: str = "") -> Mapping[str, Any]:
    """Give the answer to a request that cannot be used."""
    return {
        "status": "error",
        "ename": "NannyError",
        "cause": cause,
        "phase": "start",
        "advice": advice,
    }


def leave_parent() -> None:
    """Go on in a process of a session of its own, which whoever started this one need not reap."""
    os.chdir(os.path.abspath(os.sep))  # which pins nobody's directory
    if sys.platform != "win32":
        if os.fork():
            os._exit(0)
        os.setsid()
        # Inherited from who may have had reasons to block or ignore them: we need them.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
