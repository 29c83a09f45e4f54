"""Bad input of every sort: one clear sentence in the right error, and nothing left behind.

What a kind of bad input means in detail is tested beside the module that refuses it; here all of
them go through the same check.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_mgmt import (
    ConnectionFileError,
    ConnectionInfo,
    KernelClient,
    KernelFinder,
    KernelMgmtError,
    KernelType,
    LaunchError,
    LaunchRequest,
    NoSuchKernel,
    NoSuchProvider,
    ProviderError,
    RequestTimeout,
    hookimpl,
    run_kernel,
    start_kernel,
)
from kernel_mgmt.local import launch_local
from kernel_mgmt.plugins import load_providers
from kernel_mgmt.testing import EchoProvider
from leaks import LeakCheck, Snapshot

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])


class Broken:
    """Raises in every hook."""

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> list[KernelType]:
        """Raise."""
        raise OSError("no such planet")

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> None:
        """Raise."""
        raise OSError("no such rocket")


class Runs:
    """Launches the commands of the kernel types that it offers."""

    def __init__(self) -> None:
        self.commands = {
            "missing": ["/no/such/kernel"],
            "no-program": [os.devnull],
            "exits": ["sh", "-c", "echo no licence >&2; exit 7"],
            "exits-mute": ["sh", "-c", "exit 7"],
            "crashes": ["sh", "-c", "kill -SEGV $$"],
            "never-binds": ["sleep", "1000"],
            "has-children": ["sh", "-c", "sleep 1000 & sleep 1000 & echo gone >&2; exit 7"],
        }

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> list[KernelType]:
        """Give one kernel type for each command."""
        return [KernelType(name) for name in self.commands]

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Any]:
        """Run the command."""
        return launch_local(
            request,
            lambda _: self.commands[request.kernel_type.name],
            runtime_dir=RUNTIME_DIR,
            transport=request.launch_params.get("transport", "tcp"),
        )


@pytest.fixture
def finder() -> KernelFinder:
    """Knows a good provider and bad ones."""
    return KernelFinder({"echo": EchoProvider(), "runs": Runs(), "broken": Broken()})


@dataclass(frozen=True)
class Bad:
    """One kind of bad input.

    Attributes:
        type_id: what to start.
        error: the error's class.
        says: texts that are in the error, in this order.
        phase: the phase that a LaunchError names.
        kwargs: further arguments of ``start_kernel``.
        seconds: how long the error may take.
    """

    type_id: str
    error: type[KernelMgmtError]
    says: tuple[str, ...]
    phase: str = ""
    kwargs: tuple[tuple[str, Any], ...] = ()
    seconds: float = 10


def echo(*arguments: str) -> tuple[str, dict[str, Any]]:
    """Options for the echo kernel, as an argument of ``start_kernel``."""
    return "launch_params", {"arguments": arguments}


IPC = ("launch_params", {"transport": "ipc"})

START: dict[str, Bad] = {
    "unknown type": Bad("nothing", NoSuchKernel, ("no kernel type 'nothing'", "there are echo/")),
    "unknown name": Bad("echo/ecko", NoSuchKernel, ("'echo/ecko'", "did you mean echo/echo?")),
    "unknown provider": Bad("eco/echo", NoSuchProvider, ("provider 'eco'", "did you mean echo?")),
    "raises in find": Bad(
        "broken/x", NoSuchKernel, ("no kernel type 'broken/x'", "OSError: no such planet.")
    ),
    "missing command": Bad(
        "runs/missing", LaunchError, ("'/no/such/kernel' was not found", "Install"), "start"
    ),
    "no program": Bad(
        "runs/no-program", LaunchError, (f"{os.devnull!r} cannot be run", "Check"), "start"
    ),
    "exits": Bad(
        "runs/exits",
        LaunchError,
        ("ended before it accepted connections: exit code 7.", "\n  | no licence"),
        "start",
        seconds=1,
    ),
    "exits mute": Bad(
        "runs/exits-mute", LaunchError, ("exit code 7.", "It wrote nothing"), "start", seconds=1
    ),
    "exits, over Unix sockets": Bad(
        "runs/exits", LaunchError, ("exit code 7.", "\n  | no licence"), "start", (IPC,), 1
    ),
    "crashes": Bad("runs/crashes", LaunchError, ("killed by SIGSEGV.",), "start", seconds=1),
    "exits and leaves children": Bad(
        "runs/has-children", LaunchError, ("exit code 7.", "\n  | gone"), "start", (IPC,), 1
    ),
    "never binds": Bad(
        "runs/never-binds",
        LaunchError,
        ("did not accept connections within 0.3 s.", "startup_timeout"),
        "start",
        (("startup_timeout", 0.3),),
        2,
    ),
    "never answers": Bad(
        "echo/echo",
        LaunchError,
        ("accepted connections but did not answer within 1 s.", "startup_timeout"),
        "ready",
        (echo("--never-answer"), ("startup_timeout", 1)),
        3,
    ),
    "missing cwd": Bad(
        "echo/echo",
        LaunchError,
        ("directory '/no/such/place' does not exist.", "another cwd"),
        "start",
        (("cwd", "/no/such/place"),),
    ),
    "bad environment": Bad(
        "echo/echo",
        LaunchError,
        ("cannot be given this argv and env: ",),
        "start",
        (("env", {"A=B": "x"}),),
    ),
}


def one_clear_sentence(error: KernelMgmtError) -> str:
    """The error without the kernel's own output, after a look at its form."""
    text = error.summary if isinstance(error, LaunchError) else str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    assert " object at 0x" not in text
    assert text.endswith((".", "?"))
    assert 20 < len(text) < 400
    return text


@dataclass(frozen=True)
class Leftovers:
    """Tells what there is now and was not there before."""

    check: LeakCheck
    before: Snapshot

    async def none(self) -> None:
        """Assert that nothing was left: at once, but for what the background loop still closes."""
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert list(RUNTIME_DIR.iterdir()) == []
        assert list(ROOT.glob("km-*")) == []
        assert psutil.Process().children(recursive=True) == []
        assert self.check.leftovers(self.before, timeout=1) == []


@pytest.fixture
def leftovers(leak_check: LeakCheck) -> Leftovers:
    """Looks for what this test leaves, before the general check does."""
    return Leftovers(leak_check, leak_check.snapshot())


@pytest.mark.parametrize("bad", START.values(), ids=START)
async def test_a_bad_start(finder: KernelFinder, leftovers: Leftovers, bad: Bad) -> None:
    """A start that cannot be ends in time with the right error, which says it, and leaves nothing."""
    started = time.monotonic()
    with pytest.raises(KernelMgmtError) as caught:
        await start_kernel(bad.type_id, finder=finder, **dict(bad.kwargs))
    assert time.monotonic() - started < bad.seconds
    await leftovers.none()
    error = caught.value
    assert type(error) is bad.error
    one_clear_sentence(error)
    position = 0
    for text in bad.says:
        position = str(error).index(text, position)
    if isinstance(error, LaunchError):
        assert error.phase == bad.phase
        assert f"(phase '{bad.phase}')" in str(error)


async def test_a_provider_that_raises_in_launch(leftovers: Leftovers) -> None:
    """The error names the provider and what it raised, and whose fault that is."""
    broken = KernelType("x", provider="broken")
    with pytest.raises(LaunchError) as caught:
        await start_kernel(broken, finder=KernelFinder({"broken": Broken()}))
    await leftovers.none()
    assert one_clear_sentence(caught.value) == (
        "Launch failed (phase 'start'): the provider 'broken' raised OSError: no such rocket. "
        "This is a defect of the provider."
    )


async def test_a_provider_that_raises_at_import(
    leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own types are missing, and whoever asks for one of them learns why."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "km_moon.py").write_text("raise OSError('no such planet')")
    info = tmp_path / "kernel_mgmt_moon-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernel-mgmt-moon\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kernel_mgmt]\nmoon = km_moon\n")
    with pytest.raises(ProviderError) as caught:
        await start_kernel("moon/base")
    await leftovers.none()
    assert "moon" not in load_providers()[0]
    sentence = one_clear_sentence(caught.value)
    assert "'moon' of 'moon/base' cannot be used: It cannot be loaded: OSError: no such" in sentence
    assert caught.value.distributions == ("kernel-mgmt-moon 1.0",)


async def test_a_socket_path_that_is_too_long(
    finder: KernelFinder, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no directory is short enough the error says so, and what to set."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(LaunchError) as caught:
            await start_kernel("echo/echo", finder=finder)
    await leftovers.none()
    assert caught.value.phase == "start"
    assert "set TMPDIR to a shorter one" in one_clear_sentence(caught.value)
    with pytest.raises(ConnectionFileError) as too_long:
        ConnectionInfo.for_ipc("/" + "x" * 200)
    assert "use a shorter directory, or transport 'tcp'." in one_clear_sentence(too_long.value)


async def test_a_wrong_key(finder: KernelFinder, leftovers: Leftovers) -> None:
    """A client with another key learns the phase in which it waits in vain; the kernel is well."""
    async with run_kernel("echo/echo", finder=finder) as good:
        async with KernelClient(good.connection_info.replace(key="wrong")) as bad:
            with pytest.raises(RequestTimeout) as caught:
                await bad.wait_for_ready(timeout=0.5)
        assert caught.value.phase == "ready"
        one_clear_sentence(caught.value)
        assert (await good.execute("hello")).content["status"] == "ok"
    await leftovers.none()


# --- connection files ----------------------------------------------------------------------------

GOOD = json.dumps(ConnectionInfo.for_tcp(key="secret").to_dict())


def without_key() -> str:
    """A connection file that lacks the key."""
    return json.dumps({k: v for k, v in json.loads(GOOD).items() if k != "key"})


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "There is no connection file"),
    "empty": (lambda file: file.write_text(""), "is empty; was it written completely?"),
    "truncated": (lambda file: file.write_text(GOOD[:-20]), "is not JSON"),
    "not JSON": (lambda file: file.write_text("shell_port = 1"), "is not JSON"),
    "not an object": (lambda file: file.write_text("[1]"), "does not hold a JSON object"),
    "without a key": (lambda file: file.write_text(without_key()), "lacks key;"),
    "a directory": (lambda file: file.mkdir(), "cannot be read: Is a directory"),
}
if os.geteuid() == 0:  # only root can give a file away
    FILES["another user's"] = (
        lambda file: (file.write_text(GOOD), os.chown(file, 4321, 4321)),
        "belongs to another user (uid 4321)",
    )


@pytest.mark.parametrize(("make", "sentence"), FILES.values(), ids=FILES)
async def test_a_bad_connection_file(
    make: Callable[[Path], object], sentence: str, leftovers: Leftovers, tmp_path: Path
) -> None:
    """It is refused before any socket is opened, by an error that names the file and no secret."""
    file = tmp_path / "kernel-1.json"
    make(file)
    with pytest.raises(ConnectionFileError) as caught:
        KernelClient(ConnectionInfo.read(file))
    await leftovers.none()
    assert sentence in one_clear_sentence(caught.value)
    assert caught.value.path == str(file)
    assert "secret" not in str(caught.value)
