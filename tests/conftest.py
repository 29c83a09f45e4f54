"""Isolation of the test session, and the check that no test leaves anything behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from leaks import LeakCheck

# --- isolation -----------------------------------------------------------------------------------
# Done on import, so before any import of ours: neither the user's kernels and settings nor other
# test sessions are seen, and all that a session writes is under one root, which goes at its end.


def _isolate() -> Path:
    # The path of a Unix socket has 108 bytes at most, and macOS's own TMPDIR takes half of them.
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="kmt-", dir=short)).resolve()
    for name in (
        "JPY_PARENT_PID",
        "JPY_SESSION_NAME",
        "JUPYTER_CONFIG_PATH",
        "JUPYTER_NO_CONFIG",
        "JUPYTER_PATH",
        "JUPYTER_PREFER_ENV_PATH",
        "XDG_RUNTIME_DIR",
    ):
        os.environ.pop(name, None)
    for name, folder in {
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_CONFIG_DIR": "config",
        "IPYTHONDIR": "ipython",
    }.items():
        path = root / folder
        path.mkdir(mode=0o700)
        os.environ[name] = str(path)
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    for name in ("TMPDIR", "TEMP", "TMP"):
        os.environ[name] = str(root)
    tempfile.tempdir = str(root)
    return root


ROOT = _isolate()
LEAKS = LeakCheck(ROOT, [ROOT / "runtime", ROOT / "data" / "kernel-mgmt"])

# What a test started may need a moment to go after the test's own clean-up.
GRACE = 3.0


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have each process of pytest-xdist keep to the root that it made for itself."""
    if hasattr(config, "workerinput"):
        config.option.basetemp = None


def pytest_unconfigure() -> None:
    """Remove all that the session wrote, and what it could not end before."""
    LEAKS.kill_processes()
    shutil.rmtree(ROOT, ignore_errors=True)


# --- nothing is left behind ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def warm_up() -> None:
    """Make what the process makes once and keeps, so that no test is blamed for it.

    These are the ZeroMQ context with its threads (which start with its first socket), the thread
    with which pyzmq gives back large frames that were sent without a copy, and the background loop.
    """
    # Imported here and not above: isolation comes first.
    import zmq
    from kernel_mgmt.background import background_loop
    from kernel_mgmt.channels import shared_context

    with shared_context().socket(zmq.PAIR) as left, shared_context().socket(zmq.PAIR) as right:
        left.bind("inproc://warm-up")
        right.connect("inproc://warm-up")
        left.send(bytes(1_000_000), copy=False)
        right.recv()
    background_loop()


@pytest.fixture(scope="session")
def leak_check() -> LeakCheck:
    """The session's leak check, for tests that look in the middle."""
    return LEAKS


@pytest.fixture(autouse=True)
def _no_leaks(warm_up: None) -> Iterator[None]:
    before = LEAKS.snapshot()
    yield
    left = LEAKS.leftovers(before, timeout=GRACE)
    if left:
        # Told once: the next test starts clean of processes, and from a new snapshot.
        LEAKS.kill_processes(before)
        pytest.fail(_report(left), pytrace=False)


@pytest.fixture
async def _no_pending_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    deadline = time.monotonic() + GRACE
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if time.monotonic() >= deadline:
            pytest.fail(_report([f"task {task!r}" for task in left]), pytrace=False)
        await asyncio.sleep(0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look at the tasks of each async test."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # First among the fixtures that use the test's loop, so the last to be torn down:
            # tasks are looked at after all clean-up, while their loop still runs.
            after = item.fixturenames.index("_no_leaks") + 1
            item.fixturenames.insert(after, "_no_pending_tasks")


def _report(left: list[str]) -> str:
    return "\n  ".join(["the test left behind:", *left])


# --- on CI nothing is skipped --------------------------------------------------------------------

CI = os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into a failure."""
    report = yield
    return _refuse_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure."""
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report: Any) -> Any:
    if CI and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"with CI=true no test may be skipped: {reason}"
    return report
