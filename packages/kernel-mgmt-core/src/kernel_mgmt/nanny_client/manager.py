"""The manager of a kernel that a nanny keeps: the same interface, over two more ZeroMQ sockets."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from ..background import call_in_background, in_background
from ..connection import ConnectionInfo
from ..errors import KernelMgmtError, NannyError
from ..link import Link
from ..manager import ExitStatus, KernelManager
from ..nanny.protocol import PROTOCOL_VERSION, count_in, is_compatible, text_in
from ..protocol import JSONObject
from .control import ConnectionCut, NannyControl, NannyGone, NannyRefusal
from .events import NannyEvents

__all__ = ["LogTail", "RemoteKernelManager", "manager_for"]

T = TypeVar("T")

#: Requests that must not be done twice: they are not asked again when the connection was cut.
_ONCE = frozenset({"signal", "interrupt", "restart"})
#: How long to wait before asking again after that, in seconds.
_PAUSE = 0.1


@dataclass(frozen=True)
class _End:
    """How one of the nanny's kernels ended.

    Attributes:
        kernel: its number.
        exit_status: as :meth:`RemoteKernelManager.wait` gives it.
        log_tail: its last output.
        restarting: whether it was ended to be started again.
    """

    kernel: int
    exit_status: ExitStatus
    log_tail: str = ""
    restarting: bool = False


class LogTail(NamedTuple):
    """The last of what a kernel's process has written.

    Attributes:
        text: the last lines.
        kernel: the kernel's number.
        position: how many bytes it has written in all, up to the end of the text.
    """

    text: str
    kernel: int
    position: int


class RemoteKernelManager(KernelManager):
    """Watches and stops a kernel by asking the nanny that keeps it.

    It can be used from any loop and thread.  Its sockets are open only while something uses them:
    there is nothing to be closed.

    The nanny may start its kernel again at the same address.  This is about one kernel at a time: the
    one that ran at the first contact, until :meth:`next_kernel` or :meth:`restart` goes on to
    the next.  Requests that change something always concern the kernel that runs.

    When the nanny is gone its kernel is, too: it is not alive, and to stop it does nothing.

    A nanny on another machine is reached by a link, and may not be for a while.  :meth:`wait` and
    :meth:`next_kernel` then wait for that as well, without limit; what has a limit ends with
    ``ConnectionLost`` when it is over.  As long as the link is lost nothing tells of the nanny.

    Args:
        connection_info: where the kernel is, with the ports of its nanny.
        kernel_id: the kernel's id; learned at the first contact by default.
        patience: seconds that the nanny may take to answer.
        link: the connection that leads there; None for a nanny on this machine.

    Raises:
        NannyError: the connection info has no ports of a nanny.  All methods raise it when the nanny
            does not answer in time, refuses, or has another version of the protocol.
        ConnectionLost: raised by all methods when the link is lost for as long as they may take, or
            closed, or was lost in the middle of what must not be done twice.
    """

    def __init__(
        self,
        connection_info: ConnectionInfo,
        *,
        kernel_id: str = "",
        patience: float = 10.0,
        link: Link | None = None,
    ) -> None:
        if not (connection_info.nanny_control_port and connection_info.nanny_events_port):
            raise NannyError(
                "The connection info has no ports of a nanny; only messages reach this kernel."
            )
        self.kernel_id = kernel_id
        #: Where the kernel is.
        self.connection_info = connection_info
        self._patience = patience
        self._link = link
        self._control = NannyControl(connection_info)
        #: What the nanny has told of itself; None as long as it is to be asked (again).
        self._capabilities: frozenset[str] | None = None
        self._nanny_pid: int | None = None
        #: Whether the nanny that answered once is gone; another may listen there by now.
        self._lost = False
        #: The number of the kernel that this is about; 0 before the first contact.
        self._kernel = 0
        #: The last end that was told of; of that kernel, or of one before it.
        self._end: _End | None = None
        self._followers = _Followers()

    def __repr__(self) -> str:
        return f"<RemoteKernelManager {self.kernel_id or 'of an unknown kernel'}>"

    @property
    def link(self) -> Link | None:
        """The connection that leads to the nanny; None for one on this machine."""
        return self._link

    # -- one kernel ------------------------------------------------------------------------

    async def is_alive(self) -> bool:
        """Tell whether the kernel's process exists, and its nanny has not replaced it."""
        try:
            reply = await self._ask("is_alive")
        except NannyGone:
            return False
        return reply.get("alive") is True and reply.get("kernel") == self._kernel

    async def wait(self) -> ExitStatus:
        """Wait until the kernel has ended, at once when it has; bound it with asyncio.timeout.

        The end of the nanny is noticed within a second, and ends the kernel.
        """
        end = self._known_end()
        try:
            if end is None:
                await self._meet(for_ever=self._link is not None)
                end = await self._wait_for(self._kernel)
        except NannyGone:
            end = self._known_end() or _End(
                self._kernel, ExitStatus(reason="its nanny ended, and the kernel with it")
            )
        self._note(end)
        return end.exit_status

    async def _wait_for(self, kernel: int) -> _End:
        task = asyncio.current_task()
        assert task is not None
        self._followers.note(task, kernel)
        reply = await self._ask("wait", patience=math.inf, kernel=kernel)
        return _End(
            kernel,
            ExitStatus.from_dict(reply.get("exit_status")),
            text_in(reply, "log_tail"),
            reply.get("restarting") is True,
        )

    def _known_end(self) -> _End | None:
        end = self._end
        return end if end is not None and end.kernel == self._kernel else None

    def _note(self, end: _End) -> None:
        if self._end is None or end.kernel > self._end.kernel:
            self._end = end

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and its children; nothing happens to a dead kernel."""
        await self._tell("signal", signum=int(signum))

    async def interrupt(self) -> None:
        """Interrupt what the kernel runs, as the nanny's platform does it."""
        await self._tell("interrupt")

    async def terminate(self) -> None:
        """Ask the kernel's process to end; the nanny does not start it again."""
        await self._tell("terminate")

    async def kill(self) -> None:
        """End the kernel and its children by force; returns when they are gone.

        The nanny does not start it again.
        """
        await self._tell("kill")

    async def cleanup(self) -> None:
        """End the nanny, which removes all that there is of the kernel."""
        await self.stop(0)

    async def log_tail(self, lines: int = 50) -> str:
        """Give the last lines of the kernel's own output, also when it has ended.

        Args:
            lines: how many at most; of a kernel that has ended the nanny keeps no more than 50.
        """
        end = self._known_end()
        if end is None:
            try:
                return text_in(await self._ask("log_tail", lines=lines), "text")
            except NannyGone:
                end = self._known_end()
        kept = end.log_tail.splitlines(keepends=True) if end is not None else []
        return "".join(kept[max(0, len(kept) - lines) :])

    async def log(self, lines: int = 50) -> LogTail:
        """Give the last output of the newest kernel, and where it is in all that this one wrote.

        With that, and the ``position`` of ``output`` events, nothing is missed or shown twice.

        Args:
            lines: how many at most.

        Raises:
            NannyError: the nanny is gone, too.
        """
        reply = await self._ask("log_tail", lines=lines)
        kernel, position = (count_in(reply, name) for name in ("kernel", "position"))
        return LogTail(text_in(reply, "text"), kernel, position)

    def record(self) -> dict[str, Any]:
        """Give what ``attach`` needs beside the connection info: that there is a nanny."""
        return {"nanny": {"pid": self._nanny_pid}}

    @property
    def kernel_number(self) -> int:
        """Which of the nanny's kernels this is about, from 1; 0 before the first contact."""
        return self._kernel

    # -- the next kernel -------------------------------------------------------------------

    @property
    def restarting(self) -> bool:
        """Whether the kernel that :meth:`wait` told the end of was ended to be started again."""
        return self._end is not None and self._end.restarting

    async def next_kernel(self) -> bool:
        """Wait until another kernel answers at the same address, in place of one that has ended.

        Who comes late, when this manager has gone on already, need not wait.
        """
        if self._lost:
            return False
        if self._known_end() is None:
            return True
        try:
            reply = await self._ask("wait_ready", patience=math.inf, after=self._kernel)
        except NannyGone:
            return False
        except NannyRefusal as refusal:
            if refusal.ename == "KernelFailed":
                return False
            raise
        self._go_on_to(reply.get("kernel"))
        return True

    def followed_by(self, task: asyncio.Task[None]) -> None:
        """Take note of a task that awaits :meth:`wait` and :meth:`next_kernel` in turn."""
        self._followers.add(task)

    async def restart(self, timeout: float = 0) -> None:
        """Have the nanny replace the kernel by a new one at the same address.

        Returns when the new one answers, and clients that have this very manager are connected to it.
        Their requests under way end with ``KernelRestarted``.

        Args:
            timeout: seconds that the old kernel may take to end when it was asked; with 0, which
                is the default, it is killed.

        Raises:
            NannyError: no new kernel came up, and why; or the nanny is gone or does not answer.
            ConnectionLost: the link was lost before it told; clients go on when it is back.
        """
        reply = await self._ask_at_length("restart", timeout=timeout)
        self._go_on_to(reply.get("kernel"))
        # Bounded, lest a client's loop is closed or blocked.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await in_background(self._followers.all_at(self._kernel))

    def _go_on_to(self, kernel: object) -> None:
        if type(kernel) is not int:
            raise NannyError(
                f"The nanny gave {kernel!r} for the number of its kernel; it breaks its protocol."
            )
        # Two threads may meet here, and the number be a former one: whoever waits then is told of
        # that kernel's end at once, and goes on again.
        self._kernel = max(self._kernel, kernel)

    # -- the nanny -------------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """Ask the nanny what it knows: content of its ``nanny_info`` reply.

        Raises:
            NannyError: it is gone, too.
        """
        content = await self._ask("nanny_info")
        return {name: value for name, value in content.items() if name != "status"}

    async def renew_lease(self, seconds: float | None) -> None:
        """Have the kernel shut down so many seconds from now, unless this is called again.

        Args:
            seconds: the time; None for no limit.

        Raises:
            NannyError: the nanny is gone, too.
        """
        await self._ask("lease", seconds=seconds)

    async def stop(self, timeout: float = 5) -> None:
        """End the kernel and its nanny; returns when nothing is left but the nanny's last moments.

        Args:
            timeout: seconds that the kernel may take to end when it was asked; with 0 it is killed.
        """
        try:
            await self._meet()
            # How the kernel ends can be asked only as long as there is a nanny.
            async with _beside(self.wait()) as waiting:
                await self._ask("stop", patience=self._patience + timeout, timeout=timeout)
                self._lost = True
                await asyncio.wait({waiting}, timeout=_PAUSE)  # its reply came just before
        except NannyGone:
            pass

    def events(self) -> NannyEvents:
        """Iterate over what the nanny tells, from now on and until it is gone.

        An iterator that is dropped in the middle stops listening.  What happens while a link is
        lost is not told later; :meth:`info` tells how things are.
        """
        return NannyEvents(self.connection_info, self, link=self._link)

    # -- asking ----------------------------------------------------------------------------

    async def _tell(self, name: str, **content: Any) -> None:
        with contextlib.suppress(NannyGone):  # then there is nothing to be done
            await self._ask(name, **content)

    async def _ask(self, name: str, *, patience: float = 0, **content: Any) -> JSONObject:
        """Ask the nanny, which may take so many seconds, by default this manager's patience."""
        seconds = patience or self._patience
        try:
            async with asyncio.timeout(seconds):
                return await self._ask_until_answered(name, content, for_ever=seconds == math.inf)
        except TimeoutError:
            raise self._silence(name, seconds) from None

    async def _ask_until_answered(
        self, name: str, content: JSONObject, *, for_ever: bool
    ) -> JSONObject:
        while True:
            await self._meet(for_ever=for_ever and self._link is not None)
            self._require(name)
            try:
                return await self._ask_once(name, content)
            except ConnectionCut:
                if name in _ONCE:
                    if self._link is not None:
                        raise self._link.error(name) from None
                    raise
                await asyncio.sleep(_PAUSE)

    async def _ask_once(self, name: str, content: JSONObject) -> JSONObject:
        if self._lost:
            raise NannyGone
        if self._link is not None:
            await self._link.wait_until_up()
        try:
            return await in_background(self._control.ask(name, content))
        except NannyGone:
            if await self._is_cut():
                self._capabilities = None
                raise ConnectionCut(name) from None
            self._lost = self._nanny_pid is not None
            raise
        except ConnectionCut:
            self._capabilities = None
            raise

    async def _is_cut(self) -> bool:
        """Tell whether it is because of the link that nothing listens where the nanny should."""
        if self._link is None:
            return False
        await asyncio.sleep(_PAUSE)  # whoever carries it may see the loss after us
        return self._link.state != "up"

    async def _ask_at_length(self, name: str, **content: Any) -> JSONObject:
        """Ask for what may take long: as long as the nanny answers other questions, it is at it."""
        async with _beside(self._ask(name, patience=math.inf, **content)) as asking:
            while not (await asyncio.wait({asking}, timeout=self._patience))[0]:
                await self._ask("is_alive")
            return asking.result()

    async def _meet(self, *, for_ever: bool = False) -> None:
        """Get to know the nanny, once for each connection; within patience, or when there is one."""
        while self._capabilities is None:
            try:
                async with asyncio.timeout(self._patience):
                    await self._get_to_know()
            except TimeoutError:
                if not for_ever:
                    raise self._silence("nanny_info", self._patience) from None

    async def _get_to_know(self) -> None:
        while self._capabilities is None:
            try:
                self._learn(await self._ask_once("nanny_info", {}))
            except ConnectionCut:
                await asyncio.sleep(_PAUSE)

    def _learn(self, info: JSONObject) -> None:
        version, capabilities = info.get("protocol_version"), info.get("capabilities")
        if not is_compatible(version):
            raise NannyError(_version_advice(version))
        if not isinstance(capabilities, list):
            raise NannyError("The nanny does not say what it can; it breaks its protocol.")
        if self._nanny_pid not in (None, info.get("nanny_pid")):
            self._lost = True  # this is another kernel's
            raise NannyGone
        if self._kernel == 0:
            self._go_on_to(info.get("kernel"))
        self._nanny_pid = info.get("nanny_pid")
        self.kernel_id = self.kernel_id or text_in(info, "kernel_id")
        self._capabilities = frozenset(name for name in capabilities if isinstance(name, str))

    def _silence(self, name: str, seconds: float) -> KernelMgmtError:
        if self._link is not None and self._link.state != "up":
            return self._link.error(name)
        return NannyError(
            f"The nanny did not answer {name} within {seconds:g} s, and its process is there; is it "
            "stopped, or its machine overloaded? Ask again, or kill the nanny to be rid of both."
        )

    def _require(self, name: str) -> None:
        if self._capabilities is not None and name not in self._capabilities:
            raise NannyError(
                f"The nanny does not know {name}: it has an older version of kernel-mgmt-core than "
                "this side; do without, or start the kernel again with the present one."
            )


class _Followers:
    """Tasks that go from kernel to kernel, and the end of which kernel each waits for."""

    def __init__(self) -> None:
        # Looked at and changed on the background loop alone.
        self._places: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._moved = asyncio.Event()

    def add(self, task: asyncio.Task[None]) -> None:
        """Take note of a task, on its loop; when it ends it counts no more."""
        call_in_background(self._places.__setitem__, task, 0)
        task.add_done_callback(lambda done: call_in_background(self._forget, done))

    def note(self, task: asyncio.Task[Any], kernel: int) -> None:
        """Note what a task waits for, if it is one of these."""
        call_in_background(self._move, task, kernel)

    async def all_at(self, kernel: int) -> None:
        """Wait until all of them wait for the end of a kernel, or of a later one."""
        while any(place < kernel for place in self._places.values()):
            self._moved.clear()
            await self._moved.wait()

    def _move(self, task: asyncio.Task[Any], kernel: int) -> None:
        if task in self._places:
            self._places[task] = kernel
            self._moved.set()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._places.pop(task, None)
        self._moved.set()


def manager_for(connection_info: ConnectionInfo) -> RemoteKernelManager:
    """Make the manager of a kernel that a nanny keeps, from its connection info alone.

    Raises:
        NannyError: the connection info has no ports of a nanny.
    """
    return RemoteKernelManager(connection_info)


@contextlib.asynccontextmanager
async def _beside(coroutine: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run a coroutine beside a block, no longer than that; it has begun when the block begins."""
    task = asyncio.create_task(coroutine)
    try:
        await asyncio.sleep(0)
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        _ = task.cancelled() or task.exception()  # looked at, or asyncio complains


def _version_advice(version: object) -> str:
    ours, theirs = (_major(text) for text in (PROTOCOL_VERSION, version))
    if theirs is None:
        advice = "is it a nanny of kernel-mgmt?"
    elif theirs > (ours or 0):
        advice = "update kernel-mgmt-core on this side."
    else:
        advice = "update kernel-mgmt-core where the kernel runs, and start it again."
    return (
        f"The nanny speaks version {version!r} of its protocol, and this side {PROTOCOL_VERSION!r}; "
        f"{advice}"
    )


def _major(version: object) -> int | None:
    try:
        return int(str(version).partition(".")[0])
    except ValueError:
        return None
