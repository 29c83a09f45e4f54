"""A connection to a nanny that is cut, stalled and broken off again and again: nothing of it shows."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kernel_mgmt import BlockingKernelClient, ConnectionInfo, KernelClient
from known_work import KnownWork, Seen
from nannies import RunningNanny, running_nanny
from tunnels import Tunnel

_CUTS = 50
_CHANNELS = {"iopub", "shell", "control", "stdin"}


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny with an echo kernel that listens on the loopback interface."""
    with running_nanny(connection_info=ConnectionInfo.for_tcp()) as nanny:
        yield nanny


@contextmanager
def tormented(tunnel: Tunnel, seed: int) -> Iterator[threading.Thread]:
    """Have a tunnel cut, stalled and broken off at random moments, as often as is promised."""
    chance = random.Random(seed)
    over = threading.Event()

    def torment() -> None:
        for _ in range(_CUTS):
            over.wait(chance.uniform(0.02, 0.25))
            how = chance.choice(["cut", "stall", "break"])
            if how == "break":
                tunnel.break_off(
                    chance.choice(["shell", "stdin", "control", "nanny_journal", "nanny_journal"])
                )
                continue
            tunnel.cut() if how == "cut" else tunnel.stall()
            over.wait(chance.uniform(0.0, 0.2))
            tunnel.restore()

    thread = threading.Thread(target=torment, name="torment")
    thread.start()
    try:
        yield thread
    except BaseException:
        over.set()
        raise
    finally:
        thread.join()


async def test_fifty_cuts(nanny: RunningNanny) -> None:
    """20,000 messages, 200 requests, 20 prompts and some buffers come once and in order, through both clients."""
    work = KnownWork(200, lines=110, questions=20, buffers=3, pause=0.02)
    seen, seen_blocking = Seen(), Seen()
    with Tunnel(nanny.connection_info) as tunnel, tormented(tunnel, seed=7):
        async with KernelClient(tunnel.connection_info) as client:
            client.add_handler(seen.take, _CHANNELS)
            blocking = BlockingKernelClient(tunnel.connection_info)
            with blocking:
                blocking.add_handler(seen_blocking.take, _CHANNELS)
                async with asyncio.TaskGroup() as group:
                    group.create_task(work.run(client))
                    group.create_task(asyncio.to_thread(work.run_blocking, blocking))
    for one in (seen, seen_blocking):
        one.check()
        assert len(one.numbers) >= 20_000
