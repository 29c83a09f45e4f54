"""From a kernelspec to a process: its command, its environment, its transport, its failures."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import ConnectionInfo, KernelFinder, KernelType, LaunchError

# Tells what it was started with, and ends: a launch of it fails, which is looked at elsewhere.
TELL = """\
import json, os, sys
with open(os.environ["TELL"], "w") as file:
    json.dump([sys.executable, sys.argv[1:], dict(os.environ), os.getcwd()], file)
"""

ECHO = ["python", "-m", "kernel_mgmt.testing.echo_kernel", "-f", "{connection_file}"]


@pytest.fixture
def tell(finder: KernelFinder, tmp_path: Path) -> Any:
    """Launches a kernelspec whose kernel only tells what it was started with."""
    file = tmp_path / "told.json"

    async def launch(type_id: str, **kwargs: Any) -> Any:
        kwargs["env"] = {**kwargs.get("env", {}), "TELL": str(file)}
        with pytest.raises(LaunchError, match="exit code 0"):
            await finder.launch(type_id, **kwargs)
        return json.loads(file.read_text())

    return launch


async def refused(finder: KernelFinder, type_id: str, **kwargs: Any) -> LaunchError:
    """The error of a launch that cannot be."""
    with pytest.raises(LaunchError) as caught:
        await finder.launch(type_id, **kwargs)
    return caught.value


# --- command and environment ---------------------------------------------------------------------


async def test_placeholders_are_filled_in(write_spec: Any, tell: Any) -> None:
    """Ours and the launch parameters are put in, once; all other braces stay as they are."""
    words = [
        "{connection_file}",
        "--in={prefix}:{resource_dir}",
        "{color}{size}",
        "{unknown} {} {0} {{color}} { color } {color!r} {a.b} $color %s",
    ]
    directory = write_spec("fill", ["python", "-c", TELL, *words])
    _, argv, _, _ = await tell(
        "spec/fill",
        launch_params={"color": "{prefix}\\1; $(true)", "size": 3},
        kernel_id="of-this-test",
    )
    color = "{prefix}\\1; $(true)"
    assert argv == [
        str(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "kernel-of-this-test.json"),
        f"--in={sys.prefix}:{directory}",
        f"{color}3",
        f"{{unknown}} {{}} {{0}} {{{color}}} {{ color }} {{color!r}} {{a.b}} $color %s",
    ]


@pytest.mark.parametrize(
    "python",
    [
        "python",
        f"python{sys.version_info[0]}",
        f"python{sys.version_info[0]}.{sys.version_info[1]}",
    ],
)
async def test_a_bare_python_is_this_interpreter(python: str, write_spec: Any, tell: Any) -> None:
    """The name alone means the interpreter that launches, whatever PATH would find."""
    write_spec("bare", [python, "-c", TELL])
    executable, _, _, _ = await tell("spec/bare", env={"PATH": "/nowhere"})
    assert executable == sys.executable


async def test_the_environment_is_filled_in(
    write_spec: Any, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References to the environment are put in, as it is for this launch; unknown ones stay."""
    monkeypatch.setenv("FROM_HERE", "here")
    monkeypatch.setenv("REMOVED", "gone")
    write_spec(
        "env",
        ["python", "-c", TELL],
        env={
            "A": "${FROM_HERE}/x",
            "B": "${FROM_LAUNCH}:${NOT_SET_ANYWHERE}:${REMOVED}",
            "C": "{connection_file}",
            "D": "from the kernelspec",
        },
    )
    _, _, env, _ = await tell(
        "spec/env", env={"FROM_LAUNCH": "launch", "REMOVED": None, "D": "from the launch"}
    )
    assert env["A"] == "here/x"
    assert env["B"] == "launch:${NOT_SET_ANYWHERE}:${REMOVED}"
    assert env["C"] == "{connection_file}"
    assert env["D"] == "from the launch"
    assert "REMOVED" not in env


async def test_the_working_directory_is_the_callers_choice(
    write_spec: Any, tell: Any, tmp_path: Path
) -> None:
    """The kernel starts in `cwd`, and finds its kernelspec from there."""
    write_spec("cwd", ["python", "-c", TELL])
    _, _, _, cwd = await tell("spec/cwd", cwd=tmp_path)
    assert Path(cwd).samefile(tmp_path)


# --- transport -----------------------------------------------------------------------------------

# Stands where ipykernel would be, and tells what is in its connection file.
TELL_TRANSPORT = """\
import json, os, sys
with open(sys.argv[-1]) as source, open(os.environ["TELL"], "w") as target:
    target.write(source.read())
"""


@pytest.mark.parametrize(
    ("argv", "params", "transport"),
    [
        (["python", "-m", "ipykernel_launcher"], {}, "ipc"),
        (["python", "-m", "ipykernel"], {}, "ipc"),
        ([sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher"], {}, "ipc"),
        (["python", "-m", "ipykernel_launcher"], {"transport": "tcp"}, "tcp"),
        (["python", "-m", "unheard_of"], {}, "tcp"),
        (["python", "-m", "unheard_of"], {"transport": "ipc"}, "ipc"),
        (["python", "-m", "unheard_of", "-m", "ipykernel_launcher"], {}, "tcp"),
        (["env", "python", "-m", "ipykernel_launcher"], {}, "tcp"),
    ],
)
async def test_ipc_is_for_ipykernel(
    argv: list[str],
    params: dict[str, str],
    transport: str,
    write_spec: Any,
    tell: Any,
    tmp_path: Path,
) -> None:
    """Unix sockets are used where ipykernel runs for certain, or where the caller wants them."""
    for module in ("ipykernel_launcher", "unheard_of"):
        (tmp_path / f"{module}.py").write_text(TELL_TRANSPORT)
    (tmp_path / "ipykernel").mkdir()
    (tmp_path / "ipykernel" / "__init__.py").touch()
    (tmp_path / "ipykernel" / "__main__.py").write_text(TELL_TRANSPORT)
    write_spec("kernel", [*argv, "-f", "{connection_file}"])
    content = await tell("spec/kernel", launch_params=params, env={"PYTHONPATH": str(tmp_path)})
    assert content["transport"] == transport


@pytest.mark.parametrize("interrupt_mode", ["signal", "message"])
async def test_the_interrupt_mode_is_passed_on(
    interrupt_mode: str, write_spec: Any, tell: Any, tmp_path: Path
) -> None:
    """The connection info says how the kernel wants to be interrupted."""
    (tmp_path / "teller.py").write_text(TELL_TRANSPORT)
    argv = ["python", str(tmp_path / "teller.py"), "{connection_file}"]
    write_spec("kernel", argv, interrupt_mode=interrupt_mode)
    assert (await tell("spec/kernel"))["interrupt_mode"] == interrupt_mode


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"connection_file": "/tmp/mine"}, "'connection_file' is set by kernel-mgmt itself"),
        ({"prefix": "/tmp"}, "'prefix' is set by kernel-mgmt itself"),
        ({"resource_dir": "/tmp"}, "'resource_dir' is set by kernel-mgmt itself"),
        (
            {"colour": "red"},
            "no launch parameter 'colour'. It knows transport, encryption, color, size.",
        ),
        ({"color": ["red"]}, "'color' is ['red']. It must be a string or a number."),
        ({"color": None}, "'color' is None. It must be a string or a number."),
        ({"transport": "carrier pigeon"}, "It must be 'ipc' or 'tcp'."),
        ({"transport": ["tcp"]}, "It must be 'ipc' or 'tcp'."),
    ],
)
async def test_a_wrong_parameter_is_refused(
    params: dict[str, Any], sentence: str, finder: KernelFinder, write_spec: Any
) -> None:
    """Before anything is started, and with a word on what would do."""
    write_spec("some", ["python", "-c", "", "{connection_file}", "{size}", "{color}"])
    error = await refused(finder, "spec/some", launch_params=params)
    assert error.phase == "resolve"
    assert sentence in error.summary


async def test_a_missing_command_is_named(finder: KernelFinder, write_spec: Any) -> None:
    """A command that is not there costs no more than an error that names it."""
    write_spec("gone", ["/no/such/kernel", "{connection_file}"])
    error = await refused(finder, "spec/gone")
    assert error.phase == "start"
    assert "'/no/such/kernel' was not found" in error.summary


async def test_a_command_that_cannot_run_is_named(
    finder: KernelFinder, write_spec: Any, tmp_path: Path
) -> None:
    """So does a file that is no program."""
    (tmp_path / "text").write_text("no program")
    write_spec("text", [str(tmp_path / "text"), "{connection_file}"])
    error = await refused(finder, "spec/text")
    assert error.phase == "start"
    assert "cannot be run" in error.summary


async def test_a_missing_working_directory_is_named(
    finder: KernelFinder, write_spec: Any, tmp_path: Path
) -> None:
    """A `cwd` that is not there is not mistaken for a missing command."""
    write_spec("some", ["python", "-c", "", "{connection_file}"])
    error = await refused(finder, "spec/some", cwd=tmp_path / "nowhere")
    assert error.phase == "start"
    assert "nowhere' does not exist" in error.summary


async def test_a_kernel_that_exits_says_why(finder: KernelFinder, write_spec: Any) -> None:
    """Its exit code and last words are there within a second."""
    code = "import sys; print('last words', file=sys.stderr); sys.exit(3)"
    write_spec("exits", ["python", "-c", code, "{connection_file}"])
    started = time.monotonic()
    error = await refused(finder, "spec/exits")
    assert time.monotonic() - started < 1
    assert error.exit_status is not None
    assert error.exit_status.code == 3
    assert error.log_tail == "last words\n"
    assert "exit code 3" in str(error)
    assert "  | last words" in str(error)


async def test_a_type_from_elsewhere_is_refused(finder: KernelFinder) -> None:
    """A kernel type that holds no kernelspec is told apart from one that fails."""
    with pytest.raises(LaunchError, match="holds no kernelspec") as caught:
        await finder.launch(KernelType("made-up", provider="spec"))
    assert caught.value.phase == "resolve"


async def test_a_cancelled_launch_leaves_nothing(finder: KernelFinder, write_spec: Any) -> None:
    """A kernel that never listens is gone when its launch is given up."""
    write_spec("sleeps", ["python", "-c", "import time; time.sleep(60)", "{connection_file}"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await finder.launch("spec/sleeps")


# --- real kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_a_kernel_runs_over_each_transport(
    transport: str, finder: KernelFinder, write_spec: Any
) -> None:
    """A kernel that the provider has never heard of answers, and its end leaves nothing."""
    from kernel_mgmt import run_kernel

    write_spec("echo", ECHO, display_name="Echo")
    params = {"transport": transport}
    async with run_kernel("spec/echo", finder=finder, launch_params=params) as client:
        reply = await client.execute("hello")
        assert reply.content["status"] == "ok"


async def test_a_relaunch_has_the_same_endpoints(finder: KernelFinder, write_spec: Any) -> None:
    """With given connection info a kernel listens where the one before it did."""
    write_spec("echo", ECHO)
    given = ConnectionInfo.for_tcp()
    for _ in range(2):
        info, manager = await finder.launch("spec/echo", connection_info=given)
        assert manager is not None
        async with manager:
            assert info == given
            assert await manager.is_alive()
