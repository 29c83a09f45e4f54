"""Launching a kernel inside this process."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from inprocess import (
    ROOT,
    RUNTIME_DIR,
    TYPE,
    process_state,
    run_python,
)
from kernel_mgmt import (
    ConnectionInfo,
    KernelFinder,
    LaunchError,
    NannyOptions,
    NoSuchKernel,
    start_kernel,
)
from kernel_mgmt_native import inprocess


async def test_the_connection_file_is_private_and_goes(finder: KernelFinder) -> None:
    """It is where Jupyter's tools look, with the sockets in a directory that is this user's alone."""
    manager, client = await start_kernel(TYPE, finder=finder)
    assert manager is not None
    async with client, manager:
        (path,) = RUNTIME_DIR.iterdir()
        assert path.name == f"kernel-{manager.kernel_id}.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ConnectionInfo.read(path) == client.connection_info
        assert client.connection_info.interrupt_mode == "message"
        if os.name == "posix":
            directory = Path(client.connection_info.ip).parent
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(RUNTIME_DIR.iterdir()) == []


async def test_a_relaunch_has_the_same_endpoints(finder: KernelFinder) -> None:
    """Given endpoints are used again, and refused while they are in use."""
    given, manager = await finder.launch(TYPE)
    assert manager is not None
    async with manager:
        with pytest.raises(LaunchError, match="accepts connections"):
            await finder.launch(TYPE, connection_info=given)
    again, manager = await finder.launch(TYPE, connection_info=given)
    assert manager is not None
    async with manager:
        assert again == given


async def test_it_cannot_outlive_the_process(finder: KernelFinder) -> None:
    """A nanny for a kernel inside this process is refused before anything is started."""
    with pytest.raises(LaunchError, match="cannot outlive the process") as caught:
        await finder.launch(TYPE, nanny=NannyOptions())
    assert caught.value.phase == "resolve"
    assert "native/python3" in caught.value.advice


def test_finding_imports_neither_ipykernel_nor_ipython() -> None:
    """Both kernel types are found without what they need when they run."""
    code = """
        import sys
        from kernel_mgmt import KernelFinder
        types = KernelFinder.from_entrypoints().find_kernels()
        print(*sorted(t.id for t in types if t.provider == "native"))
        print({"ipykernel", "IPython", "zmq.eventloop"} & set(sys.modules))
        """
    assert run_python(code).stdout.splitlines() == ["native/inprocess native/python3", "set()"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"launch_params": {"colour": 1}}, "no launch parameter 'colour'. It knows user_ns."),
        ({"launch_params": {"user_ns": [1]}}, "'user_ns' is of type list. It must be a dict"),
        ({"cwd": "/"}, "cannot have the working directory '/'"),
        ({"env": {"KM_X": "1"}}, "cannot have the environment variables KM_X"),
    ],
)
async def test_what_cannot_be_had_is_refused(
    finder: KernelFinder, options: dict[str, Any], sentence: str
) -> None:
    """Before anything is started, and with a word on what would do."""
    with pytest.raises(LaunchError) as caught:
        await finder.launch(TYPE, **options)
    assert caught.value.phase == "resolve"
    assert sentence in caught.value.summary


@pytest.mark.parametrize(("installed", "offered"), [("6.29.5", False), ("7.4.0", True)])
def test_an_older_ipykernel_is_named(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, installed: str, offered: bool
) -> None:
    """Its parts fit together in another way, so the type is not offered and a problem says why."""
    monkeypatch.setattr(inprocess, "version", lambda _: installed)
    if offered:
        assert finder.get(TYPE).interrupt_mode == "message"
    else:
        with pytest.raises(NoSuchKernel, match=r"ipykernel 6\.29\.5 cannot .* 'ipykernel>=7\.4'"):
            finder.get(TYPE)


def failing(*args: Any, **kwargs: Any) -> Any:
    """Stand in for something that fails."""
    raise RuntimeError("no more of those")


@pytest.mark.parametrize(
    "broken",
    [
        "threading.Thread.start",
        "ipykernel.iostream.IOPubThread",
        "ipykernel.zmqshell.ZMQInteractiveShell.__init__",
    ],
)
async def test_a_kernel_that_cannot_start_leaves_nothing(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Wherever its start fails, the error says why, and all is as before."""
    before = process_state()
    kernel_type = finder.get(TYPE)
    monkeypatch.setattr(broken, failing)
    with pytest.raises(LaunchError, match="RuntimeError: no more of those") as caught:
        await finder.launch(kernel_type)
    assert caught.value.phase == "start"
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []
    assert process_state() == before


@pytest.mark.parametrize("phase", ["start", "ready"])
async def test_a_cancelled_start_leaves_nothing(finder: KernelFinder, phase: str) -> None:
    """A start that is given up ends its thread."""
    reached = asyncio.Event()

    def told(progress: Any) -> None:
        if progress.phase == phase:
            reached.set()

    task = asyncio.create_task(start_kernel(TYPE, finder=finder, on_progress=told))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(RUNTIME_DIR.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name in ("IOPub", "Control")]
