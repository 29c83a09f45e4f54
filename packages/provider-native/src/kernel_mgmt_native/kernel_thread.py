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

from .interrupts import CellGate
from .routing import enter, routed, without_filters_of_ipython

__all__ = ["KernelThread"]

logger = logging.getLogger("kernel_mgmt.native")

#: How long tasks that cells left behind may take to end when they are cancelled, in seconds.
_TASKS_PATIENCE = 1.0
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
        self._gate: CellGate | None = None
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

    def throw(self, exception: type[BaseException]) -> None:
        """Raise an exception in the cell that runs; nothing happens when none does."""
        if self._gate is not None and self.alive:
            with suppress(RuntimeError):  # its loop is closed: it has ended
                self._gate.throw(exception)

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
        self.ended.set_result(status)

    def _serve(self, stack: ExitStack) -> ExitStatus:
        # Imported here: it takes a while, and whoever launches has a loop to run.
        with without_filters_of_ipython():
            from .shell import GuestKernel

        loop = stack.enter_context(_event_loop())
        gate = CellGate(loop)
        channels = stack.enter_context(_channels(self._info))
        stack.enter_context(routed())
        stack.callback(enter, None)
        with without_filters_of_ipython():
            kernel: Any = GuestKernel(
                user_ns=self._user_ns,
                gate=gate,
                request_stop=self.request_stop,
                stopping=lambda: self._stop_reason is not None,
                **channels,
            )
        stack.callback(_flush, kernel)
        stack.callback(kernel.shell.close)
        stack.callback(_cancel_tasks, loop)
        enter(kernel)
        kernel.start()
        channels["control_thread"].start()
        channels["shell_channel_thread"].start()
        self._gate, self._loop = gate, loop
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


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_TASKS_PATIENCE))
        # The threads of its executor are not waited for: one may be busy for ever.
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (KeyboardInterrupt, SystemExit, RuntimeError):
        logger.debug("A task of a cell disturbed the end of its kernel", exc_info=True)


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
    _quieten(thread.io_loop, stream, patience=_TASKS_PATIENCE)
    thread.stop()
    thread.join()


def _stop_iopub(thread: Any) -> None:
    _quieten(thread.io_loop)
    thread.stop()
    thread.close()


def _quieten(io_loop: Any, stream: Any = None, *, patience: float = 0) -> None:
    """End the tasks of another thread's loop, which ipykernel leaves to the garbage collector.

    Args:
        io_loop: the loop.
        stream: receives what makes further tasks.
        patience: seconds that tasks may take before they are cancelled.
    """

    async def end_tasks() -> None:
        if stream is not None:
            stream.stop_on_recv()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks and patience:
            await asyncio.wait(tasks, timeout=patience)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    ending = asyncio.run_coroutine_threadsafe(end_tasks(), io_loop.asyncio_loop)
    with suppress(TimeoutError):
        ending.result(2 * _TASKS_PATIENCE)
