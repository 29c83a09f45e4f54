"""The nanny as one file: what is in it, and that it runs where nothing of ours is."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from interpreters import pythons_3_9
from kernel_mgmt import KernelClient, KernelDied, NannyError
from kernel_mgmt.nanny_client.archive import TRAVELS, nanny_archive, write_nanny_archive
from messages import outputs, texts
from nannies import ECHO_COMMAND, ask_to_keep, running_nanny

ROOT = Path(__file__).parents[2]
PATIENCE = 20


@pytest.fixture(scope="session")
def python_3_9() -> str:
    """A Python 3.9."""
    found = pythons_3_9()
    if not found:
        pytest.skip("there is no Python 3.9, with which the nanny must run; pyenv has one")
    return found[0]


@pytest.fixture(scope="session")
def bare_python(python_3_9: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python 3.9 in an environment that has nothing but pyzmq."""
    directory = tmp_path_factory.mktemp("bare")
    python = str(directory / "bin" / "python")
    run(python_3_9, "-m", "venv", str(directory))
    run(python, "-m", "pip", "install", "-c", str(ROOT / "constraints.txt"), "pyzmq")
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    assert {package["name"] for package in listed} - {"pip", "setuptools"} == {"pyzmq"}
    return python


def run(*command: str) -> str:
    """What a command prints."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive."""
    return write_nanny_archive(tmp_path / "nanny.pyz")


# --- what is in it -------------------------------------------------------------------------------


def test_the_file_is_what_can_be_had_as_bytes(archive: Path) -> None:
    """Who sends the nanny somewhere need not write it first."""
    assert nanny_archive() == archive.read_bytes()


def test_it_holds_what_travels(archive: Path) -> None:
    """The archive has the modules that travel, whole packages of them, and nothing else."""
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
    assert {"__main__.py", "kernel_mgmt/__init__.py", "kernel_mgmt/nanny/watchdog.py"} < set(names)
    tops = {name.split("/")[1].removesuffix(".py") for name in names if name != "__main__.py"}
    assert tops == {"__init__", *TRAVELS}


def test_same_version_same_bytes(archive: Path, tmp_path: Path) -> None:
    """Archives of one version are the same, byte for byte, whoever writes them and when."""
    other = tmp_path / "other.pyz"
    code = f"from kernel_mgmt.nanny_client.archive import *; print(write_nanny_archive({str(other)!r}))"
    assert run(sys.executable, "-c", code).strip() == str(other)
    assert other.read_bytes() == archive.read_bytes()


def test_an_archive_is_replaced(archive: Path) -> None:
    """One that is there is replaced, and whoever has it open goes on reading the old one."""
    archive.write_bytes(b"old")
    with archive.open("rb") as reader:
        assert write_nanny_archive(archive) == archive
        assert reader.read() == b"old"
    assert zipfile.is_zipfile(archive)
    assert list(archive.parent.iterdir()) == [archive]


def test_no_place_for_it(tmp_path: Path) -> None:
    """A path that cannot be written is told, in one sentence."""
    with pytest.raises(
        NannyError, match=r"^The nanny's archive '/.*nowhere/x' cannot be written: "
    ):
        write_nanny_archive(tmp_path / "nowhere" / "x")


def test_the_tools_know_what_travels() -> None:
    """The linter looks at all that travels as at Python 3.9."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        versions = tomllib.load(file)["tool"]["ruff"]["per-file-target-version"]
    source = "packages/kernel-mgmt-core/src/kernel_mgmt"
    names = {name.removeprefix(f"{source}/").removesuffix(".py") for name in versions}
    assert {"__init__", *TRAVELS} <= {name.removesuffix("/*") for name in names}


# --- it runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"transport": "ipc"},
        {"transport": "tcp", "handshake": True, "encryption": "off"},
        {"transport": "tcp", "encryption": "required"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
async def test_it_keeps_a_kernel(
    options: dict[str, Any], bare_python: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Python 3.9 and pyzmq alone a nanny from the archive launches a kernel, passes on what it
    and a client say, starts it again on request and when it dies, and ends with all that it made.
    """
    monkeypatch.chdir(archive.parent)
    # Not from any place in which our source can be found; nor are warnings overlooked.
    nanny = (bare_python, "-I", "-W", "error", archive.name)
    with running_nanny(ECHO_COMMAND, nanny=nanny, **options) as running:
        archive.unlink()  # which is all read by now: another version may take its place
        async with KernelClient(running.connection_info) as client:

            async def run_code(code: str) -> str:
                await client.wait_for_ready(PATIENCE)
                return "".join(texts(await outputs(client.execute(code))))

            first = await run_code("pid")
            reply = await client.execute_interactive("input name?", stdin_hook=lambda _: "Ada")
            assert reply.content["status"] == "ok"
            assert running.ask("restart") == {"status": "ok", "kernel": 2}
            second = await run_code("pid")
            assert second != first

            with pytest.raises(KernelDied):
                await client.execute("exit 3")
            told = running.ask("wait", kernel=2)
            assert told["exit_status"] == {"code": 3, "signal": None, "reason": ""}
            assert running.ask("wait_ready", after=2) == {"status": "ok", "kernel": 3}
            assert await run_code("pid") not in {first, second}
        assert running.ask("stop") == {"status": "ok"}
        assert not running.connection_file.exists()


def test_a_kernel_that_cannot_be(bare_python: str, archive: Path) -> None:
    """What goes wrong is told as by any nanny."""
    answer = ask_to_keep(["/nowhere/kernel"], nanny=[bare_python, str(archive)])
    assert answer["ename"] == "LaunchError"
    assert "'/nowhere/kernel' was not found" in answer["cause"]


def test_without_pyzmq(python_3_9: str, archive: Path, tmp_path: Path) -> None:
    """A Python that lacks pyzmq is told of in the nanny's answer, with what to do."""
    run(python_3_9, "-m", "venv", "--without-pip", str(tmp_path / "empty"))
    python = str(tmp_path / "empty" / "bin" / "python")
    answer = ask_to_keep(ECHO_COMMAND, nanny=[python, str(archive)])
    assert answer["ename"] == "NannyError"
    assert answer["cause"] == f"{python} cannot import what the nanny needs: No module named 'zmq'."
    assert answer["advice"] == "Install pyzmq for it."
