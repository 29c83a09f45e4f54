"""A process of its own for each contestant: the end that works, and the end that asks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from .contestant import peak_memory

CONTESTANTS = {
    "floor": ("floor", "Floor"),
    "ours": ("ours", "Ours"),
    "ours, blocking": ("ours", "OursBlocking"),
    "ours, with journal": ("journal", "OursWithJournal"),
    "jupyter_client": ("peer", "Peer"),
    "jupyter_client, blocking": ("peer", "PeerBlocking"),
}
#: Seconds that a worker may take to stop its kernels and end.
_PATIENCE = 15


class WorkerError(Exception):
    """A contestant failed; the message is its traceback."""


class Worker:
    """Asks a contestant in another process, one call at a time.

    Args:
        name: a key of :data:`CONTESTANTS`.
        env: the process's environment.
    """

    def __init__(self, name: str, env: dict[str, str]) -> None:
        self.name = name
        self._asking = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=Path(__file__).parent.parent,
            # Ctrl-C in a terminal reaches the asking end alone, which then interrupts this one.
            start_new_session=True,
        )

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the contestant and give what it returned.

        Raises:
            WorkerError: it raised, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asking = True
        try:
            self._process.stdin.write(json.dumps([method, args, kwargs]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"The process of {self.name!r} is gone.") from None
        line = self._process.stdout.readline()
        self._asking = False
        if not line:
            raise WorkerError(f"The process of {self.name!r} ended during {method!r}.")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name!r} failed in {method!r}:\n{answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End the process and whatever it started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._asking:
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its kernels notice and follow
            self._process.wait()
        self._process.stdout.close()


def main(name: str) -> None:
    """Serve calls from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    # Whatever a contestant or its kernels print shall not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    module, class_name = CONTESTANTS[name]
    contestant = getattr(import_module(f".{module}", __package__), class_name)()
    try:
        for line in sys.stdin:
            method, args, kwargs = json.loads(line)
            function = peak_memory if method == "peak_memory" else getattr(contestant, method)
            try:
                answer = {"result": function(*args, **kwargs)}
            except Exception:  # noqa: BLE001 - told to the asking end, which raises
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        pass  # what was under way has cleaned up
    finally:
        contestant.close()


if __name__ == "__main__":
    main(sys.argv[1])
