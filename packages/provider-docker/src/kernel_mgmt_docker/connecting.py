"""How a kernel in a container is reached: by Unix sockets, by published ports, or by a relay.

- ``ipc``: its sockets are in a private directory of this machine, which is mounted into the container.
  It needs no network at all, and nothing is between it and its clients.  The engine must be one that
  sees this process's files.
- ``tcp``: it listens on fixed ports in its container, which the engine publishes on 127.0.0.1 under
  ports of its own choice.
- ``relay``: it listens on 127.0.0.1 within its container, and a program that is run there carries the
  connections over its standard streams, to Unix sockets in a private directory of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import logging
import os
import socket
import sys
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from kernel_mgmt import ConnectionInfo, LaunchError, LaunchRequest
from kernel_mgmt.background import background_loop, finish, in_thread, result_of
from kernel_mgmt.connection import CHANNELS, new_key
from kernel_mgmt.curve import new_curve_keys
from kernel_mgmt.endpoints import (
    accepts,
    check_endpoints,
    connect,
    file_errors_as_launch_errors,
    is_socket_directory,
    private_directory,
    remove_directory,
)

from .config import DockerKernel
from .profile import PLACE
from .relay import Relay
from .relay.link import LinkError, exec_connection
from .users import default_user, numeric_ids, parse_user

__all__ = ["EngineFacts", "Ipc", "Reaching", "Relayed", "Tcp", "choose_reaching", "reach_again"]

logger = logging.getLogger("kernel_mgmt.docker")

T = TypeVar("T")

#: The ports of the channels in the container.
_PORTS = {f"{channel}_port": 5555 + n for n, channel in enumerate(CHANNELS)}
_FILE_NAME = "connection.json"
#: More than that of an image's file is not looked at, in bytes.
_LONGEST_FILE = 4_000_000
#: How long a kernel may take to greet a new connection, in seconds; one that is there does at once.
_GREETING_PATIENCE = 0.25


@dataclass(frozen=True)
class EngineFacts:
    """What is known of the engine.

    Attributes:
        api: docker-py's ``APIClient``.
        socket: the path of its Unix socket; empty when it is reached otherwise.
        info: what ``docker info`` tells.
    """

    api: Any
    socket: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman behind Docker's API, which differs from Docker in what it takes.

        Only Podman, whose builder is Buildah, tells that one's version.
        """
        return "BuildahVersion" in self.info

    def obstacle_to_sharing(self) -> str:
        """Tell why the engine does not see this process's files as they are; empty when it does."""
        if not self.socket:
            return "the engine is reached over a network"
        if sys.platform != "linux":
            return "the engine runs in a virtual machine"
        if self.info.get("OSType", "linux") != "linux":
            return "the engine runs no Linux containers"
        if "Docker Desktop" in str(self.info.get("OperatingSystem", "")):
            return "Docker Desktop runs in a virtual machine"
        if self.info.get("Name", socket.gethostname()) != socket.gethostname():
            return f"the engine's machine is {self.info['Name']!r}, and this one is another"
        if self.is_podman and self.info.get("Rootless"):  # it is in no option
            return "Podman gives the users in containers other numbers than they have here"
        for option in self.info.get("SecurityOptions") or ():
            if option.partition(",")[0] in ("name=rootless", "name=userns"):
                return "the engine gives the users in containers other numbers than they have here"
        return ""


class Reaching(ABC):
    """How one kernel is reached, from before it is created until after it has ended.

    In this order: :meth:`prepare`, create the container with :attr:`mounts` and :attr:`ports`,
    :meth:`place`, start it, :meth:`connect`, wait for :meth:`is_listening`, :meth:`seal`;
    :meth:`close` at the end, and whenever a step fails.

    Args:
        kernel: what is launched.
        request: for whom.
        facts: of the engine.
        encrypted: whether the kernel can and shall encrypt its channels.
        keeps_files: whether the directory of given sockets is somebody else's, who removes it.

    Attributes:
        how: ``ipc``, ``tcp`` or ``relay``.
        encrypted: whether fresh endpoints have keys for that.
        inside: what the kernel's connection file says.
        outside: how clients of this machine reach it; None before :meth:`connect` where the engine
            chooses.
        user: whom the kernel is to run as when its configuration names nobody.
        connection_file: the connection file's path in the container.
        mounts: for the container, in the engine's form.
        ports: for the container, as :func:`.profile.container_options` takes them.
    """

    how = ""

    def __init__(
        self,
        kernel: DockerKernel,
        request: LaunchRequest,
        facts: EngineFacts,
        *,
        encrypted: bool,
        keeps_files: bool = False,
    ) -> None:
        self._kernel = kernel
        self._facts = facts
        self._keeps_files = keeps_files
        self.encrypted = encrypted
        self._given = request.connection_info
        self._common = {
            "kernel_name": request.kernel_type.name,
            "interrupt_mode": request.kernel_type.interrupt_mode,
            **(new_curve_keys() if encrypted and self._given is None else {}),
        }
        self.inside: ConnectionInfo
        self.outside: ConnectionInfo | None = None
        self.user = kernel.user or default_user(shares_files=not facts.obstacle_to_sharing())
        self.connection_file = f"{PLACE}/k/{_FILE_NAME}"
        # One without a name goes with the container.
        self.mounts: list[dict[str, Any]] = [{"Type": "volume", "Target": PLACE}]
        self.ports: dict[str, tuple[str, ...]] = {}

    @abstractmethod
    async def prepare(self) -> None:
        """Choose the endpoints, and make what the container needs.

        Raises:
            LaunchError: a directory cannot be made, or given endpoints cannot be used; nothing was
                left behind.
        """

    async def place(self, container: str) -> None:
        """Give the kernel its connection file, before it starts.

        Args:
            container: the id of the container, which was created.

        Raises:
            LaunchError: the image does not know the user.
            docker.errors.DockerException: the engine does not take it.
        """
        uid, gid = await self._ids(container)
        archive = _archive(self.inside, uid, gid)
        await in_engine(lambda: self._facts.api.put_archive(container, PLACE, archive))

    async def seal(self, container: str) -> None:  # noqa: B027 - see the docstring
        """Take from the kernel what it needed to start alone, where that can be done.

        It may read its connection file once more just when it listens, as ipykernel does.  What an engine
        is given anew is not there for a moment, and so is left alone.

        Args:
            container: the id of the container, whose kernel listens.

        Raises:
            LaunchError: it cannot be taken.
        """

    async def connect(self, container: str) -> ConnectionInfo:
        """Make the way to the kernel, whose container was started.

        Returns:
            How clients of this machine reach it.

        Raises:
            LaunchError: there is no way.
            docker.errors.DockerException: the engine fails.
        """
        assert self.outside is not None
        return self.outside

    async def is_listening(self) -> bool:
        """Tell whether the kernel's sockets take connections by now."""
        info = self.outside
        if info is None:
            return False
        # Where something stands between, that takes every connection: the kernel's own greeting tells.
        return all(await asyncio.gather(*(_greets(info, channel) for channel in CHANNELS)))

    async def close(self) -> None:  # noqa: B027 - where the engine publishes ports nothing is
        """Remove what is on this machine; safe to call twice."""

    def record(self) -> dict[str, Any]:
        """Give, as JSON without any secret, what :func:`reach_again` needs."""
        return {"how": self.how}

    async def _ids(self, container: str) -> tuple[int, int]:
        """Give the numbers of the kernel's user, as the engine will find them."""
        ids = numeric_ids(self.user)
        if ids is not None and ids[1] is not None:
            return ids[0], ids[1]
        api = self._facts.api
        passwd, group = await in_engine(
            lambda: (_file(api, container, "/etc/passwd"), _file(api, container, "/etc/group"))
        )
        found = parse_user(self.user, passwd, group)
        if found is None:
            raise LaunchError(
                f"The image {self._kernel.image!r} knows no user {self.user!r}.",
                phase="start",
                advice="Give 'user' as numbers, 'uid:gid', or one of the image's /etc/passwd.",
            )
        return found


class Ipc(Reaching):
    """By Unix sockets in a directory that the container mounts.

    The directory belongs to the kernel's user, and is in one that is this user's alone.
    """

    how = "ipc"

    def __init__(
        self,
        kernel: DockerKernel,
        request: LaunchRequest,
        facts: EngineFacts,
        *,
        encrypted: bool,
        keeps_files: bool = False,
    ) -> None:
        super().__init__(kernel, request, facts, encrypted=encrypted, keeps_files=keeps_files)
        self.connection_file = f"{PLACE}/{_FILE_NAME}"
        self._directory: Path | None = None

    async def prepare(self) -> None:
        """See :class:`Reaching`."""
        info = self._given
        check_endpoints(info)
        if info is None:
            directory = private_directory() / "km-kernel"
            info = ConnectionInfo.for_ipc(directory, **self._common)
        else:
            directory = Path(info.ip).parent
            _private_again(directory)
        self._directory, self.outside = directory, info
        try:
            with file_errors_as_launch_errors():
                directory.mkdir(mode=0o700, exist_ok=True)
        except BaseException:
            await self.close()
            raise
        self.inside = info.replace(ip=f"{PLACE}/{Path(info.ip).name}")
        self.mounts = [
            {"Type": "bind", "Source": str(directory), "Target": PLACE, "ReadOnly": False}
        ]

    async def place(self, container: str) -> None:
        """See :class:`Reaching`."""
        assert self._directory is not None
        uid, gid = await self._ids(container)
        with file_errors_as_launch_errors():
            self.inside.write(self._directory / _FILE_NAME, replace=True)
            self._give(uid, gid, 0o700, 0o600)

    async def seal(self, container: str) -> None:
        """See :class:`Reaching`; who is not root cannot, for the kernel is the same user."""
        _, gid = await self._ids(container)
        with file_errors_as_launch_errors():
            self._give(0, gid, 0o750, 0o440)

    def _give(self, uid: int, gid: int, directory_mode: int, file_mode: int) -> None:
        """Have the directory and the file belong to somebody."""
        assert self._directory is not None
        if sys.platform == "win32" or os.geteuid() != 0:
            return
        file = self._directory / _FILE_NAME
        for path, mode in ((file, file_mode), (self._directory, directory_mode)):
            # By its descriptor: a kernel could put a link to a file of this machine in its place.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                descriptor = os.open(path, flags)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    continue  # the kernel has removed or replaced it, which is its own affair
                raise
            try:
                # First what the group may: at no moment the kernel may not read what it reads.
                os.fchmod(descriptor, mode)
                os.fchown(descriptor, uid, gid)
            finally:
                os.close(descriptor)

    async def is_listening(self) -> bool:
        """See :class:`Reaching`."""
        info = self.outside
        return info is not None and all(accepts(info, channel) for channel in CHANNELS)

    async def close(self) -> None:
        """See :class:`Reaching`."""
        if self.outside is not None and not self._keeps_files:
            _remove_sockets(self.outside)


class Tcp(Reaching):
    """By ports of 127.0.0.1 that the engine passes on."""

    how = "tcp"

    async def prepare(self) -> None:
        """See :class:`Reaching`."""
        given = self._given
        check_endpoints(given)
        info = given or ConnectionInfo.from_dict({**_PORTS, "key": new_key(), **self._common})
        # In the container, where the engine's proxy comes from outside.
        self.inside = info.replace(ip="0.0.0.0", **_PORTS)  # noqa: S104 - the container's own
        self.ports = {
            f"{port}/tcp": ("127.0.0.1", str(getattr(given, name))) if given else ("127.0.0.1",)
            for name, port in _PORTS.items()
        }

    async def connect(self, container: str) -> ConnectionInfo:
        """See :class:`Reaching`."""
        found = await in_engine(lambda: self._facts.api.inspect_container(container))
        published = (found.get("NetworkSettings") or {}).get("Ports") or {}
        ports = {}
        for name, port in _PORTS.items():
            hosts = published.get(f"{port}/tcp") or []
            if not hosts:
                raise LaunchError(
                    f"The engine published no port for the kernel's {name}.",
                    phase="connect",
                    advice=f"Its network {self._kernel.network!r} may be internal: use "
                    "connect = 'relay'.",
                )
            ports[name] = int(hosts[0]["HostPort"])
        self.outside = self.inside.replace(ip="127.0.0.1", **ports)
        return self.outside


class Relayed(Reaching):
    """By Unix sockets of this process, whose connections an ``exec`` carries to the container."""

    how = "relay"

    def __init__(
        self,
        kernel: DockerKernel,
        request: LaunchRequest,
        facts: EngineFacts,
        *,
        encrypted: bool,
        keeps_files: bool = False,
    ) -> None:
        # What the streams of an exec go over is encrypted, where it leaves the machine.
        super().__init__(kernel, request, facts, encrypted=False, keeps_files=keeps_files)
        self._relay: Relay | None = None

    async def prepare(self) -> None:
        """See :class:`Reaching`."""
        check_endpoints(self._given)
        if self._given is None:
            self.outside = ConnectionInfo.for_ipc(private_directory(), **self._common)
        else:
            self.outside = self._given
            _private_again(Path(self._given.ip).parent)
        self.inside = self.outside.replace(transport="tcp", ip="127.0.0.1", **_PORTS)

    async def connect(self, container: str) -> ConnectionInfo:
        """See :class:`Reaching`."""
        assert self.outside is not None
        relay = self._relay = Relay(
            lambda argv: exec_connection(self._facts.api, container, argv),
            {self.outside.socket_path(channel): _PORTS[f"{channel}_port"] for channel in CHANNELS},
            _pythons(self._kernel),
        )
        try:
            await relay.start()
        except (LinkError, OSError) as error:
            raise LaunchError(
                "The program that relays the kernel's connections does not run in its container.",
                phase="connect",
                advice="The image needs a python3 of 3.7 or later on its PATH, or connect = 'tcp'.",
                log_tail=str(error),
            ) from error
        return self.outside

    def let_go(self) -> None:
        """End the relay soon, and leave the kernel to others; from any thread."""
        relay, self._relay = self._relay, None
        if relay is not None:
            asyncio.run_coroutine_threadsafe(relay.close(), background_loop())

    async def close(self) -> None:
        """See :class:`Reaching`."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await finish(relay.close())
        if self.outside is not None and not self._keeps_files:
            _remove_sockets(self.outside)


class _Known(Reaching):
    """A kernel of ``ipc`` or ``tcp`` that runs already, whose endpoints are known."""

    def __init__(self, how: str, info: ConnectionInfo) -> None:
        self.how = how
        self.outside = info

    async def prepare(self) -> None:
        """See :class:`Reaching`."""

    async def close(self) -> None:
        """See :class:`Reaching`."""
        assert self.outside is not None
        _remove_sockets(self.outside)


# -- which one ------------------------------------------------------------------------------------


def choose_reaching(
    kernel: DockerKernel,
    request: LaunchRequest,
    facts: EngineFacts,
    *,
    encrypted: bool = False,
    keeps_files: bool = False,
) -> Reaching:
    """Give the best way that works to reach a kernel.

    Args:
        kernel: what is launched.
        request: its ``connection_info``, when given, is used again.
        facts: of the engine.
        encrypted: whether the kernel can and shall encrypt its channels where they are TCP.
        keeps_files: whether the directory of given sockets is somebody else's, who removes it.

    Raises:
        LaunchError: the one that is asked for cannot work (phase ``resolve``).
    """
    given = request.connection_info
    obstacles = {
        "ipc": facts.obstacle_to_sharing() or _cannot_give_away(kernel, facts),
        "tcp": _cannot_publish(kernel, facts),
        "relay": "" if sys.platform != "win32" else "this system has no Unix sockets",
    }
    if given is not None:
        wrong = "tcp" if given.transport == "ipc" else ("ipc", "relay")
        for how in obstacles:
            if how in wrong:
                obstacles[how] = f"the given connection_info has transport {given.transport!r}"
    chosen, reason = _choose(kernel.connect, obstacles, refused=given is not None)
    logger.info("%s is reached by %s: %s.", kernel.name, chosen, reason)
    return _WAYS[chosen](kernel, request, facts, encrypted=encrypted, keeps_files=keeps_files)


def _choose(wanted: str, obstacles: Mapping[str, str], *, refused: bool) -> tuple[str, str]:
    if wanted != "auto":
        if obstacles[wanted]:
            raise LaunchError(
                f"connect = {wanted!r} cannot work: {obstacles[wanted]}.",
                phase="resolve",
                advice="Leave 'connect' out to have the best way that works.",
                endpoints_refused=refused,
            )
        return wanted, "its configuration says so"
    passed_over: list[str] = []
    # A relay needs nothing, and tcp has it carry less.
    for how in ("ipc", "tcp", "relay"):
        if not obstacles[how]:
            return how, "; ".join(passed_over) or "the engine sees the files of this machine"
        passed_over.append(f"not by {how}, for {obstacles[how]}")
    raise LaunchError(
        f"There is no way to reach the kernel: {'; '.join(passed_over)}.",
        phase="resolve",
        endpoints_refused=refused,
    )


def _cannot_give_away(kernel: DockerKernel, facts: EngineFacts) -> str:
    """Tell why the directory cannot belong to the kernel's user."""
    if sys.platform == "win32" or os.geteuid() == 0:
        return ""
    ids = numeric_ids(kernel.user or default_user(shares_files=not facts.obstacle_to_sharing()))
    if ids is not None and ids[0] == os.geteuid():
        return ""
    return "only root can give the directory of the sockets to the user that the kernel runs as"


def _cannot_publish(kernel: DockerKernel, facts: EngineFacts) -> str:
    if kernel.network == "none":
        return "a container without a network has no ports"
    if not facts.socket:
        return "the engine would publish the ports on its own machine"
    return ""


_WAYS: dict[str, type[Reaching]] = {"ipc": Ipc, "tcp": Tcp, "relay": Relayed}


async def reach_again(
    record: Mapping[str, Any],
    info: ConnectionInfo,
    kernel: DockerKernel,
    request: LaunchRequest,
    facts: EngineFacts,
    container: str,
    *,
    alive: bool = True,
) -> Reaching:
    """Reach a kernel that runs already.

    Args:
        record: what :meth:`Reaching.record` gave.
        info: how it was reached.
        kernel: what was launched.
        request: with the kernel's type and id.
        facts: of the engine.
        container: the id of its container.
        alive: whether it runs; else there is nothing to reach, and only what to remove.

    Raises:
        LaunchError: the relay cannot be started.
    """
    how = str(record.get("how", ""))
    if how != "relay" or not alive or all(accepts(info, channel) for channel in CHANNELS):
        # The relay of another process, which still runs, is as good as one of ours.
        return _Known(how, info)
    again = Relayed(kernel, replace(request, connection_info=info), facts, encrypted=False)
    await again.prepare()
    try:
        await again.connect(container)
    except BaseException:
        await again.close()
        raise
    return again


# -- parts ------------------------------------------------------------------------------------------


async def in_engine(call: Callable[[], T]) -> T:
    """Make a call to the engine, off the event loop."""
    return await result_of(in_thread("docker", call))


def _private_again(directory: Path) -> None:
    """Make the directory of given endpoints, and the one that it is in where that was ours, too.

    Raises:
        LaunchError: one is there and somebody else's.
    """
    parts = [directory]
    if is_socket_directory(directory) and is_socket_directory(directory.parent):
        parts.insert(0, directory.parent)
    for part in parts:
        with file_errors_as_launch_errors():
            part.mkdir(mode=0o700, exist_ok=True)
            status = part.lstat()
        if part is parts[0] and (status.st_uid != _own_uid() or status.st_mode & 0o077):
            raise LaunchError(
                f"The socket directory {str(part)!r} is not private to this user.",
                phase="start",
                advice="Use another connection_info, or remove the directory.",
                endpoints_refused=True,
            )


def _own_uid() -> int:
    if sys.platform == "win32":
        return 0
    return os.geteuid()


def _remove_sockets(info: ConnectionInfo) -> None:
    """Remove the directory of a kernel's sockets; safe to call twice."""
    if info.transport != "ipc":
        return
    directory = Path(info.ip).parent
    if not is_socket_directory(directory):
        # Somebody else's choice, which may hold what is not ours.
        for path in (*(info.socket_path(c) for c in CHANNELS), directory / _FILE_NAME):
            with contextlib.suppress(OSError):
                path.unlink()
        return
    nested = is_socket_directory(directory.parent)
    remove_directory(directory.parent if nested else directory)


def _archive(info: ConnectionInfo, uid: int, gid: int) -> bytes:
    """Give a tar archive of the connection file in a directory.

    Args:
        info: the file's content.
        uid: whose both are.
        gid: the kernel's group.
    """
    content = json.dumps(info.to_dict()).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entries = (("k", 0o700, tarfile.DIRTYPE), (f"k/{_FILE_NAME}", 0o600, None))
        for name, mode, kind in entries:
            entry = tarfile.TarInfo(name)
            entry.uid, entry.gid, entry.mode, entry.mtime = uid, gid, mode, int(time.time())
            if kind is not None:
                entry.type = kind
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _file(api: Any, container: str, path: str) -> str:
    """Give the content of a file of a container; empty when there is none."""
    from docker.errors import APIError

    try:
        pieces, _ = api.get_archive(container, path)
    except APIError as error:
        if error.status_code == 404:
            return ""
        raise
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > _LONGEST_FILE:  # no list of users, whatever the image calls it
            pieces.close()
            return ""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                return file.read().decode("utf-8", "replace")
    return ""


def _pythons(kernel: DockerKernel) -> list[str]:
    first = kernel.argv[0] if kernel.argv else ""
    own = [first] if Path(first).name.startswith("python") else []
    return list(dict.fromkeys([*own, "python3", "python"]))


async def _greets(info: ConnectionInfo, channel: str) -> bool:
    """Tell whether a ZeroMQ socket answers at a channel's address (ZMTP 3.1, "Greeting")."""
    connected = connect(info, channel)
    if connected is None:
        return False
    with connected:
        connected.setblocking(False)
        deadline = time.monotonic() + _GREETING_PATIENCE
        while time.monotonic() < deadline:
            try:
                return connected.recv(1) == b"\xff"
            except BlockingIOError:
                await asyncio.sleep(0.005)
            except OSError:
                return False
    return False
