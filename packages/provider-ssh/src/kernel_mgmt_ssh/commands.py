"""``kernel-mgmt ssh``: what another machine could run.

Imported by kernel-mgmt-cli alone, whenever that runs: so what is slow is imported in the functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from kernel_mgmt_cli.plugins import hookimpl

if TYPE_CHECKING:
    from .config import SshKernel
    from .errors import SshError

__all__ = ["discover", "kernel_mgmt_cli_commands"]

#: What is told of a kernel and belongs into the configuration.
_KEYS = ("argv", "kernelspec", "env", "language", "display_name", "python", "interrupt_mode")


@hookimpl
def kernel_mgmt_cli_commands(app: typer.Typer) -> None:
    """Add ``kernel-mgmt ssh``."""
    group = typer.Typer(help="Kernels on other machines.", no_args_is_help=True)
    group.command()(discover)
    app.add_typer(group, name="ssh")


def discover(
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="An alias of ~/.ssh/config, or a name.")
    ],
    ssh_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another file than ~/.ssh/config.")
    ] = None,
    identity_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A private key to log in with.")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Write them to your ssh_kernels.toml.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only the kernel of this name; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a host could run: its kernelspecs, and ipykernel in its Pythons."""
    from kernel_mgmt_cli.errors import KERNEL_MGMT_FAILED, CommandError, say
    from kernel_mgmt_cli.tables import write_json, write_table

    from .errors import SshError

    try:
        config, key = _file("--ssh-config", ssh_config), _file("--identity-file", identity_file)
        found = _ask(host, config, key)
        kernels = _chosen(host, found["kernels"], name or [])
        if as_json:
            write_json(kernels)
        elif kernels and not add:
            rows = [
                [kernel["name"], kernel["origin"], kernel["display_name"]] for kernel in kernels
            ]
            write_table(["name", "origin", "display name"], rows)
        for problem in found["problems"]:
            say("warning", problem)
        if not kernels:
            say("hint", f"there is nothing that {host} could run; install ipykernel there")
        elif add:
            _add(host, kernels, config, key)
    except SshError as error:
        raise CommandError(_told(error), KERNEL_MGMT_FAILED) from error


def _file(option: str, path: Path | None) -> Path | None:
    from kernel_mgmt_cli.errors import CommandError

    if path is None:
        return None
    path = path.expanduser().absolute()
    if not path.is_file():
        raise CommandError(f"{option}: there is no file {str(path)!r}.")
    return path


def _told(error: SshError) -> str:
    """Give an error as what the user reads; nothing was to be launched."""
    sentence = f"{error.cause} {error.advice}".rstrip()
    lines = [f"  | {line}" for line in error.log_tail.splitlines()]
    return "\n".join([sentence, *(["It wrote:", *lines] if lines else [])])


def _ask(host: str, ssh_config: Path | None, identity_file: Path | None) -> dict[str, Any]:
    """Ask a host what it could run; signals end that, and the user sees how far it is."""
    from kernel_mgmt import LaunchProgress, Prompt
    from kernel_mgmt_cli.errors import KERNEL_MGMT_FAILED, CommandError
    from kernel_mgmt_cli.followed import FollowedWork
    from kernel_mgmt_cli.progress import LaunchDisplay
    from kernel_mgmt_cli.signals import Signals

    from .connection import close_idle_connections, open_connection

    with Signals() as signals, LaunchDisplay() as display:
        work: FollowedWork[dict[str, Any]] = FollowedWork(signals, display)
        answer = work.launch_hooks()["on_prompt"]

        def tell(message: str) -> None:
            work.show_progress(LaunchProgress("connect", message))

        async def ask_user(message: str, secret: bool) -> str:
            asked = f"{message.strip().rstrip(':')!r} is asked for {host}"
            if answer is None:
                raise CommandError(
                    f"{asked}, and there is no terminal to answer at; run the command in one, or have "
                    "an agent hold the key (ssh-add).",
                    KERNEL_MGMT_FAILED,
                )
            try:
                return str(await answer(Prompt(message, secret)))
            except EOFError:
                raise CommandError(f"{asked}, and got no answer.", KERNEL_MGMT_FAILED) from None

        async def ask_host() -> dict[str, Any]:
            tell(f"Connecting to {host}")
            async with await open_connection(
                host, ssh_config=ssh_config, identity_file=identity_file, ask=ask_user, tell=tell
            ) as connection:
                tell(f"Looking what {host} could run")
                found = await connection.request("discover")
            await close_idle_connections()
            return found

        work.start(ask_host)
        try:
            return work.follow()
        except BaseException:
            work.stop()
            raise


def _chosen(
    host: str, kernels: Sequence[Mapping[str, Any]], wanted: Sequence[str]
) -> list[dict[str, Any]]:
    """Give the kernels that are asked for, under the names that they would get."""
    from kernel_mgmt_cli.errors import CommandError

    prefix = re.sub(r"[^A-Za-z0-9._-]+", "-", host.rpartition("@")[2]).strip("-")
    named = [{**kernel, "name": f"{prefix}-{kernel['name']}"} for kernel in kernels]
    missing = set(wanted).difference(kernel["name"] for kernel in named)
    if missing:
        there = ", ".join(kernel["name"] for kernel in named) or "nothing"
        raise CommandError(f"{host} has no {', '.join(sorted(missing))}; it has {there}.")
    return [kernel for kernel in named if not wanted or kernel["name"] in wanted]


def _add(
    host: str,
    kernels: Sequence[Mapping[str, Any]],
    ssh_config: Path | None,
    identity_file: Path | None,
) -> None:
    """Write kernels to the configuration that are not there yet."""
    from kernel_mgmt_cli.errors import say
    from kernel_mgmt_cli.tables import write_line

    from .config import add_kernels, read_config

    known = {kernel.name for kernel in read_config()}
    new = [
        _configured(host, kernel, ssh_config, identity_file)
        for kernel in kernels
        if kernel["name"] not in known
    ]
    for kernel in kernels:
        if kernel["name"] in known:
            say("warning", f"{kernel['name']} is left out: there is a kernel of this name already.")
    if new:
        path = add_kernels(new)
        for added in new:
            write_line(f"ssh/{added.name}")
        say("hint", f"they are in {path}")


def _configured(
    host: str, kernel: Mapping[str, Any], ssh_config: Path | None, identity_file: Path | None
) -> SshKernel:
    from .config import SshKernel

    table = {key: kernel[key] for key in (*_KEYS, "transport") if kernel.get(key)}
    # Beside those of this machine, which may be called the same.
    table["display_name"] = f"{kernel['display_name']} on {host}"
    if ssh_config is not None:
        table["ssh_config"] = str(ssh_config)
    if identity_file is not None:
        table["identity_file"] = str(identity_file)
    return SshKernel.from_dict({"name": kernel["name"], "host": host, **table})
