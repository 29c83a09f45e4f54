"""The agent: what it answers, kernels that it starts, and what it leaves when something goes wrong."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import venv
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import AgentFailure, RunningAgent, end, started
from hypothesis import given
from hypothesis import strategies as st
from interpreters import pythons_3_9
from kernel_mgmt import ConnectionInfo, KernelClient
from kernel_mgmt.nanny.memory import TUNABLES
from kernel_mgmt.nanny_client.archive import nanny_archive
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.process import process_identity
from kernel_mgmt_ssh.errors import SshError
from kernel_mgmt_ssh.remote import DATA, FRAME, JSON
from kernel_mgmt_ssh.remote.frames import CREDIT, LONGEST, BadFrame, FrameReader, frame
from leaks import LeakCheck
from messages import outputs, texts
from nannies import ECHO_COMMAND, RUNTIME_DIR, is_gone
from waiting import eventually_sync


@pytest.fixture(scope="module")
def agent() -> Iterator[RunningAgent]:
    """An agent that is shared by tests that leave it alone."""
    with RunningAgent() as running:
        yield running


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python without any package."""
    directory = tmp_path_factory.mktemp("bare")
    venv.create(directory, with_pip=False, symlinks=True)
    return str(directory / "bin" / "python")


def failure_of(agent: RunningAgent, *args: Any, **options: Any) -> AgentFailure:
    """Give the error with which a kernel is not started."""
    with pytest.raises(AgentFailure) as caught:
        agent.start(*args, **options)
    return caught.value


# --- what it answers -------------------------------------------------------------------------------


def test_it_says_where_it_runs(agent: RunningAgent) -> None:
    """The first thing that the agent says is what host that is."""
    assert agent.hello["executable"] == sys.executable
    assert agent.hello["platform"] == sys.platform
    assert agent.hello["home"] == os.path.expanduser("~")
    assert agent.hello["host"] == socket.gethostname()


def test_requests_are_answered_by_their_numbers(agent: RunningAgent) -> None:
    """Several requests are answered each, in whatever order."""
    numbers = [agent.begin("free_ports", count=count) for count in (3, 1, 2)]
    assert [len(agent.result(number)["ports"]) for number in reversed(numbers)] == [2, 1, 3]


def test_a_process_is_told_from_another(agent: RunningAgent) -> None:
    """A process is alive for as long as it is the one that was meant."""
    identity = process_identity(os.getpid())
    assert agent.ask("alive", pid=os.getpid(), identity=identity) == {"alive": True}
    assert agent.ask("alive", pid=os.getpid(), identity="another") == {"alive": False}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("dance", {}),
        ("free_ports", {"count": 0}),
        ("free_ports", {"count": "many"}),
        ("alive", {"pid": "1"}),
        ("put", {"digest": "0", "data": "!"}),
        ("put", {"digest": "0", "data": "AAAA"}),
        ("put", {"digest": hashlib.sha256(b"\0\0\0").hexdigest(), "data": "AAAA"}),
        ("start", {"archive": "unknown", "plain": "perhaps"}),
        ("end", {"pid": 1, "identity": ""}),
        ("plain", {"control": "relative", "request": {}}),
    ],
)
def test_a_bad_request_costs_itself_alone(
    agent: RunningAgent, op: str, args: dict[str, Any]
) -> None:
    """What cannot be done is refused, with the form of an SshError, and the agent goes on."""
    with pytest.raises(AgentFailure) as caught:
        agent.ask(op, **args)
    assert caught.value.kind == "protocol"
    assert caught.value.cause.endswith(".")
    assert agent.ask("ping") == {}


def test_giving_up_what_is_not_there_does_nothing(agent: RunningAgent) -> None:
    """Whatever is to be given up, the agent goes on."""
    for number in (12345, -1, None, "1", [], {}):
        agent.send(JSON, 0, json.dumps({"cancel": number}).encode())
    assert agent.ask("ping") == {}


def test_an_archive_need_not_be_compressed(agent: RunningAgent) -> None:
    """The bytes of the archive are taken as they are, too; damaged ones are refused."""
    data = nanny_archive()
    digest = hashlib.sha256(data).hexdigest()
    assert agent.ask("put", digest=digest, data=base64.b64encode(data).decode()) == {}
    for damaged in (data[:-1], data + b"x", zlib.compress(data)[:-9], zlib.compress(data[1:])):
        with pytest.raises(AgentFailure) as caught:
            agent.ask("put", digest=digest, data=base64.b64encode(damaged).decode())
        assert caught.value.kind == "protocol"


def test_an_archive_that_was_not_put_is_told(agent: RunningAgent) -> None:
    """A start with an archive that the agent does not have says so, and is tried again then."""
    assert failure_of(agent, ECHO_COMMAND, archive="unknown").kind == "no-archive"


@pytest.mark.parametrize(
    "garbage", [frame(CREDIT + 1, 0), FRAME.pack(DATA, 1, LONGEST + 1), frame(JSON, 0, b"[]")]
)
def test_garbage_ends_it(garbage: bytes) -> None:
    """An agent that cannot understand the tunnel ends, and says so where the tunnel's log is."""
    with RunningAgent() as agent:
        assert agent.process.stdin is not None
        agent.process.stdin.write(garbage)
        assert agent.process.wait(10) == 0
    assert b"cannot understand the tunnel" in agent.errors


def test_an_end_in_the_middle_of_a_frame_is_an_end() -> None:
    """When the connection ends inside of a frame, the agent ends in silence."""
    with RunningAgent() as agent:
        assert agent.process.stdin is not None
        agent.process.stdin.write(frame(JSON, 0, b'{"id": 1, "op": "ping"}')[:-3])
        agent.hang_up()
    assert agent.errors == b""


FRAMES = st.lists(st.tuples(st.integers(0, CREDIT), st.integers(0, 2**32 - 1), st.binary()))


@given(FRAMES, st.data())
def test_frames_survive_any_cut(frames: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    """Frames are read as they were written, however the bytes come."""
    stream = b"".join(frame(*item) for item in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    reader, found = FrameReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])
    assert found == frames


@given(st.binary(min_size=FRAME.size))
def test_a_reader_of_frames_takes_anything(stream: bytes) -> None:
    """Bytes are frames or are refused; nothing else happens."""
    with contextlib.suppress(BadFrame):
        FrameReader().feed(stream)


# --- the probe -------------------------------------------------------------------------------------


def test_the_probe_is_there_for_one_connection() -> None:
    """The probe's socket is private, takes one connection, and is gone then."""
    with RunningAgent() as agent:
        path = Path(agent.ask("probe")["path"])
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            assert connection.recv(1) == b""
        eventually_sync(lambda: not path.parent.exists())
        second = Path(agent.ask("probe")["path"])
        third = Path(agent.ask("probe")["path"])
        assert not second.parent.exists()
        assert third.exists()
    assert not third.parent.exists()


# --- kernels ---------------------------------------------------------------------------------------


async def test_a_kernel_that_is_started_works_and_outlives_the_agent() -> None:
    """The nanny from memory keeps a real kernel, also when the connection is gone."""
    with RunningAgent() as agent:
        result = agent.start(ECHO_COMMAND)
        agent.hang_up()
    try:
        assert result["kind"] == "nanny"
        assert result["python"] == sys.executable
        info = ConnectionInfo.from_dict(result["answer"]["connection_info"])
        manager = RemoteKernelManager(info, kernel_id=Path(info.ip).name)
        async with KernelClient(info, manager=manager) as client:
            await client.wait_for_ready()
            assert "".join(texts(await outputs(client.execute("print hello")))) == "hello"
    finally:
        end(result["answer"]["pid"])


def test_what_a_host_knows_is_filled_in(agent: RunningAgent) -> None:
    """Without any in the request, directories are those of Jupyter on the host."""
    with started(agent) as result:
        assert Path(result["answer"]["connection_file"]).parent == RUNTIME_DIR
        (record,) = agent.ask("records")["records"]
        assert record["manager"]["nanny"]["pid"] == result["answer"]["pid"]
        assert record["cwd"] == os.path.expanduser("~")
    assert agent.ask("records") == {"records": []}


def test_nothing_secret_can_be_seen(agent: RunningAgent) -> None:
    """The kernel's key is in no argument list and no environment."""
    with started(agent) as result:
        key = result["answer"]["connection_info"]["key"]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                assert key not in "\0".join(process.cmdline())
                assert key not in "\0".join(process.environ().values())


def test_the_nanny_has_its_tunables_for_itself() -> None:
    """What the allocator is told goes to the nanny and not on to the kernel."""
    with RunningAgent(env={"GLIBC_TUNABLES": None}) as agent, started(agent) as result:
        nanny = psutil.Process(result["answer"]["pid"])
        (kernel,) = [child for child in nanny.children() if "echo_kernel" in str(child.cmdline())]
        # glibc cuts it into pieces in its place.
        assert TUNABLES.startswith(nanny.environ()["GLIBC_TUNABLES"])
        assert "GLIBC_TUNABLES" not in kernel.environ()


def test_sockets_are_not_where_they_would_go_with_the_session(tmp_path: Path) -> None:
    """The session's own directory, which goes with it, is for the kernel's own use only."""
    with (
        RunningAgent(env={"XDG_RUNTIME_DIR": str(tmp_path)}) as agent,
        started(agent) as nanny,
        started(agent, plain="always") as plain,
    ):
        for result in (nanny, plain):
            assert not result["answer"]["connection_info"]["ip"].startswith(str(tmp_path))
            process = psutil.Process(result["answer"]["pid"])
            (kernel,) = [
                child for child in process.children() if "echo_kernel" in str(child.cmdline())
            ]
            assert kernel.environ()["XDG_RUNTIME_DIR"] == str(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_broken_python_is_passed_over(agent: RunningAgent, tmp_path: Path) -> None:
    """A Python that does not work keeps no other from running the nanny."""
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\necho 'Fatal Python error' >&2\nexit 1\n")
    broken.chmod(0o755)
    unusable = tmp_path / "python"
    unusable.write_text("not a program")
    unusable.chmod(0o755)
    command = ["/bin/sh", "-c", 'exec "$@"', "kernel", *ECHO_COMMAND]
    with started(agent, command, pythons=[str(broken), str(unusable)]) as result:
        assert (result["kind"], result["python"]) == ("nanny", sys.executable)


def test_a_nanny_that_breaks_is_told(agent: RunningAgent, tmp_path: Path) -> None:
    """What goes wrong in a nanny itself is told with what it wrote, and not tried again."""
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\ncat >/dev/null\necho 'out of luck' >&2\nkill -9 $$\n")
    broken.chmod(0o755)
    error = failure_of(agent, ["/bin/cat"], pythons=[str(broken)])
    assert (error.kind, error.log_tail) == ("launch", "out of luck\n")
    assert "signal 9" in error.cause


def test_variables_of_the_host_are_filled_in(agent: RunningAgent) -> None:
    """``${NAME}`` in the configuration is the host's, and in a launch's own variables stays."""
    with started(
        agent,
        expand_env={"PLACE": "${HOME}/x", "ODD": "$ ${no such}", "BOTH": "config"},
        fields={"env": {"LITERAL": "${HOME}", "BOTH": "launch", "USER": None}},
    ) as result:
        nanny = psutil.Process(result["answer"]["pid"])
        (kernel,) = [child for child in nanny.children() if "echo_kernel" in str(child.cmdline())]
        environment = kernel.environ()
        assert environment["PLACE"] == f"{os.environ['HOME']}/x"
        assert environment["ODD"] == "$ ${no such}"
        assert environment["LITERAL"] == "${HOME}"
        assert environment["BOTH"] == "launch"


def test_the_oldest_python_keeps_a_kernel() -> None:
    """The nanny from memory runs with Python 3.9, where that has pyzmq; else another one does."""
    old = pythons_3_9()
    if not old:
        pytest.skip("there is no Python 3.9")
    with RunningAgent(old[:1]) as agent, started(agent, pythons=[old[0], sys.executable]) as result:
        assert result["kind"] == "nanny"


def test_the_kernels_own_python_comes_first(agent: RunningAgent, bare_python: str) -> None:
    """The nanny runs with the first Python that has pyzmq, the kernel's own before all others."""
    link = Path(bare_python).with_name("python3.99")
    link.unlink(missing_ok=True)
    link.symlink_to(bare_python)
    with started(agent, pythons=[bare_python, str(link)]) as result:
        assert result["python"] == ECHO_COMMAND[0] == sys.executable


def write_kernelspec(directory: Path, name: str, **content: Any) -> Path:
    """Write a kernelspec below a data directory."""
    path = directory / "kernels" / name
    path.mkdir(parents=True)
    (path / "kernel.json").write_text(json.dumps(content))
    return path


def test_a_kernelspec_of_the_host_is_used(tmp_path: Path) -> None:
    """A kernelspec's command, variables, interrupt mode and display name are used as Jupyter does."""
    spec = write_kernelspec(
        tmp_path,
        "Echo",
        argv=["python", *ECHO_COMMAND[1:]],
        display_name="Echo there",
        interrupt_mode="message",
        env={"WHERE": "${HOME}/spec"},
    )
    environment = {"JUPYTER_PATH": f":relative:{tmp_path}"}
    fields = {"kernel_type": {"provider": "ssh", "name": "e"}}
    with (
        RunningAgent(env=environment) as agent,
        started(agent, None, kernelspec="echo", fields=fields) as result,
    ):
        assert result["kernel_type"]["interrupt_mode"] == "message"
        assert result["kernel_type"]["display_name"] == "Echo there"
        assert result["answer"]["connection_info"]["interrupt_mode"] == "message"
        nanny = psutil.Process(result["answer"]["pid"])
        (kernel,) = [child for child in nanny.children() if "echo_kernel" in str(child.cmdline())]
        assert kernel.environ()["WHERE"] == f"{os.environ['HOME']}/spec"
        assert kernel.cmdline()[0] == sys.executable
    assert spec.exists()


def test_a_kernelspec_beside_a_python_is_found(tmp_path: Path, agent: RunningAgent) -> None:
    """The kernelspecs of an environment are found by its Python, and know their directories."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    share = tmp_path / "share" / "jupyter"
    path = write_kernelspec(
        share, "inside", argv=["python3", *ECHO_COMMAND[1:], "{prefix}", "{resource_dir}", "{x}"]
    )
    with pytest.raises(AgentFailure) as caught:
        agent.start(None, kernelspec="inside", pythons=[str(python)])
    # It does not know such arguments, and tells which it was given.
    assert f"{tmp_path} {path} {{x}}" in caught.value.log_tail


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"argv": []}', '{"argv": ["x"], "env": 1}'])
def test_a_bad_kernelspec_is_told(tmp_path: Path, content: str) -> None:
    """A kernelspec that cannot be used is named with what is wrong."""
    path = write_kernelspec(tmp_path, "bad")
    (path / "kernel.json").write_text(content)
    with RunningAgent(env={"JUPYTER_PATH": str(tmp_path)}) as agent:
        error = failure_of(agent, None, kernelspec="bad")
        assert error.kind == "no-kernelspec"
        assert str(path) in error.cause
        missing = failure_of(agent, None, kernelspec="nobody")
        assert missing.kind == "no-kernelspec"
        assert "bad" in missing.advice


# --- kernels that do not start ---------------------------------------------------------------------


def nothing_is_left(check: LeakCheck, before: object) -> None:
    """See that neither process nor file is there that was not."""
    left = check.leftovers(before, timeout=5)  # type: ignore[arg-type]
    assert not left, left


def test_a_command_that_is_not_there_is_told(agent: RunningAgent) -> None:
    """The error names the command."""
    error = failure_of(agent, ["/no/such/kernel", "{connection_file}"])
    assert (error.kind, "/no/such/kernel" in error.cause) == ("launch", True)


def test_a_kernel_that_dies_at_once_is_told(agent: RunningAgent) -> None:
    """What the kernel wrote and how it ended are in the error, which becomes a LaunchError."""
    error = failure_of(agent, [sys.executable, "-c", "import sys; sys.exit('the engine is cold')"])
    assert error.kind == "launch"
    assert error.log_tail == "the engine is cold\n"
    assert error.exit_status == {"code": 1, "signal": None, "reason": ""}
    launch_error = SshError.from_dict(error.args[0]).to_launch_error()
    assert launch_error.log_tail == error.log_tail


def test_a_python_without_ipykernel_is_told(agent: RunningAgent, bare_python: str) -> None:
    """The error says which Python lacks it and how to install it."""
    error = failure_of(agent, [bare_python, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    assert error.kind == "launch"
    assert f"{bare_python!r} has no ipykernel" in error.cause
    assert error.advice == f"Install it there: {bare_python} -m pip install ipykernel"


def test_no_pyzmq_is_told(bare_python: str) -> None:
    """Where a nanny is a must and no Python has pyzmq, the error says so."""
    with RunningAgent([bare_python]) as agent:
        error = failure_of(agent, ["/bin/cat"], pythons=[bare_python], plain="never")
        assert error.kind == "no-pyzmq"
        assert error.advice == f"Install it there: {bare_python} -m pip install pyzmq"


def test_a_working_directory_that_is_not_there_is_told(agent: RunningAgent, tmp_path: Path) -> None:
    """The error names the directory; ``~`` in it is the home directory."""
    error = failure_of(agent, ECHO_COMMAND, fields={"cwd": "~/no/such/place"})
    assert os.path.expanduser("~/no/such/place") in error.cause
    with started(agent, fields={"cwd": str(tmp_path)}) as result:
        assert psutil.Process(result["answer"]["pid"]).cwd() == "/"


def test_a_kernel_without_a_command_is_refused(agent: RunningAgent) -> None:
    """Neither argv nor kernelspec is an error of the configuration."""
    assert failure_of(agent, None).kind == "config"
    assert failure_of(agent, []).kind == "config"


@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("JUPYTER_RUNTIME_DIR", "file/runtime"),
        ("JUPYTER_DATA_DIR", "file/data"),
    ],
)
def test_a_directory_that_cannot_be_written_to_is_told(
    tmp_path: Path, variable: str, path: str
) -> None:
    """When a directory for files cannot be made, the error names it."""
    (tmp_path / "file").write_text("in the way")
    with RunningAgent(env={variable: str(tmp_path / path)}) as agent:
        error = failure_of(agent, ECHO_COMMAND)
        assert error.kind == "no-space"
        assert "cannot be written to" in error.cause
        assert str(tmp_path) in error.cause


def test_a_home_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    """When the home directory is no directory, the error says what cannot be made there."""
    home = tmp_path / "home"
    home.write_text("in the way")
    unset = dict.fromkeys(("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "XDG_DATA_HOME"))
    with RunningAgent(env={"HOME": str(home), **unset}) as agent:
        error = failure_of(agent, ECHO_COMMAND)
        assert error.kind == "no-space"
        assert str(home) in error.cause


@pytest.mark.skipif(sys.platform != "linux", reason="file systems are mounted as Linux does")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """When there is no room for files, the error says so, and nothing is left."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        full_by_quota(tmp_path)
        return
    try:
        with contextlib.suppress(OSError), (tmp_path / "ballast").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        with RunningAgent(env={"JUPYTER_DATA_DIR": str(tmp_path / "data")}) as agent:
            error = failure_of(agent, ECHO_COMMAND)
            assert error.kind == "no-space"
            assert "no room left" in error.cause
        # There are other places for sockets.
        with RunningAgent(env={"TMPDIR": str(tmp_path)}) as agent, started(agent) as result:
            assert not result["answer"]["connection_info"]["ip"].startswith(str(tmp_path))
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def full_by_quota(directory: Path) -> None:
    """See the same by a limit of the size of files, where nothing can be mounted."""
    limit = f"ulimit -f 0; trap '' XFSZ; exec {sys.executable} "
    script = directory / "python"
    script.write_text(f'#!/bin/sh\n{limit} "$@"\n')
    script.chmod(0o755)
    with RunningAgent([str(script)]) as agent:
        assert failure_of(agent, ECHO_COMMAND).kind == "no-space"


# --- kernels that are given up ---------------------------------------------------------------------

#: A kernel that never listens.
SLEEPER = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)")


def runs(*words: str) -> list[int]:
    """Give the processes with all of these words in their command lines."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if all(word in process.cmdline() for word in words):
                found.append(process.pid)
    return found


@pytest.mark.parametrize("plain", ["never", "always"])
def test_a_start_that_is_given_up_leaves_nothing(
    leak_check: LeakCheck, agent: RunningAgent, plain: str
) -> None:
    """A cancelled start ends with what it started, and the agent goes on."""
    digest = agent.put_archive()
    before = leak_check.snapshot()
    number = agent.begin_start(SLEEPER, plain=plain, archive=digest)
    eventually_sync(lambda: runs(*SLEEPER), 20)
    agent.cancel(number)
    with pytest.raises(AgentFailure) as caught:
        agent.result(number)
    assert caught.value.kind == "cancelled"
    nothing_is_left(leak_check, before)
    assert agent.ask("ping") == {}


@pytest.mark.parametrize("plain", ["never", "always"])
def test_the_end_of_the_connection_ends_a_start(leak_check: LeakCheck, plain: str) -> None:
    """When the connection ends during a start, nothing is left of it."""
    before = leak_check.snapshot()
    with RunningAgent() as agent:
        agent.begin_start(SLEEPER, plain=plain)
        eventually_sync(lambda: runs(*SLEEPER), 20)
        agent.hang_up()
        assert not runs(*SLEEPER)
    nothing_is_left(leak_check, before)


def test_a_killed_agent_leaves_no_start(leak_check: LeakCheck) -> None:
    """When the agent is killed during a start, the nanny notices and undoes it."""
    before = leak_check.snapshot()
    with RunningAgent() as agent:
        agent.begin_start(SLEEPER, plain="never")
        eventually_sync(lambda: runs(*SLEEPER), 20)
        for child in psutil.Process(agent.process.pid).children():
            child.kill()
        agent.process.wait(10)
    eventually_sync(lambda: not runs(*SLEEPER), 10)
    nothing_is_left(leak_check, before)


def test_giving_up_what_has_just_started_ends_it(agent: RunningAgent) -> None:
    """When a request is given up that was answered already, its kernel is ended, too."""
    number = agent.begin_start(ECHO_COMMAND)
    result = agent.result(number)
    agent.cancel(number)
    eventually_sync(lambda: is_gone(result["answer"]["pid"]), 15)


@pytest.mark.parametrize("delay", [0, 2, 4, 5])
def test_starts_given_up_at_any_moment_leave_nothing(
    agent: RunningAgent, leak_check: LeakCheck, delay: int
) -> None:
    """Whenever a start is given up, in the end there is no kernel."""
    digest = agent.put_archive()
    before = leak_check.snapshot()
    number = agent.begin_start(ECHO_COMMAND, archive=digest)
    with contextlib.suppress(AssertionError):
        agent.take(lambda: agent.is_answered(number), 0.06 * delay)
    agent.cancel(number)
    with contextlib.suppress(AgentFailure):
        agent.result(number)
    nothing_is_left(leak_check, before)


@pytest.mark.parametrize("delay", [0, 2, 4, 5])
def test_a_connection_that_ends_at_any_moment_leaves_nothing_unknown(
    leak_check: LeakCheck, delay: int
) -> None:
    """Whenever the connection ends, a kernel is there only when its start was answered."""
    before = leak_check.snapshot()
    with RunningAgent() as agent:
        number = agent.begin_start(ECHO_COMMAND)
        with contextlib.suppress(AssertionError):
            agent.take(lambda: agent.is_answered(number), 0.06 * delay)
        agent.hang_up()
        with contextlib.suppress(AssertionError):
            agent.take(lambda: False)  # what is still in the pipe
        if agent.is_answered(number):
            with contextlib.suppress(AgentFailure):
                result = agent.result(number)
                assert not is_gone(result["answer"]["pid"])
                end(result["answer"]["pid"])
    nothing_is_left(leak_check, before)


def test_a_signal_ends_the_agent_in_order() -> None:
    """SIGTERM ends the agent, and removes its probe."""
    with RunningAgent() as agent:
        path = Path(agent.ask("probe")["path"])
        for child in psutil.Process(agent.process.pid).children():
            child.send_signal(signal.SIGTERM)
        agent.process.wait(10)
        assert not path.parent.exists()
