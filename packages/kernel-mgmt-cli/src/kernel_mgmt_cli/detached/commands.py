"""What can be typed about kernels that run on, and what it means."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import CommandError
from ..options import TYPE_HELP, AsJson, Cwd, Env, ImageMode, Images, Others, Param, Timeout

__all__ = ["add_detached_commands"]

_ID_HELP = "The kernel: its id, a beginning of the id, or its name; 'kernel-mgmt ps' shows them."

_START_EPILOG = """Exit code: 0 when the kernel answers. 2 for wrong usage; 125 when it could not be
started. 129, 130 and 143 when SIGHUP, Ctrl-C or SIGTERM ended the launch, which leaves nothing."""

_ATTACH_EPILOG = """Exit code: 0 when you left. 2 for wrong usage; 125 when the kernel is not there or
does not answer, 126 when it ended. 129, 130, 131 and 143 for SIGHUP, Ctrl-C before the console is
there, Ctrl-\\ and SIGTERM; the kernel runs on."""

_LOGS_EPILOG = """Exit code: 0, with -f when the kernel was stopped; 125 when there is no such kernel
or no log. 130 for Ctrl-C, 141 when nobody reads the output any more."""

_EXPORT_EPILOG = """Exit code: 0; 2 for wrong usage, also when FILE is there already; 125 when there is
no such kernel, no journal of it, or FILE cannot be written. 130 for Ctrl-C, 141 when nobody reads
standard output any more."""

_ACTION_EPILOG = """Exit code: 0 when it is done; 2 for wrong usage; 125 when it could not be done, for
one kernel at least; 126 when the kernel is dead."""


Id = Annotated[str, typer.Argument(metavar="ID", help=_ID_HELP)]


def add_detached_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("start", epilog=_START_EPILOG)(_start)
    app.command("ps")(_ps)
    app.command("attach", epilog=_ATTACH_EPILOG)(_attach)
    app.command("logs", epilog=_LOGS_EPILOG)(_logs)
    app.command("export", epilog=_EXPORT_EPILOG)(_export)
    app.command("interrupt", epilog=_ACTION_EPILOG)(_interrupt)
    app.command("restart", epilog=_ACTION_EPILOG)(_restart)
    app.command("stop", epilog=_ACTION_EPILOG)(_stop)
    app.command("gc")(_gc)


def _start(
    type_id: Annotated[str, typer.Argument(metavar="TYPE", help=TYPE_HELP)],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What the kernel is called, beside its id.")
    ] = "",
    cwd: Cwd = None,
    env: Env = None,
    param: Param = None,
    timeout: Timeout = 60,
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="Do not start the kernel again when it dies.")
    ] = False,
    lease: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Stop the kernel after so long, unless a program renews the lease.",
        ),
    ] = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Stop the kernel when it has run nothing, and heard nothing, for so long.",
        ),
    ] = None,
    unattended_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Stop the kernel, whatever it runs, when nothing has been attached for so long.",
        ),
    ] = None,
    journal_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How much of what the kernel says is kept on disk: bytes, or as in 256M, which is "
            "the default; with 0 the last is kept in memory alone.",
        ),
    ] = None,
    no_journal: Annotated[
        bool,
        typer.Option(
            "--no-journal",
            help="Keep nothing of what the kernel says; what it says when nobody is there is lost.",
        ),
    ] = False,
) -> None:
    """Start a kernel that runs on, and print its id.

    It survives this command, the terminal and the session, and is started again when it dies, until
    'kernel-mgmt stop' ends it.
    """
    from ..quantities import read_size
    from ..source import read_assignments, read_parameters

    environment = read_assignments("--env", env or ())
    parameters = read_parameters("--param", param or ())
    for option, seconds in (
        ("--lease", lease),
        ("--idle-timeout", idle_timeout),
        ("--unattended-timeout", unattended_timeout),
    ):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise CommandError(
                f"{option} {seconds:g} is no time to wait; give a positive number of seconds."
            )

    journal: dict[str, int | None] = {}  # or else core's default
    if no_journal and journal_limit is not None:
        raise CommandError("there is both --journal-limit and --no-journal; give one of them.")
    if no_journal:
        journal["journal_limit"] = None
    elif journal_limit is not None:
        journal["journal_limit"] = read_size("--journal-limit", journal_limit)

    from .starting import start

    start(
        type_id,
        name=name,
        restarts=not no_restart,
        cwd=cwd,
        env=environment,
        launch_params=parameters,
        lease=lease,
        idle_timeout=idle_timeout,
        unattended_timeout=unattended_timeout,
        startup_timeout=timeout,
        **journal,
    )


def _ps(as_json: AsJson = False) -> None:
    """List the kernels that run on, and what they are doing.

    Memory and CPU are those of the kernel and its children. A kernel is starting, idle, busy,
    restarting, stopping or dead; "no answer" when it is there and silent, "remote" when it is reached
    over a network, and was not asked, "elsewhere" when it was started on another machine that shares
    this directory, "running" when only its record tells of it.
    """
    from .ps import list_running

    list_running(as_json=as_json)


def _attach(
    kernel: Id,
    others: Others = False,
    images: Images = ImageMode.AUTO,
    timeout: Timeout = 60,
    everything: Annotated[
        bool,
        typer.Option("--all", help="First show all that was kept of what the kernel has said."),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="First show what the kernel has said in the last TIME: 90s, 10m, 2h or 3d.",
        ),
    ] = None,
) -> None:
    """Show what a kernel that runs on has said since somebody last read, and talk to it.

    That is a console, line by line; the kernel is left running. Where there is no terminal, show
    the kernel's state and the last of its log instead of the console.
    """
    from ..quantities import read_duration
    from .attaching import attach
    from .past import Wanted

    if everything and since is not None:
        raise CommandError("there is both --all and --since; give one of them.")
    seconds = None if since is None else read_duration("--since", since)
    sys.exit(
        attach(
            kernel,
            wanted=Wanted(everything, seconds),
            others=others,
            images=images.value,
            startup_timeout=timeout,
        )
    )


def _logs(
    kernel: Id,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with what comes, until the kernel is stopped."),
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            "-n",
            metavar="N",
            min=0,
            max=2**31 - 1,
            help="Only the last N lines of what is kept.",
        ),
    ] = None,
) -> None:
    """Show the log of a kernel that runs on.

    It is what the kernel's process has written to its own standard output and error: messages of
    the kernel, and what code prints past it. The last of it is kept.
    """
    from .logs import show_logs

    show_logs(kernel, lines=lines, follow=follow)


def _export(
    kernel: Id,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="The notebook; - is standard output."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE when it is there already.")
    ] = False,
) -> None:
    """Make a notebook of what ran in a kernel that runs on, and of what it put out.

    That is all that its journal has kept, whoever ran it; also when the kernel is busy, or its nanny
    was killed less than a day ago: then by its id.
    """
    from .exporting import export

    export(kernel, output, force=force)


def _interrupt(kernel: Id) -> None:
    """Interrupt what a kernel runs, as Ctrl-C would."""
    from .acting import interrupt

    interrupt(kernel)


def _restart(
    kernel: Id,
    grace: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long it may take to end by itself."),
    ] = 0,
) -> None:
    """Start a kernel anew, and wait until it answers.

    What it had in memory is lost; its address stays, and who is connected stays connected.
    """
    from .acting import restart

    restart(kernel, grace=grace)


def _stop(
    kernels: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help=_ID_HELP, show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that run on this machine, and none of others.")
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="How long each may take to end before it is killed."
        ),
    ] = 5,
) -> None:
    """Stop kernels, and remove all that belongs to them."""
    if bool(kernels) == everything:
        what = "neither an ID nor" if everything is False else "both an ID and"
        raise CommandError(f"there is {what} --all; give one of them.")

    from .stopping import stop

    sys.exit(stop(kernels, grace=grace))


def _gc() -> None:
    """Remove what dead kernels have left behind.

    Nothing that is alive, or on another machine, is touched, but for containers whose lease is over.
    """
    from .stopping import collect

    collect()
