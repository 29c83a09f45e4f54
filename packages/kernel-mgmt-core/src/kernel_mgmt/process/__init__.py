"""A kernel's process on this machine: its group, its output, its end.

How processes differ between operating systems is in this package and nowhere else:

- ``kernel_process``: what is the same everywhere;
- ``posix`` and ``windows``: the process and all its descendants, as one thing to signal and to end;
- ``watch``: how its output and its end are noticed, by the background loop or by threads;
- ``identity``: how any process is told from a later one with its number.
"""

from .identity import is_process, process_identity
from .kernel_process import RING_SIZE, KernelProcess, OutputHandler

__all__ = ["RING_SIZE", "KernelProcess", "OutputHandler", "is_process", "process_identity"]
