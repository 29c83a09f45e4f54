"""The commands that show what is there: kernel types and providers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from kernel_mgmt import KernelFinder, KernelType

from .errors import say, wants_colour

__all__ = ["list_kernels", "list_providers"]


def list_kernels(*, as_json: bool) -> None:
    """Show the kernel types.

    Args:
        as_json: as an array of objects instead of a table.
    """
    finder = KernelFinder.from_entrypoints()
    kernels = finder.find_kernels()
    if as_json:
        _write_json([_kernel_object(kernel) for kernel in kernels])
    elif kernels:
        _write_table(
            ["id", "language", "display name"],
            [[kernel.id, kernel.language, kernel.display_name] for kernel in kernels],
        )
    if finder.problems:
        whose = ", ".join(dict.fromkeys(problem.provider for problem in finder.problems))
        say(
            "warning",
            f"something may be missing, because of problems with {whose}; "
            "'kernel-mgmt providers' tells what they are.",
        )
    elif not kernels:
        say("hint", "there are no kernels; install a provider: pip install kernel-mgmt-native")


def _kernel_object(kernel: KernelType) -> dict[str, Any]:
    return {
        "id": kernel.id,
        "name": kernel.name,
        "display_name": kernel.display_name,
        "language": kernel.language,
        "provider": kernel.provider,
        "interrupt_mode": kernel.interrupt_mode,
        "resource_dir": None if kernel.resource_dir is None else str(kernel.resource_dir),
        "metadata": dict(kernel.metadata),
    }


def list_providers(*, as_json: bool) -> None:
    """Show the providers, where they come from, and what is wrong with them.

    Args:
        as_json: as an array of objects instead of a table.
    """
    providers = _provider_objects()
    if as_json:
        _write_json(providers)
    elif providers:
        header = ["id", "distribution", "kernels", "problem"]
        rows = [
            [
                provider["id"],
                provider["distribution"],
                str(provider["kernels"]) if provider["loaded"] else "-",
                " ".join(provider["problems"]),
            ]
            for provider in providers
        ]
        width = len(header) if any(row[-1] for row in rows) else len(header) - 1
        _write_table(header[:width], [row[:width] for row in rows])
    else:
        say("hint", "there are no providers; install one: pip install kernel-mgmt-native")


def _provider_objects() -> list[dict[str, Any]]:
    finder = KernelFinder.from_entrypoints()
    kernels = finder.find_kernels()
    found: dict[str, dict[str, Any]] = {
        provider.id: {
            "id": provider.id,
            "distribution": provider.distribution,
            "loaded": True,
            "can_launch": provider.can_launch,
            "can_attach": provider.can_attach,
            "kernels": sum(kernel.provider == provider.id for kernel in kernels),
            "problems": [],
        }
        for provider in finder.providers.values()
    }
    for problem in finder.problems:
        entry = found.setdefault(
            problem.provider,
            {
                "id": problem.provider,
                "distribution": problem.distribution,
                "loaded": False,
                "can_launch": False,
                "can_attach": False,
                "kernels": 0,
                "problems": [],
            },
        )
        entry["problems"].append(problem.message)
    return [found[provider_id] for provider_id in sorted(found)]


def _write_json(value: Any) -> None:
    if sys.stdout is not None:
        # What a provider's metadata hold that JSON does not know is shown as Python shows it.
        sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def _write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write aligned columns, the longest last; no line is broken, whatever reads it."""
    if sys.stdout is None:
        return
    cells = [[_printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    title, *lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    sys.stdout.write(f"\x1b[1m{title}\x1b[0m\n" if wants_colour(sys.stdout) else f"{title}\n")
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _printable(text: str) -> str:
    """Give one line that does nothing to a terminal but show itself."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())
    )
