"""What the code of a cell can tell the echo kernel to do: one function a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...protocol import JSONObject, Message
from .bad_frames import bad_frames

if TYPE_CHECKING:
    from .kernel import EchoKernel

__all__ = ["COMMANDS", "Cell", "CellError"]

#: What a client answers an input_request with for "no more input".
_END_OF_INPUT = "\x04"


class CellError(Exception):
    """A cell failed: the content of its ``error`` message."""

    def __init__(self, ename: str, evalue: str) -> None:
        super().__init__(f"{ename}: {evalue}" if evalue else ename)
        self.ename = ename
        self.evalue = evalue
        self.traceback = [str(self)]


class Cell:
    """One execution of code.

    Args:
        kernel: what runs it.
        request: the execute_request.
        silent: whether results are not shown.
    """

    def __init__(self, kernel: EchoKernel, request: Message, *, silent: bool) -> None:
        self.kernel = kernel
        self.request = request
        self.silent = silent
        #: Whether the request is answered.
        self.replies = True

    def run(self, code: str) -> None:
        """Run the commands of a cell, one a line.

        Raises:
            CellError: one failed, or was interrupted.
        """
        for line in code.splitlines():
            name, _, argument = line.partition(" ")
            command = COMMANDS.get(name)
            try:
                if command is not None:
                    command(self, argument)
                elif line:
                    self.result({"text/plain": line})
            except (LookupError, ValueError, OSError) as error:
                raise CellError(type(error).__name__, str(error)) from None
            self.kernel.check_interrupted()

    def publish(self, msg_type: str, content: JSONObject) -> None:
        """Send a message on iopub that belongs to this cell."""
        self.kernel.publish(msg_type, content, self.request)

    def stream(self, text: str, name: str = "stdout") -> None:
        """Write a line of output."""
        self.publish("stream", {"name": name, "text": f"{text}\n"})

    def result(self, data: JSONObject) -> None:
        """Give a result, unless the cell is silent."""
        if not self.silent:
            count = self.kernel.execution_count
            content = {"data": data, "metadata": {}, "execution_count": count}
            self.publish("execute_result", content)

    # -- the commands; the docstrings are what an inspect_request gives -----------------------

    def _print(self, argument: str) -> None:
        """``print TEXT``: a line on stdout."""
        self.stream(argument)

    def _stderr(self, argument: str) -> None:
        """``stderr TEXT``: a line on stderr."""
        self.stream(argument, "stderr")

    def _result(self, argument: str) -> None:
        """``result TEXT``: an execute_result."""
        self.result({"text/plain": argument})

    def _display(self, argument: str) -> None:
        """``display MIME TEXT``: a display_data."""
        mime, _, text = argument.partition(" ")
        self.publish("display_data", {"data": {mime: text}, "metadata": {}, "transient": {}})

    def _nan(self, argument: str) -> None:
        """``nan``: an execute_result whose data hold NaN."""
        self.result({"text/plain": "nan", "application/json": float("nan")})

    def _error(self, argument: str) -> None:
        """``error ENAME EVALUE``: fails."""
        ename, _, evalue = argument.partition(" ")
        raise CellError(ename, evalue)

    def _sleep(self, argument: str) -> None:
        """``sleep SECONDS``: waits."""
        self.kernel.wait(float(argument))

    def _hang(self, argument: str) -> None:
        """``hang``: serves nothing until killed or interrupted."""
        self.kernel.hang()

    def _ask(self, prompt: str, *, password: bool) -> None:
        if not self.request.content.get("allow_stdin", False):
            raise CellError("StdinNotImplementedError", "The client does not take input requests.")
        value = self.kernel.ask(self.request, prompt, password=password)
        if value == _END_OF_INPUT:
            raise CellError("EOFError", "")
        self.stream(value)

    def _input(self, argument: str) -> None:
        """``input PROMPT``: asks and prints the answer."""
        self._ask(argument, password=False)

    def _password(self, argument: str) -> None:
        """``password PROMPT``: asks for a secret and prints it."""
        self._ask(argument, password=True)

    def _flood(self, argument: str) -> None:
        """``flood COUNT SIZE``: a burst of output."""
        count, size = map(int, argument.split())
        make = self.kernel.iopub_frames
        # All before the first is sent, so that the receiver's speed is measured and not this loop's.
        self.kernel.publish_frames(
            [
                make("stream", {"name": "stdout", "text": f"{n} ".ljust(size, "x")}, self.request)
                for n in range(count)
            ]
        )

    def _late(self, argument: str) -> None:
        """``late SECONDS TEXT``: prints later."""
        seconds, _, text = argument.partition(" ")
        self.kernel.later(float(seconds), lambda: self.stream(text))

    def _noreply(self, argument: str) -> None:
        """``noreply``: the request gets no reply."""
        self.replies = False

    def _noidle(self, argument: str) -> None:
        """``noidle``: the request gets no idle."""
        self.kernel.without_idle.add(self.request.msg_id)

    def _bad(self, argument: str) -> None:
        """``bad KIND``: a broken message on iopub."""
        kernel = self.kernel
        frames = kernel.iopub_frames("stream", {"name": "stdout", "text": "bad\n"}, self.request)
        kernel.publish_frames(bad_frames(argument, frames, kernel.session.sign))

    def _env(self, argument: str) -> None:
        """``env NAME``: prints an environment variable."""
        self.stream(os.environ[argument])

    def _cwd(self, argument: str) -> None:
        """``cwd``: prints the working directory."""
        self.stream(os.getcwd())

    def _pid(self, argument: str) -> None:
        """``pid``: prints the process id."""
        self.stream(str(os.getpid()))

    def _spawn(self, argument: str) -> None:
        """``spawn``: starts a long sleep in the same process group and prints its process id."""
        import subprocess

        self.stream(str(subprocess.Popen(["sleep", "1000"]).pid))

    def _exit(self, argument: str) -> None:
        """``exit CODE``: ends the process when what it has sent is out."""
        self.kernel.close()
        os._exit(int(argument or 0))

    def _signal(self, argument: str) -> None:
        """``signal NUMBER``: sends the process a signal."""
        os.kill(os.getpid(), int(argument))

    def _outside(self, argument: str) -> None:
        """``outside TEXT``: a line on the process's own standard output."""
        sys.stdout.write(f"{argument}\n")
        sys.stdout.flush()

    def _outside_stderr(self, argument: str) -> None:
        """``outside-stderr TEXT``: a line on the process's own standard error."""
        sys.stderr.write(f"{argument}\n")
        sys.stderr.flush()


#: The first word of a line, and what it does.
COMMANDS: dict[str, Callable[[Cell, str], None]] = {
    "print": Cell._print,
    "stderr": Cell._stderr,
    "result": Cell._result,
    "display": Cell._display,
    "nan": Cell._nan,
    "error": Cell._error,
    "sleep": Cell._sleep,
    "hang": Cell._hang,
    "input": Cell._input,
    "password": Cell._password,
    "flood": Cell._flood,
    "late": Cell._late,
    "noreply": Cell._noreply,
    "noidle": Cell._noidle,
    "bad": Cell._bad,
    "env": Cell._env,
    "cwd": Cell._cwd,
    "pid": Cell._pid,
    "spawn": Cell._spawn,
    "exit": Cell._exit,
    "signal": Cell._signal,
    "outside": Cell._outside,
    "outside-stderr": Cell._outside_stderr,
}
