"""Waits made of short ones, so that Ctrl-C ends them wherever and whenever its signal comes."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time

import pytest
from kernel_mgmt import KernelFinder, RequestTimeout, background, run_kernel_blocking


@pytest.fixture(autouse=True, params=[None, 0.01])
def longest_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a wait may be: as it is here, or a moment."""
    if request.param is not None:
        monkeypatch.setattr(background, "_LONGEST_WAIT", request.param)


def test_a_lock_that_is_released_late_is_acquired() -> None:
    """The wait goes on over several short ones, to the release and not to the limit."""
    lock = threading.Lock()
    lock.acquire()
    timer = threading.Timer(0.05, lock.release)
    timer.start()
    assert background.acquire(lock, 30)
    assert lock.locked()
    timer.join()


@pytest.mark.parametrize("timeout", [0, 0.005, 0.055])
def test_a_lock_that_is_not_released_ends_the_wait_in_time(timeout: float) -> None:
    """The limit holds, whether it is shorter or longer than a short wait, or no time at all."""
    lock = threading.Lock()
    lock.acquire()
    started = time.monotonic()
    assert not background.acquire(lock, timeout)
    assert timeout <= time.monotonic() - started + 0.001
    lock.release()
    assert background.acquire(lock, timeout)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends threads no signals.")
def test_a_signal_that_does_not_wake_the_wait_ends_it() -> None:
    """One that another thread was given, or that came just before the wait, is handled soon."""

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    lock = threading.Lock()
    lock.acquire()
    # It gets the signal, which is blocked here: the wait itself is not disturbed.
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    before = signal.signal(signal.SIGUSR1, stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    started = time.monotonic()
    try:
        with pytest.raises(Stop):
            background.acquire(lock, 20)
        assert time.monotonic() - started < 10
    finally:
        timer.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR1, before)


def test_what_comes_late_is_taken() -> None:
    """What is put into a queue after several short waits is taken, in order."""
    source: queue.SimpleQueue[int] = queue.SimpleQueue()
    timer = threading.Timer(0.05, lambda: [source.put(n) for n in range(3)])
    timer.start()
    assert [background.take(source) for _ in range(3)] == [0, 1, 2]
    timer.join()


def test_a_blocking_client_works_so(finder: KernelFinder) -> None:
    """A launch, a request, its output, and a request that takes too long."""
    with run_kernel_blocking("echo/echo", finder=finder, startup_timeout=20) as client:
        request = client.execute("hello")
        assert request.reply(10).content["status"] == "ok"
        assert list(request)[-1].content["execution_state"] == "idle"
        with pytest.raises(RequestTimeout):
            client.execute("sleep 1").reply(0.05)
        assert client.execute_interactive("hello").content["status"] == "ok"
