"""The exceptions of kernel-mgmt.

.. code-block:: text

    KernelMgmtError
    ├── NoSuchKernel (KeyError)          you: no kernel type has that id, or several do
    │   ├── NoSuchProvider               you: no installed provider has that id
    │   └── NoSuchRunningKernel          you: no kernel runs here under that id or name, or several do
    ├── ProviderError                    the provider: broken install, duplicate id, broken hook
    ├── LaunchError                      the launch failed; nothing was left behind
    ├── KernelDied                       the kernel's process ended while it was needed
    ├── KernelRestarted                  the kernel that had the request was replaced
    ├── ReplyLost                        the kernel finished the request and never replied
    ├── ClientClosed                     you: the client was closed
    ├── ConnectionLost                   the network: the way to the kernel's machine was lost
    ├── RequestTimeout (TimeoutError)    the kernel did not do it in the time you gave it
    ├── UnsupportedFeature               the kernel does not know what was asked for
    ├── ConnectionFileError              a connection file or its content cannot be used
    ├── ProtocolError                    a message breaks the messaging protocol
    │   ├── InvalidSignature             they: unsigned, forged or replayed
    │   └── MalformedMessage             they: frames or JSON that are no message
    └── NannyError                       the nanny refused or failed a request

Every message is one clear sentence: what failed, why, and what to do.  What a program may want
to know is in attributes, so that nobody needs to parse the sentence.
"""

from __future__ import annotations

import copyreg
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .manager import ExitStatus

__all__ = [
    "ClientClosed",
    "ConnectionFileError",
    "ConnectionLost",
    "InvalidSignature",
    "KernelDied",
    "KernelMgmtError",
    "KernelRestarted",
    "LaunchError",
    "MalformedMessage",
    "NannyError",
    "NoSuchKernel",
    "NoSuchProvider",
    "NoSuchRunningKernel",
    "ProtocolError",
    "ProviderError",
    "ReplyLost",
    "RequestTimeout",
    "UnsupportedFeature",
]


class KernelMgmtError(Exception):
    """Any error that kernel-mgmt raises on purpose; it can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own calls the class with ``args``, which lacks the keyword arguments.
        # ``args`` is part of the state, because OSError.__new__ ignores what it is given here.
        return copyreg.__newobj__, (type(self),), {**vars(self), "args": self.args}  # type: ignore[attr-defined]


class NoSuchKernel(KernelMgmtError, KeyError):
    """No kernel type has the id that was asked for, or a bare name fits several.

    Attributes:
        type_id: what was asked for.
        candidates: ids that are near to it, best first; or those it is ambiguous between.
    """

    def __init__(self, message: str, *, type_id: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.type_id = type_id
        self.candidates = tuple(candidates)

    def __str__(self) -> str:
        # KeyError would show the repr of the sentence.
        return str(self.args[0])


class NoSuchProvider(NoSuchKernel):
    """No provider with that id is installed, or it could not be loaded."""


class NoSuchRunningKernel(NoSuchKernel):
    """No kernel that can be attached to has that id, beginning of an id, or name, or several have.

    Attributes:
        type_id: what was asked for.
        candidates: the ids of kernels that were perhaps meant; or those it is ambiguous between.
        state: what is known of the one that was meant: ``dead``, or ``elsewhere`` for one on
            another machine; empty when there is none, or several.
    """

    def __init__(
        self, message: str, *, type_id: str, candidates: Sequence[str] = (), state: str = ""
    ) -> None:
        super().__init__(message, type_id=type_id, candidates=candidates)
        self.state = state


class ProviderError(KernelMgmtError):
    """A provider breaks its contract: it cannot be loaded, or a hook of it misbehaves.

    Attributes:
        provider: the provider's id.
        distributions: the installed distributions that offer it, where known.
    """

    def __init__(self, message: str, *, provider: str, distributions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.provider = provider
        self.distributions = tuple(distributions)


def one_line(error: BaseException) -> str:
    """Give an error's text in one line, without a full stop, to be part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")


def shown(value: object) -> str:
    """Give a value for a message: only the beginning of a long or deeply nested one."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer with thousands of digits
        return type(value).__name__


def _with_log_tail(message: str, log_tail: str) -> str:
    tail = log_tail.strip("\n")
    if not tail:
        return message
    indented = "\n".join(f"  | {line}" for line in tail.splitlines())
    return f"{message}\nThe last output of the kernel:\n{indented}"


class LaunchError(KernelMgmtError):
    """A kernel could not be launched; whatever the launch had created is gone again.

    Attributes:
        phase: where it failed: ``resolve``, ``connect``, ``pull``, ``queue``, ``start`` or
            ``ready``.
        cause: why, in one line.
        advice: what to do about it, in one line; may be empty.
        exit_status: how the kernel's process ended, when it did.
        log_tail: the last lines of the kernel's own output.
        endpoints_refused: whether the ``connection_info`` that was asked for is what failed, so
            that a launch without one may succeed.
    """

    def __init__(
        self,
        cause: str,
        *,
        phase: str,
        advice: str = "",
        exit_status: ExitStatus | None = None,
        log_tail: str = "",
        endpoints_refused: bool = False,
    ) -> None:
        super().__init__(cause)
        self.phase = phase
        self.cause = cause
        self.advice = advice
        self.exit_status = exit_status
        self.log_tail = log_tail
        self.endpoints_refused = endpoints_refused

    @property
    def summary(self) -> str:
        """The error without the kernel's output: one line."""
        advice = f" {self.advice}" if self.advice else ""
        return f"Launch failed (phase {self.phase!r}): {self.cause}{advice}"

    def __str__(self) -> str:
        return _with_log_tail(self.summary, self.log_tail)


class KernelDied(KernelMgmtError):
    """The kernel's process ended; start a new kernel to go on.

    Attributes:
        exit_status: how it ended; None when only the connection tells.
        log_tail: the last lines of the kernel's own output.
    """

    def __init__(self, exit_status: ExitStatus | None = None, log_tail: str = "") -> None:
        super().__init__(exit_status, log_tail)
        self.exit_status = exit_status
        self.log_tail = log_tail

    @property
    def summary(self) -> str:
        """The error without the kernel's output: one line."""
        how = f": {self.exit_status}" if self.exit_status is not None else ""
        return f"The kernel died{how}."

    def __str__(self) -> str:
        return _with_log_tail(self.summary, self.log_tail)


class KernelRestarted(KernelMgmtError):
    """The kernel was replaced by a new one before it answered; send the request again."""


class ReplyLost(KernelMgmtError):
    """The kernel said that it has finished the request, and sent no reply.

    Whatever the request did has been done; the kernel can be used on.
    """


class ClientClosed(KernelMgmtError):
    """The client was closed before the request was answered; make a new client."""


class ConnectionLost(KernelMgmtError):
    """The connection to the kernel's machine was lost before the answer came.

    What was asked for may have been done all the same: the kernel lives on, and what it runs.

    Attributes:
        host: where the kernel is, such as ``user@host``.
        reason: why it was lost; may be empty.
        final: whether it does not come back by itself, and one has to attach to the kernel again.
    """

    def __init__(self, message: str, *, host: str, reason: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.host = host
        self.reason = reason
        self.final = final


class RequestTimeout(KernelMgmtError, TimeoutError):
    """The kernel did not answer within the time that the caller gave it.

    Attributes:
        phase: what was waited for.
        seconds: for how long.
    """

    def __init__(self, message: str, *, phase: str, seconds: float) -> None:
        super().__init__(message)
        self.phase = phase
        self.seconds = seconds


class UnsupportedFeature(KernelMgmtError):
    """The kernel would not understand the request, and so never answer it; it was not sent.

    Attributes:
        feature: what the kernel lacks: a name that would be among its ``supported_features``, or
            a message type that is newer than the protocol that it speaks.
    """

    def __init__(self, message: str, *, feature: str) -> None:
        super().__init__(message)
        self.feature = feature


class ConnectionFileError(KernelMgmtError):
    """A connection file, or the connection info in it, cannot be used.

    Attributes:
        path: the file, when there is one.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ProtocolError(KernelMgmtError):
    """A message breaks the Jupyter messaging protocol."""


class InvalidSignature(ProtocolError):
    """The signature is missing, wrong, or was seen before: forged, wrong key, or replayed."""


class MalformedMessage(ProtocolError):
    """The frames are not those of a Jupyter message, or a frame is not the JSON it should be."""


class NannyError(KernelMgmtError):
    """A nanny refused a request, or could not fulfil it."""
