"""Starting a kernel under a nanny: the nanny's process started, asked, and heard.

The nanny leaves this process as soon as it runs, and answers when the kernel's sockets accept
connections.  As long as it has not answered it depends on us: when we end, or nobody waits for
the answer any more, it undoes all that it has done.
"""

from __future__ import annotations

import json
import logging
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..background import finish, in_thread, result_of
from ..connection import ConnectionInfo
from ..errors import KernelMgmtError, LaunchError, NannyError, one_line
from ..launch import Launched, LaunchRequest
from ..manager import ExitStatus
from ..nanny.memory import TUNABLES
from ..nanny.request import CONNECTION_FILE, NannyRequest
from ..records import is_dead, read_record, record_path, records_dir

__all__ = ["start_under_nanny"]

logger = logging.getLogger("kernel_mgmt")

#: Without ``-P`` a file in the nanny's working directory could take the place of a module.
_COMMAND = ("-P", "-m", "kernel_mgmt.nanny")
#: How long a nanny that nobody waits for any more may take to undo what it did, in seconds.
_UNDO_PATIENCE = 10.0
#: The answer among what else a start of Python may write, such as the greeting of a ``.pth`` file.
_ANSWER = re.compile(rb"^\{.*\}\n", re.MULTILINE)
#: How much of what a nanny writes is kept, in bytes; an answer has a few thousand.
_LONGEST = 1_000_000


async def start_under_nanny(
    request: LaunchRequest,
    make_argv: Callable[[Path], Sequence[str]],
    *,
    runtime_dir: Path,
    transport: str = "tcp",
    env: Mapping[str, str] | None = None,
    encryption: object = "auto",
    handshake: bool = False,
) -> Launched:
    """Launch a kernel of this machine that outlives this process; see ``launch_local``.

    Args:
        request: what to launch, and in ``nanny`` how to keep it. Its ``connection_info``, when
            given, says where the nanny listens.
        make_argv: gives the kernel's command for the path of a connection file.
        runtime_dir: where to put the connection file of the nanny.
        transport: how the nanny reaches the kernel, ``ipc`` or ``tcp``.
        env: variables of the kernel type, between this process's and the request's.
        encryption: whether that is encrypted.
        handshake: whether the kernel registers its ports.

    Returns:
        The connection info of the nanny, and a manager that talks to it.

    Raises:
        LaunchError: nanny or kernel could not be started.
        NannyError: the nanny refuses the request.
    """
    request.check_cwd()
    asked = _nanny_request(
        request, make_argv, runtime_dir, transport, env or {}, encryption, handshake
    )
    try:
        line = asked.to_json()
    except NannyError as error:
        raise LaunchError(one_line(error) + ".", phase="resolve") from error
    request.progress("start", f"Starting {request.kernel_type.display_name or 'the kernel'}")
    began = time.time()
    wake, waker = socket.socketpair()
    with waker:
        future = in_thread("nanny-start", lambda: _start_and_hear(line, wake))
        try:
            heard = await result_of(future)
        except BaseException:
            waker.close()
            await finish(_undo(future, request.kernel_id, began))
            raise
    return _launched(heard, request.kernel_id)


def _nanny_request(
    request: LaunchRequest,
    make_argv: Callable[[Path], Sequence[str]],
    runtime_dir: Path,
    transport: str,
    env: Mapping[str, str],
    encryption: object,
    handshake: bool,
) -> NannyRequest:
    assert request.nanny is not None
    argv = tuple(make_argv(Path(CONNECTION_FILE)))
    if not argv:
        raise LaunchError(
            "The kernel type has an empty command.", phase="start", advice="Mend its argv."
        )
    if not isinstance(encryption, str):
        raise LaunchError(
            f"The launch parameter 'encryption' is {encryption!r}.",
            phase="resolve",
            advice="It must be 'auto', 'required' or 'off'.",
        )
    try:
        # The nanny runs in another directory.
        cwd = Path.cwd() if request.cwd is None else Path(os.path.abspath(request.cwd))
    except FileNotFoundError:
        raise LaunchError(
            "The working directory of this process does not exist any more.",
            phase="start",
            advice="Pass another cwd.",
        ) from None
    return NannyRequest(
        kernel_id=request.kernel_id,
        kernel_type=request.kernel_type,
        argv=argv,
        runtime_dir=Path(os.path.abspath(runtime_dir)),
        record_dir=Path(os.path.abspath(records_dir())),
        cwd=cwd,
        env={**env, **request.env},
        transport=transport,
        encryption=encryption,
        handshake=handshake,
        connection_info=request.connection_info,
        options=request.nanny,
    )


# -- on a thread of its own: no event loop waits for a process on all platforms -------------


@dataclass(frozen=True)
class _Heard:
    """What a nanny has said.

    Attributes:
        answer: its one line; empty when it ended before.
        errors: what it wrote to its standard error until then.
        exit_status: how the process ended that was started, which only starts the nanny itself.
    """

    answer: bytes
    errors: bytes
    exit_status: ExitStatus


def _start_and_hear(line: bytes, wake: socket.socket) -> _Heard:
    """Start a nanny, ask it, and wait for its answer, or until it is gone.

    Args:
        line: the request.
        wake: closed at the other end when nobody wants the answer any more.

    Raises:
        LaunchError: the process cannot be started.
    """
    with wake:
        process = _spawn()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with process.stdin, process.stdout, process.stderr:
                _send(process.stdin, line)
                written, errors = _hear(process.stdout, process.stderr, wake)
        finally:
            status = _reap(process)
        answer = _ANSWER.search(written)
        return _Heard(b"" if answer is None else answer[0], errors, status)


def _spawn() -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if sys.platform == "linux":
        environment.setdefault("GLIBC_TUNABLES", TUNABLES)
    try:
        return _popen_detached(
            [sys.executable, *_COMMAND],
            cwd=os.path.abspath(os.sep),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except OSError as error:
        raise LaunchError(
            f"The nanny cannot be started with {sys.executable!r}: {error.strerror}.",
            phase="start",
            advice="Check that it is the Python that runs this process.",
        ) from error


def _send(pipe: IO[bytes], line: bytes) -> None:
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(pipe.fileno(), rest) :]
    except OSError:
        pass  # the pipe is broken: it has ended, and will be heard to have


if sys.platform == "win32":

    def _popen_detached(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        # Without a console, and out of reach of the Ctrl-C of ours.
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        try:
            # A job that we are in may end with us, and all its processes with it.
            breakaway = subprocess.CREATE_BREAKAWAY_FROM_JOB
            return subprocess.Popen(argv, creationflags=flags | breakaway, **options)
        except PermissionError:  # that job lets nobody go
            return subprocess.Popen(argv, creationflags=flags, **options)

    def _hear(stdout: IO[bytes], stderr: IO[bytes], _wake: socket.socket) -> tuple[bytes, bytes]:
        """Give what the nanny wrote; pipes cannot be waited for together with a socket."""
        errors = in_thread("nanny-errors", stderr.read)
        written = b""
        # Also of a nanny that is given up: it is stopped when it has answered.
        while not _ANSWER.search(written) and (line := stdout.readline()):
            written += line
        return written, errors.result()  # the nanny lets go of it when it has answered

    def _reap(process: subprocess.Popen[bytes]) -> ExitStatus:
        process.returncode = 0  # it is the nanny itself, and runs on: nobody shall wait for it
        return ExitStatus()

else:

    def _popen_detached(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, start_new_session=True, **options)

    def _hear(stdout: IO[bytes], stderr: IO[bytes], wake: socket.socket) -> tuple[bytes, bytes]:
        """Give what the nanny wrote on each, when it has answered or is gone."""
        written, errors = bytearray(), bytearray()
        waiting: set[object] = {stdout, stderr, wake}
        deadline: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ, written)
            selector.register(stderr, selectors.EVENT_READ, errors)
            selector.register(wake, selectors.EVENT_READ)
            # Its standard error is what it closes last.
            while stderr in waiting and not _ANSWER.search(written):
                patience = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = selector.select(patience)
                if patience is not None and not ready:
                    logger.warning("A nanny did not end within %g s", _UNDO_PATIENCE)
                    break
                for key, _ in ready:
                    if not _read(key):
                        selector.unregister(key.fileobj)
                        waiting.discard(key.fileobj)
                if wake not in waiting and stdout in waiting:
                    selector.unregister(stdout)
                    waiting.discard(stdout)
                    stdout.close()  # which tells it
                if stdout not in waiting and deadline is None:
                    deadline = time.monotonic() + _UNDO_PATIENCE
        return bytes(written), bytes(errors)

    def _read(key: selectors.SelectorKey) -> bool:
        """Keep what can be read; gives False at its end."""
        data = b"" if key.data is None else os.read(key.fd, 65536)
        if data:
            key.data.extend(data)
            del key.data[:-_LONGEST]
        return bool(data)

    def _reap(process: subprocess.Popen[bytes]) -> ExitStatus:
        return ExitStatus.from_returncode(process.wait())


# -- what it said ---------------------------------------------------------------------------


def _launched(heard: _Heard, kernel_id: str) -> Launched:
    """Make of a nanny's answer what a launch gives or raises."""
    from .manager import RemoteKernelManager

    content = _content(heard)
    if content.get("status") == "ok":
        info = ConnectionInfo.from_dict(content["connection_info"])
        return Launched(info, RemoteKernelManager(info, kernel_id=kernel_id))
    cause = str(content.get("cause", "The nanny failed, and did not say why."))
    if content.get("ename") != "LaunchError":
        raise NannyError(cause)
    status = content.get("exit_status")
    raise LaunchError(
        cause,
        phase=str(content.get("phase", "start")),
        advice=str(content.get("advice", "")),
        exit_status=None if status is None else ExitStatus.from_dict(status),
        log_tail=str(content.get("log_tail", "")),
        endpoints_refused=content.get("endpoints_refused") is True,
    )


def _content(heard: _Heard) -> dict[str, Any]:
    if heard.answer:
        # From a process of this very installation: it is what it should be.
        content: dict[str, Any] = json.loads(heard.answer)
        return content
    how = f": {heard.exit_status}" if heard.exit_status.code != 0 else ""
    raise LaunchError(
        f"The nanny that was to keep the kernel ended before it answered{how}.",
        phase="start",
        advice="What it wrote tells why."
        if heard.errors.strip()
        else f"See whether it runs: {sys.executable} {' '.join(_COMMAND)} </dev/null.",
        log_tail=heard.errors.decode("utf-8", "replace")[-10_000:],
    )


async def _undo(future: Future[_Heard], kernel_id: str, began: float) -> None:
    """Wait until a nanny that was given up is gone; stop one that had just answered.

    Args:
        future: what it said.
        kernel_id: its kernel's id.
        began: when it was started; a record that is older is another kernel's.
    """
    from .manager import RemoteKernelManager

    try:
        await result_of(future)
    except LaunchError:
        return  # there was none
    try:
        # Its answer may have got lost on the way to us: the record tells as well.
        record = read_record(record_path(records_dir(), kernel_id))
        if record.started is not None and record.started >= began and not is_dead(record):
            await RemoteKernelManager(record.connection_info).cleanup()
    except FileNotFoundError:
        pass  # as it should be
    except KernelMgmtError as error:
        logger.warning("A kernel whose launch was given up may be left: %s", error)
