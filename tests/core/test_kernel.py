"""The one-call API: what it gives, and that nothing is left when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kernel_mgmt import (
    KernelFinder,
    KernelType,
    LaunchError,
    LaunchProgress,
    NoSuchKernel,
    hookimpl,
    run_kernel,
    start_kernel,
)


async def test_start_kernel_gives_manager_and_ready_client(finder: KernelFinder) -> None:
    """start_kernel gives a manager and a client whose kernel has answered."""
    manager, client = await start_kernel("echo", finder=finder)
    assert manager is not None
    async with manager, client:
        assert client.kernel_info_content["implementation"] == "echo"
        assert await manager.is_alive()


async def test_run_kernel_ends_the_kernel(finder: KernelFinder) -> None:
    """The kernel of run_kernel ends with the block, also when the block raises."""
    manager = None

    async def raise_inside() -> None:
        nonlocal manager
        async with run_kernel("echo/echo", finder=finder) as client:
            manager = client.manager
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await raise_inside()
    assert manager is not None
    assert not await manager.is_alive()


async def test_run_kernel_cancelled_leaves_nothing(finder: KernelFinder) -> None:
    """A task that is cancelled inside the block has ended its kernel when it is done."""
    inside = asyncio.Event()

    async def work() -> None:
        async with run_kernel("echo/echo", finder=finder):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.wait_for(inside.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cwd_env_and_parameters_reach_the_kernel(finder: KernelFinder, tmp_path: Any) -> None:
    """The kernel runs in the given directory, with the given variables."""
    env = {"KM_TEST": "a value"}
    async with run_kernel("echo/echo", finder=finder, cwd=tmp_path, env=env) as client:
        shown = [m async for m in client.execute("cwd\nenv KM_TEST") if m.msg_type == "stream"]
    assert [m.content["text"].strip() for m in shown] == [str(tmp_path), "a value"]


async def test_progress_names_the_phases_in_order(finder: KernelFinder) -> None:
    """on_progress hears of resolve, start and ready, in this order."""
    steps: list[LaunchProgress] = []
    async with run_kernel("echo/echo", finder=finder, on_progress=steps.append):
        pass
    assert list(dict.fromkeys(step.phase for step in steps)) == ["resolve", "start", "ready"]


async def test_ten_kernels_at_once(finder: KernelFinder) -> None:
    """Ten kernels start together, and each is talked to by its own client."""

    async def one(number: int) -> str:
        async with run_kernel("echo/echo", finder=finder) as client:
            messages = [m async for m in client.execute(f"print {number}")]
            return "".join(m.content["text"] for m in messages if m.msg_type == "stream").strip()

    assert await asyncio.gather(*(one(n) for n in range(10))) == [str(n) for n in range(10)]


# -- failures ------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_a_kernel_that_exits_at_once(finder: KernelFinder, transport: str) -> None:
    """The error has exit code and last output, comes within a second, and nothing is left."""
    params = {"arguments": ["--exit", "7", "--message", "no licence"], "transport": transport}
    async with asyncio.timeout(1):
        with pytest.raises(LaunchError, match="exit code 7") as failed:
            await start_kernel("echo/echo", finder=finder, launch_params=params)
    assert failed.value.phase == "start"
    assert failed.value.exit_status is not None
    assert failed.value.exit_status.code == 7
    assert "no licence" in str(failed.value)


async def test_a_kernel_that_never_binds(finder: KernelFinder) -> None:
    """A kernel that does not accept connections in time fails in phase start."""
    params = {"arguments": ["--startup-delay", "60"]}
    with pytest.raises(LaunchError, match=r"phase 'start'.*within 0\.5 s"):
        await start_kernel("echo/echo", finder=finder, launch_params=params, startup_timeout=0.5)


async def test_a_kernel_that_never_answers(finder: KernelFinder) -> None:
    """A kernel that binds but does not answer in time fails in phase ready."""
    params = {"arguments": ["--never-answer"]}
    with pytest.raises(LaunchError, match=r"phase 'ready'.*within 1 s"):
        await start_kernel("echo/echo", finder=finder, launch_params=params, startup_timeout=1)


async def test_a_working_directory_that_does_not_exist(finder: KernelFinder) -> None:
    """A missing working directory is named before anything runs."""
    with pytest.raises(LaunchError, match="'/no/such/place' does not exist"):
        await start_kernel("echo/echo", finder=finder, cwd="/no/such/place")


async def test_an_unknown_kernel(finder: KernelFinder) -> None:
    """An unknown type names what is near."""
    with pytest.raises(NoSuchKernel, match="did you mean echo/echo"):
        await start_kernel("echo/ecko", finder=finder)


async def test_a_provider_that_raises_in_launch() -> None:
    """What a provider raises becomes a LaunchError that names provider and cause."""

    class Broken:
        @hookimpl
        def kernel_mgmt_find_kernels(self) -> list[KernelType]:
            return [KernelType("x")]

        @hookimpl
        def kernel_mgmt_launch_kernel(self, request: object) -> None:
            raise OSError("no such planet")

    with pytest.raises(LaunchError, match="'broken' raised OSError: no such planet"):
        await start_kernel("broken/x", finder=KernelFinder({"broken": Broken()}))


@pytest.mark.parametrize("after", [0.0, 0.01, 0.05, 0.1, 0.15, 0.2])
async def test_cancelling_a_start_leaves_nothing(finder: KernelFinder, after: float) -> None:
    """Wherever a start is cancelled, no process, file, directory, socket or task is left."""
    params = {"arguments": ["--answer-delay", "5"]}
    task = asyncio.create_task(start_kernel("echo/echo", finder=finder, launch_params=params))
    await asyncio.wait({task}, timeout=after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
