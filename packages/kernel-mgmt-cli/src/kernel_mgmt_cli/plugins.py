"""Subcommands of other distributions.

A distribution that adds some has an entry point in the group ``kernel_mgmt_cli``, whose name is
for messages only, and implements the one hook::

    # pyproject.toml
    [project.entry-points.kernel_mgmt_cli]
    moon = "kernel_mgmt_moon.commands"

    # kernel_mgmt_moon/commands.py
    import typer
    from kernel_mgmt_cli.plugins import hookimpl

    @hookimpl
    def kernel_mgmt_cli_commands(app: typer.Typer) -> None:
        app.command()(moonrise)          # kernel-mgmt moonrise

    def moonrise() -> None:
        '''Tell when the moon rises.'''

The module is imported whenever ``kernel-mgmt`` runs, so it imports what is slow in its functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import pluggy
import typer

__all__ = ["PROJECT_NAME", "add_commands", "hookimpl", "hookspec"]

#: pluggy's project name, and the group of the entry points.
PROJECT_NAME = "kernel_mgmt_cli"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class Hooks:
    """What a plugin can implement."""

    @hookspec
    def kernel_mgmt_cli_commands(self, app: typer.Typer) -> None:
        """Add commands, or groups of commands, to ``kernel-mgmt``.

        Args:
            app: to be given them with ``app.command()`` and ``app.add_typer()``; it holds no
                others, and commands under names that are taken are left out.

        .. versionadded:: 0.1
        """


def add_commands(app: typer.Typer, entries: Iterable[EntryPoint] | None = None) -> list[str]:
    """Add every plugin's commands to the app.

    Args:
        app: the command line.
        entries: entry points to load instead of those of the group ``kernel_mgmt_cli``.

    Returns:
        For each plugin that had to be left out, a sentence that says why.
    """
    problems = []
    found = entry_points(group=PROJECT_NAME) if entries is None else entries
    for entry in sorted(found, key=lambda entry: entry.name):
        whose = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            _merge(app, _commands_of(entry))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code must cost itself only
            why = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            problems.append(f"The commands of {whose} are left out: {why}.")
    return problems


def _commands_of(entry: EntryPoint) -> typer.Typer:
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(Hooks)
    manager.register(entry.load())
    manager.check_pending()
    if not manager.hook.kernel_mgmt_cli_commands.get_hookimpls():
        raise ValueError("it implements no hook; decorate its function with hookimpl")
    commands = typer.Typer()
    manager.hook.kernel_mgmt_cli_commands(app=commands)
    return commands


def _merge(app: typer.Typer, commands: typer.Typer) -> None:
    # Building them here shows what is wrong with their signatures while we know whose they are.
    taken = set(_names(app)).intersection(_names(commands))
    if taken:
        raise ValueError(f"the command {' and '.join(sorted(taken))} exists already")
    app.registered_commands += commands.registered_commands
    app.registered_groups += commands.registered_groups


def _names(app: typer.Typer) -> Iterable[str]:
    return typer.main.get_group(app).commands
