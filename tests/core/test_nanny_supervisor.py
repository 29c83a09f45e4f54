"""How a nanny sees kernels die, starts them again, ends them, and what it answers meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kernel_mgmt import KernelType, RestartPolicy
from kernel_mgmt.launch import NannyOptions
from nannies import (
    ECHO_COMMAND,
    PATIENCE,
    Question,
    RunningNanny,
    echo,
    is_gone,
    running_nanny,
)
from waiting import eventually_sync

OK = {"status": "ok"}
KILLED = {"code": None, "signal": 9, "reason": ""}
ON_REQUEST = "No kernel will follow, because the kernel was ended on request."


def exited(code: int) -> dict[str, Any]:
    """Give the exit status of a kernel that ended by itself."""
    return {"code": code, "signal": None, "reason": ""}


def keeping(argv: tuple[str, ...] = ECHO_COMMAND, **options: Any) -> Any:
    """Have an echo kernel kept with some options."""
    return running_nanny(argv, options=NannyOptions(**options))


def with_policy(**policy: Any) -> NannyOptions:
    """Give options with a policy that is quick."""
    return NannyOptions(restart_policy=RestartPolicy(**{"backoff": 0.01, **policy}))


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny whose kernel is ready."""
    with running_nanny(options=with_policy()) as nanny:
        nanny.ask("wait_ready")
        yield nanny


@pytest.fixture
def strict() -> Iterator[RunningNanny]:
    """A nanny whose kernel is ready, and would not be started again."""
    with keeping(restart_policy=None) as nanny:
        nanny.ask("wait_ready")
        yield nanny


def run(nanny: RunningNanny, code: str) -> None:
    """Run code, and do not wait for anything."""
    nanny.send("execute_request", {"code": code})


def failed(question: Question) -> str:
    """Give why no kernel will answer."""
    reply = question.reply()
    assert (reply["status"], reply["ename"]) == ("error", "KernelFailed")
    return str(reply["evalue"])


class Script:
    """A kernel's command whose options are those of a file, read anew by each kernel.

    Args:
        directory: where the file is.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "options"
        self.options()
        run_echo = '[ "$(cat "$2")" != gone ] && exec %s -f "$1" $(cat "$2")'
        run_echo %= " ".join(ECHO_COMMAND[:3])
        self.argv = ("/bin/sh", "-c", run_echo, "sh", "{connection_file}", str(self._file))

    def options(self, *options: object) -> None:
        """Set the options of the kernels to come; ``gone`` ends them at once."""
        temporary = self._file.with_suffix(".new")
        temporary.write_text(" ".join(map(str, options)))
        temporary.replace(self._file)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """The command of kernels that can be told to be different."""
    return Script(tmp_path)


# --- deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("outside last words\nexit 3", exited(3)),
        ("outside last words\nexit 0", exited(0)),
        ("outside last words\nsignal 11", {"code": None, "signal": 11, "reason": ""}),
        ("outside last words\nsignal 15", {"code": None, "signal": 15, "reason": ""}),
    ],
)
def test_death_is_told(nanny: RunningNanny, code: str, status: dict[str, Any]) -> None:
    """How a kernel ended, and what it wrote last, is told to all who wait and all who listen."""
    events, question = nanny.events(), nanny.begin("wait", kernel=1)
    run(nanny, code)
    reply = question.reply()
    tail = reply.pop("log_tail")
    assert tail.endswith("last words\n")
    told = {"kernel": 1, "exit_status": status, "restarting": False}
    assert reply == {**OK, **told}
    assert events.told("died") == {**told, "log_tail": tail}
    assert events.told("ready") == {"kernel": 2}
    assert events.names == ["died", "restarting", "started", "ready"]
    assert nanny.ask("wait", kernel=1) == {**OK, **told, "log_tail": tail}
    info = nanny.ask("nanny_info")
    assert (info["kernel"], info["restarts"], info["exit_status"]) == (2, 1, None)


def test_killed_from_outside(nanny: RunningNanny) -> None:
    """A kernel that is killed as the system does when memory is short is started again."""
    events, question = nanny.events(), nanny.begin("wait")
    os.kill(nanny.kernel_pid, signal.SIGKILL)
    assert question.reply()["exit_status"] == KILLED
    assert events.told("died")["exit_status"] == KILLED
    assert nanny.ask("wait_ready", after=1) == {**OK, "kernel": 2}


def test_children_of_a_dead_kernel(nanny: RunningNanny) -> None:
    """The children of a kernel that died are gone before the next kernel starts."""
    events = nanny.events()
    run(nanny, "spawn")
    kernel = nanny.kernel_pid
    (child,) = eventually_sync(lambda: psutil.Process(kernel).children(), PATIENCE)
    os.kill(kernel, signal.SIGKILL)
    assert events.told("started")["pid"] == nanny.kernel_pid
    assert is_gone(child.pid)


def test_output(nanny: RunningNanny) -> None:
    """What a kernel's process writes is told as it comes, by stream, and what it wrote last kept."""
    events = nanny.events()
    run(nanny, "outside to the left\noutside-stderr grüße")
    eventually_sync(lambda: "grüße" in events.output(), PATIENCE)
    told = [content for name, content in events.heard if name == "output"]
    assert ("stderr", "grüße\n") in [(c["stream"], c["text"]) for c in told]
    assert {content["kernel"] for content in told} == {1}
    assert "to the left\n" in "".join(c["text"] for c in told if c["stream"] == "stdout")
    assert nanny.ask("log_tail", lines=2)["text"] == "to the left\ngrüße\n"
    assert nanny.ask("log_tail", lines=0)["text"] == ""


def test_position_of_output(nanny: RunningNanny) -> None:
    """Who has the log knows which of the events are in it."""
    run(nanny, "outside before")
    eventually_sync(lambda: "before" in nanny.ask("log_tail")["text"], PATIENCE)
    events, log = nanny.events(), nanny.ask("log_tail")
    assert (log["kernel"], log["position"]) == (1, len(log["text"].encode()))
    run(nanny, "outside grüße")
    assert events.told("output")["position"] == log["position"] + len("grüße\n".encode())


def test_output_of_a_kernel_that_starts() -> None:
    """What a kernel writes before it accepts connections is told, too."""
    command = ("sh", "-c", 'echo early; exec "$0" "$@"', *ECHO_COMMAND)
    with running_nanny(command) as nanny:
        events = nanny.events()
        nanny.ask("restart")
        told = events.told("output")
        assert (told["kernel"], told["text"], told["position"]) == (2, "early\n", 6)
        assert (nanny.ask("log_tail")["kernel"]) == 2


# --- the policy ----------------------------------------------------------------------------------


def test_limit() -> None:
    """A kernel that dies too often stays dead; who waits for another is told, and so is who listens."""
    with running_nanny(options=with_policy(limit=2)) as nanny:
        nanny.ask("wait_ready")
        events, question = nanny.events(), nanny.begin("wait_ready", after=3)
        for number in (1, 2, 3):
            run(nanny, f"exit {number}")
            nanny.ask("wait", kernel=number)
            if number < 3:
                nanny.ask("wait_ready", after=number)
        expected = "the kernel died too often, the last time: exit code 3"
        assert expected in failed(question)
        told = events.told("failed")
        assert (told["kernel"], told["exit_status"], told["reason"]) == (3, exited(3), expected)
        assert events.names.count("restarting") == 2
        info = nanny.ask("nanny_info")
        assert (info["state"], info["kernel"], info["kernel_pid"]) == ("dead", 3, None)
        assert info["exit_status"] == exited(3)
        assert nanny.ask("is_alive") == {**OK, "alive": False, "kernel": 3}
        assert nanny.ask("wait")["exit_status"] == exited(3)


def test_backoff() -> None:
    """The second death in a row is answered after the pause that was asked for, and that is told."""
    with running_nanny(options=with_policy(backoff=0.4)) as nanny:
        nanny.ask("wait_ready")
        events = nanny.events()
        for number in (1, 2):
            run(nanny, "exit 1")
            nanny.ask("wait_ready", after=number)
        waits = [content for name, content in events.heard if name == "restarting"]
        events.told("restarting", 2)
        waits = [content for name, content in events.heard if name == "restarting"]
        assert waits == [{"kernel": 1, "wait": 0.0}, {"kernel": 2, "wait": 0.4}]


def test_without_policy(strict: RunningNanny) -> None:
    """A kernel that is not to be started again is not, and its nanny stays to tell how it ended."""
    run(strict, "exit 4")
    assert strict.ask("wait")["exit_status"] == exited(4)
    for after in (None, 0, 1):
        assert "is not to be started again" in failed(strict.begin("wait_ready", after=after))
    assert strict.state == "dead"


def test_restart_of_dead(strict: RunningNanny) -> None:
    """A dead kernel can be started again, any number of times."""
    for number in (1, 2, 3):
        run(strict, "exit 4")
        strict.ask("wait", kernel=number)
        assert strict.ask("restart") == {**OK, "kernel": number + 1}
    assert strict.state == "idle"


def test_next_kernel_does_not_start(script: Script) -> None:
    """When no next kernel starts, the policy says when it is enough, and the last failure is told."""
    with running_nanny(script.argv, options=with_policy(limit=2)) as nanny:
        nanny.ask("wait_ready")
        events = nanny.events()
        script.options("--exit", 7, "--message", "bad-luck")
        run(nanny, "exit 1")
        told = events.told("failed")
        assert (told["kernel"], told["exit_status"]) == (3, exited(7))
        assert told["log_tail"] == "bad-luck\n"
        script.options()
        assert nanny.ask("restart") == {**OK, "kernel": 4}


def test_restart_does_not_start(script: Script) -> None:
    """A restart that was asked for fails when its kernels do, and can be asked for again."""
    with running_nanny(script.argv, options=NannyOptions(restart_policy=None)) as nanny:
        nanny.ask("wait_ready")
        script.options("--exit", 7)
        for _ in range(2):
            assert "exit code 7" in failed(nanny.begin("restart"))
        script.options()
        assert nanny.ask("restart")["status"] == "ok"


def test_kernel_that_never_answers() -> None:
    """A kernel that listens and never answers is ended after its time, and it is said why."""
    options = NannyOptions(restart_policy=None)
    with running_nanny(echo("--never-answer"), options=options, startup_timeout=0.3) as nanny:
        status = nanny.ask("wait")["exit_status"]
        assert status == {**KILLED, "reason": "it did not answer within 0.3 s"}
        assert nanny.state == "dead"


def test_kernel_that_never_listens_again(script: Script) -> None:
    """A next kernel that does not even listen is given up after its time."""
    options = NannyOptions(restart_policy=None)
    with running_nanny(script.argv, options=options, startup_timeout=2) as nanny:
        nanny.ask("wait_ready")
        script.options("--startup-delay", 60)
        assert "it did not accept connections within 2 s" in failed(nanny.begin("restart"))
        assert nanny.state == "dead"
        assert len(psutil.Process(nanny.pid).children()) == 1  # the watchdog


# --- restarts that are asked for -----------------------------------------------------------------


def test_restart(nanny: RunningNanny) -> None:
    """A restart replaces the kernel and is answered when the new one answers."""
    events, question = nanny.events(), nanny.begin("wait")
    old = nanny.kernel_pid
    assert nanny.ask("restart") == {**OK, "kernel": 2}
    assert is_gone(old)
    assert nanny.kernel_pid != old
    reply = question.reply()
    assert (reply["exit_status"], reply["restarting"]) == (KILLED, True)
    assert events.told("ready") == {"kernel": 2}
    assert events.told("died")["restarting"] is True
    assert events.names == ["died", "restarting", "started", "ready"]


def test_polite_restart(nanny: RunningNanny) -> None:
    """With time to end, the kernel is asked to, and ends by itself."""
    question = nanny.begin("wait")
    assert nanny.ask("restart", timeout=PATIENCE)["kernel"] == 2
    assert question.reply()["exit_status"] == exited(0)


def test_polite_restart_of_stubborn_kernel() -> None:
    """A kernel that does not end in its time is terminated, and at last killed."""
    with running_nanny(echo("--ignore-shutdown", "--ignore-sigterm")) as nanny:
        nanny.ask("wait_ready")
        question = nanny.begin("wait")
        assert nanny.ask("restart", timeout=0.1)["kernel"] == 2
        assert question.reply()["exit_status"] == KILLED
        nanny.ask("kill")


def test_restarts_at_once(nanny: RunningNanny) -> None:
    """Restarts that are asked for at once are one."""
    questions = [nanny.begin("restart") for _ in range(5)]
    assert [question.reply() for question in questions] == [{**OK, "kernel": 2}] * 5
    assert nanny.ask("nanny_info")["restarts"] == 1


def test_restarts_in_a_row(nanny: RunningNanny) -> None:
    """Restarts that are asked for do not count as deaths."""
    for number in range(2, 9):
        assert nanny.ask("restart") == {**OK, "kernel": number}


def test_restart_of_kernel_that_does_not_answer_yet() -> None:
    """A restart during a start replaces the kernel that is starting."""
    with running_nanny(echo("--answer-delay", 1)) as nanny:
        assert nanny.state == "starting"
        waiting = nanny.begin("wait_ready")
        assert nanny.ask("restart") == {**OK, "kernel": 2}
        assert waiting.reply() == {**OK, "kernel": 2}


def test_restart_during_launch(script: Script) -> None:
    """A restart while a next kernel does not listen yet starts another in its place at once."""
    with running_nanny(script.argv, options=with_policy()) as nanny:
        nanny.ask("wait_ready")
        script.options("--startup-delay", 60)
        run(nanny, "exit 1")
        eventually_sync(lambda: nanny.ask("nanny_info")["kernel"] == 2, PATIENCE)
        assert nanny.ask("nanny_info")["kernel_pid"] is None
        script.options()
        assert nanny.ask("restart") == {**OK, "kernel": 3}
        assert nanny.ask("wait", kernel=2)["restarting"] is True


def test_restart_in_pause() -> None:
    """A restart that is asked for does not wait for the end of the pause after a death."""
    with running_nanny(options=with_policy(backoff=1000, max_backoff=1000)) as nanny:
        die_twice(nanny)
        assert nanny.ask("restart") == {**OK, "kernel": 3}


def die_twice(nanny: RunningNanny) -> None:
    """Let a kernel die twice, so that its nanny pauses."""
    nanny.ask("wait_ready")
    for number in (1, 2):
        run(nanny, f"exit {number}")
        nanny.ask("wait", kernel=number)
        if number == 1:
            nanny.ask("wait_ready", after=1)
    assert nanny.state == "restarting"


def test_restart_right_after_terminate(strict: RunningNanny) -> None:
    """A restart that is asked for while a kernel ends is not forgotten."""
    for number in (1, 2, 3):
        strict.ask("terminate")
        assert strict.ask("restart") == {**OK, "kernel": number + 1}


def test_restart_at_the_moment_of_death(strict: RunningNanny) -> None:
    """A restart that is asked for when a kernel has just died is not forgotten."""
    for number in (1, 2, 3):
        os.kill(strict.kernel_pid, signal.SIGKILL)
        assert strict.ask("restart") == {**OK, "kernel": number + 1}


# --- ends that are asked for ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kill", "terminate"])
def test_end(nanny: RunningNanny, name: str) -> None:
    """A kernel that was ended on request is not started again, unless somebody asks for that."""
    events, waiting = nanny.events(), nanny.begin("wait")
    assert nanny.ask(name) == OK
    number = signal.SIGKILL if name == "kill" else signal.SIGTERM
    assert waiting.reply()["exit_status"]["signal"] == number
    assert failed(nanny.begin("wait_ready", after=1)) == ON_REQUEST
    assert nanny.state == "dead"
    assert nanny.ask(name) == OK
    assert events.names == ["died"]
    assert nanny.ask("restart") == {**OK, "kernel": 2}


def test_kill_takes_all(nanny: RunningNanny) -> None:
    """A kill is answered when the whole group is gone and the state is that of a dead kernel."""
    run(nanny, "spawn")
    kernel = nanny.kernel_pid
    (child,) = eventually_sync(lambda: psutil.Process(kernel).children(), PATIENCE)
    questions = [nanny.begin("kill") for _ in range(3)]
    for question in questions:
        assert question.reply() == OK
    assert is_gone(kernel)
    assert is_gone(child.pid)
    assert nanny.state == "dead"


@pytest.mark.parametrize("name", ["kill", "terminate"])
def test_end_in_pause(name: str) -> None:
    """A kernel that died, and shall be ended in the pause that follows, is not started again."""
    with running_nanny(options=with_policy(backoff=1000, max_backoff=1000)) as nanny:
        die_twice(nanny)
        waiting = nanny.begin("wait_ready", after=2)
        assert nanny.ask(name) == OK
        assert failed(waiting) == ON_REQUEST
        assert nanny.state == "dead"
        # How it ended is what it was, and no further kernel has been.
        assert nanny.ask("wait")["exit_status"] == exited(2)
        assert nanny.ask("nanny_info")["kernel"] == 2


@pytest.mark.parametrize("name", ["kill", "terminate"])
def test_end_during_launch(script: Script, name: str) -> None:
    """A next kernel that does not listen yet when an end is asked for is not waited for."""
    with running_nanny(script.argv, options=with_policy()) as nanny:
        nanny.ask("wait_ready")
        script.options("--startup-delay", 60)
        run(nanny, "exit 1")
        eventually_sync(lambda: nanny.ask("nanny_info")["kernel"] == 2, PATIENCE)
        assert nanny.ask(name) == OK
        assert nanny.ask("wait")["exit_status"]["reason"] == "its start was cut short"
        assert failed(nanny.begin("wait_ready", after=1)) == ON_REQUEST
        assert len(psutil.Process(nanny.pid).children()) == 1


def test_kill_of_stuck_restart() -> None:
    """A kill ends a kernel that takes its time to end for a restart, and with it the restart."""
    with running_nanny(echo("--ignore-shutdown")) as nanny:
        nanny.ask("wait_ready")
        restart = nanny.begin("restart", timeout=1000)
        kernel = nanny.kernel_pid
        assert nanny.ask("kill") == OK
        assert failed(restart) == ON_REQUEST
        assert is_gone(kernel)


def test_kill_and_restart_at_once(nanny: RunningNanny) -> None:
    """Kills and restarts that are asked for all at once are all answered, and the last one counts."""
    for _ in range(3):
        questions = [nanny.begin(name) for name in ("kill", "restart", "kill", "restart") * 3]
        replies = [question.reply() for question in questions]
        assert all(reply["status"] == "ok" or reply["ename"] == "KernelFailed" for reply in replies)
        # Which one was the last to arrive is not known, each question having a socket of its own.
        assert nanny.ask("restart")["status"] == "ok"
        assert nanny.ask("is_alive")["alive"] is True


def test_signal_is_no_request_to_end(nanny: RunningNanny) -> None:
    """A signal is a signal: the kernel that dies of it is started again."""
    assert nanny.ask("signal", signum=int(signal.SIGTERM)) == OK
    assert nanny.ask("wait", kernel=1)["exit_status"]["signal"] == signal.SIGTERM
    assert nanny.ask("wait_ready", after=1)["kernel"] == 2


def test_no_such_signal(nanny: RunningNanny) -> None:
    """A number that is no signal is refused."""
    reply = nanny.ask("signal", signum=4711)
    assert (reply["status"], reply["ename"]) == ("error", "BadRequest")
    assert "no signal 4711" in reply["evalue"]


def test_interrupt_by_message() -> None:
    """A kernel that wants messages for interrupts gets one."""
    kernel_type = KernelType("echo", provider="echo", interrupt_mode="message")
    with running_nanny(kernel_type=kernel_type) as nanny:
        nanny.ask("wait_ready")
        events = nanny.events()
        run(nanny, "outside running\nsleep 1000")
        eventually_sync(lambda: "running" in events.output(), PATIENCE)
        assert nanny.ask("interrupt") == OK
        eventually_sync(lambda: nanny.state == "idle", PATIENCE)


def test_requests_to_the_dead(strict: RunningNanny) -> None:
    """All that can be asked of a living kernel can be asked of a dead one."""
    run(strict, "outside bye\nexit 1")
    strict.ask("wait")
    for name in ("kill", "terminate", "interrupt"):
        assert strict.ask(name) == OK
    assert strict.ask("signal", signum=2) == OK
    assert strict.ask("log_tail", lines=1)["text"] == "bye\n"
    assert strict.ask("lease", seconds=1000) == {**OK, "seconds": 1000}
    assert 990 < strict.ask("nanny_info")["lease"] <= 1000
    assert strict.ask("stop") == OK
    strict.ended()


# --- waiting -------------------------------------------------------------------------------------


def test_wait_for_others(nanny: RunningNanny) -> None:
    """Who waits for a kernel that is not there yet is told so; who waits for an old one is answered."""
    for number in (0, 2, 1000):
        reply = nanny.ask("wait", kernel=number)
        assert (reply["ename"], reply["evalue"]) == (
            "BadRequest",
            f"There is no kernel {number}; the present one is 1.",
        )
    nanny.ask("restart")
    assert nanny.ask("wait", kernel=1)["exit_status"] == KILLED


def test_only_so_many_ends_are_remembered(script: Script) -> None:
    """Who waits for the end of a kernel of long ago is answered, too."""
    with running_nanny(script.argv, options=with_policy(limit=16, max_backoff=0.01)) as nanny:
        nanny.ask("wait_ready")
        events = nanny.events()
        script.options("gone")
        run(nanny, "exit 3")
        assert events.told("failed")["kernel"] == 17
        status = nanny.ask("wait", kernel=1)["exit_status"]
        assert status == {"code": None, "signal": None, "reason": "others have followed since"}
        assert nanny.ask("wait", kernel=2)["exit_status"] == exited(1)


@pytest.mark.parametrize("state", ["starting", "idle", "busy", "pause", "launch", "dead"])
def test_stop_in_every_state(script: Script, state: str) -> None:
    """In every state stop ends it all, and nobody who waits is left without an answer."""
    policy = with_policy(backoff=1000, max_backoff=1000)
    script.options(*(["--answer-delay", 60] if state == "starting" else []))
    with running_nanny(script.argv, options=policy) as nanny:
        bring_into(nanny, state, script)
        number = nanny.ask("nanny_info")["kernel"]
        questions = {
            "wait": nanny.begin("wait"),
            "wait_ready": nanny.begin("wait_ready", after=number),
        }
        assert nanny.ask("is_alive")["status"] == "ok"  # behind them, so that they have arrived
        questions["stop"] = nanny.begin("stop", timeout=0.2)
        replies = {name: question.reply() for name, question in questions.items()}
        assert replies["wait"]["status"] == "ok"
        assert (replies["wait"]["kernel"], replies["wait"]["restarting"]) == (number, False)
        assert replies["wait_ready"]["ename"] == "KernelFailed"
        assert replies["stop"] == OK
        nanny.ended()


def bring_into(nanny: RunningNanny, state: str, script: Script) -> None:
    """Have a nanny be in a state."""
    if state != "starting":
        nanny.ask("wait_ready")
    if state == "busy":
        run(nanny, "sleep 1000")
    elif state == "pause":
        die_twice(nanny)
        return
    elif state == "launch":
        script.options("--startup-delay", 60)
        run(nanny, "exit 1")
        eventually_sync(lambda: nanny.ask("nanny_info")["kernel"] == 2, PATIENCE)
        return
    elif state == "dead":
        nanny.ask("kill")
    eventually_sync(lambda: nanny.state == state, PATIENCE)


def test_requests_while_stopping() -> None:
    """A nanny that ends still answers all requests, and a kill makes it quicker."""
    with running_nanny(echo("--ignore-shutdown")) as nanny:
        nanny.ask("wait_ready")
        events = nanny.events()
        stop = nanny.begin("stop", timeout=1000)
        again = nanny.begin("stop", timeout=0)
        assert events.told("stopping") == {"reason": "asked"}
        assert nanny.state == "stopping"
        assert "the nanny ends" in failed(nanny.begin("wait_ready", after=1)).lower()
        assert "The nanny ends" in failed(nanny.begin("restart"))
        wait = nanny.begin("wait")
        assert nanny.ask("is_alive")["alive"] is True
        assert nanny.ask("lease", seconds=0.01)["status"] == "ok"
        assert nanny.ask("interrupt") == OK
        kill = nanny.begin("kill")
        assert wait.reply()["exit_status"] == KILLED
        assert kill.reply() == stop.reply() == again.reply() == OK
        nanny.ended()


def test_stop_without_patience(nanny: RunningNanny) -> None:
    """With no time to end, the kernel is killed."""
    wait = nanny.begin("wait")
    began = time.monotonic()
    assert nanny.ask("stop", timeout=0) == OK
    assert time.monotonic() - began < PATIENCE
    assert wait.reply()["exit_status"] == KILLED
    nanny.ended()
