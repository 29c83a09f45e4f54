"""Bad input to the provider `native`: the right error, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import kernel_mgmt_native
import psutil
import pytest
from kernel_mgmt import (
    KernelFinder,
    LaunchError,
    LaunchProgress,
    NoSuchKernel,
    run_kernel,
    start_kernel,
)

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `native` alone."""
    return KernelFinder({"native": kernel_mgmt_native})


def nothing_is_left() -> None:
    """Assert that there is no process, file, directory or task, at once."""
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert psutil.Process().children(recursive=True) == []
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []


async def test_without_ipykernel_nothing_starts(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ipykernel cannot be imported a start says which pip command helps."""
    monkeypatch.setitem(sys.modules, "ipykernel", None)  # what makes Python say it is missing
    for type_id in ("native/python3", "python3"):
        with pytest.raises(NoSuchKernel, match=r"pip install ipykernel\.$"):
            await start_kernel(type_id, finder=finder)
    nothing_is_left()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_an_ipykernel_that_cannot_be_imported(
    finder: KernelFinder, tmp_path: Path, transport: str
) -> None:
    """An installation that broke after it was found is told at once, by its own words."""
    (tmp_path / "ipykernel_launcher.py").write_text("import no_such_module")
    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        await start_kernel(
            "native/python3",
            finder=finder,
            env={"PYTHONPATH": str(tmp_path)},
            launch_params={"transport": transport},
        )
    assert time.monotonic() - started < 5
    nothing_is_left()
    assert caught.value.phase == "start"
    assert "exit code 1" in caught.value.cause
    assert "No module named 'no_such_module'" in caught.value.log_tail


async def test_an_ipykernel_that_never_binds(finder: KernelFinder, tmp_path: Path) -> None:
    """The timeout names the phase, and the process is gone with it."""
    (tmp_path / "ipykernel_launcher.py").write_text("import time; time.sleep(1000)")
    env = {"PYTHONPATH": str(tmp_path)}
    with pytest.raises(LaunchError, match=r"phase 'start'.*within 0\.5 s"):
        await start_kernel("native/python3", finder=finder, env=env, startup_timeout=0.5)
    nothing_is_left()


@pytest.mark.parametrize(("phase", "later"), [("resolve", 0), ("start", 0.05), ("ready", 0)])
async def test_a_cancelled_start_leaves_nothing(
    finder: KernelFinder, phase: str, later: float
) -> None:
    """A real kernel whose start is given up is gone at once, wherever it was."""
    reached = asyncio.Event()

    def told(progress: LaunchProgress) -> None:
        if progress.phase == phase:
            reached.set()

    task = asyncio.create_task(start_kernel("native/python3", finder=finder, on_progress=told))
    await reached.wait()
    await asyncio.wait({task}, timeout=later)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    nothing_is_left()


async def test_children_of_a_real_kernel_end_with_it(finder: KernelFinder) -> None:
    """What a cell started in the background does not outlive a kernel that is killed."""
    async with run_kernel("native/python3", finder=finder) as client:
        code = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"
        request = client.execute(code)
        texts = [m.content["text"] async for m in request if m.msg_type == "stream"]
        child = int("".join(texts))
        assert client.manager is not None
        assert psutil.pid_exists(child)
        await client.manager.kill()
        running = [p.pid for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE]
        assert child not in running
    nothing_is_left()
