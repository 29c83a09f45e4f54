"""ipykernel's kernel and shell, as guests of a process that is not theirs.

Importing this module imports IPython and ipykernel, which takes a while.
"""

# ipykernel has few types, and what traitlets give at run time differs from what is declared.
# mypy: disable-error-code="no-untyped-call,attr-defined,union-attr,assignment,method-assign,arg-type"

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ipykernel._version import kernel_protocol_version
from ipykernel.comm.manager import CommManager
from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelbase import Kernel
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.builtin_trap import BuiltinTrap
from IPython.core.display_trap import DisplayTrap
from IPython.display import display
from traitlets.config import Config

from .endings import TASKS_PATIENCE, end_tasks
from .interrupts import CellGate
from .routing import enter, refresh, routed_excepthook

__all__ = ["GuestKernel"]

#: How often a subshell that is to end is looked at, in seconds.
_POLL_INTERVAL = 0.01
#: The gate of each thread that runs cells.
_here = threading.local()


class _NoDisplayTrap(DisplayTrap):
    """Leaves ``sys.displayhook`` alone, which depends on the thread already."""

    def set(self) -> None:
        """Do nothing."""

    def unset(self) -> None:
        """Do nothing."""


class GuestShell(ZMQInteractiveShell):
    """An IPython shell that leaves the process as it is and works in a namespace it was given."""

    def __init__(self, **kwargs: Any) -> None:
        #: The names that the namespace had before; all others that IPython adds go at the end.
        self._names_before: frozenset[str] = frozenset()
        self._last_error: BaseException | None = None
        super().__init__(**kwargs)
        # Set while a cell runs; the same for all, see there.
        self.excepthook = routed_excepthook

    # -- what IPython does to a process of its own -----------------------------------------

    def init_environment(self) -> None:
        """Set no environment variables."""

    def init_sys_modules(self) -> None:
        """Leave ``__main__`` the application's."""

    def init_prompts(self) -> None:
        """Leave ``sys.ps1``, by which a program sees that it is interactive."""

    def init_builtins(self) -> None:
        """Leave the builtins: what cells need is in their namespace."""
        self.builtin_trap = BuiltinTrap(shell=self)
        self.builtin_trap.auto_builtins = {}

    def init_displayhook(self) -> None:
        """Make the display hook without putting it in place."""
        with self._names_kept():
            super().init_displayhook()
        self.display_trap = _NoDisplayTrap(hook=self.displayhook)

    def prepare_user_module(self, user_module: Any = None, user_ns: Any = None) -> Any:
        """Look at the namespace before anything is put there."""
        self._names_before = frozenset(user_ns or ())
        return super().prepare_user_module(user_module, user_ns)

    def init_user_ns(self) -> None:
        """Add what IPython has for its users, but never over a name of the application."""
        with self._names_kept():
            super().init_user_ns()
            self.user_ns["display"] = self.user_ns_hidden["display"] = display
            # IPython's own refuses descriptors 0, 1 and 2, which the application may well mean.
            self.user_ns.pop("open", None)

    @contextmanager
    def _names_kept(self) -> Iterator[None]:
        before = dict(self.user_ns)
        yield
        self.user_ns.update(before)

    def atexit_operations(self) -> None:
        """Do not clear the namespace, which IPython does when the process ends."""

    # -- cells -----------------------------------------------------------------------------

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> Any:
        """Run some code of a cell, where it can be interrupted."""
        gate: CellGate | None = getattr(_here, "gate", None)
        running = super().run_code(code_obj, result, async_=async_)
        return await (running if gate is None else gate.run(running))

    def set_parent(self, parent: Any) -> None:
        """Let output belong to a request, also while the application has replaced sys.stdout."""
        super().set_parent(parent)
        for stream in (self.kernel.stdout, self.kernel.stderr):
            stream.set_parent(parent)

    def ask_exit(self) -> None:
        """End the kernel, not the process."""
        super().ask_exit()
        if self.exit_now:
            self.kernel.stop_reason = "exit() was called in it"

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        found = super()._get_exc_info(exc_tuple)
        self._last_error = found[1]  # it is in sys.last_value now
        return found

    def close(self) -> None:
        """Take back what the shell did to the process and to the namespace."""
        atexit.unregister(self.atexit_operations)
        if self.history_manager is not None:
            self.history_manager.close()
        for path in self.tempfiles:
            Path(path).unlink(missing_ok=True)
        for path in self.tempdirs:
            with suppress(OSError):
                Path(path).rmdir()
        if self._last_error is not None and getattr(sys, "last_value", None) is self._last_error:
            for name in ("last_type", "last_value", "last_traceback", "last_exc"):
                vars(sys).pop(name, None)
        self._last_error = None
        added = {*self.user_ns_hidden, "__builtin__", "_", "__", "___"}
        for name in added - self._names_before:
            self.user_ns.pop(name, None)


class GuestKernel(IPythonKernel):
    """An IPython kernel in one thread of somebody else's process.

    Args:
        user_ns: the namespace of the cells.
        request_stop: ends the kernel's thread; given a reason.
        stopping: tells whether it is to end, so that no further cell may begin.
        **kwargs: what ipykernel's kernel takes: session, streams, sockets and threads.
    """

    # A class to be loaded, in ipykernel's own: debugpy with it, which takes hold of the process.
    debugger_class = None

    def __init__(
        self,
        *,
        user_ns: dict[str, Any],
        request_stop: Callable[[str], None],
        stopping: Callable[[], bool],
        **kwargs: Any,
    ) -> None:
        # Not IPythonKernel's own: that makes singletons, and a debugger.
        Kernel.__init__(self, user_ns=user_ns, **kwargs)
        #: Where the cells of the main shell are interrupted.
        self.main_gate = CellGate(asyncio.get_event_loop())
        #: With those of the subshells that were used.
        self._gates: dict[str | None, CellGate] = {None: self.main_gate}
        #: Done when the tasks of a subshell that is to end have ended.
        self._endings: dict[str, Future[None]] = {}
        self._request_stop = request_stop
        self._stopping = stopping
        self.stop_reason = ""
        self.stdout = OutStream(self.session, self.iopub_thread, "stdout", watchfd=False)
        self.stderr = OutStream(self.session, self.iopub_thread, "stderr", watchfd=False)
        self.shell = GuestShell(
            kernel=self,
            parent=self,
            user_ns=user_ns,
            compiler_class=self.compiler_class,
            # What is typed here is not for the user's IPython history.
            config=Config({"HistoryManager": {"hist_file": ":memory:"}}),
        )
        self.shell.displayhook.session = self.shell.display_pub.session = self.session
        self.shell.displayhook.pub_socket = self.shell.display_pub.pub_socket = self.iopub_socket
        self.shell.displayhook.topic = self._topic("execute_result")
        self.comm_manager = CommManager(parent=self, kernel=self)
        self.shell.configurables.append(self.comm_manager)
        for name in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[name] = getattr(self.comm_manager, name)

    @property
    def kernel(self) -> Any:
        """Itself, as :class:`~.routing.Guest` has it."""
        return self

    def start(self) -> None:
        """Begin to receive."""
        self.shell.exit_now = False
        Kernel.start(self)

    @property
    def kernel_info(self) -> dict[str, Any]:
        """What the kernel tells of itself: like IPython, without a debugger."""
        return {
            "protocol_version": kernel_protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": f"{self.banner}In process {os.getpid()}, which goes on when you leave.\n",
            "help_links": self.help_links,
            "supported_features": ["kernel subshells"],
        }

    # -- shells, of which each has a thread ------------------------------------------------

    def gates(self) -> list[CellGate]:
        """Tell where the cells of all shells are reached."""
        return list(self._gates.values())

    def shell_messages(self, subshell_id: str | None) -> Any:
        """Give the stream from which a shell receives."""
        manager = self.shell_channel_thread.manager
        return manager.get_shell_channel_to_subshell_pair(subshell_id).to_stream

    def end_subshells(self) -> None:
        """End what subshells do, so that they can be stopped; waits for their cells to return."""
        for subshell_id in self.shell_channel_thread.manager.list_subshell():
            with suppress(KeyError):  # deleted just now
                ended = self._end_tasks_of(subshell_id, patience=0)
                while not ended():
                    time.sleep(_POLL_INTERVAL)

    def _end_tasks_of(self, subshell_id: str, *, patience: float) -> Callable[[], bool]:
        """Have a subshell receive no more and end its tasks as soon as its cell has returned.

        ipykernel, which stops its thread, would stop its loop in the midst of them. It must do so
        itself: sockets of the thread that it does it in are closed along with that loop.

        Returns:
            Tells whether it is done.
        """
        stream = self.shell_messages(subshell_id)
        loop = stream.io_loop.asyncio_loop
        if subshell_id not in self._endings:
            coroutine = end_tasks(stream, patience=patience)
            try:
                ending = asyncio.run_coroutine_threadsafe(coroutine, loop)
            except RuntimeError:  # the loop is closed: one of its tasks raised SystemExit
                coroutine.close()
                return lambda: True
            self._endings[subshell_id] = ending
        ending = self._endings[subshell_id]
        return lambda: ending.done() or loop.is_closed()

    # -- requests --------------------------------------------------------------------------

    async def shell_main(self, subshell_id: str | None, msg: Any) -> None:
        """Serve a shell message, here or in the thread of a subshell."""
        enter(self)
        if subshell_id not in self._gates:
            self._gates[subshell_id] = CellGate(asyncio.get_running_loop())
        _here.gate = self._gates[subshell_id]
        await super().shell_main(subshell_id, msg)

    async def dispatch_shell(
        self, msg: Any, /, subshell_id: str | None = None, *, concurrent: bool = False
    ) -> None:
        """Serve a shell message; its cell can be reached, unless another's runs beside it."""
        with nullcontext() if concurrent else self._gates[subshell_id].serving():
            # Looked at behind the gate: who asks for the end and then throws misses no cell.
            if self._stopping():
                return
            refresh()
            await super().dispatch_shell(msg, subshell_id, concurrent=concurrent)

    async def process_control(self, msg: Any) -> None:
        """Serve a control message, in the control thread."""
        enter(self)
        await super().process_control(msg)

    async def delete_subshell_request(self, socket: Any, ident: Any, parent: Any) -> None:
        """Delete a subshell when its cell has returned; heartbeats go on meanwhile."""
        subshell_id = parent["content"].get("subshell_id")
        with suppress(KeyError, TypeError):  # there is none: the answer says so
            ended = self._end_tasks_of(subshell_id, patience=TASKS_PATIENCE)
            while not ended():  # noqa: ASYNC110 - a loop that closes tells nobody
                await asyncio.sleep(_POLL_INTERVAL)
            self._gates.pop(subshell_id, None)
        await super().delete_subshell_request(socket, ident, parent)

    async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """End the kernel; what else lives in the process is not touched, and no child of it."""
        content = {"status": "ok", "restart": parent["content"].get("restart", False)}
        self.session.send(stream, "shutdown_reply", content, parent, ident=ident)
        self.session.send(
            self.iopub_socket, "shutdown_reply", content, parent, ident=self._topic("shutdown")
        )
        self._request_stop("it was shut down")

    # Coroutines: ipykernel warns of plain functions, and in an application whose warnings are errors
    # the requests would never be answered.

    async def do_complete(self, code: str, cursor_pos: int) -> Any:
        """Complete some code."""
        return super().do_complete(code, cursor_pos)

    async def do_inspect(self, *args: Any, **kwargs: Any) -> Any:
        """Look at what some code names."""
        return super().do_inspect(*args, **kwargs)

    async def do_history(self, *args: Any, **kwargs: Any) -> Any:
        """Give inputs of the past."""
        return super().do_history(*args, **kwargs)

    async def do_is_complete(self, code: str) -> Any:
        """Tell whether some code can be run as it is."""
        return super().do_is_complete(code)

    async def do_debug_request(self, msg: dict[str, Any]) -> dict[str, Any]:
        """Refuse: a debugger would stop the application as well."""
        return {
            "type": "response",
            "request_seq": msg.get("seq", 0),
            "command": msg.get("command", ""),
            "success": False,
            "message": "A kernel inside an application has no debugger.",
        }

    def _send_interrupt_children(self) -> None:
        """Answer an interrupt_request: the cell alone, not the process that SIGINT would hit."""
        self.main_gate.throw(KeyboardInterrupt)

    # -- signals and input are the application's -------------------------------------------

    def pre_handler_hook(self) -> None:
        """Leave SIGINT alone."""

    def post_handler_hook(self) -> None:
        """Leave SIGINT alone."""

    @contextmanager
    def _cancel_on_sigint(self, future: Any) -> Iterator[None]:
        yield  # the gate does that

    def _forward_input(self, allow_stdin: bool = False) -> None:
        self._allow_stdin = allow_stdin

    def _restore_input(self) -> None:
        pass
