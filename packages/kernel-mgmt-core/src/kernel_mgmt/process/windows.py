"""The process of a kernel and its descendants on Windows: a job object, and events for signals.

There are no signals there. What takes their place:

- *interrupt*: an event object, whose handle the kernel inherits and learns from
  ``JPY_INTERRUPT_EVENT``; ipykernel and other kernels wait for it in a thread.
- *terminate* and *kill*: the end of the job, which is that of the process and all its descendants.
  Nothing can ask a process without a window to end; a client asks by message.
- *when our process is gone*: ``JPY_PARENT_PID`` is a handle of it, not a number, and the system
  ends a job when the last handle of it is closed.

Source: *Making kernels for Jupyter*; the Win32 documentation of *Job Objects* and *Event Objects*.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..manager import ExitStatus

assert sys.platform == "win32"  # for the type checker: what follows is nowhere else

__all__ = ["WindowsGroup", "process_start"]

# As in the headers of the Windows SDK; subprocess has no name for the first.
_CREATE_SUSPENDED = 0x0000_0004
_SYNCHRONIZE = 0x0010_0000
_PROCESS_TERMINATE = 0x0001
_PROCESS_SET_QUOTA = 0x0100
_PROCESS_SUSPEND_RESUME = 0x0800
_PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
_JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE = 0x2000
_JOB_OBJECT_BASIC_ACCOUNTING_INFORMATION = 1
_JOB_OBJECT_EXTENDED_LIMIT_INFORMATION = 9

_ERROR_INVALID_PARAMETER = 87
_WAIT_OBJECT_0 = 0

#: The exit code of a process that is ended by force, as with subprocess.
_ENDED_BY_FORCE = 1

_HANDLE = ctypes.c_void_p
_BOOL = ctypes.c_int32
_DWORD = ctypes.c_uint32


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = (
        ("per_process_user_time", ctypes.c_int64),
        ("per_job_user_time", ctypes.c_int64),
        ("limit_flags", _DWORD),
        ("minimum_working_set", ctypes.c_size_t),
        ("maximum_working_set", ctypes.c_size_t),
        ("active_processes", _DWORD),
        ("affinity", ctypes.c_size_t),
        ("priority_class", _DWORD),
        ("scheduling_class", _DWORD),
    )


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("basic", _BasicLimits),
        ("io_counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


class _Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 4),
        ("page_faults", _DWORD),
        ("total_processes", _DWORD),
        ("active_processes", _DWORD),
        ("terminated_processes", _DWORD),
    )


class WindowsGroup:
    """A process in a job of its own, out of reach of our console's Ctrl-C.

    Args:
        argv: the command.
        cwd: its working directory.
        env: its environment, to which the handles are added.
        die_with_parent: here all do, since the system ends a job with its last handle.

    Raises:
        OSError: the command cannot be run, or not in a job.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None,
        env: Mapping[str, str],
        die_with_parent: bool = False,
    ) -> None:
        #: Guards the handles: a number that was given back may be another object's the next moment.
        self._lock = threading.Lock()
        self._closed = False
        with ExitStack() as undo:
            self._job = _new_job()
            undo.callback(_close, self._job)
            self._interrupt_event = _new_event()
            undo.callback(_close, self._interrupt_event)
            self.popen = self._start(argv, cwd, env)
            undo.callback(_discard, self.popen)
            # Suspended until it is in the job: what it starts is then in it too.
            self._into_job()
            undo.pop_all()

    def _start(
        self, argv: Sequence[str], cwd: Path | None, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        environment = dict(env)
        event = str(self._interrupt_event)
        # The second is the name that old kernels know it by.
        environment.update(JPY_INTERRUPT_EVENT=event, IPY_INTERRUPT_EVENT=event)
        handles = [self._interrupt_event]
        with ExitStack() as after:
            if "JPY_PARENT_PID" in environment:
                parent = _open_process(os.getpid(), _SYNCHRONIZE)
                after.callback(_close, parent)
                environment["JPY_PARENT_PID"] = str(parent)
                handles.append(parent)
            for handle in handles:
                os.set_handle_inheritable(handle, True)
                # A child that another thread starts carelessly shall not get it as well.
                after.callback(os.set_handle_inheritable, handle, False)
            startup = subprocess.STARTUPINFO()
            startup.lpAttributeList = {"handle_list": handles}  # these are inherited and no others
            return subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                startupinfo=startup,
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP
                | subprocess.CREATE_NO_WINDOW
                | _CREATE_SUSPENDED,
            )

    def _into_job(self) -> None:
        access = _PROCESS_SET_QUOTA | _PROCESS_TERMINATE | _PROCESS_SUSPEND_RESUME
        process = _open_process(self.popen.pid, access)
        try:
            _check(_kernel32.AssignProcessToJobObject(self._job, process))
            _resume(process)
        finally:
            _close(process)

    def signal(self, signum: int) -> None:
        """Interrupt the process for SIGINT, end it and its descendants for SIGTERM.

        Raises:
            ValueError: there is no other signal.
        """
        if signum == signal.SIGINT:
            with self._lock:
                if not self._closed:
                    _kernel32.SetEvent(self._interrupt_event)
        elif signum == signal.SIGTERM:
            self.kill()
        else:
            raise ValueError(
                f"Windows has no signal {signum} to send; SIGINT interrupts a kernel and SIGTERM "
                "ends it."
            )

    def kill(self) -> None:
        """End the process and all its descendants."""
        with self._lock:
            if not self._closed:
                _kernel32.TerminateJobObject(self._job, _ENDED_BY_FORCE)

    def runs(self) -> bool:
        """Tell whether any process of the job still runs."""
        accounting = _Accounting()
        with self._lock:
            return not self._closed and bool(
                _kernel32.QueryInformationJobObject(
                    self._job,
                    _JOB_OBJECT_BASIC_ACCOUNTING_INFORMATION,
                    ctypes.byref(accounting),
                    ctypes.sizeof(accounting),
                    None,
                )
                and accounting.active_processes
            )

    def exit_status(self) -> ExitStatus | None:
        """Tell how the leading process ended; None while it runs."""
        code = self.popen.poll()
        if code is None:
            return None
        # A crash has the exception's number, which people know in this form.
        return ExitStatus(code=code, reason=f"0x{code:08X}" if code >= 0x8000_0000 else "")

    def close(self) -> None:
        """Give back the handles of the process, which has ended."""
        self.popen.wait()
        with self._lock:
            if not self._closed:
                self._closed = True
                _close(self._interrupt_event)
                _close(self._job)


def process_start(pid: int) -> str | None:
    """Tell when a process started; see :func:`.identity.process_identity`."""
    access = _PROCESS_QUERY_LIMITED_INFORMATION | _SYNCHRONIZE
    process = _kernel32.OpenProcess(access, False, pid)
    if not process:
        # That is what it says of a number that no process has; else it is somebody else's.
        return None if ctypes.get_last_error() == _ERROR_INVALID_PARAMETER else ""
    try:
        if _kernel32.WaitForSingleObject(process, 0) == _WAIT_OBJECT_0:
            return None  # ended: it is there for whoever has a handle of it
        times = [
            ctypes.c_uint64() for _ in range(4)
        ]  # created, ended, in kernel mode, in user mode
        if not _kernel32.GetProcessTimes(process, *map(ctypes.byref, times)):
            return ""
        return str(times[0].value)
    finally:
        _close(process)


def _new_job() -> int:
    """Make a job whose processes end with its last handle, so with this process at the latest."""
    job = _created(_kernel32.CreateJobObjectW(None, None))
    limits = _ExtendedLimits()
    limits.basic.limit_flags = _JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
    try:
        _check(
            _kernel32.SetInformationJobObject(
                job,
                _JOB_OBJECT_EXTENDED_LIMIT_INFORMATION,
                ctypes.byref(limits),
                ctypes.sizeof(limits),
            )
        )
    except OSError:
        _close(job)
        raise
    return job


def _new_event() -> int:
    """Make an event that is unset by whoever waits for it: old kernels do not unset it."""
    manual_reset = initial_state = False
    return _created(_kernel32.CreateEventW(None, manual_reset, initial_state, None))


def _open_process(pid: int, access: int) -> int:
    return _created(_kernel32.OpenProcess(access, False, pid))


def _resume(process: int) -> None:
    # The documented ResumeThread wants a handle of the thread, which subprocess has closed.
    status = _ntdll.NtResumeProcess(process)
    if status < 0:
        raise OSError(f"NtResumeProcess gave 0x{status & 0xFFFF_FFFF:08X}")


def _discard(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.communicate()  # closes the pipes


def _close(handle: int) -> None:
    _kernel32.CloseHandle(handle)


def _created(handle: int | None) -> int:
    if not handle:
        raise ctypes.WinError(ctypes.get_last_error())
    return handle


def _check(success: int) -> None:
    if not success:
        raise ctypes.WinError(ctypes.get_last_error())


def _load_kernel32() -> ctypes.WinDLL:
    # Without these types a handle, which has 64 bits, would be cut to 32.
    dll = ctypes.WinDLL("kernel32", use_last_error=True)
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("AssignProcessToJobObject", _BOOL, (_HANDLE, _HANDLE)),
        ("CloseHandle", _BOOL, (_HANDLE,)),
        ("CreateEventW", _HANDLE, (pointer, _BOOL, _BOOL, ctypes.c_wchar_p)),
        ("CreateJobObjectW", _HANDLE, (pointer, ctypes.c_wchar_p)),
        ("GetProcessTimes", _BOOL, (_HANDLE, pointer, pointer, pointer, pointer)),
        ("OpenProcess", _HANDLE, (_DWORD, _BOOL, _DWORD)),
        ("QueryInformationJobObject", _BOOL, (_HANDLE, ctypes.c_int, pointer, _DWORD, pointer)),
        ("SetEvent", _BOOL, (_HANDLE,)),
        ("SetInformationJobObject", _BOOL, (_HANDLE, ctypes.c_int, pointer, _DWORD)),
        ("TerminateJobObject", _BOOL, (_HANDLE, ctypes.c_uint)),
        ("WaitForSingleObject", _DWORD, (_HANDLE, _DWORD)),
    ):
        function = getattr(dll, name)
        function.restype = result
        function.argtypes = arguments
    return dll


def _load_ntdll() -> ctypes.WinDLL:
    dll = ctypes.WinDLL("ntdll")
    dll.NtResumeProcess.restype = ctypes.c_int32
    dll.NtResumeProcess.argtypes = (_HANDLE,)
    return dll


_kernel32 = _load_kernel32()
_ntdll = _load_ntdll()
