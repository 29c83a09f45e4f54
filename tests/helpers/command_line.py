"""The command ``kernel-mgmt`` as tests start it, and the types of the fixtures of ``tests/cli``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pseudo_terminal import PseudoTerminal

__all__ = ["COMMAND", "Distribution", "InTerminal", "Run", "Start", "WriteSpec"]

COMMAND = [sys.executable, "-m", "kernel_mgmt_cli"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]
InTerminal = Callable[..., PseudoTerminal]
Distribution = Callable[..., Path]
WriteSpec = Callable[..., Path]
