"""Removing containers whose stand-in is gone, and with it the process that should have removed them.

So it is when a machine goes down.  Who launches the next kernel removes what is left.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import docker
from docker.errors import DockerException
from kernel_mgmt.machine import (
    is_process,
    process_identity,
    same_boot,
    same_machine,
    this_machine,
)

from .containers import LABEL_OWNER, remove

__all__ = ["LABEL_KEEPER", "keeper", "remove_orphans"]

logger = logging.getLogger("kernel_mgmt.docker")

#: Which process a container goes with, as JSON.
LABEL_KEEPER = "kernel-mgmt.keeper"


def keeper() -> str:
    """Give the label's value for a container that goes with this process."""
    pid = os.getpid()
    return json.dumps({"pid": pid, "identity": process_identity(pid), "machine": this_machine()})


def remove_orphans(api: docker.APIClient, whose: str) -> None:
    """Remove the containers of an owner that went with processes of this machine, and those are gone.

    Args:
        api: docker-py's client.
        whose: the owner; those of others are left alone.
    """
    filters = {"label": [LABEL_KEEPER, f"{LABEL_OWNER}={whose}"]}
    try:
        for entry in api.containers(all=True, filters=filters):
            if _is_orphan(entry.get("Labels") or {}):
                logger.info("Removing container %s, whose keeper is gone.", entry["Id"][:12])
                remove(api, entry["Id"])
    except DockerException as error:
        logger.info("It is not known which containers are left over: %s", error)


def _is_orphan(labels: Mapping[str, Any]) -> bool:
    """Tell whether it is certain that nobody keeps a container any more."""
    try:
        kept = json.loads(labels[LABEL_KEEPER])
        pid, identity, machine = kept["pid"], kept["identity"], kept["machine"]
        if type(pid) is not int or not same_machine(machine):
            return False
        return not (same_boot(machine) and is_process(pid, identity))
    except (ValueError, TypeError, KeyError, AttributeError):  # another version's
        return False
