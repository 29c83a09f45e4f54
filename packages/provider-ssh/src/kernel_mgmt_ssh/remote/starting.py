"""Starting a kernel on this host: the request filled in, and a nanny or plain supervisor asked."""

from __future__ import annotations

import json
import os
import re
import shutil
import string
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kernel_mgmt.process.identity import process_identity

from . import host_paths
from .archives import Archives, source_of
from .failing import AgentError
from .host_paths import check_room
from .keepers import end_keeper, keeper_of
from .kernelspecs import find_kernelspec
from .spawning import Heard, run_program
from .tasks import Cancelled, Task

__all__ = ["Starter"]

NANNY = "kernel_mgmt.nanny.__main__"
PLAIN = "kernel_mgmt_ssh.remote.plain_supervisor"

#: The variable that names a directory which goes with the user's last session.
_SESSION_DIRECTORY = "XDG_RUNTIME_DIR"

_PYTHON = re.compile(r"(python|pypy)\d*(\.\d+)?")
_NO_MODULE = re.compile(r"No module named '?(ipykernel\w*)")


class Starter:
    """Starts kernels.

    Args:
        archives: where the nanny's modules are.
    """

    def __init__(self, archives: Archives) -> None:
        self._archives = archives

    def start(self, task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Start a kernel; returns when its sockets accept connections.

        Raises:
            AgentError: it cannot be started; nothing of it is left.
            Cancelled: it was given up; nothing of it is left.
        """
        plain = asked.get("plain", "auto")
        if plain not in ("auto", "never", "always"):
            raise AgentError("plain must be 'auto', 'never' or 'always'.", kind="protocol")
        digest = str(asked.get("archive"))
        program = self._archives.program(digest, NANNY)  # before anything else is looked at
        request, pythons = complete(asked)
        _check_directories(request)
        env = _keeper_env(asked)
        began = time.time()
        try:
            if plain != "always":
                found = self._start_nanny(task, program, request, pythons, env)
                if found is not None:
                    return self._started(task, "nanny", found, request)
                if plain == "never":
                    raise _no_pyzmq(pythons)
            program = self._archives.program(digest, PLAIN, _plain_modules())
            python = sys.executable  # which runs this, and needs nothing more
            heard = run_program(python, program, _line(request), task, needs_pyzmq=False, env=env)
            return self._started(task, "plain", (python, heard), request)
        except Cancelled:
            # It may have answered in the very moment.
            keeper = keeper_of(request["record_dir"], request["kernel_id"], began)
            if keeper is not None:
                end_keeper(*keeper)
            raise

    def _start_nanny(
        self,
        task: Task,
        program: bytes,
        request: Mapping[str, Any],
        pythons: Sequence[str],
        env: Mapping[str, str],
    ) -> tuple[str, Heard] | None:
        """Start a nanny with the first Python that works and has pyzmq; None when none does."""
        for python in pythons:
            try:
                heard = run_program(
                    python, program, _line(request), task, needs_pyzmq=True, env=env
                )
            except AgentError:  # it cannot be run at all
                continue
            if heard.ran:
                return python, heard
        return None

    def _started(
        self, task: Task, kind: str, found: tuple[str, Heard], request: Mapping[str, Any]
    ) -> dict[str, Any]:
        python, heard = found
        answer = heard.answer
        if answer is None:
            raise AgentError(
                f"What was to keep the kernel ended before it answered: {_ending(heard.code)}.",
                kind="launch",
                advice="What it wrote tells why."
                if heard.errors.strip()
                else f"See whether {python} works on the host.",
                log_tail=heard.errors[-10_000:],
            )
        if answer.get("status") != "ok":
            raise _failure(answer, request)
        pid, identity = answer["pid"], process_identity(answer["pid"]) or "gone"
        task.undo = lambda: end_keeper(pid, identity)
        kernel_type = request["kernel_type"]
        return {
            "kind": kind,
            "python": python,
            "answer": {**answer, "identity": identity},
            "kernel_type": kernel_type,
        }


def _plain_modules() -> dict[str, str]:
    """Give what the plain supervisor needs beside the archive: itself."""
    package, _, _ = __package__.rpartition(".")
    return {f"{package}.": "", f"{__package__}.": "", PLAIN: source_of(PLAIN)}


# -- the request ------------------------------------------------------------------------------


def complete(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Fill in what only the host can know.

    Args:
        asked: the operation's arguments.

    Returns:
        The nanny's request, and the Pythons that a nanny may run with, the best first.

    Raises:
        AgentError: there is no such kernelspec, or the request is none.
    """
    request = asked.get("request")
    kernelspec = asked.get("kernelspec")
    if not isinstance(request, dict) or not isinstance(request.get("kernel_id"), str):
        raise AgentError("The request to start a kernel is none.", kind="protocol")
    request = dict(request)
    pythons = [found for name in asked.get("pythons") or () if (found := _find(str(name), {}))]
    pythons.append(sys.executable)
    base_env: dict[str, str] = {}
    if kernelspec:
        prefixes = [os.path.dirname(os.path.dirname(python)) for python in pythons]
        spec = find_kernelspec(str(kernelspec), host_paths.kernelspec_dirs(prefixes))
        request["argv"] = spec.command(pythons[0])
        base_env = _expanded(spec.env)
        request["kernel_type"] = _typed(request.get("kernel_type"), spec)
    argv = request.get("argv")
    if not isinstance(argv, list) or not argv:
        raise AgentError(
            "The kernel has no command.", kind="config", advice="Give it argv or kernelspec."
        )
    session = {name: os.environ[name] for name in (_SESSION_DIRECTORY,) if name in os.environ}
    env = {
        **session,
        **base_env,
        **_expanded(asked.get("expand_env") or {}),
        **(request.get("env") or {}),
    }
    request["env"] = env
    request["argv"] = [os.path.expanduser(str(argv[0])), *argv[1:]]
    request["runtime_dir"] = request.get("runtime_dir") or host_paths.runtime_dir()
    request["record_dir"] = request.get("record_dir") or host_paths.records_dir()
    request["cwd"] = host_paths.expand(str(request.get("cwd") or "~"))
    own = _find(request["argv"][0], env)
    if own is not None and _PYTHON.fullmatch(os.path.basename(own)):
        pythons.insert(0, own)
    return request, list(dict.fromkeys(pythons))


def _find(name: str, env: Mapping[str, Any]) -> str | None:
    """Give the path of a program as the kernel's own environment finds it; None without one."""
    path = env.get("PATH", os.environ.get("PATH", os.defpath))
    found = shutil.which(os.path.expanduser(name), path=path if isinstance(path, str) else None)
    return os.path.abspath(found) if found and os.path.isabs(found) else None


def _expanded(env: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(name): string.Template(str(text)).safe_substitute(os.environ)
        for name, text in env.items()
    }


def _typed(kernel_type: object, spec: Any) -> dict[str, Any]:
    """Give a kernel type with what the kernelspec says of it."""
    fields = dict(kernel_type) if isinstance(kernel_type, dict) else {"name": spec.name}
    fields["interrupt_mode"] = spec.interrupt_mode
    for name in ("display_name", "language"):
        fields[name] = fields.get(name) or getattr(spec, name)
    fields["metadata"] = {**spec.metadata, **(fields.get("metadata") or {})}
    return fields


def _check_directories(request: Mapping[str, Any]) -> None:
    check_room(str(request["runtime_dir"]), "Jupyter's runtime directory")
    check_room(str(request["record_dir"]), "where records of kernels are kept")
    check_room(host_paths.socket_base(), "where sockets are made")


def _keeper_env(asked: Mapping[str, Any]) -> dict[str, str]:
    """Give the environment of what keeps the kernel."""
    env = dict(os.environ)
    # What is in there is removed with the user's last session: no place for sockets.
    env.pop(_SESSION_DIRECTORY, None)
    tunables = asked.get("tunables")
    if sys.platform == "linux" and isinstance(tunables, str) and tunables:
        env.setdefault("GLIBC_TUNABLES", tunables)
    return env


def _line(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request).encode("ascii") + b"\n"


# -- the answer -------------------------------------------------------------------------------


def _failure(answer: Mapping[str, Any], request: Mapping[str, Any]) -> AgentError:
    """Give the error that an answer tells."""
    cause = str(answer.get("cause", "The kernel could not be started."))
    log_tail = str(answer.get("log_tail") or "")
    advice = str(answer.get("advice") or "")
    kind = "launch"
    if any(os.strerror(number) in cause for number in host_paths.FULL):
        kind, advice = "no-space", "Free some space on the host."
    missing = _NO_MODULE.search(log_tail)
    if missing is not None:
        cause = f"The host's {request['argv'][0]!r} has no {missing[1].partition('_')[0]}: {cause}"
        advice = f"Install it there: {request['argv'][0]} -m pip install ipykernel"
    return AgentError(
        cause,
        kind=kind,
        advice=advice,
        phase=str(answer.get("phase") or "start"),
        log_tail=log_tail,
        exit_status=answer.get("exit_status"),
    )


def _no_pyzmq(pythons: Sequence[str]) -> AgentError:
    return AgentError(
        f"None of the host's Pythons that were tried has pyzmq: {', '.join(pythons)}.",
        kind="no-pyzmq",
        advice=f"Install it there: {pythons[0]} -m pip install pyzmq",
    )


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
