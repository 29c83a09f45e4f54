"""Kernels on a real server: what users do with them, from launch to cleanup."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from kernel_mgmt import KernelDied, LaunchError, LaunchProgress
from kernel_mgmt.records import read_records
from messages import failure, outputs, run_long, texts
from ssh_kernels import (
    FINDER,
    IPYKERNEL,
    PATIENCE,
    echo_type,
    left_on,
    let_go,
    listening,
    printed,
    processes_of,
    running,
    ssh_type,
)
from sshds import Sshd
from waiting import eventually

IPYTHON_TYPE = {"language": "python", "display_name": "Python there"}


async def test_execute(sshd: Sshd) -> None:
    """A kernel is launched, runs code, is shut down, and leaves nothing on its host or here."""
    async with running(echo_type(sshd)) as (client, manager):
        assert await printed(client, "print hello") == "hello"
        assert await manager.is_alive()
        assert [record.kernel_id for record in read_records()[0]] == [manager.kernel_id]
    assert left_on(sshd) == []
    assert read_records()[0] == []


async def test_progress(sshd: Sshd) -> None:
    """Whoever waits is told of each step, and nothing is asked where a key suffices."""
    steps: list[LaunchProgress] = []
    async with running(echo_type(sshd), on_progress=steps.append):
        assert [step.phase for step in steps][:2] == ["resolve", "connect"]
        assert {"connect", "start"} <= {step.phase for step in steps}


async def test_stdin_and_interrupt(sshd: Sshd) -> None:
    """Ipykernel asks for input; what it runs is interrupted, also a child that it waits for."""
    async with running(ssh_type(sshd, IPYKERNEL, **IPYTHON_TYPE)) as (client, _):
        shown: list[str] = []
        await client.execute_interactive(
            "print('You are ' + input('Who? '))",
            stdin_hook=lambda prompt: prompt.message.rstrip("? ") + "ever",
            output_hook=lambda message: shown.extend(texts([message])),
        )
        assert "".join(shown) == "You are Whoever"
        code = "import subprocess; print('now'); subprocess.run(['sleep', '60'])"
        request = client.execute(code, stop_on_error=False)
        async for message in request:
            if texts([message]):
                break
        async with asyncio.timeout(PATIENCE):
            await client.interrupt()
            reply = await request
        assert reply.content["ename"] == "KeyboardInterrupt"
        assert await printed(client, "print(6 * 7)") == "42"


async def test_signals(sshd: Sshd) -> None:
    """A signal reaches the kernel's process group while a cell runs."""
    async with running(echo_type(sshd)) as (client, manager):
        grandchild = int(await printed(client, "spawn"))
        request = await run_long(client)
        await manager.signal(signal.SIGTERM)
        assert isinstance(await failure(request), KernelDied)
        assert (await manager.wait()).signal == signal.SIGTERM
        await eventually(lambda: not psutil.pid_exists(grandchild), PATIENCE)


async def test_kill(sshd: Sshd) -> None:
    """A kernel that is killed ends the requests under way, and tells how it ended."""
    async with running(echo_type(sshd)) as (client, manager):
        request = await run_long(client)
        await manager.kill()
        error = await failure(request)
        assert isinstance(error, KernelDied)
        assert error.exit_status is not None
        assert error.exit_status.signal == signal.SIGKILL
        assert not await manager.is_alive()


async def test_exit_status(sshd: Sshd) -> None:
    """The exit code and the last words of a kernel that ends by itself are told."""
    async with running(echo_type(sshd)) as (client, manager):
        request = client.execute("outside last words\nexit 7")
        assert isinstance(await failure(request), KernelDied)
        assert (await manager.wait()).code == 7
        assert "last words" in await manager.log_tail()


async def test_restart(sshd: Sshd) -> None:
    """A kernel is restarted behind its client, which goes on with the new one."""
    async with running(echo_type(sshd)) as (client, manager):
        before = await printed(client, "pid")
        await manager.restart()  # type: ignore[attr-defined]
        await client.wait_for_ready(PATIENCE)
        assert await printed(client, "pid") != before


async def test_environment(sshd: Sshd, tmp_path: Path) -> None:
    """Variables and directory are those of the entry, with the host's own in ``${…}``, then the launch's."""
    folder = tmp_path / "here"
    folder.mkdir()
    kernel_type = ssh_type(
        sshd,
        cwd=str(folder),
        env={"PATH": "/opt/env/bin:${PATH}", "WHO": "entry", "CONDA_PREFIX": "/opt/env"},
    )
    async with running(kernel_type, env={"WHO": "launch"}) as (client, _):
        assert (await printed(client, "env PATH")).startswith("/opt/env/bin:/")
        assert await printed(client, "env CONDA_PREFIX") == "/opt/env"
        assert await printed(client, "env WHO") == "launch"
        assert await printed(client, "env HOME") == str(sshd.home)
        assert await printed(client, "cwd") == str(folder)


async def test_nothing_of_ours_is_inherited(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the application stays where it is."""
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    async with running(echo_type(sshd)) as (client, _):
        reply = await client.execute("env SECRET_OF_MINE")
        assert reply.content["ename"] == "KeyError"


async def test_one_connection(sshd: Sshd) -> None:
    """Kernels of one host and user share one connection, also when they start at once."""
    accepted = sshd.log().count("Accepted publickey")
    async with (
        running(echo_type(sshd)) as (first, _),
        running(echo_type(sshd)) as (second, _),
    ):
        assert await printed(first, "pid") != await printed(second, "pid")
        assert len(sshd.connections()) == 1
    launched = await asyncio.gather(*(FINDER.launch(echo_type(sshd)) for _ in range(3)))
    for _, manager in launched:
        assert manager is not None
        await manager.cleanup()
    await let_go()
    assert sshd.log().count("Accepted publickey") == accepted + 2
    assert sshd.connections() == [] or await eventually(lambda: not sshd.connections())


async def test_no_open_port(sshd: Sshd) -> None:
    """Nothing listens at a TCP port for a kernel, neither on the host nor here."""
    async with running(echo_type(sshd)) as (client, _):
        assert await printed(client, "print 1") == "1"
        assert len(processes_of(sshd)) >= 3  # the agent, the nanny, the kernel
        assert listening(sshd) == []


async def test_no_open_port_but_its_own(sshd: Sshd) -> None:
    """Ipykernel listens by itself at one port, for the output of forked children, and at no other."""
    async with running(ssh_type(sshd, IPYKERNEL, **IPYTHON_TYPE)) as (client, _):
        assert await printed(client, "print(1)") == "1"
        own = "import ipykernel.kernelapp as a; print(a.IPKernelApp.instance().iopub_thread._pipe_port)"
        port = await printed(client, own)
        assert [
            line for line in listening(sshd) if f"ip='127.0.0.1', port={port})" not in line
        ] == []


async def test_private(sshd: Sshd) -> None:
    """Another user can neither list the kernel's directory nor connect to its sockets, at either end."""
    async with running(echo_type(sshd)) as (client, _):
        (there,) = sshd.tmp.glob("km-*")
        here = Path(client.connection_info.ip).parent
        for directory in (there, here):
            assert directory.stat().st_mode & 0o077 == 0
        if os.geteuid() == 0:
            # The way there is open for once: only the directory itself is in the way.
            for above in (sshd.tmp, sshd.directory, *sshd.directory.parents):
                above.chmod(above.stat().st_mode | 0o011)
            paths = [str(there / "k-1"), str(client.connection_info.socket_path("shell"))]
            code = (
                "import os, socket, sys\n"
                "os.setuid(65534)\n"
                "for path in sys.argv[1:]:\n"
                "    for attempt in (lambda: os.listdir(os.path.dirname(path)),\n"
                "                    lambda: socket.socket(socket.AF_UNIX).connect(path)):\n"
                "        try:\n"
                "            attempt()\n"
                "        except PermissionError:\n"
                "            print('refused')\n"
            )
            command = ["/usr/bin/env", "python3", "-c", code, *paths]
            told = await asyncio.to_thread(subprocess.check_output, command)
            assert told.split() == [b"refused"] * 4


async def test_the_key_is_nowhere(sshd: Sshd) -> None:
    """The kernel's key is in no command line and no environment of any process."""
    async with running(echo_type(sshd)) as (client, _):
        key = client.connection_info.key.encode()
        looked_at = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for name in ("cmdline", "environ"):
                try:
                    content = Path("/proc", pid, name).read_bytes()
                except OSError:  # it has just ended, or is somebody else's
                    continue
                looked_at += 1
                assert key not in content
        assert looked_at > 10


async def test_own_log(sshd: Sshd) -> None:
    """What the kernel's process writes reaches the manager."""
    async with running(echo_type(sshd)) as (client, manager):
        await printed(client, "outside from the process itself")
        await eventually(_in_log(manager, "from the process itself"), PATIENCE)


def _in_log(manager: object, text: str) -> object:
    async def is_there() -> bool:
        return text in await manager.log_tail()  # type: ignore[attr-defined, no-any-return]

    return is_there


async def test_nanny_killed(sshd: Sshd) -> None:
    """When the nanny is killed its kernel is gone, and everybody here learns of it."""
    async with running(echo_type(sshd)) as (client, manager):
        request = await run_long(client)
        record = manager.record()
        assert record is not None
        os.kill(record["ssh"]["pid"], signal.SIGKILL)
        assert isinstance(await failure(request), KernelDied)
        assert not await manager.is_alive()
        assert "nanny" in str(await manager.wait())


async def test_unattended(sshd: Sshd) -> None:
    """A kernel that nobody is connected to ends after its lease, and leaves nothing."""
    _, manager = await FINDER.launch(echo_type(sshd), launch_params={"lease": 0.5})
    assert manager is not None
    await eventually(lambda: not left_on(sshd), PATIENCE)
    assert not await manager.is_alive()
    await manager.cleanup()
    await let_go()


@pytest.mark.parametrize("params", [{"lease": -1}, {"lease": "1 h"}, {"lease": True}, {"speed": 9}])
async def test_bad_parameter(sshd: Sshd, params: dict[str, object]) -> None:
    """A launch parameter that makes no sense is refused before anything happens."""
    with pytest.raises(LaunchError, match=next(iter(params))) as raised:
        await FINDER.launch(echo_type(sshd), launch_params=params)
    assert raised.value.phase == "resolve"


async def test_given_endpoints(sshd: Sshd) -> None:
    """Given endpoints are refused in a way that a restarter understands."""
    async with running(echo_type(sshd)) as (client, _):
        with pytest.raises(LaunchError) as raised:
            await FINDER.launch(echo_type(sshd), connection_info=client.connection_info)
        assert raised.value.endpoints_refused


async def test_many_outputs(sshd: Sshd) -> None:
    """A burst of output arrives complete and in order."""
    async with running(echo_type(sshd)) as (client, _):
        request = client.execute("flood 5000 200")
        messages = [m for m in await outputs(request) if m.msg_type == "stream"]
        assert len(messages) == 5000


async def test_large_buffer(sshd: Sshd) -> None:
    """A buffer of many megabytes comes back as it was sent."""
    payload = os.urandom(20_000_000)
    async with running(echo_type(sshd)) as (client, _):
        request = client.comm_msg("echo", buffers=[payload])
        echoed = [m for m in await outputs(request) if m.msg_type == "comm_msg"]
        assert [bytes(m.buffers[0]) for m in echoed] == [payload]


# --- launches that fail --------------------------------------------------------------------------


async def failed_launch(kernel_type: object, timeout: float = PATIENCE) -> LaunchError:
    """Launch in vain; gives the error, and leaves no connection."""
    with pytest.raises(LaunchError) as raised:
        async with asyncio.timeout(timeout):
            await FINDER.launch(kernel_type)  # type: ignore[arg-type]
    await let_go()
    assert read_records()[0] == []
    return raised.value


async def test_no_command(sshd: Sshd) -> None:
    """A command that is not on the host is named."""
    error = await failed_launch(ssh_type(sshd, ("/no/such/kernel", "{connection_file}")))
    assert "/no/such/kernel" in str(error)
    assert error.phase == "start"
    assert left_on(sshd) == []


async def test_dies_at_once(sshd: Sshd) -> None:
    """Exit code and standard error of a kernel that dies at once reach the error."""
    code = "import sys; print('why not', file=sys.stderr); sys.exit(3)"
    error = await failed_launch(ssh_type(sshd, (sys.executable, "-c", code)))
    assert error.exit_status is not None
    assert error.exit_status.code == 3
    assert "why not" in error.log_tail
    assert left_on(sshd) == []


async def test_no_ipykernel(sshd: Sshd) -> None:
    """A Python without ipykernel is told from others, with what to run."""
    argv = (sys.executable, "-m", "ipykernel_but_not_there", "-f", "{connection_file}")
    error = await failed_launch(ssh_type(sshd, argv))
    assert re.search("No module named", error.log_tail)
    assert left_on(sshd) == []


async def test_no_python(sshd: Sshd, tmp_path: Path) -> None:
    """A ``python`` that is not on the host costs nothing where another will do."""
    async with running(ssh_type(sshd, python=str(tmp_path / "python3"))) as (client, _):
        assert await printed(client, "print hello") == "hello"


async def test_cancelled_launch(sshd: Sshd) -> None:
    """A launch that is given up at any moment leaves neither process nor file."""
    argv = (*echo_type(sshd, "--startup-delay", "5").metadata["ssh"]["argv"],)
    for seconds in (0.0, 0.05, 0.2, 0.4, 0.7):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await FINDER.launch(ssh_type(sshd, argv))
        await let_go()
        await eventually(lambda: not left_on(sshd), PATIENCE)
    assert read_records()[0] == []
