"""Containers of kernels: made, started, read, found again by their labels, and removed."""

from __future__ import annotations

import getpass
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError, NotFound
from kernel_mgmt import ExitStatus

__all__ = [
    "LABEL_CREATED",
    "LABEL_ID",
    "LABEL_LEASE",
    "LABEL_NAME",
    "LABEL_OWNER",
    "LABEL_TYPE",
    "State",
    "create",
    "exit_status",
    "explanation",
    "find",
    "labels",
    "lease_ends",
    "log_lines",
    "of_kernel",
    "owner",
    "read_state",
    "remove",
]

logger = logging.getLogger("kernel_mgmt.docker")

#: The labels of a kernel's container. Whoever may use the engine can read them: no secrets.
LABEL_ID = "kernel-mgmt.id"
LABEL_TYPE = "kernel-mgmt.type"
LABEL_OWNER = "kernel-mgmt.owner"
LABEL_CREATED = "kernel-mgmt.created"
LABEL_LEASE = "kernel-mgmt.lease"
LABEL_NAME = "kernel-mgmt.name"

#: How long a container may take to be removed, in seconds.
_REMOVAL = 30.0

#: Exit codes by which an init or a shell tells that a signal ended its child: 128 and the signal.
#: Of these signals alone, for a program may exit with any number.
_FATAL = (1, 2, 3, 4, 6, 7, 8, 9, 11, 13, 15, 24, 25, 31)


@dataclass(frozen=True)
class State:
    """What the engine knows of a container.

    Attributes:
        status: ``created``, ``running``, ``paused``, ``exited``, …
        exit_code: its exit code, when it has ended.
        oom_killed: whether the system has killed a process of it for want of memory.
        error: why it could not be started; empty when it could.
        pid: its first process, as the engine's machine counts.
        memory: how much it may have, in bytes; 0 for no limit.
    """

    status: str
    exit_code: int
    oom_killed: bool
    error: str
    pid: int
    memory: int

    @property
    def ended(self) -> bool:
        """Whether it ran and does not any more."""
        return self.status in ("exited", "dead", "removing", "stopped")


def read_state(inspected: Mapping[str, Any]) -> State:
    """Read what ``GET /containers/ID/json`` gives."""
    state = inspected.get("State", {})
    return State(
        status=str(state.get("Status", "")),
        exit_code=int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error", "")),
        pid=int(state.get("Pid", 0)),
        memory=int(inspected.get("HostConfig", {}).get("Memory", 0) or 0),
    )


def exit_status(state: State) -> ExitStatus:
    """Give how a container has ended."""
    code = state.exit_code
    # A child may have been killed long before, and the kernel have gone on.
    if state.oom_killed and code in (137, -9, 9):
        limit = f": limit {_amount(state.memory)}" if state.memory else ""
        return ExitStatus(signal=9, reason=f"out of memory{limit}")
    if code - 128 in _FATAL:
        return ExitStatus(signal=code - 128)
    return ExitStatus(code=code, reason=state.error)


def _amount(size: float) -> str:
    units = ["bytes", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if size == int(size) else f"{size:.1f} {units[0]}"


# -- making -----------------------------------------------------------------------------------


def labels(
    kernel_id: str, type_id: str, lease: float, name: str = "", whose: str = ""
) -> dict[str, str]:
    """Give the labels for a kernel's container, whose owner is by default this process's."""
    given = {
        LABEL_ID: kernel_id,
        LABEL_TYPE: type_id,
        LABEL_OWNER: whose or owner(),
        LABEL_CREATED: f"{time.time():.3f}",
        LABEL_LEASE: f"{lease:.15g}",
    }
    return {**given, LABEL_NAME: name} if name else given


def lease_ends(given: Mapping[str, str]) -> float | None:
    """Give by a container's labels when its lease is over, in seconds since the epoch; None for never."""
    try:
        lease, created = float(given[LABEL_LEASE]), float(given[LABEL_CREATED])
    except (KeyError, ValueError):
        return None
    return created + lease if lease > 0 else None


def owner() -> str:
    """Give whose kernels those of this process are: a user's of a machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "user"
        if sys.platform != "win32":
            user = str(os.getuid())
    return f"{user}@{os.uname().nodename}" if hasattr(os, "uname") else user


def create(api: docker.APIClient, options: Mapping[str, Any]) -> str:
    """Make a container that does not run yet.

    Args:
        api: docker-py's client.
        options: as :func:`kernel_mgmt_docker.profile.container_options` gives them.

    Returns:
        Its id.

    Raises:
        APIError: the engine refuses.
    """
    given = dict(options)
    host_config = api.create_host_config(**given.pop("host_config"))
    return str(api.create_container(host_config=host_config, detach=True, **given)["Id"])


# -- reading ----------------------------------------------------------------------------------


def log_lines(api: docker.APIClient, container: str, lines: int) -> str:
    """Give the last lines that a container wrote; empty where the engine keeps none."""
    try:
        content = api.logs(container, stdout=True, stderr=True, tail=lines)
    except APIError:
        return ""
    text = bytes(content).decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:])


def find(api: docker.APIClient, kernel_id: str) -> Mapping[str, Any] | None:
    """Give what the engine knows of the container of a kernel; None when it has none."""
    filters = {"label": [f"{LABEL_ID}={kernel_id}"]}
    found = api.containers(all=True, filters=filters)
    # After a restart the old one may not be removed yet.
    for container in sorted(found, key=lambda entry: entry.get("Created", 0), reverse=True):
        with suppress(NotFound):
            inspected: Mapping[str, Any] = api.inspect_container(container["Id"])
            return inspected
    return None


def of_kernel(api: docker.APIClient, kernel_id: str, whose: str) -> list[str]:
    """Give the ids of all containers of a kernel, running or not.

    Args:
        api: docker-py's client.
        kernel_id: the kernel's id.
        whose: its owner: somebody else's may have the same.
    """
    filters = {"label": [f"{LABEL_ID}={kernel_id}", f"{LABEL_OWNER}={whose}"]}
    return [str(entry["Id"]) for entry in api.containers(all=True, filters=filters)]


# -- removing ---------------------------------------------------------------------------------


def remove(api: docker.APIClient, container: str) -> None:
    """Kill and remove a container with its anonymous volumes; safe to call twice.

    Args:
        api: docker-py's client.
        container: its id or name.

    Raises:
        APIError: the engine cannot.
    """
    deadline = time.monotonic() + _REMOVAL
    while True:
        try:
            api.remove_container(container, force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            # Somebody else removes it, too, or the engine was not done with it.
            if error.status_code not in (409, 500) or time.monotonic() >= deadline:
                raise
            logger.debug("Container %s is not removed yet: %s", container[:12], error)
        else:
            return
        time.sleep(0.1)


def explanation(error: APIError) -> str:
    """Give why an engine refused, in one line without a full stop."""
    text = error.explanation or str(error)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return " ".join(str(text).split()).rstrip(".")
