"""Where the command begins and ends: nobody sees a traceback who did not ask for one."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with this process's arguments; ends with its exit code."""
    code = _run()
    _flush()
    sys.exit(code)


def _run() -> int:
    try:
        # In here, so that Ctrl-C has its meaning from the start: this takes a tenth of a second.
        from .app import make_app

        make_app()(prog_name="kernel-mgmt")
    except SystemExit as exit_:
        return _exit_code(exit_)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as in a shell
    except Exception as error:  # noqa: BLE001 - this is the boundary
        from .errors import report

        return report(error)
    return 0


def _exit_code(exit_: SystemExit) -> int:
    return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)


def _flush() -> None:
    """Write out what is buffered; what nobody takes must not be tried again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
