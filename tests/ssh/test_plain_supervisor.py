"""Kernels on hosts without pyzmq: kept by the standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import AgentFailure, RunningAgent, started
from interpreters import pythons_3_9
from kernel_mgmt import ConnectionInfo, KernelClient
from kernel_mgmt.curve import new_curve_keys
from messages import outputs, texts
from nannies import ECHO_COMMAND, RECORDS, is_gone
from waiting import eventually_sync


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent whose Python has no package: the oldest that there is."""
    directory = tmp_path_factory.mktemp("bare")
    python = [*pythons_3_9(), sys.executable][0]
    command = [python, "-m", "venv", "--without-pip", str(directory)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    with RunningAgent([str(directory / "bin" / "python")]) as running:
        yield running


class Supervisor:
    """A plain supervisor, asked by way of the agent.

    Args:
        agent: the host's.
        result: what starting the kernel gave.
    """

    def __init__(self, agent: RunningAgent, result: dict[str, Any]) -> None:
        self._agent = agent
        self.answer = result["answer"]
        self.pid: int = self.answer["pid"]
        self.directory = Path(self.answer["directory"])
        self.info = ConnectionInfo.from_dict(self.answer["connection_info"])

    def begin(self, op: str, **args: Any) -> int:
        """Ask; gives the number of the request."""
        request = {"op": op, **args}
        return self._agent.begin("plain", control=self.answer["control"], request=request)

    def ask(self, op: str, **args: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        return self._agent.result(self.begin(op, **args))

    def is_all_gone(self) -> bool:
        """Tell whether nothing is left of it."""
        return is_gone(self.pid) and not self.directory.exists() and not list(RECORDS.iterdir())


@contextlib.contextmanager
def supervised(agent: RunningAgent, *argv: str, **args: Any) -> Iterator[Supervisor]:
    """Have a kernel kept by a plain supervisor."""
    command = argv or ECHO_COMMAND
    with started(agent, command, **{"plain": "always", "pythons": [], **args}) as result:
        assert result["kind"] == "plain"
        yield Supervisor(agent, result)


async def test_a_kernel_is_reached_at_its_own_sockets(agent: RunningAgent) -> None:
    """A client talks to the kernel itself, over Unix sockets in a private directory."""
    with supervised(agent) as supervisor:
        assert supervisor.info.transport == "ipc"
        assert supervisor.directory.stat().st_mode & 0o777 == 0o700
        assert Path(supervisor.info.ip).is_relative_to(supervisor.directory)
        async with KernelClient(supervisor.info) as client:
            await client.wait_for_ready()
            assert "".join(texts(await outputs(client.execute("print hello")))) == "hello"
        assert supervisor.ask("is_alive") == {"alive": True}
        assert supervisor.ask("stop", timeout=5) == {}
        eventually_sync(supervisor.is_all_gone)


def test_it_is_chosen_where_no_python_has_pyzmq(agent: RunningAgent) -> None:
    """By itself the agent takes a plain supervisor only when it has to."""
    command = ["/bin/sh", "-c", 'exec "$@"', "kernel", *ECHO_COMMAND]
    python = agent.hello["executable"]
    with started(agent, command, pythons=[python]) as result:
        assert (result["kind"], result["python"]) == ("plain", python)


def test_the_record_tells_of_it(agent: RunningAgent) -> None:
    """The kernel's record is on the host, with the way to ask its supervisor."""
    with supervised(agent) as supervisor:
        (record,) = agent.ask("records")["records"]
        plain = record["manager"]["plain"]
        assert plain["control"] == supervisor.answer["control"]
        assert plain["pid"] == supervisor.pid
        assert ConnectionInfo.from_dict(record["connection_info"]) == supervisor.info


def test_how_a_kernel_ended_is_told(agent: RunningAgent) -> None:
    """Everybody who waits for the end learns it, with what the kernel wrote last."""
    command = [sys.executable, "-c", DYING, *ECHO_COMMAND[1:]]
    with supervised(agent, *command) as supervisor:
        waiting = [supervisor.begin("wait") for _ in range(2)]
        supervisor.ask("terminate")
        for number in waiting:
            end = agent.result(number)
            assert end["exit_status"] == {"code": 7, "signal": None, "reason": ""}
            assert end["log_tail"] == "last words\n"
        assert supervisor.ask("is_alive") == {"alive": False}
        assert supervisor.ask("log_tail", lines=1) == {"text": "last words\n"}
        assert supervisor.ask("info")["exit_status"]["code"] == 7


#: An echo kernel that ends with an exit code of its own at SIGTERM.
DYING = """
import os, runpy, signal, sys
def end(*_):
    os.write(1, b"last words\\n")
    os._exit(7)
signal.signal(signal.SIGTERM, end)
del sys.argv[0]
sys.argv[0:2] = [sys.argv[1]]
runpy.run_module("kernel_mgmt.testing.echo_kernel", run_name="__main__", alter_sys=True)
"""


def test_a_kernel_that_ends_by_itself_is_seen(agent: RunningAgent) -> None:
    """A signal that ended the kernel is in its exit status."""
    with supervised(agent) as supervisor:
        number = supervisor.begin("wait")
        assert supervisor.ask("signal", signum=int(signal.SIGUSR1)) == {}
        assert agent.result(number)["exit_status"]["signal"] == signal.SIGUSR1


def test_kill_reaches_all_of_the_group(agent: RunningAgent) -> None:
    """A kernel is killed with its children, and is gone when that is answered."""
    with supervised(agent) as supervisor:
        kernel = psutil.Process(supervisor.ask("info")["kernel_pid"])
        assert supervisor.ask("kill") == {}
        assert is_gone(kernel.pid)
        assert supervisor.ask("wait")["exit_status"]["signal"] == signal.SIGKILL


def test_interrupting_is_left_to_who_can(agent: RunningAgent) -> None:
    """SIGINT is sent where the kernel type wants it, and else it is told that it does not."""
    with supervised(agent) as supervisor:
        assert supervisor.ask("interrupt") == {}
        assert supervisor.ask("is_alive") == {"alive": True}
    kernel_type = {"provider": "ssh", "name": "echo", "interrupt_mode": "message"}
    with (
        supervised(agent, fields={"kernel_type": kernel_type}) as supervisor,
        pytest.raises(AgentFailure, match="interrupted by a message"),
    ):
        supervisor.ask("interrupt")


def test_a_bad_question_is_refused(agent: RunningAgent) -> None:
    """What cannot be done is refused, and the kernel lives on."""
    questions: list[tuple[str, dict[str, Any]]] = [
        ("dance", {}),
        ("signal", {"signum": 12345}),
        ("signal", {}),
        ("stop", {"timeout": "x"}),
        ("log_tail", {"lines": None}),
    ]
    with supervised(agent) as supervisor:
        for op, args in questions:
            with pytest.raises(AgentFailure) as caught:
                supervisor.ask(op, **args)
            assert caught.value.kind == "protocol"
        assert supervisor.ask("is_alive") == {"alive": True}


def test_garbage_at_its_socket_costs_nothing(agent: RunningAgent) -> None:
    """Whoever says nothing, or nonsense, is let go."""
    with supervised(agent) as supervisor:
        for garbage in (b"", b"\xff\n", b"[1]\n", b"{}\n", b"x" * 200_000):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(supervisor.answer["control"])
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(garbage)
        assert supervisor.ask("is_alive") == {"alive": True}


def test_who_is_gone_is_told(agent: RunningAgent) -> None:
    """Once it has ended, the agent says that it is gone."""
    with supervised(agent) as supervisor:
        supervisor.ask("stop", timeout=0)
        eventually_sync(supervisor.is_all_gone)
        with pytest.raises(AgentFailure) as caught:
            supervisor.ask("is_alive")
        assert caught.value.kind == "gone"


def test_a_wait_can_be_given_up(agent: RunningAgent) -> None:
    """A question that is cancelled is over, and the kernel lives on."""
    with supervised(agent) as supervisor:
        number = supervisor.begin("wait")
        agent.cancel(number)
        with pytest.raises(AgentFailure) as caught:
            agent.result(number)
        assert caught.value.kind == "cancelled"
        assert supervisor.ask("is_alive") == {"alive": True}


def test_without_anybody_it_ends(agent: RunningAgent) -> None:
    """Unattended for longer than it may be, the kernel is ended; who waits counts as somebody."""
    fields = {"options": {"unattended_timeout": 0.5}}
    with supervised(agent, fields=fields) as supervisor:
        number = supervisor.begin("wait")
        with contextlib.suppress(AssertionError):
            agent.take(lambda: agent.is_answered(number), 1.5)
        assert supervisor.ask("is_alive") == {"alive": True}
        agent.cancel(number)
        eventually_sync(supervisor.is_all_gone, 10)


def test_its_death_is_the_kernels(agent: RunningAgent) -> None:
    """When the supervisor is killed, the kernel dies with it and nothing is left."""
    with supervised(agent) as supervisor:
        kernel = supervisor.ask("info")["kernel_pid"]
        os.kill(supervisor.pid, signal.SIGKILL)
        eventually_sync(lambda: is_gone(kernel) and supervisor.is_all_gone(), 10)


def test_a_signal_ends_both_in_order(agent: RunningAgent) -> None:
    """SIGTERM ends kernel and supervisor, and removes what they had."""
    with supervised(agent) as supervisor:
        os.kill(supervisor.pid, signal.SIGTERM)
        eventually_sync(supervisor.is_all_gone, 10)


def test_a_kernel_that_knows_no_unix_sockets_has_tcp(agent: RunningAgent) -> None:
    """With transport tcp the kernel listens on loopback."""
    with supervised(agent, fields={"transport": "tcp"}) as supervisor:
        assert supervisor.info.transport == "tcp"
        assert supervisor.info.ip == "127.0.0.1"
        assert supervisor.ask("is_alive") == {"alive": True}


def test_given_endpoints_are_used_without_keys(agent: RunningAgent) -> None:
    """The kernel listens where it shall; it is not encrypted, and who insists on that is refused."""
    given = ConnectionInfo.for_tcp(**new_curve_keys())
    fields = {"connection_info": given.to_dict()}
    with supervised(agent, fields=fields) as supervisor:
        assert supervisor.info == given.replace(curve_publickey=None, curve_secretkey=None)
    with pytest.raises(AgentFailure, match="Encryption is required"):
        agent.start(ECHO_COMMAND, plain="always", fields={**fields, "encryption": "required"})


def test_what_does_not_start_is_told_and_leaves_nothing(agent: RunningAgent) -> None:
    """The errors are those of a nanny."""
    with pytest.raises(AgentFailure) as caught:
        agent.start(["/no/such/kernel"], plain="always")
    assert "/no/such/kernel" in caught.value.cause
    with pytest.raises(AgentFailure) as caught:
        agent.start([sys.executable, "-c", "raise SystemExit('cold')"], plain="always")
    assert caught.value.log_tail == "cold\n"
    assert caught.value.exit_status == {"code": 1, "signal": None, "reason": ""}
    assert list(RECORDS.iterdir()) == []
