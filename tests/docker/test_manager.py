"""Kernels in containers from launch to removal, against a real engine."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import docker
import pytest
from contained import ECHO
from container_code import run
from docker.errors import NotFound
from dockerds import LABEL, build_image
from kernel_mgmt import (
    ExitStatus,
    KernelClient,
    KernelDied,
    KernelFinder,
    NoSuchKernel,
    run_kernel_blocking,
)
from kernel_mgmt.records import read_records, records_dir
from kernel_mgmt_docker.containers import exit_status, read_state
from kernel_mgmt_docker.manager import DockerKernelManager
from waiting import eventually

Start = Callable[..., Any]

#: Tells that it runs; what comes after it is not to be aborted when it is interrupted.
_SLEEP = "import time\nprint('on')\ntime.sleep(100)"


async def test_a_kernel_runs_code_asks_for_input_and_displays(start: Start) -> None:
    """Results, text, input and rich display data go between an IPython kernel and its client."""
    _, client = await start()
    assert (await run(client, "6 * 7")).data[0]["text/plain"] == "42"
    assert (await run(client, "print(input('name? ')[::-1])", stdin="abc")).text.endswith("cba\n")
    shown = await run(client, "from IPython.display import HTML; display(HTML('<b>x</b>'))")
    assert shown.data[0]["text/html"] == "<b>x</b>"


async def test_an_interrupt_reaches_the_kernel_and_its_child(start: Start) -> None:
    """SIGINT ends a computation, and a child that the kernel waits for without listening itself."""
    manager, client = await start()
    request = client.execute(_SLEEP, stop_on_error=False)
    async for message in request:
        if message.msg_type == "stream":
            break
    await manager.interrupt()
    assert (await request).content["ename"] == "KeyboardInterrupt"
    # system(3) ignores SIGINT while its child runs: nobody but the child can be interrupted.
    request = client.execute("import os, time\nprint('on')\nprint(os.system('sleep 100'))")
    async for message in request:
        if message.msg_type == "stream":
            break
    await eventually(lambda: _has_process(manager, "sleep"))
    await manager.interrupt()
    async with asyncio.timeout(10):
        assert (await request).content["status"] == "ok"
    assert (await run(client, "1 + 1")).data[0]["text/plain"] == "2"


async def test_an_interrupt_from_within_the_container_does_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel's processes are not ones of this machine, a program in the container signals."""
    manager, client = await start()
    monkeypatch.setattr(manager, "_signal_from_here", lambda signum: False)
    request = client.execute("import os, time\nprint('on')\nprint(os.system('sleep 100'))")
    async for message in request:
        if message.msg_type == "stream":
            break
    await eventually(lambda: _has_process(manager, "sleep"))
    await manager.interrupt()
    async with asyncio.timeout(10):
        assert (await request).content["status"] == "ok"


def _has_process(manager: DockerKernelManager, name: str) -> bool:
    top = manager._engine.api.top(manager.container_id)
    return any(name in " ".join(row) for row in top["Processes"])


async def test_exit_codes_and_signals_are_told_as_they_were(start: Start) -> None:
    """A code, a signal that was sent, and one of the kernel's own are told apart."""
    for code, status in (
        ("import os; os._exit(7)", ExitStatus(code=7)),
        ("import os; os.abort()", ExitStatus(signal=signal.SIGABRT)),
    ):
        manager, client = await start()
        with pytest.raises(KernelDied) as caught:
            await run(client, code)
        assert caught.value.exit_status == status == await manager.wait()
        assert not await manager.is_alive()
    manager, _ = await start(argv=ECHO)
    await manager.terminate()
    async with asyncio.timeout(10):
        status = await manager.wait()
    assert status in (ExitStatus(code=0), ExitStatus(signal=signal.SIGTERM))


async def test_kill_ends_everything_and_may_be_called_again(start: Start) -> None:
    """After kill the container does not run, and kill, signal and cleanup do nothing more."""
    manager, _ = await start(argv=ECHO)
    await manager.kill()
    assert await manager.wait() == ExitStatus(signal=signal.SIGKILL)
    await manager.kill()
    await manager.interrupt()
    with pytest.raises(ValueError, match="no signal of Linux"):
        await manager.signal(0)
    await manager.cleanup()
    await manager.cleanup()
    await manager.kill()
    await manager.terminate()


async def test_running_out_of_memory_is_told_with_the_limit(start: Start) -> None:
    """The reason names the limit of the configuration, and the kernel is the one that dies."""
    _, client = await start(memory="128m")
    with pytest.raises(KernelDied) as caught:
        await run(client, "x = bytearray(300 * 2**20)")
    assert caught.value.exit_status == ExitStatus(
        signal=signal.SIGKILL, reason="out of memory: limit 128 MiB"
    )
    assert "out of memory: limit 128 MiB" in str(caught.value)


async def test_a_fork_bomb_meets_the_limit_of_processes(start: Start) -> None:
    """The kernel may have so many processes and no more, and goes on when they have ended."""
    _, client = await start(pids=40)
    code = (
        "import os, signal\n"
        "children, reason = [], ''\n"
        "try:\n"
        "    for _ in range(200):\n"
        "        pid = os.fork()\n"
        "        if not pid:\n"
        "            signal.pause()\n"
        "        children.append(pid)\n"
        "except OSError as error:\n"
        "    reason = error.strerror\n"
        "for pid in children:\n"
        "    os.kill(pid, 9); os.waitpid(pid, 0)\n"
        "print(len(children), reason)\n"
    )
    count, _, reason = (await run(client, code)).text.partition(" ")
    assert 0 < int(count) < 40
    assert "temporarily unavailable" in reason
    assert (await run(client, "1 + 1")).data[0]["text/plain"] == "2"


async def test_the_log_is_there_while_it_runs_and_after_the_container_is_gone(
    start: Start,
) -> None:
    """What the kernel's process wrote itself is in the log tail, last lines last."""
    manager, client = await start(argv=[*ECHO, "--ignore-shutdown"])
    before = await manager.log_tail()
    await manager.kill()
    await manager.cleanup()
    assert await manager.log_tail() == before
    assert (await manager.log_tail(1)).count("\n") == 0
    del client


async def test_a_kernel_that_dies_shows_its_last_words(start: Start) -> None:
    """What was written to the process's own standard error is in the error of the client."""
    _, client = await start()
    # ipykernel has taken the descriptor 2 for its stream, and kept a copy.
    stderr = "sys.stderr._original_stdstream_copy"
    with pytest.raises(KernelDied) as caught:
        await run(client, f"import os, sys; os.write({stderr}, b'last words'); os._exit(3)")
    assert caught.value.exit_status == ExitStatus(code=3)
    assert caught.value.log_tail.endswith("last words")


async def test_usage_is_what_the_engine_measures(start: Start) -> None:
    """Memory, time and processes are told with their limits; a dead kernel uses nothing."""
    manager, client = await start(memory="256m", pids=100)
    await run(client, "x = bytearray(b'x' * (60 * 2**20)); sum(range(10**6))")
    usage = await manager.usage()
    assert 50 * 2**20 < usage["memory"] < usage["memory_limit"] == 256 * 2**20
    assert usage["cpu_seconds"] > 0.1
    assert 1 < usage["pids"] <= usage["pids_limit"] == 100
    await manager.kill()
    assert (await manager.usage())["memory"] is None


async def test_cleanup_removes_container_record_and_directory(
    start: Start, nothing_left: Callable[[], list[str]]
) -> None:
    """While a kernel runs it has a record with no key beside the connection info; then nothing."""
    manager, client = await start(argv=ECHO)
    records, problems = read_records()
    assert [record.kernel_id for record in records] == [manager.kernel_id]
    assert not problems
    key = records[0].connection_info.key
    assert key not in json.dumps(dict(records[0].manager))
    assert records[0].manager == manager.record()
    assert nothing_left()
    client.close()
    await manager.cleanup()
    assert not nothing_left()
    assert not list(records_dir().glob("kernel-*"))


async def test_no_secret_is_shown_by_the_engine(
    start: Start, docker_client: docker.DockerClient
) -> None:
    """What anybody who may use the engine can read has no key, and says whose container it is."""
    manager, client = await start(argv=ECHO)
    inspected = docker_client.api.inspect_container(manager.container_id)
    text = json.dumps(inspected)
    assert client.connection_info.key not in text
    assert inspected["Config"]["Labels"]["kernel-mgmt.id"] == manager.kernel_id
    assert inspected["Config"]["Labels"]["kernel-mgmt.type"] == "docker/k1"
    assert float(inspected["Config"]["Labels"]["kernel-mgmt.created"]) <= time.time()


async def test_a_container_that_somebody_removes_is_a_kernel_that_died(
    start: Start, docker_client: docker.DockerClient
) -> None:
    """Clients are told at once, and cleanup does what is left to do."""
    manager, client = await start(argv=ECHO)
    waiting = asyncio.ensure_future(manager.wait())
    await asyncio.to_thread(
        docker_client.api.remove_container, manager.container_id, force=True, v=True
    )
    async with asyncio.timeout(10):
        status = await waiting
    assert status.signal == signal.SIGKILL or "removed" in status.reason
    del client


async def test_its_engine_is_asked_off_the_event_loop(start: Start) -> None:
    """The event loop goes on while the engine is slow to answer."""
    manager, _ = await start(argv=ECHO)
    api = manager._engine.api
    ticks = 0

    def slow() -> str:
        time.sleep(0.3)
        return str(api.version()["ApiVersion"])

    call = asyncio.ensure_future(manager._engine.call(slow))
    while not call.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert await call
    assert ticks > 10


async def test_several_clients_and_a_client_without_manager_work(start: Start) -> None:
    """The connection info alone is enough to talk."""
    _, client = await start(argv=ECHO)
    other = KernelClient(client.connection_info)
    await other.wait_for_ready(30)
    other.close()


async def test_a_volume_without_a_name_goes_with_its_container(
    start: Start, docker_client: docker.DockerClient
) -> None:
    """What holds the connection file of a kernel that is relayed is removed."""
    manager, client = await start(argv=ECHO, connect="relay")
    mounts = docker_client.api.inspect_container(manager.container_id)["Mounts"]
    (volume,) = [mount["Name"] for mount in mounts if mount["Type"] == "volume"]
    client.close()
    await manager.cleanup()
    with pytest.raises(NotFound):
        docker_client.api.inspect_volume(volume)


def test_kernels_in_containers_work_without_an_event_loop(
    config: Callable[..., None], finder: KernelFinder, image: str, nothing_left: object
) -> None:
    """The blocking client and manager are the same kernel's."""
    config("k", image=image)
    with run_kernel_blocking("docker/k", finder=finder) as client:
        assert client.execute("x = 1").reply(30).content["status"] == "ok"
        assert client.manager.is_alive()


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({"ExitCode": 0}, ExitStatus(code=0)),
        ({"ExitCode": 1}, ExitStatus(code=1)),
        ({"ExitCode": 127, "Error": "no such file"}, ExitStatus(code=127, reason="no such file")),
        ({"ExitCode": 137}, ExitStatus(signal=9)),
        ({"ExitCode": 139}, ExitStatus(signal=11)),
        ({"ExitCode": 200}, ExitStatus(code=200)),
        # A child was killed, and the kernel went on.
        ({"ExitCode": 0, "OOMKilled": True}, ExitStatus(code=0)),
        (
            {"ExitCode": 137, "OOMKilled": True},
            ExitStatus(signal=9, reason="out of memory: limit 1.5 GiB"),
        ),
    ],
)
def test_what_an_engine_tells_becomes_an_exit_status(
    state: dict[str, Any], status: ExitStatus
) -> None:
    """Exit codes of signals are told as signals, the reason as far as it is known."""
    inspected = {"State": {"Status": "exited", **state}, "HostConfig": {"Memory": 3 * 2**29}}
    assert exit_status(read_state(inspected)) == status


def test_images_that_say_they_are_kernels_are_found(
    finder: KernelFinder,
    image: str,
    docker_client: docker.DockerClient,
    config: Callable[..., None],
) -> None:
    """The label names the kernel, others describe it; a bad one is a problem that names the image."""
    del config  # no kernel of a file
    names = {"good": f"{LABEL}-labelled:1", "bad": f"{LABEL}-badly-labelled:1"}
    argv = json.dumps(ECHO)
    labels = (
        f"LABEL kernel-mgmt.kernel=good kernel-mgmt.display-name=Good kernel-mgmt.argv='{argv}'"
    )
    build_image(docker_client, names["good"], f"FROM {image}\n{labels}\n")
    labels = "LABEL kernel-mgmt.kernel=bad kernel-mgmt.argv=nonsense"
    build_image(docker_client, names["bad"], f"FROM {image}\n{labels}\n")
    try:
        found = {kernel_type.name: kernel_type for kernel_type in finder.find_kernels()}
        assert found["good"].display_name == "Good"
        assert "bad" not in found
        with pytest.raises(NoSuchKernel, match=r"label kernel-mgmt\.argv that is no JSON list"):
            finder.get("docker/bad")
        with run_kernel_blocking("docker/good", finder=finder) as client:
            assert client.execute("x").reply(30).content["status"] == "ok"
    finally:
        for name in names.values():
            docker_client.api.remove_image(name)
