"""Bad kernelspecs and bad launches of good ones: the right error, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_mgmt import KernelFinder, KernelMgmtError, LaunchError, NoSuchKernel, start_kernel

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])

ECHO = ["python", "-m", "kernel_mgmt.testing.echo_kernel", "-f", "{connection_file}"]


@dataclass(frozen=True)
class Bad:
    """One kind of bad input.

    Attributes:
        argv: the kernelspec's command.
        says: a text that is in the error.
        phase: the phase that a LaunchError names.
        fields: further fields of kernel.json.
        kwargs: further arguments of ``start_kernel``.
        seconds: how long the error may take.
    """

    argv: list[str]
    says: str
    phase: str = "start"
    fields: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    seconds: float = 10


LAUNCH = {
    "missing command": Bad(["no-such-kernel"], "'no-such-kernel' was not found"),
    "exits": Bad(["sh", "-c", "echo no licence >&2; exit 7"], "exit code 7.", seconds=1),
    "exits, over Unix sockets": Bad(
        ["sh", "-c", "echo no licence >&2; exit 7"],
        "exit code 7.",
        kwargs={"launch_params": {"transport": "ipc"}},
        seconds=1,
    ),
    "never binds": Bad(
        ["sleep", "1000"], "within 0.3 s.", kwargs={"startup_timeout": 0.3}, seconds=2
    ),
    "never answers": Bad(
        [*ECHO, "--never-answer"],
        "did not answer within 1 s.",
        "ready",
        kwargs={"startup_timeout": 1},
        seconds=3,
    ),
    "missing cwd": Bad(ECHO, "'/no/such/place' does not exist.", kwargs={"cwd": "/no/such/place"}),
    "unknown parameter": Bad(
        ECHO, "no launch parameter 'size'.", "resolve", kwargs={"launch_params": {"size": 1}}
    ),
    "a variable with NUL": Bad(ECHO, "cannot be given this argv", fields={"env": {"A": "x\0y"}}),
    "an argument with NUL": Bad([*ECHO, "x\0y"], "cannot be given this argv"),
}


def nothing_is_left() -> None:
    """Assert that there is no process, file, directory or task, at once."""
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert psutil.Process().children(recursive=True) == []
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []


@pytest.mark.parametrize("bad", LAUNCH.values(), ids=LAUNCH)
async def test_a_bad_launch(finder: KernelFinder, write_spec: Any, bad: Bad) -> None:
    """It ends in time with an error that names the phase and what is wrong, and leaves nothing."""
    write_spec("bad", bad.argv, **bad.fields)
    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        await start_kernel("spec/bad", finder=finder, **bad.kwargs)
    assert time.monotonic() - started < bad.seconds
    nothing_is_left()
    assert caught.value.phase == bad.phase
    assert bad.says in caught.value.summary
    assert "\n" not in caught.value.summary


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not JSON"),
        ('{"argv": ["x"', "is not JSON"),
        ("{}", "argv must be a list of strings"),
        ('{"argv": []}', "argv must be a list of strings, and not empty"),
    ],
)
async def test_a_bad_kernelspec(
    finder: KernelFinder, write_spec: Any, content: str, says: str
) -> None:
    """Who starts it learns which file is bad and why."""
    file = write_spec("bad", ["x"]) / "kernel.json"
    file.write_text(content)
    write_spec("bad2", ["x"])
    with pytest.raises(KernelMgmtError) as caught:
        await start_kernel("spec/bad", finder=finder)
    nothing_is_left()
    assert type(caught.value) is NoSuchKernel
    assert str(file) in str(caught.value)
    assert says in str(caught.value)
    assert str(caught.value).endswith("mend or remove it.")


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_a_cancelled_launch_ends_at_once(
    finder: KernelFinder, write_spec: Any, transport: str
) -> None:
    """Wherever a launch is given up, that is the end of it and of its process."""
    write_spec("sleeps", ["sleep", "1000"])
    params = {"transport": transport}
    for n in range(10):
        task = asyncio.create_task(finder.launch("spec/sleeps", launch_params=params))
        await asyncio.wait({task}, timeout=n * 0.003)
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
        nothing_is_left()
