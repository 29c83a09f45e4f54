"""Real Docker engines, and images for them that come from no registry.

One engine is shared by all test processes of a machine: the first starts it, the last one stops it.
Its images, and what they are made of, stay from run to run, in :func:`cache`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import psutil
import pytest
from docker.errors import DockerException, ImageNotFound
from waiting import eventually_sync

__all__ = [
    "CORE",
    "LABEL",
    "Dockerd",
    "SharedEngine",
    "alone",
    "answers",
    "base_hash",
    "build_image",
    "cache",
    "install",
    "installed",
    "provide_image",
    "root_tar",
    "run_detached",
]

#: On each container, image and network that tests make.
LABEL = "kernel-mgmt-test"

#: How long an engine may take to start or to end, in seconds.
_PATIENCE = 60.0

#: Where the programs of an engine are, beside PATH.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

#: Programs of this machine that are in the image beside Python.
_TOOLS = ("sh", "sleep", "ls", "cat", "ps", "id", "ip", "touch", "kill")

#: Parts of the standard library that no kernel needs.
_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo",
    "ensurepip", "lib2to3", "config-*", "_tkinter*", "*.a", "__phello__",
)  # fmt: skip

#: Rises when what :func:`_make_root` makes changes.
_RECIPE = 2

#: The sources of core.
CORE = Path(__file__).parents[2] / "packages" / "kernel-mgmt-core" / "src" / "kernel_mgmt"


@functools.cache
def cache() -> Path:
    """Give the directory that stays from run to run."""
    directory = Path(f"/var/tmp/kernel-mgmt-tests-{os.getuid()}")
    # The engine's users have other uids than this process.
    directory.mkdir(mode=0o711, exist_ok=True)
    if directory.lstat().st_uid != os.getuid():
        pytest.skip(f"{directory} belongs to somebody else")
    return directory


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process of this machine at a time run a block that has this name."""
    with (cache() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- the engine ----------------------------------------------------------------------------------


@functools.cache
def install() -> str:
    """Give the path of dockerd, installed before where it can be; else the test is skipped."""
    path = installed("dockerd", "docker.io", "iptables", "iproute2", "procps")
    if path is None or os.geteuid() != 0:
        pytest.skip("no Docker engine answers on this machine, and none can be started")
    return path


def installed(program: str, *packages: str) -> str | None:
    """Give the path of a program, installed before by packages of Debian where it can be."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        for prepare in (command, ["apt-get", "update"], command):
            subprocess.run(prepare, env=environment, capture_output=True, check=False)
            path = shutil.which(program, path=_SYSTEM_PATH)
            if path is not None:
                break
    return path


class Dockerd:
    """An engine of its own, which does not run yet.

    Args:
        directory: all that it writes is below.
        *options: of dockerd, beside those that say where it writes.
        apart: whether it has a network of its own, so that it meets no other engine of this machine
            there; its containers can have none.
    """

    def __init__(self, directory: Path, *options: str, apart: bool = False) -> None:
        self._program = install()
        self.directory = directory
        self._options = options
        self._apart = apart
        self.socket = directory / "docker.sock"
        #: For DOCKER_HOST.
        self.host = f"unix://{self.socket}"
        self._pid_file = directory / "pid"

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.directory.mkdir(mode=0o711, exist_ok=True)
        arguments = [
            f"--host={self.host}",
            f"--data-root={self.directory / 'data'}",
            f"--exec-root={self.directory / 'exec'}",
            f"--pidfile={self._pid_file}",
            *self._options,
        ]
        apart = ["unshare", "--net"] if self._apart else []
        run_detached([*apart, self._program, *arguments], self.directory)
        try:
            eventually_sync(self.answers, _PATIENCE, interval=0.1)
        except AssertionError:
            self.stop()
            raise AssertionError(self.log()) from None

    def answers(self) -> bool:
        """Tell whether it does."""
        return answers(self.host)

    def process(self) -> psutil.Process | None:
        """Give its process; None when it does not run."""
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(self._pid_file.read_text()))
            if process.name() == "dockerd" and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """End it; returns when it has ended."""
        process = self.process()
        if process is not None:
            process.send_signal(signum)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.wait(_PATIENCE)

    def remove(self) -> None:
        """Remove all that it wrote."""
        for mount in reversed(psutil.disk_partitions(all=True)):
            if Path(mount.mountpoint).is_relative_to(self.directory):
                subprocess.run(["umount", "-l", mount.mountpoint], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """Give what it has written."""
        return (self.directory / "log").read_text(errors="replace")


def run_detached(argv: Sequence[str], directory: Path) -> int:
    """Start a program whose home and log are in a directory; gives its pid."""
    # No variable of a test session, whose leak check would take it for a leak; nor is it a
    # child of this process, which may end before it.
    environment = {"PATH": _SYSTEM_PATH, "HOME": str(directory), "TMPDIR": "/var/tmp"}
    script = 'log=$1; shift; "$@" >"$log" 2>&1 & echo $!'
    shell = ["/bin/sh", "-c", script, "sh", str(directory / "log"), *argv]
    told = subprocess.run(
        shell,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
        check=True,
    ).stdout
    return int(told)


def answers(host: str) -> bool:
    """Tell whether an engine does."""
    try:
        if host.startswith("unix://"):
            # docker-py leaves a socket open that cannot connect.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host.removeprefix("unix://"))
        with contextlib.closing(docker.DockerClient(base_url=host, timeout=5)) as client:
            return bool(client.ping())
    except DockerException:
        return False
    except OSError:  # it went in the middle
        return False


class SharedEngine:
    """The engine that all tests of this machine use: one that answers anyway, else one of ours.

    Attributes:
        host: for DOCKER_HOST.
    """

    def __init__(self) -> None:
        self._users = (cache() / "users.lock").open("w")
        with alone("engine"):
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self._dockerd: Dockerd | None = None
            self.host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
            if answers(self.host):
                return
            dockerd = self._dockerd = Dockerd(cache() / "engine")
            self.host = dockerd.host
            if not dockerd.answers():
                dockerd.stop()
                dockerd.start()

    def close(self) -> None:
        """Use it no more; the last user stops it."""
        with alone("engine"), self._users:
            if self._dockerd is None:
                return
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # somebody else uses it
            self._dockerd.stop()


# -- images --------------------------------------------------------------------------------------


def provide_image(host: str) -> str:
    """Give the name of an image with Python, ipykernel, the echo kernel, and a few programs.

    It is of this interpreter's version, has no entry point, and neither a registry nor a mirror of a
    distribution is asked for it.

    Args:
        host: the engine that shall have it.
    """
    with alone("image"), contextlib.closing(docker.DockerClient(base_url=host)) as client:
        client.api.timeout = 300
        base = f"{LABEL}-base:{base_hash()}"
        if not _has_image(client, base):
            repository, tag = base.split(":")
            client.api.import_image_from_file(
                str(root_tar()),
                repository=repository,
                tag=tag,
                changes=[f"LABEL {LABEL}=1", 'ENV LANG="C.UTF-8"'],
            )
        image = f"{LABEL}:{_core_hash()}"
        if not _has_image(client, image):
            site = f"/usr/local/lib/python{_version()}/site-packages"
            build_image(client, image, f"FROM {base}\nCOPY kernel_mgmt {site}/kernel_mgmt\n", CORE)
        return image


def build_image(client: docker.DockerClient, name: str, dockerfile: str, *folders: Path) -> None:
    """Build an image from a Dockerfile's text and folders."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for folder in folders:
            archive.add(folder, folder.name, filter=_readable)
        content = dockerfile.encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    context.seek(0)
    client.images.build(
        fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True, labels={LABEL: "1"}
    )


def _has_image(client: docker.DockerClient, name: str) -> bool:
    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


def _version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def base_hash() -> str:
    """Give what tells one :func:`root_tar` from another."""
    recipe = [_RECIPE, sys.version, sys.base_prefix, _TOOLS, os.uname().machine]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def _core_hash() -> str:
    digest = hashlib.sha256(base_hash().encode())
    for path in sorted(CORE.rglob("*.py")):
        digest.update(f"{path.relative_to(CORE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def root_tar() -> Path:
    """Give an archive with all the files of the image, made when it is not there yet."""
    archive = cache() / f"root-{base_hash()}.tar"
    if not archive.exists():
        root = Path(tempfile.mkdtemp(prefix="root-", dir=cache()))
        unfinished = root.with_suffix(".tar")
        try:
            _make_root(root)
            with tarfile.open(unfinished, "w") as file:
                file.add(root, ".", filter=_readable)
            unfinished.rename(archive)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            unfinished.unlink(missing_ok=True)
    return archive


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Let everything belong to root, and be readable by all."""
    if entry.name.startswith("kernel_mgmt/") and "__pycache__" in entry.name:
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    if entry.name.endswith("/tmp"):
        entry.mode = 0o1777
    elif entry.isdir() or entry.mode & 0o100:
        entry.mode = 0o755
    else:
        entry.mode = 0o644
    return entry


def _make_root(root: Path) -> None:
    """Copy what this machine's Python and a few programs need, and install ipykernel to it."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "usr/local/bin"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    library = root / "usr" / "local" / "lib" / f"python{_version()}"
    python = root / "usr" / "local" / "bin" / f"python{_version()}"
    source = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(source, library, ignore=_LEFT_OUT, symlinks=False)
    shutil.copy2(Path(sys.base_prefix, "bin", python.name), python)
    for name in ("python3", "python"):
        (python.parent / name).symlink_to(python.name)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check",
         "--no-warn-conflicts", "--target", library / "site-packages", "ipykernel", "orjson"],
        check=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    tools = [Path(path) for name in _TOOLS if (path := shutil.which(name, path=_SYSTEM_PATH))]
    for tool in tools:
        shutil.copy2(tool, root / "bin" / tool.name)
    extensions = [*library.rglob("*.so"), *library.rglob("*.so.*")]
    original = Path(sys.base_prefix, "bin", python.name)
    for needed in _libraries([original, *tools, *extensions]):
        if not needed.is_relative_to(root):
            _copy_library(needed, root)


def _libraries(files: list[Path]) -> set[Path]:
    """Give the shared libraries that some programs and libraries need, as ldd(1) finds them."""
    told = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    found = set()
    for line in told.splitlines():
        name, _, path = line.strip().partition(" => ")
        first = (path or name).split()[0] if (path or name).split() else ""
        if first.startswith("/") and not first.endswith(":"):
            found.add(Path(first))
    return found


def _copy_library(path: Path, root: Path) -> None:
    """Copy one to where the image's loader looks for it."""
    place = path
    if not path.is_relative_to("/lib") and not path.is_relative_to("/lib64"):
        # Named by a path in the program, maybe; the directory of the C library is looked at always.
        place = Path("/lib", sysconfig.get_config_var("MULTIARCH") or "", path.name)
    target = root / str(place).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)
