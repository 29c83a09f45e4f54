"""The command ``kernel-mgmt`` as tests start it, and the types of the fixtures of ``tests/cli``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pseudo_terminal import PseudoTerminal

__all__ = ["COMMAND", "Distribution", "InTerminal", "Kept", "Ps", "Run", "Start", "WriteSpec"]

COMMAND = [sys.executable, "-m", "kernel_mgmt_cli"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]
InTerminal = Callable[..., PseudoTerminal]
Distribution = Callable[..., Path]
WriteSpec = Callable[..., Path]
Kept = Callable[..., str]
Ps = Callable[[], list[dict[str, Any]]]
