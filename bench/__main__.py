"""The command line: ``python -m bench``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from .machine import describe
from .rows import GROUPS, QUICK, Plan
from .stage import Stage
from .table import Row, render


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure kernel-mgmt beside jupyter_client and a floor of raw pyzmq.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, metavar="NAME", help=f"of {', '.join(GROUPS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C shall not cut the cleaning up short, which takes seconds at most.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _measure(names: list[str], plan: Plan) -> list[Row]:
    rows: list[Row] = []
    with Stage() as stage:
        for name in names:
            started = time.monotonic()
            print(f"{name} …", end=" ", file=sys.stderr, flush=True)
            rows += GROUPS[name](stage, plan)
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return rows


def main() -> int:
    """Measure and print the table."""
    options = _parse()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    machine = describe()
    print(" · ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    names = [name for name in GROUPS if not options.only or name in options.only]
    try:
        rows = _measure(names, QUICK if options.quick else Plan())
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left running.", file=sys.stderr)
        return 130
    print(f"\n{render(rows)}")
    if options.json:
        content = {"machine": machine, "rows": [row.to_dict() for row in rows]}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
