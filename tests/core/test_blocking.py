"""The blocking client and manager: the same promises without an event loop of one's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from kernel_mgmt import (
    BlockingKernelClient,
    ClientClosed,
    KernelDied,
    KernelFinder,
    LaunchError,
    Message,
    Prompt,
    RequestTimeout,
    run_kernel_blocking,
    start_kernel_blocking,
)
from messages import texts
from waiting import eventually_sync


@pytest.fixture
def blocking(finder: KernelFinder) -> Iterator[BlockingKernelClient]:
    """A blocking client of an echo kernel of its own."""
    with run_kernel_blocking("echo/echo", finder=finder, startup_timeout=20) as client:
        yield client


def test_reply_and_output(blocking: BlockingKernelClient) -> None:
    """A request gives its reply and, iterated before or after, its own output."""
    request = blocking.execute("print hello")
    assert request.reply(5).content["status"] == "ok"
    assert texts(list(request)) == texts(list(request.outputs(5))) == ["hello"]
    assert request.wait_until_finished(5) is request.reply()
    assert request.answered
    assert request.finished


def test_requests_may_be_under_way_together(blocking: BlockingKernelClient) -> None:
    """Many requests can be sent before the first is answered, and asked for in any order."""
    requests = [blocking.execute(f"print {n}") for n in range(50)]
    assert [texts(list(r)) for r in reversed(requests)] == [[str(n)] for n in range(49, -1, -1)]


def test_timeouts_can_be_waited_out(blocking: BlockingKernelClient) -> None:
    """A timeout ends the wait and not the request: asking again gets the reply."""
    request = blocking.execute("print x\nsleep 0.5")
    with pytest.raises(RequestTimeout, match=r"within 0\.05 s"):
        request.reply(0.05)
    with pytest.raises(RequestTimeout):
        list(request.outputs(0.05))
    assert request.reply(5).content["status"] == "ok"
    assert texts(list(request)) == ["x"]


def test_from_several_threads_at_once(blocking: BlockingKernelClient) -> None:
    """Threads share one client, and each gets its own output."""

    def work(thread: int) -> list[list[str]]:
        return [texts(list(blocking.execute(f"print {thread} {n}"))) for n in range(10)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[[f"{thread} {n}"] for n in range(10)] for thread in range(8)]


def test_below_a_running_loop_and_after_it(blocking: BlockingKernelClient) -> None:
    """The client works in a function that a running loop calls, and after asyncio.run has ended."""

    async def main() -> str:
        return str(blocking.execute("print x").reply(5).content["status"])

    assert asyncio.run(main()) == "ok"
    assert blocking.execute("print y").reply(5).content["status"] == "ok"


def test_two_clients_share_one_thread(blocking: BlockingKernelClient) -> None:
    """A further blocking client costs no further thread."""
    before = set(threading.enumerate())
    with BlockingKernelClient(blocking.connection_info, manager=blocking.manager) as other:
        other.wait_for_ready(10)
        assert set(threading.enumerate()) == before


def test_waiting_in_a_handler_is_refused(blocking: BlockingKernelClient) -> None:
    """A blocking call on the background thread, which would wait for itself, raises instead."""
    raised: list[BaseException] = []

    def handler(message: Message) -> None:
        for call in (blocking.interrupt, lambda: blocking.execute("print x").reply(5)):
            try:
                call()
            except RuntimeError as error:
                raised.append(error)

    blocking.add_handler(handler, {"shell"})
    blocking.execute("print x").reply(5)
    eventually_sync(lambda: len(raised) >= 2)
    blocking.remove_handler(handler)
    assert all("cannot be made from a handler" in str(error) for error in raised)


def test_hooks_run_in_the_calling_thread(blocking: BlockingKernelClient) -> None:
    """Output and stdin hooks are called in the thread that runs the code."""
    threads = set()
    seen: list[Message] = []

    def output(message: Message) -> None:
        threads.add(threading.current_thread())
        seen.append(message)

    def ask(prompt: Prompt) -> str:
        threads.add(threading.current_thread())
        return f"answer to {prompt.message.strip()}"

    blocking.execute_interactive("input q", output_hook=output, stdin_hook=ask, timeout=10)
    assert threads == {threading.current_thread()}
    assert texts(seen) == ["answer to q"]


def test_what_a_hook_raises_comes_out(blocking: BlockingKernelClient) -> None:
    """An exception of either hook comes out of execute_interactive, and the client is usable."""

    def fail(_: object) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        blocking.execute_interactive("print x", output_hook=fail)
    with pytest.raises(ZeroDivisionError):
        blocking.execute_interactive("input x", output_hook=lambda m: None, stdin_hook=fail)
    assert blocking.execute("print x").reply(5).content["status"] == "ok"


def test_requests_end_with_the_kernels_death(blocking: BlockingKernelClient) -> None:
    """A waiting thread is woken by the kernel's death, and later requests are refused."""
    request = blocking.execute("exit 4")
    with pytest.raises(KernelDied, match="exit code 4"):
        request.reply(10)
    with pytest.raises(KernelDied):
        list(request)
    with pytest.raises(KernelDied):
        blocking.execute("print x")


def test_requests_end_when_the_client_is_closed(blocking: BlockingKernelClient) -> None:
    """A thread that waits is woken when another closes the client."""
    other = BlockingKernelClient(blocking.connection_info)
    other.wait_for_ready(10)
    request = other.execute("sleep 30")
    closer = threading.Timer(0.1, other.close)
    closer.start()
    with pytest.raises(ClientClosed):
        request.reply(10)
    closer.join()
    blocking.interrupt()


def test_interrupt_and_heartbeat(blocking: BlockingKernelClient) -> None:
    """Interrupting ends the running code, and the heartbeat tells that the kernel answers."""
    request = blocking.execute("print started\nsleep 60")
    next(message for message in request if message.msg_type == "stream")
    assert blocking.responsive
    blocking.interrupt()
    assert request.reply(5).content["ename"] == "KeyboardInterrupt"


def test_reconnect(blocking: BlockingKernelClient, finder: KernelFinder) -> None:
    """A blocking client can follow to a new kernel."""
    manager, other = start_kernel_blocking("echo/echo", finder=finder)
    other.close()
    old = blocking.manager
    assert old is not None
    blocking.reconnect(other.connection_info, manager)
    blocking.wait_for_ready(10)
    assert texts(list(blocking.execute("print new"))) == ["new"]
    old.kill()
    old.cleanup()


def test_blocking_manager(finder: KernelFinder) -> None:
    """The blocking manager watches and stops a kernel like the one inside it."""
    manager, client = start_kernel_blocking("echo/echo", finder=finder)
    assert manager is not None
    with client, manager:
        assert manager.is_alive()
        assert manager.kernel_id == manager.manager.kernel_id
        with pytest.raises(RequestTimeout, match="wait took longer"):
            manager.wait(timeout=0.05)
        manager.terminate()
        assert str(manager.wait(5)) == "killed by SIGTERM"
        assert not manager.is_alive()
        assert manager.log_tail() == ""
        assert manager.record() is None
    manager.kill()  # once more does nothing


def test_launch_errors_come_out(finder: KernelFinder) -> None:
    """What the asynchronous call raises is raised in the calling thread."""
    params = {"arguments": ["--exit", "5", "--message", "because"]}
    with pytest.raises(LaunchError, match="exit code 5") as failed:
        start_kernel_blocking("echo/echo", finder=finder, launch_params=params)
    assert "because" in failed.value.log_tail


SCRIPT = """
import sys
from kernel_mgmt import KernelFinder, run_kernel_blocking
from kernel_mgmt.testing.provider import EchoProvider

with run_kernel_blocking("echo/echo", finder=KernelFinder({"echo": EchoProvider()})) as client:
    try:
        BODY
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(client.execute("print usable").reply(10).content["status"], flush=True)
"""


def interrupt_when_started(body: str) -> list[str]:
    """Run a script that prints ``started``, send it SIGINT then, and give its further lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("BODY", body)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "started\n"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().splitlines()
    assert process.returncode == 0
    return rest


def test_ctrl_c_interrupts_the_kernel() -> None:
    """Ctrl-C while code runs ends the code, raises KeyboardInterrupt, and the kernel is usable."""
    lines = interrupt_when_started('client.execute_interactive("print started\\nsleep 60")')
    assert lines[-2:] == ["interrupted", "ok"]


def test_ctrl_c_while_waiting_for_a_reply() -> None:
    """Ctrl-C while a reply is waited for raises at once; the kernel is ended with the block."""
    lines = interrupt_when_started(
        'print("started", flush=True); client.execute("sleep 0.3").reply()'
    )
    assert lines == ["interrupted", "ok"]


def test_ctrl_c_during_a_launch_leaves_nothing() -> None:
    """Ctrl-C while a kernel starts cancels the launch and cleans up before it raises."""
    script = """
from kernel_mgmt import KernelFinder, start_kernel_blocking
from kernel_mgmt.testing.provider import EchoProvider

def told(progress):
    if progress.phase == "start":
        print("starting", flush=True)

try:
    start_kernel_blocking(
        "echo/echo", finder=KernelFinder({"echo": EchoProvider()}), on_progress=told,
        launch_params={"arguments": ["--startup-delay", "60"]},
    )
except KeyboardInterrupt:
    import os
    print(os.listdir(os.environ["JUPYTER_RUNTIME_DIR"]))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "[]\n"
    assert process.returncode == 0
    assert time.monotonic() - started < 10


def test_ctrl_c_at_any_time_leaves_no_kernel() -> None:
    """Whenever Ctrl-C comes during run_kernel_blocking, the kernel has ended when it raises."""
    script = """
import os, random, signal
from kernel_mgmt import KernelFinder, run_kernel_blocking
from kernel_mgmt.testing.provider import EchoProvider

finder = KernelFinder({"echo": EchoProvider()})
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(25):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.random() / 3 + 1e-6)
        with run_kernel_blocking("echo/echo", finder=finder) as client:
            client.execute("print x").reply()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
    print(os.listdir(os.environ["JUPYTER_RUNTIME_DIR"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    # Standard error is free: Python reports what it must ignore when Ctrl-C comes in a finalizer.
    assert (ended.stdout, ended.returncode) == ("[]\n" * 25, 0), ended.stderr
