"""How kernels in containers are reached, against a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
import zmq
from contained import ECHO, Contained, contained, facts_of
from kernel_mgmt import ConnectionInfo, KernelClient, LaunchError, LaunchRequest
from kernel_mgmt.connection import CHANNELS
from kernel_mgmt.endpoints import private_directory, remove_directory
from kernel_mgmt_docker.config import DockerKernel
from kernel_mgmt_docker.connecting import (
    EngineFacts,
    Ipc,
    Reaching,
    Relayed,
    choose_reaching,
    reach_again,
)
from kernel_mgmt_docker.relay.link import LinkError
from waiting import eventually

WAYS = [("ipc", "none"), ("tcp", "bridge"), ("relay", "none")]


@pytest.fixture
def facts(docker_client: docker.DockerClient, engine_host: str) -> EngineFacts:
    """What is known of the engine."""
    return facts_of(docker_client, engine_host)


@contextlib.asynccontextmanager
async def client_of(info: ConnectionInfo) -> Any:
    """Give a client of a kernel that answers."""
    client = KernelClient(info)
    try:
        await client.wait_for_ready(timeout=30)
        yield client
    finally:
        client.close()


async def echoes(info: ConnectionInfo) -> None:
    """Have a kernel do something."""
    async with client_of(info) as client:
        assert (await client.execute("hello")).content["status"] == "ok"


def as_user(uid: int, info: ConnectionInfo) -> list[str]:
    """Give what happens to a user who connects to each channel's socket."""
    program = (
        "import os, socket, sys\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        socket.socket(socket.AF_UNIX).connect(path)\n"
        "        print('connected')\n"
        "    except OSError as error:\n"
        "        print(type(error).__name__)\n"
    )
    paths = [str(info.socket_path(channel)) for channel in CHANNELS]
    command = [sys.executable, "-c", program, *paths]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


# --- each way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "network"), WAYS)
async def test_a_kernel_answers_on_every_way(
    facts: EngineFacts, image: str, how: str, network: str
) -> None:
    """Messages go both ways, given endpoints are used again, and the engine is told no key."""
    kernel = DockerKernel("x", image, ECHO, connect=how, network=network)
    async with contained(kernel, facts) as it:
        assert it.reaching.how == how
        await echoes(it.info)
        told = json.dumps(it.inspect())
        execs = it.inspect()["ExecIDs"] or []
        told += json.dumps([it.api.exec_inspect(number) for number in execs])
        assert bool(execs) == (how == "relay")
        assert it.info.key not in told
        assert it.info.key not in it.run("cat", "/proc/1/cmdline", "/proc/1/environ")
        file = it.reaching.connection_file
        probe = f"import os; print(oct(os.stat({file!r}).st_mode), open({file!r}).read())"
        told = it.run("python3", "-c", probe, user="10001:10001")
        assert told.startswith("0o100440 " if how == "ipc" else "0o100600 ")
        assert it.info.key in told
        for name in (file, f"{Path(file).parent}/x") if how == "ipc" else ():
            fill = f"open({name!r}, 'a').write('x' * 10)"
            assert "PermissionError" in it.run("python3", "-c", fill, user="10001:10001")
        assert it.info.key not in json.dumps(it.reaching.record())
    async with contained(kernel, facts, given=it.info) as again:
        assert again.info == it.info
        await echoes(again.info)


@pytest.mark.parametrize("how", ["ipc", "relay"])
async def test_other_users_of_this_machine_cannot_reach_the_sockets(
    facts: EngineFacts, image: str, how: str
) -> None:
    """Not even one whose number the kernel's user has."""
    async with contained(DockerKernel("x", image, ECHO, connect=how), facts) as it:
        assert set(as_user(0, it.info)) == {"connected"}
        for uid in (12345, 10001):
            assert as_user(uid, it.info) == ["PermissionError"] * len(CHANNELS)


async def test_tcp_listens_on_loopback_alone(facts: EngineFacts, image: str) -> None:
    """Each published port is one of 127.0.0.1, and what goes over it can be encrypted."""
    kernel = DockerKernel("x", image, ECHO, connect="tcp", network="bridge")
    async with contained(kernel, facts, encrypted=True) as it:
        ports = {getattr(it.info, f"{channel}_port") for channel in CHANNELS}
        listening = [
            at.laddr.ip
            for at in psutil.net_connections("tcp")
            if at.status == psutil.CONN_LISTEN and at.laddr.port in ports
        ]
        assert listening == ["127.0.0.1"] * len(CHANNELS)
        assert it.info.ip == "127.0.0.1"
        assert it.info.curve_publickey
        await echoes(it.info)


async def test_a_user_of_the_image_can_be_named(facts: EngineFacts, image: str) -> None:
    """A name is looked up where the engine does; one that the image lacks is told."""
    async with contained(DockerKernel("x", image, ECHO, user="root"), facts) as it:
        await echoes(it.info)
    with pytest.raises(LaunchError, match="knows no user 'jovyan:0'"):
        async with contained(DockerKernel("x", image, ECHO, user="jovyan:0"), facts):
            pass


# --- which one ---------------------------------------------------------------------------------------


def choice(facts: EngineFacts, given: ConnectionInfo | None = None, **kernel: Any) -> str:
    """Give the way that is chosen."""
    docker_kernel = DockerKernel("x", "x", **kernel)
    request = LaunchRequest(docker_kernel.kernel_type(), "1", connection_info=given)
    return choose_reaching(docker_kernel, request, facts).how


_LOCAL = EngineFacts(None, "/run/docker.sock")


@pytest.mark.parametrize(
    ("facts", "kernel", "how", "words"),
    [
        (_LOCAL, {}, "ipc", "sees the files"),
        (replace(_LOCAL, socket=""), {}, "relay", "over a network"),
        (replace(_LOCAL, socket=""), {"network": "bridge"}, "relay", "on its own machine"),
        (replace(_LOCAL, info={"Name": "other"}), {}, "relay", "machine is 'other'"),
        (replace(_LOCAL, info={"Name": "other"}), {"network": "bridge"}, "tcp", "not by ipc"),
        (
            replace(_LOCAL, info={"OperatingSystem": "Docker Desktop"}),
            {},
            "relay",
            "virtual machine",
        ),
        (
            replace(_LOCAL, info={"SecurityOptions": ["name=rootless"]}),
            {},
            "relay",
            "other numbers",
        ),
        (
            replace(_LOCAL, info={"BuildahVersion": "1.28.2", "Rootless": True}),
            {},
            "relay",
            "other numbers",
        ),
        (_LOCAL, {"connect": "relay"}, "relay", "configuration says so"),
    ],
)
def test_the_best_way_that_works_is_chosen_and_logged(
    facts: EngineFacts,
    kernel: dict[str, Any],
    how: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which one, and why, is in the log."""
    with caplog.at_level("INFO", "kernel_mgmt.docker"):
        assert choice(facts, **kernel) == how
    assert f"x is reached by {how}: " in caplog.text
    assert words in caplog.text


def test_a_way_that_cannot_work_is_refused() -> None:
    """The reason is in the error."""
    with pytest.raises(LaunchError, match="'ipc' cannot work: the engine is reached over"):
        choice(replace(_LOCAL, socket=""), connect="ipc")
    with pytest.raises(LaunchError, match="'tcp' cannot work: a container without a network"):
        choice(_LOCAL, connect="tcp")
    with pytest.raises(LaunchError, match=r"no way to reach the kernel: .*given") as caught:
        choice(_LOCAL, ConnectionInfo.for_tcp())
    assert caught.value.endpoints_refused


def test_who_is_not_root_shares_no_directory_with_another_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then a kernel runs as oneself, or is reached in another way."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert choice(_LOCAL) == "ipc"
    assert choice(_LOCAL, user="4711:5") == "ipc"
    assert choice(_LOCAL, user="1000") == "relay"
    assert choice(_LOCAL, user="jovyan") == "relay"
    kernel = DockerKernel("x", "x")
    request = LaunchRequest(kernel.kernel_type(), "1")
    assert choose_reaching(kernel, request, _LOCAL).user == f"4711:{os.getegid()}"
    remote = replace(_LOCAL, socket="")
    assert choose_reaching(kernel, request, remote).user == "10001:10001"


# --- the relay ---------------------------------------------------------------------------------------


async def test_the_relay_carries_large_messages_of_many_clients(
    facts: EngineFacts, image: str
) -> None:
    """They come back whole, while a client that reads nothing keeps nobody waiting."""
    data = os.urandom(8_000_000)
    async with (
        contained(DockerKernel("x", image, ECHO, connect="relay"), facts) as it,
        client_of(it.info) as first,
        client_of(it.info) as second,
        client_of(it.info) as third,
    ):
        with zmq.Context() as context, context.socket(zmq.SUB) as idle:
            idle.setsockopt(zmq.RCVHWM, 1)
            idle.setsockopt(zmq.LINGER, 0)
            idle.subscribe(b"")
            idle.connect(it.info.endpoint("iopub"))
            await asyncio.to_thread(idle.poll, 10_000)
            for _ in range(2):
                await asyncio.gather(*(_sends_back(c, data) for c in (first, second, third)))
            await echoes(it.info)


async def _sends_back(client: KernelClient, data: bytes) -> None:
    comm, back = os.urandom(8).hex(), asyncio.get_running_loop().create_future()

    def take(message: Any) -> None:
        if message.header["msg_type"] == "comm_msg" and message.content["comm_id"] == comm:
            back.set_result(bytes(message.buffers[0]))

    client.add_handler(take, {"iopub"})
    client.comm_msg(comm, {}, buffers=[data])
    assert await asyncio.wait_for(back, 60) == data
    client.remove_handler(take)


async def test_the_relay_starts_again_when_its_program_has_ended(
    facts: EngineFacts, image: str
) -> None:
    """Clients that are connected go on."""
    async with (
        contained(DockerKernel("x", image, ECHO, connect="relay"), facts) as it,
        client_of(it.info) as client,
    ):
        await client.execute("hello")
        (pid,) = _relays(it)
        psutil.Process(pid).kill()
        await eventually(lambda: _relays(it) not in ([], [pid]), 20)
        await eventually(lambda: _answers(client), 20)


async def _answers(client: KernelClient) -> bool:
    try:
        await asyncio.wait_for(client.kernel_info(), 2)
    except TimeoutError:
        return False
    return True


def _relays(it: Contained) -> list[int]:
    """Give the relay's processes in a container, by their numbers on this machine."""
    top = it.api.top(it.container, ps_args="-eo pid,args")
    return [int(row[0]) for row in top["Processes"] if "exec(i.read(" in row[1]]


async def test_an_interrupt_is_not_for_the_relay(facts: EngineFacts, image: str) -> None:
    """Whoever signals all processes of a container does not cut its clients off."""
    async with contained(DockerKernel("x", image, ECHO, connect="relay"), facts) as it:
        before = _relays(it)
        it.run("kill", "-INT", "-1")
        await echoes(it.info)
        assert _relays(it) == before


async def test_a_relayed_kernel_is_reached_from_another_process(
    facts: EngineFacts, image: str
) -> None:
    """While the first relay runs it is used; afterwards another one takes its place."""
    kernel = DockerKernel("x", image, ECHO, connect="relay")
    request = LaunchRequest(kernel.kernel_type(), "1")
    async with contained(kernel, facts) as it:
        record = it.reaching.record()
        second = await reach_again(record, it.info, kernel, request, facts, it.container)
        assert len(_relays(it)) == 1
        await echoes(it.info)
        await it.reaching.close()
        await eventually(lambda: not _relays(it), 20)
        del second
        third = await reach_again(record, it.info, kernel, request, facts, it.container)
        assert third.outside == it.info
        await echoes(it.info)
        await third.close()
        await third.close()


async def test_an_image_without_python_has_no_relay(facts: EngineFacts, image: str) -> None:
    """The error tells what the relay needs, and what the engine said."""
    kernel = DockerKernel("x", image, ("sleep", "1000", "{connection_file}"), connect="relay")
    request = LaunchRequest(kernel.kernel_type(), "1")
    reaching = choose_reaching(kernel, request, facts)
    container = facts.api.create_container(
        image,
        ["sleep", "1000"],
        environment={"PATH": "/bin"},
        labels={"kernel-mgmt-test": "1"},
    )["Id"]
    try:
        await reaching.prepare()
        facts.api.start(container)
        with pytest.raises(LaunchError, match="does not run in its container") as caught:
            await reaching.connect(container)
        assert "python3 of 3.7" in caught.value.advice
        assert "not found" in caught.value.log_tail
        assert isinstance(caught.value.__cause__, LinkError)
    finally:
        await reaching.close()
        facts.api.remove_container(container, force=True, v=True)


async def test_links_of_a_kernel_are_not_followed(
    facts: EngineFacts, image: str, tmp_path: Path
) -> None:
    """A kernel that puts a link in place of its connection file changes nothing of this machine."""
    kernel = DockerKernel("x", image, ECHO, connect="ipc")
    reaching = choose_reaching(kernel, LaunchRequest(kernel.kernel_type(), "1"), facts)
    await reaching.prepare()
    try:
        secret = tmp_path / "secret"
        secret.touch(0o600)
        assert isinstance(reaching, Ipc)
        assert reaching.outside is not None
        (Path(reaching.outside.ip).parent / "connection.json").symlink_to(secret)
        reaching._give(0, 10001, 0o750, 0o440)
        assert secret.stat().st_mode & 0o777 == 0o600
        assert secret.stat().st_gid != 10001
    finally:
        await reaching.close()


async def test_given_directories_must_be_private(facts: EngineFacts, image: str) -> None:
    """Another's directory is refused, and stays as it is."""
    directory = private_directory()
    directory.chmod(0o755)
    try:
        with pytest.raises(LaunchError, match="is not private to this user"):
            async with contained(
                DockerKernel("x", image, ECHO), facts, given=ConnectionInfo.for_ipc(directory)
            ):
                pass
        assert Path(directory).is_dir()
    finally:
        remove_directory(directory)


async def test_the_connection_file_is_the_kernels_alone_when_it_starts(
    facts: EngineFacts, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be read and written by the kernel's user, who may do neither with those of others."""
    modes: dict[str, str] = {}

    async def look(reaching: Reaching, container: str) -> None:
        made = facts.api.exec_create(container, ["ls", "-ln", reaching.connection_file])
        modes[reaching.how] = facts.api.exec_start(made["Id"]).decode()

    for way in (Ipc, Relayed):
        monkeypatch.setattr(way, "seal", look)
    for how in ("ipc", "relay"):
        async with contained(DockerKernel("x", image, ECHO, connect=how), facts):
            pass
    for line in modes.values():
        assert line.split()[0] == "-rw-------"
        assert line.split()[2:4] == ["10001", "10001"]
    assert set(modes) == {"ipc", "relay"}
