"""The restarter without an event loop."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator

import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    BlockingKernelRestarter,
    KernelDied,
    KernelEvent,
    KernelFinder,
    LaunchError,
    RestartPolicy,
    run_kernel_blocking,
)
from waiting import eventually_sync

PATIENCE = 20.0


@pytest.fixture
def client(finder: KernelFinder) -> Iterator[BlockingKernelClient]:
    """A blocking client of an echo kernel of its own."""
    with run_kernel_blocking("echo/echo", finder=finder, startup_timeout=PATIENCE) as client:
        yield client


def make(
    finder: KernelFinder, client: BlockingKernelClient, **options: RestartPolicy
) -> BlockingKernelRestarter:
    """A restarter that the client follows, not yet started."""
    restarter = BlockingKernelRestarter(
        finder, "echo/echo", client.manager, client.connection_info, **options
    )
    restarter.follow(client)
    return restarter


def test_a_kernel_that_dies(finder: KernelFinder, client: BlockingKernelClient) -> None:
    """The same client works on when `ready` is told, with the kernel that the restarter has now."""
    events: queue.SimpleQueue[KernelEvent] = queue.SimpleQueue()
    with make(finder, client) as restarter:
        restarter.add_callback(events.put)
        assert restarter.state == "running"
        first = restarter.manager
        pending = client.execute("sleep 60")
        first.signal(signal.SIGKILL)
        with pytest.raises(KernelDied):
            pending.reply(PATIENCE)
        names = [events.get(timeout=PATIENCE).name for _ in range(3)]
        assert names == ["died", "restarting", "ready"]
        assert client.execute("print here").reply(PATIENCE).content["status"] == "ok"
        assert restarter.manager.manager is not first.manager
        assert restarter.connection_info is client.connection_info
        restarter.remove_callback(events.put)
    assert restarter.state == "stopped"
    assert "stopped" in repr(restarter)
    assert client.execute("").reply(PATIENCE).content["status"] == "ok"


def test_restart_by_hand(finder: KernelFinder, client: BlockingKernelClient) -> None:
    """It starts the restarter when need be, and returns when the client can go on."""
    restarter = make(finder, client)
    stranger = BlockingKernelClient(client.connection_info)
    restarter.follow(stranger)
    restarter.unfollow(stranger)
    assert restarter.state == "new"
    restarter.restart()
    assert client.execute("").reply(PATIENCE).content["execution_count"] == 1
    stranger.close()
    restarter.shutdown()
    assert not client.manager.is_alive()


def test_ending_with_the_client(finder: KernelFinder, client: BlockingKernelClient) -> None:
    """A client that follows ends the kernel for good."""
    restarter = make(finder, client)
    restarter.start()
    client.shutdown_or_terminate()
    assert restarter.state == "stopped"


def test_failure(finder: KernelFinder, client: BlockingKernelClient) -> None:
    """Who waits for a restart that cannot succeed gets the reason."""
    restarter = make(finder, client, policy=RestartPolicy(limit=0))
    restarter.start()
    os.kill(client.manager.manager.pid, signal.SIGKILL)
    eventually_sync(lambda: restarter.state == "failed", PATIENCE)
    restarter.restarter._options["launch_params"] = {"arguments": ["--exit", "3"]}
    with pytest.raises(LaunchError, match="exit code 3"):
        restarter.restart()
