"""What a kernel may do in its container: nothing that its configuration does not open.

The names of options are those of the Docker Engine API (``POST /containers/create``) as docker-py's
``APIClient.create_container`` and ``create_host_config`` take them.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernel_mgmt import LaunchError

from .config import DEFAULT_ARGV, DockerKernel, Mount, memory_bytes, target_path
from .users import UNPRIVILEGED, numeric_ids

__all__ = ["HOME", "PLACE", "check_mounts", "container_options"]

#: The kernel's home, on a tmpfs of its own: an image need not have it.
HOME = "/home/kernel"

#: Where the connection file is in the container, and the kernel's Unix sockets.
PLACE = "/run/kernel-mgmt"

#: Sockets by which an engine, or what is below it, is ordered about: who has one is root.
_ENGINE_SOCKETS = (
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
)
#: What they are called wherever they are.
_SOCKET_NAMES = frozenset(os.path.basename(path) for path in _ENGINE_SOCKETS)
#: Where systems have them, and those of all users' engines.
_SOCKET_DIRECTORIES = re.compile(r"(/private)?(/var)?/run(/user(/\d+)?)?")
#: Where this machine's system tells of all its processes and devices.
_SYSTEM = ("/proc", "/sys", "/dev")

#: How much of the kernel's own output the engine keeps.
_LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}


def container_options(
    kernel: DockerKernel,
    *,
    home: str = HOME,
    user: str = "",
    connection_file: str = f"{PLACE}/connection.json",
    env: Mapping[str, str | None] | None = None,
    cwd: str = "",
    labels: Mapping[str, str] | None = None,
    name: str = "",
    mounts: Sequence[Mapping[str, Any]] = (),
    ports: Mapping[str, tuple[str, ...]] | None = None,
    volumes: Iterable[str] = (),
    podman: bool = False,
) -> dict[str, Any]:
    """Give what the engine is to be asked for.

    Args:
        kernel: what its configuration allows.
        home: its home directory in the container.
        user: whom it runs as when the configuration names nobody.
        connection_file: the path of the connection file in the container.
        env: variables of this launch; a value of None removes one.
        cwd: the working directory of this launch.
        labels: of the container.
        name: of the container; empty to let the engine choose.
        mounts: those of the way it is reached, in the engine's form.
        ports: those that are published by the way it is reached: address and port (or address alone,
            for a port of the engine's choice) for each such as ``5555/tcp``.
        volumes: places that the image declares to be volumes.
        podman: whether the engine is Podman, which names the owner of a tmpfs in words of its own.

    Returns:
        Keyword arguments of ``APIClient.create_container``, of which ``host_config`` holds those of
        ``APIClient.create_host_config``.

    Raises:
        LaunchError: it is something that no kernel gets (phase ``resolve``).
    """
    check_mounts(kernel.mounts)
    user = kernel.user or user or UNPRIVILEGED
    argv = [word.replace("{connection_file}", connection_file) for word in _argv(kernel)]
    options: dict[str, Any] = {
        "image": kernel.image,
        # An image's own entry point may be a shell that passes no signal on.
        "entrypoint": argv[:1],
        "command": argv[1:],
        "user": user,
        "environment": _environment(kernel, home, env or {}),
        "working_dir": cwd or kernel.cwd or home,
        "labels": dict(labels or {}),
        # Proxies of this machine's configuration, with their passwords, where there is a network.
        "use_config_proxy": kernel.network != "none",
        # What the image would check is not the kernel.
        "healthcheck": {"test": ["NONE"]},
        "stop_signal": "SIGTERM",
        "host_config": {
            **_host_options(kernel, mounts, ports),
            "tmpfs": _tmpfs(kernel, home, _owner(user, podman=podman), volumes),
        },
    }
    if name:
        options["name"] = name
    if ports:
        options["ports"] = [_port(name) for name in ports]
    return options


def _host_options(
    kernel: DockerKernel,
    mounts: Sequence[Mapping[str, Any]],
    ports: Mapping[str, tuple[str, ...]] | None,
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "privileged": False,
        "init": True,
        "auto_remove": False,
        "restart_policy": {"Name": "no"},
        "network_mode": kernel.network,
        "ipc_mode": "private",
        "read_only": kernel.read_only,
        "mounts": [*map(_bind, kernel.mounts), *(dict(mount) for mount in mounts)],
        "log_config": _LOG,
    }
    memory = memory_bytes(kernel.memory)
    if memory:
        # Both, for otherwise as much again could be swapped out.
        options |= {"mem_limit": memory, "memswap_limit": memory, "shm_size": memory // 2}
    if kernel.cpus:
        options["nano_cpus"] = round(kernel.cpus * 1e9)
    if kernel.pids:
        options["pids_limit"] = kernel.pids
    if kernel.gpus:
        options["device_requests"] = [_gpus(kernel.gpus)]
    if ports:
        options["port_bindings"] = dict(ports)
    return options


def _argv(kernel: DockerKernel) -> Sequence[str]:
    return kernel.argv or DEFAULT_ARGV


def _environment(kernel: DockerKernel, home: str, env: Mapping[str, str | None]) -> dict[str, str]:
    # Home, for what is not in the image's /etc/passwd has "/" for one.
    given: dict[str, str | None] = {"HOME": home, **kernel.env, **env}
    # A process of this machine means nothing there: the kernel would take it for ended.
    given.pop("JPY_PARENT_PID", None)
    return {name: value for name, value in given.items() if value is not None}


def _owner(user: str, *, podman: bool) -> str:
    """Give the options of a tmpfs that make it the kernel's own."""
    if podman:
        # It refuses numbers, and gives what has this option to the container's user.
        return "mode=0700,U"
    ids = numeric_ids(user)
    # Of a name the number is not known yet, and nobody else is there.
    return "mode=0777" if ids is None else f"mode=0700,uid={ids[0]},gid={ids[1] or 0}"


def _tmpfs(kernel: DockerKernel, home: str, owner: str, volumes: Iterable[str]) -> dict[str, str]:
    """Give the directories that are in memory, and count as the kernel's own."""
    size = memory_bytes(kernel.memory) // 2
    # What a kernel compiles or installs there, it runs.
    common = "rw,exec,nosuid,nodev" + (f",size={size}" if size else "")
    places = {home: f"{common},{owner}", "/tmp": f"{common},mode=1777"}  # noqa: S108 - the container's
    if kernel.read_only:
        # The engine would make directories on its disk of them, that can be filled.
        for volume in map(target_path, volumes):
            if volume != "/" and not _is_within(volume, PLACE):
                places.setdefault(volume, f"{common},mode=1777")
    for mount in kernel.mounts:  # a home that stays, for one
        places.pop(target_path(mount.target), None)
    return places


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _gpus(gpus: str) -> dict[str, Any]:
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]], "Options": {}}
    if gpus == "all":
        return {**request, "Count": -1, "DeviceIDs": []}
    if gpus.isdigit():
        return {**request, "Count": int(gpus), "DeviceIDs": []}
    return {**request, "Count": 0, "DeviceIDs": gpus.split(",")}


def _port(name: str) -> tuple[int, str]:
    number, _, protocol = name.partition("/")
    return int(number), protocol or "tcp"


# -- what no kernel gets -----------------------------------------------------------------------------


def check_mounts(mounts: Iterable[Mount], engine_socket: str = "", *, local: bool = False) -> None:
    """Refuse mounts that would let a kernel out of its container, or cannot be.

    Args:
        mounts: of the configuration.
        engine_socket: the path of the Unix socket at which the engine listens, when it does.
        local: whether the sources are paths of this machine, and must be there.

    Raises:
        LaunchError: which one, and why (phase ``resolve``).
    """
    sockets = [*_ENGINE_SOCKETS, *([engine_socket] if engine_socket else [])]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        sockets += [f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"]
    for mount in mounts:
        reason = _refusal(mount, sockets)
        if reason:
            raise LaunchError(
                f"The mount {mount.source!r} at {mount.target!r} is refused: {reason}.",
                phase="resolve",
                advice="Mount the directory with the data alone.",
            )
        if local and not os.path.lexists(os.path.realpath(mount.source)):
            raise LaunchError(
                f"The mount {mount.source!r} does not exist on this machine.",
                phase="resolve",
                advice="Create it, or mend 'mounts' of docker_kernels.toml.",
            )


def _refusal(mount: Mount, sockets: Iterable[str]) -> str:
    # As it is written, too: on the engine's machine links may lead elsewhere than here.
    sources = {os.path.realpath(mount.source), target_path(mount.source)}
    for socket in sockets:
        if any(
            _is_within(s, source) for s in (socket, os.path.realpath(socket)) for source in sources
        ):
            return (
                f"it holds the engine's socket {socket!r}, by which the kernel could start a "
                "container that is root on this machine"
            )
    for source in sources:
        name = posixpath.basename(source)
        if name in _SOCKET_NAMES:
            return f"{name!r} is the socket of an engine, by which the kernel could be root there"
        if _SOCKET_DIRECTORIES.fullmatch(source):
            return f"{source} is a directory of sockets, and those of engines may be among them"
        for directory in _SYSTEM:
            if _is_within(source, directory):
                return f"{directory} is this machine's system itself, its processes and devices"
    target = target_path(mount.target)
    if _is_within(target, PLACE) or _is_within(PLACE, target):
        return f"{PLACE} holds what the kernel is reached by"
    return ""


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
