"""The interface of all managers: what one gets that implements no more than it must."""

from __future__ import annotations

import signal

import pytest
from kernel_mgmt import ExitStatus, KernelManager


class Least(KernelManager):
    """Does what the interface asks for, and notes it."""

    def __init__(self) -> None:
        self.kernel_id = "1"
        self.done: list[str] = []

    async def is_alive(self) -> bool:
        """Never."""
        return False

    async def wait(self) -> ExitStatus:
        """Tell nothing."""
        return ExitStatus()

    async def signal(self, signum: int) -> None:
        """Note the signal."""
        self.done.append(signal.Signals(signum).name)

    async def kill(self) -> None:
        """Note it."""
        self.done.append("kill")

    async def cleanup(self) -> None:
        """Note it."""
        self.done.append("cleanup")


def test_a_manager_that_lacks_a_method_cannot_be_made() -> None:
    """Whoever forgets one learns of it at once, and of which."""

    class Lacking(Least):
        kill = KernelManager.kill

    with pytest.raises(TypeError, match="kill"):
        Lacking()  # type: ignore[abstract]


async def test_what_is_optional_has_honest_defaults() -> None:
    """Interrupt and terminate are signals, there is no log, and no other process can attach."""
    manager = Least()
    await manager.interrupt()
    await manager.terminate()
    assert manager.done == ["SIGINT", "SIGTERM"]
    assert await manager.log_tail() == ""
    assert manager.record() is None


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
async def test_a_context_kills_and_cleans_up(error: type[BaseException] | None) -> None:
    """At the end of a block the kernel is killed and cleaned up after, also when the block raises."""
    manager = Least()
    caught = None
    try:
        async with manager as entered:
            assert entered is manager
            assert manager.done == []
            if error is not None:
                raise error
    except BaseException as raised:  # noqa: BLE001 - looked at below
        caught = type(raised)
    assert caught is error
    assert manager.done == ["kill", "cleanup"]
