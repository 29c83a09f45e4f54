"""The threads and sockets of one kernel inside this process, from their start to their end."""

# ipykernel has few types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from kernel_mgmt import ConnectionInfo, ExitStatus

from .endings import TASKS_PATIENCE, end_tasks
from .routing import enter, routed, without_filters_of_ipython

__all__ = ["KernelThread"]

logger = logging.getLogger("kernel_mgmt.native")

#: How long the last messages may take to reach their clients, in milliseconds.
_LINGER = 1000


class KernelThread:
    """Runs a kernel in a daemon thread of this process.

    Args:
        info: where to listen, and how messages are signed.
        user_ns: the namespace of the cells; changed in place.
        name: of the thread.
    """

    def __init__(self, info: ConnectionInfo, user_ns: dict[str, Any], name: str) -> None:
        self._info = info
        self._user_ns = user_ns
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Reaches its cells; only while it runs, for much hangs on it.
        self._kernel: Any = None
        self._stop_reason: str | None = None
        #: Done when the kernel listens. Neither of the two can be cancelled by who waits for it.
        self.started: Future[None] = Future()
        #: Done when nothing of the kernel is left but its files.
        self.ended: Future[ExitStatus] = Future()
        for future in (self.started, self.ended):
            future.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no more threads.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self.ended.set_result(ExitStatus(reason="it could not start"))
            raise

    # -- for any thread --------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether anything of the kernel still runs."""
        return not self.ended.done()

    def request_stop(self, reason: str) -> None:
        """End the kernel as soon as its thread is back in its event loop."""
        if self._stop_reason is None:
            self._stop_reason = reason
        if self._loop is not None:
            with suppress(RuntimeError):  # closed: it has ended
                self._loop.call_soon_threadsafe(self._loop.stop)

    def interrupt_cell(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs; as a signal does, in no subshell's."""
        if (kernel := self._kernel) is not None:
            kernel.main_gate.throw(KeyboardInterrupt)

    def end_cells(self) -> None:
        """Raise SystemExit in each cell that runs, also those of subshells."""
        if (kernel := self._kernel) is not None:
            for gate in kernel.gates():
                gate.throw(SystemExit)

    # -- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                status = self._serve(stack)
        except BaseException as error:
            logger.debug("The in-process kernel failed", exc_info=True)
            status = ExitStatus(code=1, reason=f"{type(error).__name__}: {error}")
            if not self.started.done():
                self.started.set_exception(error)
        self._kernel = None
        self.ended.set_result(status)

    def _serve(self, stack: ExitStack) -> ExitStatus:
        # Imported here: it takes a while, and whoever launches has a loop to run.
        with without_filters_of_ipython():
            from .shell import GuestKernel

        loop = stack.enter_context(_event_loop())
        channels = stack.enter_context(_channels(self._info))
        stack.enter_context(routed())
        stack.callback(enter, None)
        with without_filters_of_ipython():
            kernel: Any = GuestKernel(
                user_ns=self._user_ns,
                request_stop=self.request_stop,
                stopping=lambda: self._stop_reason is not None,
                **channels,
            )
        stack.callback(_flush, kernel)
        stack.callback(kernel.shell.close)
        enter(kernel)
        kernel.start()
        # The end of what cells do comes before that of all they use.
        stack.callback(kernel.end_subshells)
        stack.callback(_end_tasks_here, loop, kernel.shell_messages(None))
        channels["control_thread"].start()
        channels["shell_channel_thread"].start()
        self._kernel, self._loop = kernel, loop
        self.started.set_result(None)
        self._run_loop(loop)
        if self._stop_reason is None:
            self._stop_reason = kernel.stop_reason
        return ExitStatus(code=0, reason=self._stop_reason)

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._stop_reason is None:
            try:
                loop.run_forever()
                return
            except (KeyboardInterrupt, SystemExit):
                logger.debug("A task in the in-process kernel raised", exc_info=True)


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give this thread an event loop, one that can watch ZeroMQ's sockets on every system."""
    from tornado.ioloop import IOLoop

    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    io_loop = IOLoop(asyncio_loop=loop, make_current=False)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        io_loop.close()


def _end_tasks_here(loop: asyncio.AbstractEventLoop, stream: Any) -> None:
    """End the tasks of a loop of this thread, which does not run now."""
    ending = loop.create_task(end_tasks(stream))
    while not ending.done():
        try:
            loop.run_until_complete(ending)
        except (KeyboardInterrupt, SystemExit, RuntimeError):
            # A task of a cell raised it, or somebody asked for the end once more.
            logger.debug("The end of an in-process kernel was disturbed", exc_info=True)


def _flush(kernel: Any) -> None:
    kernel.stdout.flush()
    kernel.stderr.flush()


@contextmanager
def _channels(info: ConnectionInfo) -> Iterator[dict[str, Any]]:
    """Open the five channels, each with its thread; the threads that have loops are not started.

    Yields:
        The arguments of ipykernel's kernel that are about its channels.
    """
    import zmq
    from ipykernel.control import ControlThread
    from ipykernel.iostream import IOPubThread
    from ipykernel.shellchannel import ShellChannelThread
    from jupyter_client.session import Session
    from zmq.eventloop.zmqstream import ZMQStream

    session = Session(key=info.key.encode(), signature_scheme=info.signature_scheme)
    context = zmq.Context()
    with ExitStack() as stack:
        # In this order from the last to the first, when all is over.
        stack.callback(context.destroy, linger=_LINGER)
        shell, stdin, control, heartbeat = (
            stack.enter_context(_bound(context, info, name, zmq.ROUTER))
            for name in ("shell", "stdin", "control", "hb")
        )
        iopub = stack.enter_context(_bound(context, info, "iopub", zmq.XPUB))
        iopub_thread = IOPubThread(iopub, session=session)
        iopub_thread.start()
        # At the end of the process it would close sockets that a cell may be using.
        atexit.unregister(iopub_thread.stop)
        stack.callback(_stop_iopub, iopub_thread)
        shell_channel_thread = ShellChannelThread(context, daemon=True)
        shell_stream = ZMQStream(shell, shell_channel_thread.io_loop)
        shell_channel_thread.shell_stream = shell_stream
        stack.callback(_stop, shell_channel_thread, shell_stream)
        # Ended before the other, which answers it.
        control_thread = ControlThread(daemon=True)
        control_stream = ZMQStream(control, control_thread.io_loop)
        stack.callback(_stop, control_thread, control_stream)
        # A cell keeps neither heartbeats nor control messages waiting.
        echo = ZMQStream(heartbeat, control_thread.io_loop)
        echo.on_recv(echo.send_multipart)
        yield {
            "session": session,
            "shell_stream": shell_stream,
            "control_stream": control_stream,
            "stdin_socket": stdin,
            "iopub_socket": iopub_thread.background_socket,
            "iopub_thread": iopub_thread,
            "control_thread": control_thread,
            "shell_channel_thread": shell_channel_thread,
            "log": logger,
        }


@contextmanager
def _bound(context: Any, info: ConnectionInfo, channel: str, kind: int) -> Iterator[Any]:
    import zmq

    socket = context.socket(kind)
    try:
        socket.linger = _LINGER
        if kind == zmq.ROUTER:
            socket.router_handover = True  # a client that comes again gets its answers
        if info.curve_secretkey is not None and info.curve_publickey is not None:
            socket.curve_secretkey = info.curve_secretkey.encode()
            socket.curve_publickey = info.curve_publickey.encode()
            socket.curve_server = True
        socket.bind(info.endpoint(channel))
        yield socket
    finally:
        socket.close()


def _stop(thread: Any, stream: Any) -> None:
    """End one of ipykernel's threads with an event loop, or one that was never started."""
    if thread.ident is None:
        thread.io_loop.close()
        return
    _end_tasks_there(thread.io_loop, stream, patience=TASKS_PATIENCE)
    thread.stop()
    thread.join()


def _stop_iopub(thread: Any) -> None:
    _end_tasks_there(thread.io_loop)
    thread.stop()
    thread.close()


def _end_tasks_there(io_loop: Any, stream: Any = None, *, patience: float = 0) -> None:
    """End the tasks of a loop that runs in another thread, one that no cell can keep busy."""
    coroutine = end_tasks(stream, patience=patience)
    ending = asyncio.run_coroutine_threadsafe(coroutine, io_loop.asyncio_loop)
    with suppress(TimeoutError):
        ending.result(patience + 2 * TASKS_PATIENCE)
