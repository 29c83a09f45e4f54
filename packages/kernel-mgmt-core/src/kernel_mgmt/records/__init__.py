"""Records of running kernels: a file for each, by which any process of its user finds it again.

They are in ``kernel-mgmt/`` of Jupyter's data directory.  Whoever keeps a kernel writes its record
before the kernel runs, and removes it last.  A record holds the kernel's key, so nobody else can read
it.  Readers are tolerant: a file that cannot be used costs itself only.

- ``files``: one record, written and read;
- ``listing``: all of them, one of them by what the user calls it, and whether it is alive;
- ``leftovers``: what dead kernels have left is removed.

Travels with the nanny: only the standard library is imported, and jupyter_core where Jupyter's
directories are asked for.
"""

from .files import (
    RECORD_FORMAT,
    BadRecord,
    journal_directory,
    read_record,
    record_path,
    remove_record,
    write_record,
)
from .leftovers import gc
from .listing import (
    ALIVE,
    DEAD,
    ELSEWHERE,
    find_record,
    has_ended,
    is_dead,
    read_records,
    record_state,
    records_dir,
)

__all__ = [
    "ALIVE",
    "DEAD",
    "ELSEWHERE",
    "RECORD_FORMAT",
    "BadRecord",
    "find_record",
    "gc",
    "has_ended",
    "is_dead",
    "journal_directory",
    "read_record",
    "read_records",
    "record_path",
    "record_state",
    "records_dir",
    "remove_record",
    "write_record",
]
