"""What a kernel may do in its container: what its configuration opens, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from contained import contained, facts_of
from dockerds import LABEL, build_image
from kernel_mgmt import KernelClient, LaunchError
from kernel_mgmt_docker.config import DockerKernel, Mount
from kernel_mgmt_docker.connecting import EngineFacts
from kernel_mgmt_docker.profile import check_mounts, container_options

Start = Callable[..., Any]


@pytest.fixture
def facts(docker_client: docker.DockerClient, engine_host: str) -> EngineFacts:
    """What is known of the engine."""
    return facts_of(docker_client, engine_host)


#: Tells what it finds, as JSON.
_LOOK = """
import json, os, socket

def attempt(call):
    try:
        call()
        return "done"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)

def writable():
    found = []
    for line in open("/proc/self/mounts"):
        place = line.split()[1]
        if os.path.isdir(place) and not place.startswith(("/proc", "/sys")):
            name = os.path.join(place, ".probe")
            if attempt(lambda: open(name, "w").close()) == "done":
                os.unlink(name)
                found.append(place)
    return sorted(found)

print(json.dumps({
    "status": dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line),
    "interfaces": os.listdir("/sys/class/net"),
    "routes": open("/proc/net/route").read().splitlines()[1:],
    "out": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 2)),
    "writable": writable(),
    "denied": [attempt(lambda: open(path, "w").close())
               for path in ("/etc/passwd", "/usr/x", "/x", "/var/x", "/read/x", "/proc/sys/kernel/hostname")],
    "mount": attempt(lambda: open("/out/x", "w").write("hello")),
    "home": os.path.expanduser("~"),
    "cwd": os.getcwd(),
    "uid": os.getuid(),
    "first": open("/proc/1/comm").read().strip(),
    "parent": os.environ.get("JPY_PARENT_PID"),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
}))
"""


async def test_the_default_profile_is_closed(
    facts: EngineFacts, image: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No capability, no network but loopback, no place to write but its own and what is mounted."""
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getpid()))
    (shared / "out").mkdir()
    os.chown(shared / "out", 10001, 10001)
    mounts = (Mount(str(shared), "/read"), Mount(str(shared / "out"), "/out", read_only=False))
    kernel = DockerKernel("x", image, mounts=mounts, env={"JPY_PARENT_PID": "1"})
    async with contained(kernel, facts) as it:
        found = await _look(it.info)
        seen = it.inspect()
    status = found["status"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "0" * 16
    }
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert status["Groups"].split() in ([], ["10001"])
    assert found["interfaces"] == ["lo"]
    assert found["routes"] == []
    assert found["out"] == "Network is unreachable"
    # The first two are in the memory of the container's own IPC namespace.
    own = ["/dev/mqueue", "/dev/shm", "/home/kernel", "/tmp"]
    assert found["writable"] == sorted([*own, "/out"])
    assert set(found["denied"]) <= {"Read-only file system", "No such file or directory"}
    assert found["mount"] == "done"
    assert (shared / "out" / "x").read_text() == "hello"
    assert (found["home"], found["cwd"]) == ("/home/kernel", "/home/kernel")
    assert found["parent"] is None
    assert found["first"] == "docker-init"
    assert found["processes"] < 5
    limits = seen["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] == 2 * 2**30
    assert limits["NanoCpus"] == 10**9
    assert limits["PidsLimit"] == 512
    assert not limits["AutoRemove"]
    assert not limits["Privileged"]
    assert {limits[name] for name in ("PidMode", "UTSMode", "UsernsMode")} == {""}
    assert limits["IpcMode"] == "private"


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that other users can read, too."""
    directory = tmp_path_factory.mktemp("shared")
    for part in (directory, *directory.parents[:2]):
        part.chmod(0o755)
    return directory


async def _look(info: Any) -> dict[str, Any]:
    client, printed = KernelClient(info), []

    def take(message: Any) -> None:
        if message.header["msg_type"] == "stream":
            printed.append(message.content["text"])

    try:
        await client.wait_for_ready(timeout=60)
        reply = await client.execute_interactive(_LOOK, output_hook=take, timeout=30)
        assert reply.content["status"] == "ok", reply.content
    finally:
        client.close()
    return dict(json.loads("".join(printed)))


async def test_what_the_configuration_opens_is_open(facts: EngineFacts, image: str) -> None:
    """A network, a writable file system and another user are there when they are named."""
    kernel = DockerKernel(
        "x", image, network="bridge", read_only=False, user="0:0", pids=0, cpus=0, memory="0"
    )
    async with contained(kernel, facts) as it:
        found = await _look(it.info)
        limits = it.inspect()["HostConfig"]
    assert sorted(found["interfaces"]) == ["eth0", "lo"]
    assert found["routes"]
    assert "/" in found["writable"]
    assert found["status"]["CapEff"] == "0" * 16
    assert found["uid"] == 0
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (0, 0, None)


# --- options ------------------------------------------------------------------------------------------


def test_the_kernel_itself_is_the_command() -> None:
    """An image's entry point, which may pass no signal on, has no part in it."""
    options = container_options(
        DockerKernel("x", "x", env={"A": "1", "B": "2"}),
        connection_file="/c.json",
        env={"A": None, "C": "3", "JPY_PARENT_PID": "7"},
    )
    assert options["entrypoint"] == ["python3"]
    assert options["command"] == ["-m", "ipykernel_launcher", "-f", "/c.json"]
    assert options["environment"] == {"HOME": "/home/kernel", "B": "2", "C": "3"}
    assert options["host_config"]["init"] is True
    assert options["host_config"]["auto_remove"] is False
    assert options["use_config_proxy"] is False


@pytest.mark.parametrize(
    ("gpus", "count", "ids"),
    [("all", -1, []), ("2", 2, []), ("GPU-1,GPU-2", 0, ["GPU-1", "GPU-2"])],
)
def test_gpus_are_asked_for_as_docker_run_does(gpus: str, count: int, ids: list[str]) -> None:
    """All, a number, or those with these ids."""
    host = container_options(DockerKernel("x", "x", gpus=gpus))["host_config"]
    (request,) = host["device_requests"]
    assert (request["Count"], request["DeviceIDs"]) == (count, ids)


# --- mounts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/run/docker.sock", "holds the engine's socket '/run/docker.sock'"),
        ("/var/run/docker.sock", "root on this machine"),
        ("/run", "holds the engine's socket"),
        ("/", "holds the engine's socket"),
        ("/run/../run/podman", "holds the engine's socket '/run/podman/podman.sock'"),
        ("/run/containerd/containerd.sock", "holds the engine's socket"),
        ("/srv/engine/d.sock", "holds the engine's socket '/srv/engine/d.sock'"),
        ("/srv/engine", "holds the engine's socket '/srv/engine/d.sock'"),
        ("/run/user", "a directory of sockets"),
        ("/srv/run/docker.sock", "'docker.sock' is the socket of an engine"),
        ("/Users/jo/.docker/run/docker.sock", "'docker.sock' is the socket of an engine"),
        ("//proc", "/proc is this machine's system itself"),
        ("/proc", "/proc is this machine's system itself"),
        ("/sys/fs/cgroup", "/sys is this machine's system itself"),
        ("/dev/mem", "/dev is this machine's system itself"),
    ],
)
def test_a_mount_that_is_a_way_out_is_refused(source: str, words: str) -> None:
    """The error says which, and why."""
    with pytest.raises(LaunchError, match="is refused: ") as caught:
        check_mounts([Mount("/fine", "/fine"), Mount(source, "/x")], "/srv/engine/d.sock")
    assert words in str(caught.value)
    assert repr(source) in str(caught.value)
    assert caught.value.phase == "resolve"
    if "/srv" not in source:
        with pytest.raises(LaunchError, match="is refused: "):
            container_options(DockerKernel("x", "x", mounts=(Mount(source, "/x"),)))


def test_a_link_to_the_engines_socket_is_one(tmp_path: Path) -> None:
    """What it leads to counts."""
    (tmp_path / "link").symlink_to("/run/docker.sock")
    (tmp_path / "up").symlink_to("/")
    for source in (tmp_path / "link", tmp_path / "up", tmp_path / "up" / "run"):
        with pytest.raises(LaunchError, match="holds the engine's socket"):
            check_mounts([Mount(str(source), "/x")])


def test_nothing_covers_what_the_kernel_is_reached_by() -> None:
    """Its directory in the container is taken."""
    for target in ("/run/kernel-mgmt/", "//run/kernel-mgmt", "/run", "/run/x/.."):
        with pytest.raises(LaunchError, match="holds what the kernel is reached by"):
            check_mounts([Mount("/data", target)])


def test_a_socket_of_another_systems_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a link of this machine leads says nothing of the engine's: macOS has no /run."""
    monkeypatch.setattr("os.path.realpath", lambda path: f"/private{path}")
    for source in ("/var/run/docker.sock", "/var/run", "/run/podman"):
        with pytest.raises(LaunchError, match="is refused: "):
            check_mounts([Mount(source, "/x")])


def test_a_mount_of_nothing_is_told(tmp_path: Path) -> None:
    """On this machine the source must be there."""
    missing = Mount(str(tmp_path / "none"), "/x")
    check_mounts([missing])
    check_mounts([Mount(str(tmp_path), "/x")], local=True)
    with pytest.raises(LaunchError, match="does not exist on this machine"):
        check_mounts([missing], local=True)


def test_limits_are_those_of_the_configuration() -> None:
    """Memory counts swap too, and no tmpfs takes more than half of it."""
    kernel = DockerKernel("x", "x", memory="1g", cpus=0.5, pids=7)
    host = container_options(kernel)["host_config"]
    assert host["mem_limit"] == host["memswap_limit"] == 2 * host["shm_size"] == 2**30
    assert (host["nano_cpus"], host["pids_limit"]) == (500_000_000, 7)
    assert f"size={2**29}" in host["tmpfs"]["/tmp"]
    assert "mode=0700,uid=10001,gid=10001" in host["tmpfs"]["/home/kernel"]
    named = container_options(replace(kernel, user="jo"))["host_config"]
    assert "mode=0777" in named["tmpfs"]["/home/kernel"]
    of_podman = container_options(kernel, podman=True)["host_config"]
    assert of_podman["tmpfs"]["/home/kernel"].endswith("mode=0700,U")
    assert {**of_podman, "tmpfs": {}} == {**host, "tmpfs": {}}


def test_the_volumes_of_an_image_are_in_memory() -> None:
    """They would be room on the engine's disk; where a mount is, or all may be written to, they stay."""
    kernel = DockerKernel("x", "x", mounts=(Mount("/data", "/data/"),))
    volumes = ["/data", "/cache/", "/home/kernel", "/tmp"]
    host = container_options(kernel, volumes=volumes)["host_config"]
    assert sorted(host["tmpfs"]) == ["/cache", "/home/kernel", "/tmp"]
    assert "mode=0700" in host["tmpfs"]["/home/kernel"]
    host = container_options(replace(kernel, read_only=False), volumes=volumes)["host_config"]
    assert sorted(host["tmpfs"]) == ["/home/kernel", "/tmp"]


async def test_an_image_with_volumes_gives_no_room_on_the_disk(
    start: Start, docker_client: docker.DockerClient, image: str
) -> None:
    """What it declares to be one is in memory, and no volume is made."""
    name = f"{LABEL}:volumes"
    build_image(docker_client, name, f'FROM {image}\nVOLUME ["/v"]\n')
    manager, client = await start(image=name)
    try:
        code = "print([l.split()[2] for l in open('/proc/mounts') if l.split()[1] == '/v'])"
        seen: list[Any] = []
        await client.execute_interactive(code, output_hook=seen.append)
        assert "['tmpfs']" in str([message.content for message in seen])
    finally:
        client.close()
    mounts = docker_client.api.inspect_container(manager.container_id)["Mounts"]
    assert "volume" not in [mount["Type"] for mount in mounts]


def test_a_mount_can_be_the_home() -> None:
    """It takes the place of the one in memory."""
    kernel = DockerKernel("x", "x", mounts=(Mount("/data/home", "/home/kernel/"),))
    assert list(container_options(kernel)["host_config"]["tmpfs"]) == ["/tmp"]
