"""The command line: what can be typed, and what it means."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .detached.commands import add_detached_commands
from .errors import INTERRUPTED, NOBODY_READS, CommandError, LogToUser, say
from .options import (
    TYPE_HELP,
    AsJson,
    Cwd,
    Env,
    ImageMode,
    Images,
    Others,
    Param,
    Timeout,
)
from .plugins import add_commands

__all__ = ["make_app"]

_RUN_EPILOG = """Exit code: 0 when the code ended well, 1 when an error ended it, and N when it
called sys.exit(N). 2 for wrong usage; 125 when the kernel could not be launched, 126 when it died.
130 for Ctrl-C, 129 and 143 for SIGHUP and SIGTERM, 141 when nobody reads the output any more."""

_CONSOLE_EPILOG = """Exit code: 0 when you left. 2 for wrong usage; 125 when the kernel could not be
launched or does not answer, 126 when it is gone for good. 129, 130, 131 and 143 when SIGHUP, Ctrl-C
during the launch, Ctrl-\\ and SIGTERM ended it."""


class _Commands(TyperGroup):
    """All commands; typer would give its own exit codes to what ends them early."""

    def invoke(self, ctx: Any) -> Any:  # the type's name depends on the version of typer
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.exit(NOBODY_READS)


def make_app() -> typer.Typer:
    """Make the command line, with the commands of all distributions that add some."""
    app = typer.Typer(
        cls=_Commands,
        help="Jupyter kernels at a terminal: find them, run code in them, and keep them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: rich would double the time that it takes
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_main)
    app.command("list")(_list)
    app.command("run", epilog=_RUN_EPILOG)(_run)
    app.command("console", epilog=_CONSOLE_EPILOG)(_console)
    add_detached_commands(app)
    app.command("providers")(_providers)
    for problem in add_commands(app):
        say("warning", problem)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kernel-mgmt {__version__}")
        raise typer.Exit


def _main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Log what happens to standard error, and show tracebacks."
        ),
    ] = False,
) -> None:
    logging.getLogger().addHandler(LogToUser(verbose=verbose))
    if verbose:
        logging.getLogger("kernel_mgmt").setLevel(logging.DEBUG)


def _list(as_json: AsJson = False) -> None:
    """List the kernel types that can be launched."""
    from .listing import list_kernels

    list_kernels(as_json=as_json)


def _providers(as_json: AsJson = False) -> None:
    """List the providers of kernels, and what is wrong with them."""
    from .listing import list_providers

    list_providers(as_json=as_json)


def _run(
    ctx: typer.Context,
    type_id: Annotated[str | None, typer.Argument(metavar="TYPE", help=TYPE_HELP)] = None,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="The code's file; - is standard input."),
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", "-c", metavar="CODE", help="The code itself.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ID",
            help="In place of TYPE: a kernel that runs on, which is left running.",
        ),
    ] = None,
    cwd: Cwd = None,
    env: Env = None,
    param: Param = None,
    timeout: Timeout = 60,
) -> None:
    """Run code in a new kernel, show its output as it comes, and stop the kernel.

    Standard input is the code's. Ctrl-C interrupts it; a second Ctrl-C stops the kernel at once.
    With --on ID the code runs in a kernel that was there before: a second Ctrl-C leaves it alone.
    """
    from .source import STDIN, read_assignments, read_code, read_parameters

    if on is not None:
        if file is not None:
            raise CommandError("there is both a TYPE and --on ID; give one of them.")
        type_id, file = None, type_id  # the only word is the FILE
    elif type_id is None:
        ctx.fail("Missing argument 'TYPE'.")
    source = read_code(file, code)
    environment = read_assignments("--env", env or ())
    parameters = read_parameters("--param", param or ())
    options: dict[str, Any] = {"startup_timeout": timeout, "no_input": file == STDIN}
    launch_options = {"cwd": cwd, "env": environment, "launch_params": parameters}
    if on is None:
        options |= launch_options
    else:
        _refuse_launch_options("--on", launch_options)

    from .running import run_code, run_code_on

    if on is not None:
        sys.exit(run_code_on(on, source, **options))
    assert type_id is not None
    sys.exit(run_code(type_id, source, **options))


def _refuse_launch_options(option: str, given: dict[str, Any]) -> None:
    if any(given.values()):
        raise CommandError(
            f"--cwd, --env and --param are for a kernel that is launched, and with {option} none "
            "is; leave them out."
        )


def _console(
    type_id: Annotated[str | None, typer.Argument(metavar="TYPE", help=TYPE_HELP)] = None,
    existing: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Use a kernel that runs already: its connection file, or a part of the file's "
            "name in Jupyter's runtime directory; of several the newest.",
        ),
    ] = None,
    cwd: Cwd = None,
    env: Env = None,
    param: Param = None,
    timeout: Timeout = 60,
    others: Others = False,
    images: Images = ImageMode.AUTO,
) -> None:
    """Talk to a kernel, line by line.

    The kernel is a new one, which ends with the console and is started again when it dies; or, with
    --existing, one that runs already and lives on.
    """
    from .source import read_assignments, read_parameters

    environment = read_assignments("--env", env or ())
    parameters = read_parameters("--param", param or ())
    if (type_id is None) == (existing is None):
        what = "neither a TYPE nor" if type_id is None else "both a TYPE and"
        raise CommandError(f"there is {what} --existing FILE; give one of them.")
    options: dict[str, Any] = {"startup_timeout": timeout}
    launch_options = {"cwd": cwd, "env": environment, "launch_params": parameters}
    if existing is None:
        options |= launch_options
    else:
        _refuse_launch_options("--existing", launch_options)

    from .consoles import open_console

    sys.exit(
        open_console(
            type_id=type_id, existing=existing, others=others, images=images.value, **options
        )
    )
