"""A stand-in for Windows, at the edge where `kernel_mgmt.process.windows` calls it.

There is no Windows to run the tests on.  So the module is loaded as it would be there, upon a
`kernel32` and `ntdll` of our own, which do to this system's processes what Win32's documentation
says of those functions, as far as we read it right.  What can go wrong above that edge is tested so:
handles that leak, are not inherited, or are used when closed; a process that runs before it is in its
job; functions called with other arguments than were declared.  What Windows does below it is not.
"""

# ruff: noqa: D102, N802 - Win32 names its functions, and describes them

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import kernel_mgmt.process  # all that it imports is this system's
import psutil
import pytest

__all__ = ["FakeWindows"]

_MODULE = f"{kernel_mgmt.process.__name__}.windows"
#: Stops itself, as a process that was created suspended is, and becomes the command when resumed.
_SUSPENDED = ["sh", "-c", 'kill -STOP $$; exec "$0" "$@"']


class Function:
    """A function of a library, called only with arguments that its declared types can hold."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.argtypes: tuple[Any, ...] | None = None
        self.restype: Any = None

    def __call__(self, *args: Any) -> Any:
        assert self.argtypes is not None, "its types are not declared"
        assert len(args) == len(self.argtypes)
        for type_, argument in zip(self.argtypes, args, strict=True):
            type_.from_param(argument)  # raises for what the type cannot hold
        return self._function(*args)


class FakeWindows:
    """Handles, events and jobs; a job is the process group of the process that was put in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: What each open handle is of: ``("job", pid)``, ``("event", times set)``, ``("process", pid)``.
        self.handles: dict[int, tuple[str, int]] = {}
        self.inheritable: set[int] = set()
        #: The arguments of each start of a process.
        self.started: list[dict[str, Any]] = []
        #: The functions that fail, with the number of an error.
        self.failing: dict[str, int] = {}
        self._last_error = 0
        self._next_handle = 0x1_0000_0004  # more than 32 bits hold
        self.module = self._load(monkeypatch)

    def _load(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.setattr(ctypes, "WinDLL", lambda name, **_: self._library(), raising=False)
        monkeypatch.setattr(ctypes, "get_last_error", lambda: self._last_error, raising=False)
        monkeypatch.setattr(ctypes, "WinError", lambda code: OSError(code, "failed"), raising=False)
        monkeypatch.setattr(os, "set_handle_inheritable", self._set_inheritable, raising=False)
        monkeypatch.delitem(sys.modules, _MODULE, raising=False)
        with monkeypatch.context() as context:
            context.setattr(sys, "platform", "win32")
            module = importlib.import_module(_MODULE)
        monkeypatch.delitem(sys.modules, _MODULE)
        windows_subprocess = SimpleNamespace(
            CREATE_NEW_PROCESS_GROUP=0x200,
            CREATE_NO_WINDOW=0x0800_0000,
            DEVNULL=subprocess.DEVNULL,
            PIPE=subprocess.PIPE,
            Popen=self._start,
            STARTUPINFO=SimpleNamespace,
        )
        monkeypatch.setattr(module, "subprocess", windows_subprocess)
        return module

    def _library(self) -> SimpleNamespace:
        names = [name for name in dir(self) if name[0].isupper()]
        return SimpleNamespace(**{name: Function(self._may_fail(name)) for name in names})

    def _may_fail(self, name: str) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            if name in self.failing:
                self._last_error = self.failing[name]
                return 0
            return getattr(self, name)(*args)

        return function

    def _start(
        self, argv: list[str], *, startupinfo: Any, creationflags: int, **options: Any
    ) -> subprocess.Popen[bytes]:
        if shutil.which(argv[0]) is None:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        inherited = startupinfo.lpAttributeList["handle_list"]
        assert set(inherited) <= self.inheritable & self.handles.keys()
        self.started.append({**options, "inherited": inherited, "creationflags": creationflags})
        popen = subprocess.Popen([*_SUSPENDED, *argv], start_new_session=True, **options)
        process = psutil.Process(popen.pid)
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        return popen

    def _set_inheritable(self, handle: int, inheritable: bool) -> None:
        assert handle in self.handles
        (self.inheritable.add if inheritable else self.inheritable.discard)(handle)

    def _new(self, kind: str, value: int) -> int:
        handle = self._next_handle
        self._next_handle += 4
        self.handles[handle] = (kind, value)
        return handle

    def _of(self, kind: str, handle: int) -> int:
        assert self.handles[handle][0] == kind
        return self.handles[handle][1]

    # -- kernel32 and ntdll ----------------------------------------------------------------

    def CreateJobObjectW(self, _security: None, _name: None) -> int:
        return self._new("job", 0)

    def SetInformationJobObject(self, job: int, kind: int, limits: Any, size: int) -> int:
        assert self._of("job", job) == 0
        # JobObjectExtendedLimitInformation, with JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE in its place.
        assert (kind, size) == (9, 144)
        assert int.from_bytes(bytes(limits._obj)[16:20], "little") == 0x2000
        return 1

    def AssignProcessToJobObject(self, job: int, process: int) -> int:
        pid = self._of("process", process)
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
        self.handles[job] = ("job", pid)
        return 1

    def QueryInformationJobObject(
        self, job: int, kind: int, accounting: Any, size: int, _returned: None
    ) -> int:
        assert (kind, size) == (1, 48)  # JobObjectBasicAccountingInformation
        pid = self._of("job", job)
        accounting._obj.active_processes = sum(_runs_in(pid, other) for other in psutil.pids())
        return 1

    def TerminateJobObject(self, job: int, code: int) -> int:
        assert code == 1
        pid = self._of("job", job)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        return 1

    def CreateEventW(self, _security: None, manual: bool, initial: bool, _name: None) -> int:
        assert (manual, initial) == (False, False)
        return self._new("event", 0)

    def SetEvent(self, event: int) -> int:
        self.handles[event] = ("event", self._of("event", event) + 1)
        return 1

    def OpenProcess(self, _access: int, inherit: bool, pid: int) -> int:
        assert not inherit
        return self._new("process", pid)

    def WaitForSingleObject(self, process: int, timeout: int) -> int:
        assert timeout == 0
        running = psutil.pid_exists(pid := self._of("process", process))
        ended = not running or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return 0 if ended else 0x102  # WAIT_OBJECT_0, WAIT_TIMEOUT

    def GetProcessTimes(self, process: int, created: Any, *_others: Any) -> int:
        started = psutil.Process(self._of("process", process)).create_time()
        created._obj.value = int(started * 1e7) + 116_444_736_000_000_000
        return 1

    def CloseHandle(self, handle: int) -> int:
        if self.handles[handle][0] == "job":
            self.TerminateJobObject(handle, 1)
        del self.handles[handle]
        self.inheritable.discard(handle)
        return 1

    def NtResumeProcess(self, process: int) -> int:
        pid = self._of("process", process)
        assert ("job", pid) in self.handles.values()
        os.kill(pid, signal.SIGCONT)
        return 0


def _runs_in(group: int, pid: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
