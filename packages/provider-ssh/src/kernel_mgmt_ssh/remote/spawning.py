"""Programs of the nanny's archive run by some Python of this host, asked one line, and heard."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from .failing import AgentError
from .tasks import Task

__all__ = ["Heard", "run_program"]

#: How a program ends that cannot run with a Python.
_OLD_PYTHON, _NO_PYZMQ = 99, 98

#: Reads a program from standard input, byte for byte no more than it has, and runs it; ends before
#: where that cannot run.
_LOADER = f"""\
# kernel-mgmt
import sys
if sys.version_info < (3, 9):
    sys.exit({_OLD_PYTHON})
if sys.path[:1] == [""]:
    del sys.path[0]
if sys.argv[1:] == ["zmq"]:
    try:
        import zmq
    except ImportError:
        sys.exit({_NO_PYZMQ})
del sys.argv[1:]
with open(0, "rb", 0, closefd=False) as file:
    length = int(file.readline())
    text = bytearray()
    while len(text) < length:
        data = file.read(length - len(text))
        if not data:
            sys.exit(1)
        text += data
program = compile(bytes(text), "<sent>", "exec")
del text, data
exec(program)
"""

#: The answer among what else a start of Python may write, such as the greeting of a ``.pth`` file.
_ANSWER = re.compile(rb"^\{.*\}\n", re.MULTILINE)
#: How much of what it writes is kept, in bytes.
_LONGEST = 1_000_000
#: How long a program that is given up may take to undo what it did, in seconds.
_UNDO_PATIENCE = 10.0


@dataclass(frozen=True)
class Heard:
    """What a program has said.

    Attributes:
        answer: its one line; None when it ended before.
        errors: what it wrote to its standard error until then.
        code: how the process ended that was started, which may only have started another.
        ran: whether the program ran at all; else another Python may.
    """

    answer: dict[str, Any] | None
    errors: str
    code: int
    ran: bool


def run_program(
    python: str,
    program: bytes,
    line: bytes,
    task: Task,
    *,
    needs_pyzmq: bool,
    env: Mapping[str, str],
) -> Heard:
    """Run a program in a session of its own, and wait for its answer.

    Args:
        python: the interpreter.
        program: what ``make_program`` gave.
        line: what the program reads once it runs.
        task: when it is cancelled, the program is told by the end of its output's pipe.
        needs_pyzmq: whether it is not to run where there is no pyzmq.
        env: its environment.

    Raises:
        AgentError: the interpreter cannot be run.
        Cancelled: the task was given up, and the program has undone what it did, unless it had
            just answered.
    """
    command = [python, "-c", _LOADER, *(["zmq"] if needs_pyzmq else [])]
    try:
        process = subprocess.Popen(
            command,
            cwd="/",
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise AgentError(
            f"{python!r} cannot be run on the host: {getattr(error, 'strerror', error)}.",
            kind="no-python",
            advice="Set `python` to another one in ssh_kernels.toml.",
        ) from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    text = b"%d\n" % len(program) + program + line
    try:
        with process.stdin, process.stdout, process.stderr:
            talk = _Talk(process.stdin, process.stdout, process.stderr, text, task)
            talk.run()
    finally:
        code = process.wait()
    task.check()
    # A Python that does not work leaves more unread than any pipe holds.
    ran = talk.is_sent and code not in (_OLD_PYTHON, _NO_PYZMQ)
    return Heard(talk.answer(), talk.errors.decode("utf-8", "replace"), code, ran)


class _Talk:
    """What goes through a program's three pipes until it has answered or is gone."""

    def __init__(
        self, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], text: bytes, task: Task
    ) -> None:
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._text = memoryview(text)
        self._task = task
        self.written = bytearray()
        self.errors = bytearray()
        #: Whether all was written.
        self.is_sent = False
        self._selector = selectors.DefaultSelector()
        self._deadline: float | None = None

    def answer(self) -> dict[str, Any] | None:
        """Give its answer; None when there is none (yet)."""
        found = _ANSWER.search(self.written)
        if found is None:
            return None
        try:
            content: dict[str, Any] = json.loads(found[0])
        except ValueError:  # somebody else's line
            return None
        return content

    def run(self) -> None:
        """Write and read until there is an answer, or the program has ended."""
        os.set_blocking(self._stdin.fileno(), False)
        with self._selector as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
            selector.register(self._stdout, selectors.EVENT_READ, self._read_answer)
            selector.register(self._stderr, selectors.EVENT_READ, self._read_errors)
            selector.register(self._task.wake_end, selectors.EVENT_READ, self._give_up)
            # Its standard error is what it closes last.
            while not self._stderr.closed and self.answer() is None:
                patience = None
                if self._deadline is not None:
                    patience = self._deadline - time.monotonic()
                    if patience <= 0:
                        sys.stderr.write("A program did not end when it was given up.\n")
                        break
                for key, _ in selector.select(patience):
                    key.data()

    def _write(self) -> None:
        try:
            self._text = self._text[os.write(self._stdin.fileno(), self._text[:65536]) :]
        except BlockingIOError:
            return
        except OSError:  # it has ended, and will be heard to have
            self._close(self._stdin)
            return
        if not self._text:
            self.is_sent = True
            self._close(self._stdin)

    def _read_answer(self) -> None:
        if not _read(self._stdout, self.written):
            self._close(self._stdout)
            self._deadline = self._deadline or time.monotonic() + _UNDO_PATIENCE

    def _read_errors(self) -> None:
        if not _read(self._stderr, self.errors):
            self._close(self._stderr)

    def _give_up(self) -> None:
        self._selector.unregister(self._task.wake_end)
        self._deadline = time.monotonic() + _UNDO_PATIENCE
        for pipe in (self._stdin, self._stdout):
            if not pipe.closed:
                self._close(pipe)  # which tells it

    def _close(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        pipe.close()


def _read(pipe: IO[bytes], into: bytearray) -> bool:
    """Keep what can be read; gives False at its end."""
    data = os.read(pipe.fileno(), 65536)
    into += data
    del into[:-_LONGEST]
    return bool(data)
