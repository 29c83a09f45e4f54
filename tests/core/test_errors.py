"""Errors say what to do, keep what they know, and travel between processes."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_mgmt import (
    ClientClosed,
    ConnectionFileError,
    ConnectionLost,
    ExitStatus,
    InvalidSignature,
    KernelDied,
    KernelMgmtError,
    KernelRestarted,
    LaunchError,
    MalformedMessage,
    NannyError,
    NoSuchKernel,
    NoSuchProvider,
    NoSuchRunningKernel,
    ProtocolError,
    ProviderError,
    ReplyLost,
    RequestTimeout,
    UnsupportedFeature,
    errors,
)

OUTPUT = "\nThe last output of the kernel:"

#: Each error as it may be raised, and how it reads.
EXAMPLES: list[tuple[KernelMgmtError, str]] = [
    (KernelMgmtError("It failed."), "It failed."),
    (NoSuchKernel("There is none.", type_id="a/b", candidates=["a/c"]), "There is none."),
    (NoSuchKernel("There is none.", type_id="a/b"), "There is none."),
    (NoSuchProvider("Install it.", type_id="a/b", candidates=["b"]), "Install it."),
    (
        NoSuchRunningKernel("It ended.", type_id="a", candidates=["abc"], state="dead"),
        "It ended.",
    ),
    (ProviderError("It is broken.", provider="a", distributions=["x 1"]), "It is broken."),
    (LaunchError("it ended.", phase="start"), "Launch failed (phase 'start'): it ended."),
    (
        LaunchError(
            "it ended.",
            phase="start",
            advice="Mend it.",
            exit_status=ExitStatus(code=3),
            log_tail="a\nb\n\n",
        ),
        "Launch failed (phase 'start'): it ended. Mend it." + OUTPUT + "\n  | a\n  | b",
    ),
    (KernelDied(), "The kernel died."),
    (
        KernelDied(ExitStatus(signal=9, reason="out of memory"), "\nboom"),
        "The kernel died: killed by SIGKILL (out of memory)." + OUTPUT + "\n  | boom",
    ),
    (KernelRestarted("Send it again."), "Send it again."),
    (ReplyLost("Go on."), "Go on."),
    (ClientClosed("It is closed."), "It is closed."),
    (ConnectionLost("It is lost.", host="me@far", reason="No.", final=True), "It is lost."),
    (RequestTimeout("It took long.", phase="execute", seconds=1.5), "It took long."),
    (UnsupportedFeature("It cannot.", feature="x"), "It cannot."),
    (ConnectionFileError("It is gone.", path="/x"), "It is gone."),
    (ConnectionFileError("It is gone."), "It is gone."),
    (ProtocolError("No."), "No."),
    (InvalidSignature("No."), "No."),
    (MalformedMessage("No."), "No."),
    (NannyError("No."), "No."),
]
each_error = pytest.mark.parametrize(
    "error", [error for error, _ in EXAMPLES], ids=lambda error: type(error).__name__
)


def known(error: BaseException) -> tuple[object, ...]:
    """All that somebody who catches an error can see."""
    return type(error), error.args, vars(error), str(error), repr(error)


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_text(error: KernelMgmtError, text: str) -> None:
    """An error reads as the sentence that it was given, KeyError or not."""
    assert str(error) == text
    assert f"{error}" == text


@each_error
def test_pickle(error: KernelMgmtError) -> None:
    """An error comes out of a pickle of any protocol with everything it knew."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert known(pickle.loads(pickle.dumps(error, protocol))) == known(error)


@each_error
def test_copy(error: KernelMgmtError) -> None:
    """A copy of an error knows the same."""
    assert known(copy.copy(error)) == known(error)
    assert known(copy.deepcopy(error)) == known(error)


def test_notes_travel() -> None:
    """What a user adds to an error goes with it."""
    error = LaunchError("it ended.", phase="start")
    error.add_note("On Tuesday.")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["On Tuesday."]


POOL = """
import concurrent.futures, multiprocessing
import kernel_mgmt

def fail():
    raise kernel_mgmt.LaunchError("it ended.", phase="start", log_tail="boom")

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        error = pool.submit(fail).exception(timeout=30)
        print(type(error).__name__, error.phase, error.log_tail)
"""


def test_from_another_process(tmp_path: Path) -> None:
    """An error that is raised in a worker process arrives, instead of breaking the pool."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    output = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert output.stdout == "LaunchError start boom\n"


def test_every_error_is_tested() -> None:
    """The table above has each public error."""
    assert {type(error).__name__ for error, _ in EXAMPLES} == set(errors.__all__)


def drawn_tree() -> dict[str, list[str]]:
    """The names of the base classes of each error, as the module's docstring draws them."""
    drawn: dict[str, list[str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r" {4}([│├└─ ]*)(\w+)(?: \((\w+)\))?(?:  +\S.*)?$", line)
        if match:
            branch, name, other_base = match.groups()
            del path[len(branch) // 4 :]
            drawn[name] = [base for base in (*path[-1:], other_base) if base]
            path.append(name)
    return drawn


def test_tree() -> None:
    """The tree in the module's docstring is the tree of the classes."""
    real = {
        name: [base.__name__ for base in getattr(errors, name).__bases__] for name in errors.__all__
    }
    real["KernelMgmtError"] = []
    assert drawn_tree() == real


def test_standard_errors() -> None:
    """Who knows only the standard library's errors can catch ours by them."""
    with pytest.raises(KeyError):
        raise NoSuchKernel("x", type_id="y")
    with pytest.raises(TimeoutError):
        raise RequestTimeout("x", phase="y", seconds=1)


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (LaunchError("a.", phase="p", log_tail="x"), "Launch failed (phase 'p'): a."),
        (KernelDied(ExitStatus(code=0), "x"), "The kernel died: exit code 0."),
    ],
)
def test_summary(error: LaunchError | KernelDied, summary: str) -> None:
    """The summary is the error in one line, without the kernel's output."""
    assert error.summary == summary


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(code=0), "exit code 0"),
        (ExitStatus(signal=15), "killed by SIGTERM"),
        (ExitStatus(signal=9, reason="out of memory"), "killed by SIGKILL (out of memory)"),
        (ExitStatus(signal=1000), "killed by signal 1000"),
        (ExitStatus(), "exit status unknown"),
        (ExitStatus.from_returncode(3), "exit code 3"),
        (ExitStatus.from_returncode(-2), "killed by SIGINT"),
    ],
)
def test_exit_status(status: ExitStatus, text: str) -> None:
    """How a kernel ended reads well in a sentence."""
    assert str(status) == text
