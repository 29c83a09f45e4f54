"""What runs on the host of a kernel: carried there over standard input, by any Python from 3.9 on.

The tunnel runs :func:`start_command` on the host and writes :func:`agent_source` to it; from then on both
speak frames (:mod:`.frames`). Nothing is written to the host's disk for that.

- ``agent``: the program, its requests (``tasks``, ``operations``) and relayed connections (``relay``)
  around one ``loop``;
- ``starting``: kernels started, with a nanny from memory (``archives``, ``memory_import``,
  ``spawning``) or, without pyzmq, a ``plain_supervisor``;
- ``discovery``, ``kernelspecs``, ``host_paths``, ``keepers``: what there is on the host.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence
from importlib.resources import files

from .frames import CLOSE, CREDIT, DATA, EOF, FRAME, JSON, OPEN, OPENED, REFUSED, WINDOW
from .memory_import import make_program

__all__ = [
    "CLOSE",
    "CREDIT",
    "DATA",
    "EOF",
    "FRAME",
    "JSON",
    "OPEN",
    "OPENED",
    "REFUSED",
    "WINDOW",
    "agent_source",
    "start_command",
]

#: How a Python tells that it is too old. Any other error has the next one tried, too, which is how
#: shims and stubs of Pythons that are not there end.
_OLD = 99

#: Run by each Python. Without quotes, backslashes and exclamation marks: see start_command.
#: What it reads beyond the source stays in the buffer that the agent reads from.
_BOOT = (
    f"import sys; sys.version_info < (3, 9) and sys.exit({_OLD}); del sys.path[0]; "
    "source = sys.stdin.buffer; exec(source.read(int(source.readline())))"
)

#: For old Pythons too.
_VERSION = "import sys; print(sys.version.split()[0])"

#: ``-E`` and ``-s``: nothing of the user's own takes the place of a module; ``-S``: nor of an
#: environment's, whose packages may be many and slow, and the agent needs none.
_SCRIPT = (
    "for p in {pythons}; do "
    'p=$(command -v "$p") || continue; '
    '"$p" -ESs -c "{boot}" {token}; '
    "case $? in 0|12[89]|1[3-9]?|2??) exit 0;; {old}) o=$p;; esac; "
    "done; "
    'if [ "$o" ]; then v=$("$o" -c "{version}"); echo; echo "{token} old-python $v $o"; '
    'else echo; echo "{token} no-python"; fi'
)


def start_command(pythons: Sequence[str], token: str) -> str:
    """Give the command that starts the agent on the host, for its login shell whichever that is.

    The host then writes, after whatever the shell's own files print, a line ``TOKEN ok`` and frames from
    then on; or ``TOKEN no-python``; or ``TOKEN old-python VERSION PATH``.

    Args:
        pythons: absolute paths, paths below ``~/``, or names; the first from 3.9 on is taken.
        token: letters and digits that nothing else writes.

    Raises:
        ValueError: a Python's name holds control characters, or the token others than it may.
    """
    if not re.fullmatch(r"[A-Za-z0-9]+", token):
        raise ValueError(f"the token {token!r} must be letters and digits")
    script = _SCRIPT.format(
        pythons=" ".join(map(_word, pythons)) or '""',
        boot=_BOOT,
        token=token,
        old=_OLD,
        version=_VERSION,
    )
    # In single quotes sh, fish and csh alike take all characters for themselves, except for quotes,
    # backslashes before quotes and backslashes, exclamation marks and newlines: there are none.
    return f"exec /bin/sh -c '{script}'"


def _word(python: str) -> str:
    """Give a path as a word for sh that holds no character that any shell minds."""
    if re.search(r"[\x00-\x1f\x7f]", python):
        raise ValueError(f"the Python {python!r} holds control characters")
    home, rest = ("$HOME/", python[2:]) if python.startswith("~/") else ("", python)
    if re.fullmatch(r"[A-Za-z0-9/._+-]*", rest):
        return f'"{home}{rest}"'
    octal = "".join(f"\\0{byte:03o}" for byte in rest.encode("utf-8", "surrogateescape"))
    return f'"{home}$(printf %b "{octal}")"'


def agent_source() -> bytes:
    """Give what is written to the agent's standard input first: a length, and a program so long."""
    here = files(__package__)
    package = __package__.rpartition(".")[0]
    sources = {f"{package}.": "", f"{__package__}.": ""}
    for file in here.iterdir():
        if file.name.endswith(".py") and file.name != "__init__.py":
            sources[f"{__package__}.{file.name[: -len('.py')]}"] = file.read_text("utf-8")
    # How a process is told from a later one: the one thing of the core that the agent needs.
    identity = files("kernel_mgmt.process").joinpath("identity.py").read_text("utf-8")
    sources |= {"kernel_mgmt.": "", "kernel_mgmt.process.": ""}
    sources["kernel_mgmt.process.identity"] = identity
    program = make_program(
        sources[f"{__package__}.memory_import"],
        dict(sorted(sources.items())),
        f"{__package__}.agent",
    )
    # A slow line takes longer to carry it than the host to unpack it.
    packed = base64.b85encode(zlib.compress(program, 9)).decode("ascii")
    text = f'import base64, zlib; exec(zlib.decompress(base64.b85decode("{packed}")))'
    return b"%d\n" % len(text) + text.encode()
