"""What the tests of the command share: starting it, and kernels and distributions made for them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, Distribution, InTerminal, Kept, Ps, Run, Start, WriteSpec
from pseudo_terminal import PseudoTerminal

# A provider of echo kernels whose launches wait for a file, asking and reporting what they are
# told to through launch parameters.
_GATED_PROVIDER = """
import asyncio, os
from dataclasses import replace
from kernel_mgmt import KernelType, hookimpl
from kernel_mgmt.testing import EchoProvider

echo = EchoProvider()

@hookimpl
def kernel_mgmt_find_kernels():
    return [KernelType("echo", display_name="Gated [bold]echo[/bold]", language="echo")]

@hookimpl
def kernel_mgmt_launch_kernel(request):
    return launch(request)

async def launch(request):
    params = request.launch_params
    if "ask" in params:
        answer = await request.prompt(params["ask"], secret=params.get("secret", False))
        request = replace(request, env={**request.env, "ANSWER": answer})
    request.progress("pull", params.get("message", "Waiting"), params.get("fraction"))
    if "started" in params:
        open(params["started"], "w").close()
    while "gate" in params and not os.path.exists(params["gate"]):
        await asyncio.sleep(0.01)
    return await echo.kernel_mgmt_launch_kernel(replace(request, launch_params={}))
"""


@pytest.fixture
def run() -> Run:
    """Runs the command to its end, without a terminal; text goes to its standard input."""

    def run(*arguments: str, text: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # without a controlling terminal, whatever the tests have
            **options,
        )

    return run


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command with pipes around it."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                **{
                    "stdin": subprocess.PIPE,
                    "stdout": subprocess.PIPE,
                    "stderr": subprocess.PIPE,
                    "start_new_session": True,
                    **options,
                },
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def in_terminal() -> Iterator[InTerminal]:
    """Starts the command in a pseudo-terminal."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            PseudoTerminal([*COMMAND, *arguments], **options)
        )


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Gives this process's signals back as they were."""
    before = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    yield
    for signum, handler in before.items():
        if handler is not None and signal.getsignal(signum) != handler:
            signal.signal(signum, handler)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    """Installs a distribution: its name, an entry point's group and name, and its module's code."""
    site = tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", str(site))

    def install(name: str, group: str, entry: str, code: str) -> Path:
        module = name.replace("-", "_")
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry} = {module}\n")
        (site / f"{module}.py").write_text(code)
        return site

    return install


@pytest.fixture
def write_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteSpec:
    """Writes a kernelspec: its name, its argv, and further fields of kernel.json."""
    path = tmp_path / "jupyter"
    monkeypatch.setenv("JUPYTER_PATH", str(path))

    def write(name: str, argv: Any, **fields: Any) -> Path:
        directory = path / "kernels" / name
        directory.mkdir(parents=True)
        (directory / "kernel.json").write_text(json.dumps({"argv": argv, **fields}))
        return directory

    return write


@pytest.fixture
def echo(write_spec: WriteSpec) -> str:
    """The id of a kernelspec of the echo kernel."""
    module = "kernel_mgmt.testing.echo_kernel"
    write_spec("echo", [sys.executable, "-m", module, "-f", "{connection_file}"], language="echo")
    return "spec/echo"


@pytest.fixture
def gated(distribution: Distribution) -> str:
    """The id of a kernel type whose launch makes the file ``started`` and waits for ``gate``."""
    distribution("kernel-mgmt-gated", "kernel_mgmt", "gated", _GATED_PROVIDER)
    return "gated/echo"


@pytest.fixture
def console(in_terminal: InTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InTerminal:
    """Starts ``kernel-mgmt console`` in a pseudo-terminal, with a history of the test's own."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return lambda *arguments, **options: in_terminal("console", *arguments, **options)


# -- kernels that run on -----------------------------------------------------------------------


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[Path]:
    """The directory of the records, of the test's own; what still runs at its end is stopped."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    directory = tmp_path / "data" / "kernel-mgmt"
    yield directory
    if [*directory.glob("kernel-*")]:
        run("stop", "--all", "--grace", "0")
        run("gc")


@pytest.fixture
def kept(records: Path, run: Run, echo: str) -> Kept:
    """Starts an echo kernel that runs on, with the options of ``start``; gives its id."""

    def start(*options: str) -> str:
        result = run("start", echo, *options)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.removesuffix("\n")

    return start


@pytest.fixture
def ps(run: Run, records: Path) -> Ps:
    """Gives what ``ps --json`` tells."""
    return lambda: json.loads(run("ps", "--json").stdout)
