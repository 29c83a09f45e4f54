"""Loading providers: each by itself, so that a broken one costs nothing but itself."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from . import hookspecs
from .errors import ProviderError, one_line

__all__ = ["Problem", "Provider", "load_providers", "wrap_plugins"]

# What stands before the slash of a kernel type's id.
_ID = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a provider; the others go on without it.

    Attributes:
        provider: the provider's id.
        message: what is wrong and what to do, one sentence.
        distribution: the installed distribution, ``name version``, when it came from one;
            several, joined by ", ", when they offer the same id.
        kernel: name of the kernel type that is concerned, when it is one alone.
    """

    provider: str
    message: str
    distribution: str = ""
    kernel: str = ""

    @property
    def distributions(self) -> list[str]:
        """The installed distributions, one by one."""
        return self.distribution.split(", ") if self.distribution else []

    def __str__(self) -> str:
        what = f"{self.provider}/{self.kernel}" if self.kernel else self.provider
        where = f" ({self.distribution})" if self.distribution else ""
        return f"{what}{where}: {self.message}"


class Provider:
    """One loaded plugin, with a plugin manager of its own: a call reaches it and no other.

    Args:
        provider_id: the name of its entry point.
        plugin: the module or object that implements the hooks.
        distribution: ``name version`` of where it came from; may be empty.

    Raises:
        ProviderError: it implements no hook, a misspelt one, or one with unknown parameters;
            or its id cannot be one.
    """

    def __init__(self, provider_id: str, plugin: object, distribution: str = "") -> None:
        self.id = provider_id
        self.distribution = distribution
        if not _ID.fullmatch(provider_id):
            raise self._error("an id has letters, digits, '.', '_' and '-' only")
        if inspect.isclass(plugin):
            raise self._error("its entry point names a class, and must name a module or an object")
        manager = pluggy.PluginManager(hookspecs.PROJECT_NAME)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(plugin, name=provider_id)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise self._error(f"its hooks do not fit: {one_line(error)}") from error
        implemented = {
            caller.name for caller in manager.get_hookcallers(manager.get_plugin(provider_id)) or ()
        }
        if not implemented:
            raise self._error(
                "it implements no hook; decorate its functions with kernel_mgmt.hookimpl"
            )
        self.hooks: Any = manager.hook
        self.can_find = "kernel_mgmt_find_kernels" in implemented
        self.can_launch = "kernel_mgmt_launch_kernel" in implemented
        self.can_attach = "kernel_mgmt_attach_kernel" in implemented

    def _error(self, what: str) -> ProviderError:
        return ProviderError(
            f"The provider {self.id!r} cannot be used: {what}.",
            provider=self.id,
            distributions=[self.distribution] if self.distribution else [],
        )

    def __repr__(self) -> str:
        return f"<Provider {self.id} {self.distribution}>"


def load_providers(
    entries: Iterable[EntryPoint] | None = None,
) -> tuple[dict[str, Provider], list[Problem]]:
    """Load every provider that is installed in this environment.

    Args:
        entries: entry points to load instead of those of the group ``kernel_mgmt``.

    Returns:
        The providers that work by id, and what is wrong with the others.
    """
    by_id: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=hookspecs.PROJECT_NAME) if entries is None else entries:
        by_id[entry.name].append(entry)
    made: list[Provider | Problem] = []
    for provider_id, same_id in sorted(by_id.items()):
        names = [_distribution(entry) for entry in same_id]
        if len(same_id) > 1:
            message = f"{' and '.join(names)} offer the same id; uninstall all but one of them."
            made.append(Problem(provider_id, message, ", ".join(names)))
        else:
            made.append(_make_provider(provider_id, same_id[0].load, names[0]))
    return _sorted(made)


def wrap_plugins(plugins: Mapping[str, object]) -> tuple[dict[str, Provider], list[Problem]]:
    """Make providers of plugins that the caller has already.

    Args:
        plugins: a module or object that implements the hooks, by provider id.
    """
    return _sorted(
        _make_provider(provider_id, partial(plugins.__getitem__, provider_id))
        for provider_id in plugins
    )


def _make_provider(
    provider_id: str, load: Callable[[], object], distribution: str = ""
) -> Provider | Problem:
    try:
        return Provider(provider_id, load(), distribution)
    except KeyboardInterrupt:  # the user's, more likely than the module's
        raise
    except ProviderError as error:
        message = str(error)
    except BaseException as error:  # noqa: BLE001 - whatever a stranger's module raises at import
        what = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        message = f"It cannot be loaded: {what}. Install it again, with what it depends on."
    return Problem(provider_id, message, distribution)


def _sorted(made: Iterable[Provider | Problem]) -> tuple[dict[str, Provider], list[Problem]]:
    providers: dict[str, Provider] = {}
    problems: list[Problem] = []
    for one in made:
        if isinstance(one, Provider):
            providers[one.id] = one
        else:
            problems.append(one)
    return providers, problems


def _distribution(entry: EntryPoint) -> str:
    """Give name and version of where an entry point comes from; a broken install has neither."""
    if entry.dist is None:
        return entry.value
    metadata = entry.dist.metadata
    known = [metadata[key] for key in ("Name", "Version") if key in metadata]
    return " ".join(known) or entry.value
