"""One process, several worlds: what is process-wide in Python, made to depend on the thread.

IPython and ipykernel believe that the process is theirs: they replace ``sys.stdout``, ``input``,
``sys.displayhook`` and more, and keep themselves in singletons. Here those names are replaced once,
by functions that look where they are called: in a thread of a kernel they serve that kernel, and
everywhere else they do what they did before. When the last kernel has stopped, all is as found.
"""

from __future__ import annotations

import builtins
import getpass
import io
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = [
    "Guest",
    "enter",
    "refresh",
    "routed",
    "routed_excepthook",
    "without_filters_of_ipython",
]


class Guest(Protocol):
    """What a kernel puts in the place of the process's own."""

    stdout: Any
    stderr: Any
    shell: Any

    @property
    def kernel(self) -> Any:
        """The kernel itself."""


_here = threading.local()
_lock = threading.Lock()
#: How many kernels run.
_kernels = 0
#: What was replaced: the owner, the name, what was there and what is there instead.
_replaced: list[tuple[Any, str, Any, Any]] = []
_ABSENT = object()


def enter(guest: Guest | None) -> None:
    """Make this thread a kernel's, or nobody's."""
    # A forked child has a copy of the thread, but the kernel is its parent's.
    _here.guest, _here.pid = guest, os.getpid()


def _guest() -> Guest | None:
    guest: Guest | None = getattr(_here, "guest", None)
    return guest if guest is not None and _here.pid == os.getpid() else None


@contextmanager
def routed() -> Iterator[None]:
    """Have the process-wide names depend on the thread meanwhile; for each running kernel."""
    global _kernels
    with _lock:
        if _kernels == 0:
            _replace_all()
        _kernels += 1
    try:
        yield
    finally:
        with _lock:
            _kernels -= 1
            if _kernels == 0:
                _restore_all()


@contextmanager
def without_filters_of_ipython() -> Iterator[None]:
    """Take out again the warning filters that IPython and ipykernel put in meanwhile.

    Not by ``warnings.catch_warnings``, which would undo what other threads did as well.
    """
    before = list(warnings.filters)
    try:
        yield
    finally:
        for item in list(warnings.filters):
            if item not in before and _is_of_ipython(item):
                warnings.filters.remove(item)  # type: ignore[attr-defined]


def _is_of_ipython(item: Any) -> bool:
    _, message, category, _, _ = item
    return category.__module__.startswith("IPython.") or "Trio's signal handling" in str(message)


def refresh() -> None:
    """Route what the application has replaced meanwhile; called before a cell runs.

    An application may redirect ``sys.stdout`` at any time, and its own output goes where it wants;
    the output of cells still goes to their client.
    """
    with _lock:
        for owner, name, make in _streams_and_hooks():
            mine = [item for item in _replaced if item[:2] == (owner, name)]
            if mine and all(vars(owner).get(name) is not ours for *_, ours in mine):
                # The first is kept because the application may come back to it.
                for item in mine[1:]:
                    _replaced.remove(item)
                _replace(owner, name, make(getattr(owner, name)))


def _streams_and_hooks() -> list[tuple[Any, str, Callable[[Any], Any]]]:
    """Give what a program may replace while it runs: the owner, the name, and what routes it."""

    def of(get: Callable[[Guest], Callable[..., Any]]) -> Callable[[Any], Any]:
        return lambda original: _route(original, get)

    return [
        (sys, "stdout", lambda original: _RoutedStream(original or _Nowhere(), "stdout")),
        (sys, "stderr", lambda original: _RoutedStream(original or _Nowhere(), "stderr")),
        (sys, "displayhook", of(lambda guest: guest.shell.displayhook)),
        (builtins, "input", of(lambda guest: guest.kernel.raw_input)),
        (getpass, "getpass", of(lambda guest: guest.kernel.getpass)),
    ]


def _replace_all() -> None:
    import comm
    from ipykernel.kernelbase import Kernel
    from IPython.core.interactiveshell import InteractiveShell

    for owner, name, make in _streams_and_hooks():
        _replace(owner, name, make(getattr(owner, name)))
    _replace(sys, "excepthook", routed_excepthook)
    _replace(
        comm,
        "get_comm_manager",
        _route(comm.get_comm_manager, lambda guest: lambda: guest.kernel.comm_manager),
    )
    for singleton, attribute in ((InteractiveShell, "shell"), (Kernel, "kernel")):
        _replace(singleton, "instance", _routed_instance(singleton, attribute))
        _replace(singleton, "initialized", _routed_initialized(singleton, attribute))


def _replace(owner: Any, name: str, ours: Any) -> None:
    _replaced.append((owner, name, vars(owner).get(name, _ABSENT), ours))
    setattr(owner, name, ours)


def _restore_all() -> None:
    while _replaced:
        owner, name, original, ours = _replaced.pop()
        if vars(owner).get(name) is not ours:
            continue  # the application put something else there, which stays
        if original is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


# -- what is put in place ------------------------------------------------------------------


def _route(original: Callable[..., Any], of: Callable[[Guest], Callable[..., Any]]) -> Any:
    def routed_function(*args: Any, **kwargs: Any) -> Any:
        guest = _guest()
        return (original if guest is None else of(guest))(*args, **kwargs)

    return routed_function


def routed_excepthook(*exc_info: Any) -> None:
    """Show an exception that nobody caught.

    A shell puts its own hook in place while a cell runs, and afterwards puts back what it found.
    This one function is every shell's, so that kernels that run at once cannot mix that up.
    """
    guest = _guest()
    if guest is not None:
        guest.shell.showtraceback(exc_info, running_compiled_code=True)
        return
    originals = [was for owner, name, was, _ in _replaced if (owner, name) == (sys, "excepthook")]
    (originals[0] if originals else sys.__excepthook__)(*exc_info)


def _routed_instance(singleton: Any, attribute: str) -> Any:
    def instance(cls: Any, *args: Any, **kwargs: Any) -> Any:
        guest = _guest()
        ours = None if guest is None else getattr(guest, attribute)
        return ours if isinstance(ours, cls) else super(singleton, cls).instance(*args, **kwargs)

    return classmethod(instance)


def _routed_initialized(singleton: Any, attribute: str) -> Any:
    def initialized(cls: Any) -> Any:
        guest = _guest()
        ours = None if guest is None else getattr(guest, attribute)
        return isinstance(ours, cls) or super(singleton, cls).initialized()

    return classmethod(initialized)


class _RoutedStream:
    """Is, for whoever uses it, the stream of the thread that it is used in."""

    def __init__(self, original: Any, name: str) -> None:
        object.__setattr__(self, "_routes", (original, name))

    def __getattribute__(self, attribute: str) -> Any:
        return getattr(_stream(self), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(_stream(self), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(_stream(self), attribute)

    # Python looks these up on the type.

    def __repr__(self) -> str:
        return repr(_stream(self))

    def __dir__(self) -> Any:
        return dir(_stream(self))

    def __iter__(self) -> Any:
        return iter(_stream(self))

    def __next__(self) -> Any:
        return next(_stream(self))

    def __enter__(self) -> Any:
        return _stream(self).__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return _stream(self).__exit__(*exc_info)


def _stream(routed: _RoutedStream) -> Any:
    original, name = object.__getattribute__(routed, "_routes")
    guest = _guest()
    return original if guest is None else getattr(guest, name)


class _Nowhere(io.TextIOBase):
    """Stands for the stream of an application that has none, as a windowed one may."""

    def write(self, text: str) -> int:
        return len(text)
