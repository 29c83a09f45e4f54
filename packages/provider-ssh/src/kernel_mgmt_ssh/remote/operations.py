"""What the tunnel can ask of the agent, by name."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from kernel_mgmt.process.identity import is_process

from . import host_paths
from .archives import Archives
from .discovery import discover
from .failing import AgentError
from .host_paths import is_full
from .keepers import end_keeper, living_records
from .plain_control import ask_plain
from .probing import Probe
from .starting import Starter
from .tasks import Operation, Task

__all__ = ["Operations"]

_MOST_PORTS = 64


class Operations:
    """The operations, and what they keep from one to the next."""

    def __init__(self) -> None:
        self._archives = Archives()
        self._probe = Probe()
        self._starter = Starter(self._archives)
        self.table: dict[str, Operation] = {
            "alive": self._alive,
            "discover": self._discover,
            "end": self._end,
            "free_ports": self._free_ports,
            "ping": self._ping,
            "plain": ask_plain,
            "probe": self._open_probe,
            "put": self._put,
            "records": self._records,
            "start": self._starter.start,
        }

    def close(self) -> None:
        """Remove what is left of them."""
        self._probe.close()

    def _ping(self, _task: Task, _asked: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def _open_probe(self, _task: Task, _asked: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"path": self._probe.open()}
        except OSError as error:
            reason = "has no room left" if is_full(error) else "cannot be written to"
            raise AgentError(
                f"The host's directory for sockets {reason}: {error}.",
                kind="no-space",
                advice="Free some space in /tmp there, or set TMPDIR to a directory with room.",
            ) from error

    def _put(self, _task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
        self._archives.put(str(asked.get("digest")), str(asked.get("data")))
        return {}

    def _alive(self, _task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
        pid = asked.get("pid")
        if type(pid) is not int:
            raise AgentError("pid must be a number.", kind="protocol")
        return {"alive": is_process(pid, asked.get("identity"))}

    def _end(self, _task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
        pid, identity = asked.get("pid"), asked.get("identity")
        if type(pid) is not int or not isinstance(identity, str) or not identity:
            raise AgentError("pid must be a number, and identity a text.", kind="protocol")
        end_keeper(pid, identity)
        return {}

    def _free_ports(self, _task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
        count = asked.get("count", 1)
        if type(count) is not int or not 0 < count <= _MOST_PORTS:
            raise AgentError(f"count must be 1 to {_MOST_PORTS}.", kind="protocol")
        with ExitStack() as stack:
            ports = []
            for _ in range(count):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        return {"ports": ports}

    def _discover(self, task: Task, _asked: Mapping[str, Any]) -> dict[str, Any]:
        return discover(task)

    def _records(self, _task: Task, _asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"records": list(living_records(host_paths.records_dir()))}
