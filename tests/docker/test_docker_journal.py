"""A nanny in front of a container: what the kernel says outlives its clients, and the nanny ends both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import docker
import psutil
import pytest
from contained import ECHO
from container_code import run
from dockerds import LABEL
from engine_proxy import EngineProxy
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_mgmt import (
    ExitStatus,
    KernelClient,
    KernelFinder,
    KernelRecord,
    LaunchError,
    RemoteKernelManager,
    RequestTimeout,
)
from kernel_mgmt.detached import attach_kernel, running_kernels, start_detached
from kernel_mgmt.records import read_records
from kernel_mgmt.records.listing import nanny_pid
from kernel_mgmt_docker.containers import LABEL_ID, LABEL_OWNER
from kernel_mgmt_docker.manager import DockerKernelManager
from kernel_mgmt_docker.order import Order, failure_in, told
from kernel_mgmt_docker.orphans import LABEL_KEEPER, keeper, remove_orphans
from kernel_mgmt_docker.reaper import remove_in_time
from waiting import eventually

Config = Callable[..., None]

#: An application that starts a kernel, has it count slowly, and tells what it hears.
_APPLICATION = """
import asyncio, json, sys
from kernel_mgmt import KernelFinder
from kernel_mgmt.detached import attach_kernel, start_detached
import kernel_mgmt_docker

CODE = '''
import time
for number in range(500):
    print(number, flush=True)
    time.sleep(0.002)
'''

async def main():
    finder = KernelFinder({"docker": kernel_mgmt_docker})
    record = await start_detached(sys.argv[1], finder=finder)
    manager, client = await attach_kernel(record, finder=finder)
    request = client.execute(CODE)
    print(json.dumps([record.kernel_id, request.msg_id]), flush=True)
    async for message in request:
        if message.msg_type == "stream":
            told = [client.journal_position, message.content["text"]]
            print(json.dumps(told), flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def _attached(
    finder: KernelFinder, kernel: KernelRecord | str, **options: Any
) -> AsyncIterator[tuple[RemoteKernelManager, KernelClient]]:
    """Gives a kernel's manager and a client; ends the kernel and its nanny afterwards."""
    manager, client = await attach_kernel(kernel, finder=finder, timeout=30, **options)
    assert isinstance(manager, RemoteKernelManager)
    try:
        with contextlib.closing(client):
            yield manager, client
    finally:
        await manager.stop(2)


@pytest.fixture
def containers_of(docker_client: docker.DockerClient) -> Callable[[str], list[str]]:
    """Gives the ids of a kernel's containers, running or not."""

    def ids(kernel_id: str) -> list[str]:
        filters = {"label": f"{LABEL_ID}={kernel_id}"}
        return [entry["Id"] for entry in docker_client.api.containers(all=True, filters=filters)]

    return ids


async def test_nothing_is_lost_when_the_application_is_killed(
    config: Config, finder: KernelFinder, image: str, containers_of: Callable[[str], list[str]]
) -> None:
    """What the killed one was told, and what the next one is told, is all, each line once."""
    config("k", image=image)
    application = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _APPLICATION, "docker/k", stdout=subprocess.PIPE
    )
    assert application.stdout is not None
    try:
        kernel_id, msg_id = json.loads(await application.stdout.readline())
        lines = [await application.stdout.readline() for _ in range(100)]
    finally:
        application.kill()
    lines += [line async for line in application.stdout]
    await application.wait()
    before = [json.loads(line) for line in lines if line.endswith(b"\n")]
    heard: list[Any] = []
    async with _attached(
        finder, kernel_id, resume_after=before[-1][0], on_message=heard.append
    ) as (_, client):
        request = client.request(msg_id)
        async with asyncio.timeout(30):
            assert (await request).content["status"] == "ok"
            texts = [m.content["text"] async for m in request if m.msg_type == "stream"]
        numbers = [str(number) for number in range(500)]
        assert "".join(texts).split() == numbers
        rest = [m.content["text"] for m in heard if m.msg_type == "stream"]
        assert "".join([*(text for _, text in before), *rest]).split() == numbers
        assert 0 < len(rest) < len(texts)
    assert not containers_of(kernel_id)
    assert not read_records()[0]


async def test_the_nanny_interrupts_and_restarts_the_kernel(
    config: Config, finder: KernelFinder, image: str, nothing_left: Callable[[], list[str]]
) -> None:
    """So it does after a death, whose code it tells; the log is the container's; clients stay."""
    config("k", image=image, language="python")
    record = await start_detached(
        "docker/k", name="mine", finder=finder, lease=1000, env={"WORD": "w"}, cwd="/tmp"
    )
    assert record.name == "mine"
    assert [r.kernel_id for r in running_kernels()] == [record.kernel_id]
    async with _attached(finder, "mine") as (manager, client):
        assert len(nothing_left()) == 1
        ran = await run(client, "import os; x = 1; print(os.environ['WORD'], os.getcwd())")
        assert ran.text == "w /tmp\n"
        request = client.execute("import time\nprint('on')\ntime.sleep(100)", stop_on_error=False)
        async for message in request:
            if message.msg_type == "stream":
                break
        await manager.interrupt()
        assert (await request).content["ename"] == "KeyboardInterrupt"
        await manager.restart()
        assert (await run(client, "'x' in globals()")).data[0]["text/plain"] == "False"
        assert len(nothing_left()) == 1
        client.execute("import os; os._exit(3)")
        assert await manager.wait() == ExitStatus(code=3)
        assert await manager.next_kernel()
        info = await manager.info()
        assert (info["restarts"], info["type_id"]) == (2, "docker/k")
        assert 0 < info["lease"] < 1000
        assert info["journal"]["next"] > 1
    assert not nothing_left()


async def test_a_kernel_that_is_reached_by_ports(
    config: Config, finder: KernelFinder, image: str, nothing_left: object
) -> None:
    """So is the next one, by others; clients see the nanny's own sockets and nothing else."""
    config("k", image=image, argv=ECHO, connect="tcp", network="bridge")
    record = await start_detached("docker/k", finder=finder)
    assert record.connection_info.transport == "ipc"
    async with _attached(finder, record) as (manager, client):
        assert (await run(client, "print a")).text == "a\n"
        await manager.restart()
        assert (await run(client, "print b")).text == "b\n"


async def test_an_engine_that_was_lost_for_a_moment(
    config: Config,
    finder: KernelFinder,
    engine_host: str,
    image: str,
    nothing_left: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel, which a relay reaches, lives on, and its nanny goes on with it: its code, log, and end."""
    proxy = EngineProxy(engine_host.removeprefix("unix://"))
    monkeypatch.setenv("DOCKER_HOST", proxy.host)
    try:
        config("k", image=image)
        record = await start_detached("docker/k", finder=finder)
        async with _attached(finder, record) as (manager, client):
            await run(client, "x = 42")
            proxy.cut()

            async def has_run() -> bool:
                try:
                    return (await run(client, "print(x)", timeout=2)).text == "42\n"
                except RequestTimeout:  # what was on its way is lost
                    return False

            await eventually(has_run, 20)
            log = "import os; os.write(2, b'after the cut\\n')"
            assert (await run(client, log)).reply["status"] == "ok"

            async def is_logged() -> bool:
                return "after the cut" in await manager.log_tail()

            await eventually(is_logged, 10)
            client.execute("import os; os._exit(3)")
            async with asyncio.timeout(20):
                assert await manager.wait() == ExitStatus(code=3)
                assert await manager.next_kernel()
    finally:
        proxy.close()
    assert not nothing_left()


# -- the end of it ----------------------------------------------------------------------------------


@pytest.fixture
async def kept(
    config: Config, finder: KernelFinder, image: str, nothing_left: object
) -> KernelRecord:
    """A small kernel that a nanny keeps; the test ends it."""
    config("k", image=image, argv=ECHO)
    return await start_detached("docker/k", finder=finder)


async def test_a_killed_nanny_leaves_no_container(
    kept: KernelRecord, nothing_left: Callable[[], list[str]]
) -> None:
    """Nor a record: what the kernel's process would have done with it, a second process does."""
    pid = nanny_pid(kept)
    assert pid is not None
    assert len(nothing_left()) == 1
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not nothing_left(), 10)
    await eventually(lambda: not read_records()[0])


async def test_a_killed_kernel_is_replaced_and_its_container_goes(
    kept: KernelRecord, finder: KernelFinder, nothing_left: Callable[[], list[str]]
) -> None:
    """By whatever it was killed: a signal that the nanny sends, or somebody's to the stand-in."""
    async with _attached(finder, kept) as (manager, client):
        (first,) = nothing_left()
        stand_in = (await manager.info())["kernel_pid"]
        psutil.Process(stand_in).kill()
        assert await manager.wait() == ExitStatus(signal=signal.SIGKILL)
        assert await manager.next_kernel()
        await client.wait_for_ready(30)
        assert (await run(client, "print a")).text == "a\n"
        (second,) = await eventually(lambda: len(nothing_left()) == 1 and nothing_left())
        assert second.split()[0] != first.split()[0]
        await manager.signal(signal.SIGTERM)
        assert await manager.wait() == ExitStatus(signal=signal.SIGTERM)
        assert await manager.next_kernel()
        await manager.kill()
        await eventually(lambda: not nothing_left())


async def test_the_nanny_ends_what_is_idle(
    config: Config, finder: KernelFinder, image: str, nothing_left: Callable[[], list[str]]
) -> None:
    """What no engine does, a nanny can."""
    config("k", image=image, argv=ECHO)
    await start_detached("docker/k", finder=finder, idle_timeout=1.5)
    await eventually(lambda: not read_records()[0] and not nothing_left(), 10)


async def test_a_launch_that_is_given_up_leaves_nothing(
    config: Config, finder: KernelFinder, image: str, nothing_left: Callable[[], list[str]]
) -> None:
    """Neither a container nor a nanny."""
    config("k", image=image, argv=[*ECHO, "--startup-delay", "60"])
    launch = asyncio.create_task(start_detached("docker/k", finder=finder))
    await eventually(nothing_left, 20)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    assert not nothing_left()
    assert not read_records()[0]


def test_a_container_that_comes_late_is_removed(
    image: str, engine_host: str, docker_client: docker.DockerClient
) -> None:
    """Its maker was killed while the engine made it."""
    name = f"{LABEL}-late-{os.getpid()}"
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(remove_in_time(engine_host, name)))
    thread.start()
    time.sleep(0.2)
    docker_client.api.create_container(image, ["sleep", "60"], name=name, labels={LABEL: "1"})
    thread.join(10)
    assert told == [True]
    assert not docker_client.api.containers(all=True, filters={"name": name})


def test_what_a_machine_left_that_went_down_is_removed(
    image: str, docker_client: docker.DockerClient
) -> None:
    """And nothing that has its keeper, another owner, or another machine."""
    api = docker_client.api
    process = subprocess.Popen([sys.executable, "-c", ""])
    gone = {**json.loads(keeper()), "pid": process.pid}
    process.wait()
    elsewhere = {**gone, "machine": {**gone["machine"], "boot_id": "x", "host": "another"}}
    me = f"{LABEL}-owner-{os.getpid()}"

    def make(label: str, owner: str = me) -> str:
        labels = {LABEL: "1", LABEL_KEEPER: label, LABEL_OWNER: owner}
        return str(api.create_container(image, ["sleep", "60"], labels=labels)["Id"])

    orphan = make(json.dumps(gone))
    others = [
        make(keeper()),
        make(json.dumps(elsewhere)),
        make("[]"),
        make(json.dumps(gone), owner="somebody@else"),
    ]
    try:
        remove_orphans(api, me)
        left = {entry["Id"] for entry in api.containers(all=True)}
        assert orphan not in left
        assert left.issuperset(others)
    finally:
        for container in others:
            api.remove_container(container)


# -- with and without -------------------------------------------------------------------------------


async def test_a_kernel_without_a_journal_has_no_nanny(
    config: Config, finder: KernelFinder, image: str, nothing_left: object
) -> None:
    """Where the table, the parameters, or the application say so; and by default where it ends with that."""
    config("k", image=image, argv=ECHO)
    config("without", image=image, argv=ECHO, journal=False)
    for type_id, options in (
        ("docker/without", {}),
        ("docker/k", {"launch_params": {"journal": False}}),
        ("docker/k", {"journal_limit": None}),
    ):
        record = await start_detached(type_id, finder=finder, **options)
        assert record.connection_info.nanny_control_port is None
        _, manager = await finder.attach(record)
        assert isinstance(manager, DockerKernelManager)
        await manager.cleanup()
    info, manager = await finder.launch("docker/k")
    assert info.nanny_control_port is None
    assert manager is not None
    await manager.cleanup()
    # The managers that start_detached has dropped let go of the engine when they are collected.
    gc.collect()


async def test_a_kernel_that_ends_with_its_application_may_have_one(
    config: Config, finder: KernelFinder, image: str, nothing_left: Callable[[], list[str]]
) -> None:
    """It is not started again, unless somebody asks for it."""
    config("k", image=image, argv=ECHO)
    info, manager = await finder.launch("docker/k", launch_params={"journal": True})
    assert info.nanny_journal_port
    assert isinstance(manager, RemoteKernelManager)
    async with manager, KernelClient(info, manager=manager) as client:
        await client.wait_for_ready(30)
        assert (await run(client, "print a")).text == "a\n"
        await manager.terminate()
        assert await manager.wait() == ExitStatus(signal=signal.SIGTERM)
        assert not await manager.next_kernel()
    assert not nothing_left()


async def test_a_system_that_cannot_have_one(
    config: Config, finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is an error to ask for a nanny by name."""
    config("k", image="none-is-asked-for", journal=True)
    monkeypatch.delattr(os, "fork")
    with pytest.raises(LaunchError, match="journal = true cannot work") as caught:
        await start_detached("docker/k", finder=finder)
    assert caught.value.phase == "resolve"


async def test_bad_values_are_told(config: Config, finder: KernelFinder, image: str) -> None:
    """Each in one sentence, before anything is started."""
    config("bad", image=image, journal="yes")
    config("k", image=image, lease=5)
    finder.find_kernels()
    (problem,) = finder.problems
    assert "journal must be true or false" in problem.message
    for options, words in (
        ({"launch_params": {"journal": "no"}}, "journal must be true or false"),
        ({"lease": 6}, "may not set lease"),
        ({"env": {"LONG": "x" * 200_000}}, "may have 120,000"),
        ({"idle_timeout": 5, "journal_limit": None}, "unless it has journal = true"),
    ):
        with pytest.raises(LaunchError, match=words) as caught:
            await start_detached("docker/k", finder=finder, **options)
        assert caught.value.phase == "resolve"
    assert not read_records()[0]


@pytest.mark.parametrize(
    ("keys", "phase", "words"),
    [
        ({"image": "no-such-image:here", "pull": "never"}, "pull", "no-such-image"),
        ({"argv": ["nothing", "{connection_file}"]}, "start", "has no program 'nothing'"),
        ({"memory": "1m"}, "start", "memory limit"),
        (
            {"argv": ["nothing", "{connection_file}"], "connect": "tcp", "network": "bridge"},
            "start",
            "has no program 'nothing'",
        ),
    ],
)
async def test_a_failed_launch_is_told_as_it_is_without_a_nanny(
    config: Config,
    finder: KernelFinder,
    image: str,
    nothing_left: Callable[[], list[str]],
    keys: dict[str, Any],
    phase: str,
    words: str,
) -> None:
    """The engine's reason, in the phase that it belongs to, with what to do; and nothing is left."""
    config("k", **{"image": image, **keys})
    with pytest.raises(LaunchError) as caught:
        await start_detached("docker/k", finder=finder)
    assert words in caught.value.cause
    assert caught.value.phase == phase
    assert caught.value.advice
    assert not nothing_left()
    assert not read_records()[0]


# -- what goes between the two ------------------------------------------------------------------------

_TEXTS = st.text(max_size=50)


@settings(max_examples=50, deadline=None)
@given(_TEXTS, _TEXTS, st.none() | st.builds(ExitStatus, code=st.integers(0, 255)), _TEXTS)
def test_a_failure_is_read_as_it_was_told(
    cause: str, advice: str, status: ExitStatus | None, log: str
) -> None:
    """Whatever the container wrote before it."""
    error = LaunchError(cause, phase="pull", advice=advice, exit_status=status, log_tail=log)
    read = failure_in(f"{log}\nkernel-mgmt-docker cannot launch: []\n{told(error)}\n")
    assert read is not None
    assert (read.cause, read.phase, read.advice) == (error.cause, error.phase, error.advice)
    assert (read.exit_status, read.log_tail) == (error.exit_status, error.log_tail)
    assert failure_in(log) is None


@settings(max_examples=50, deadline=None)
@given(_TEXTS, st.dictionaries(_TEXTS, st.none() | _TEXTS, max_size=5))
def test_an_order_is_read_as_it_was_given(word: str, env: dict[str, str | None]) -> None:
    """It fits in a variable, and its repr shows none of those that it has."""
    order = Order(
        word, "docker/x", {"name": "x", "image": word}, "unix:///x", word, word, word, env
    )
    assert Order.from_text(order.to_text()) == order
    assert "env" not in repr(order).replace(repr(word), "")
