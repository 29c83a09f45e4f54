"""The commands that show what is there: kernel types and providers."""

from __future__ import annotations

from typing import Any

from kernel_mgmt import KernelFinder, KernelType

from .errors import say
from .tables import write_json, write_table

__all__ = ["list_kernels", "list_providers"]


def list_kernels(*, as_json: bool) -> None:
    """Show the kernel types.

    Args:
        as_json: as an array of objects instead of a table.
    """
    finder = KernelFinder.from_entrypoints()
    kernels = finder.find_kernels()
    if as_json:
        write_json([_kernel_object(kernel) for kernel in kernels])
    elif kernels:
        write_table(
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
        write_json(providers)
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
        write_table(header[:width], [row[:width] for row in rows])
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
