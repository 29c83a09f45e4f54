"""The provider `native`: this interpreter's ipykernel."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kernel_mgmt_native
import pytest
from kernel_mgmt import ConnectionInfo, KernelFinder, LaunchError, NoSuchKernel, run_kernel

HAVE_IPC = os.name == "posix"


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `native` alone."""
    return KernelFinder({"native": kernel_mgmt_native})


async def output_of(client: Any, code: str) -> str:
    """What some code prints; it must succeed."""
    request = client.execute(code)
    reply = await request
    assert reply.content["status"] == "ok", reply.content
    return "".join([m.content["text"] async for m in request if m.msg_type == "stream"])


# --- finding -------------------------------------------------------------------------------------


def test_the_entry_point_makes_the_provider_known() -> None:
    """An installed provider is found as `native`, with one kernel type."""
    finder = KernelFinder.from_entrypoints()
    assert "native/python3" in [kernel_type.id for kernel_type in finder.find_kernels()]
    assert "native" not in [problem.provider for problem in finder.problems]


def test_the_kernel_type_tells_what_it_is(finder: KernelFinder) -> None:
    """Name, language, logos and metadata are those of ipykernel for this Python."""
    kernel_type = finder.get("native/python3")
    assert kernel_type.display_name == "Python {}.{} (this environment)".format(*sys.version_info)
    assert kernel_type.language == "python"
    assert kernel_type.interrupt_mode == "signal"
    assert kernel_type.resource_dir is not None
    assert {file.name for file in kernel_type.resource_dir.glob("logo-*")} >= {
        "logo-32x32.png",
        "logo-64x64.png",
    }
    from ipykernel.kernelspec import get_kernel_dict

    assert kernel_type.metadata == get_kernel_dict()["metadata"]


def test_finding_does_not_import_ipykernel() -> None:
    """Listing kernels must be quick, and importing ipykernel is not."""
    code = (
        "import sys; from kernel_mgmt import KernelFinder;"
        "print(*(kernel_type.id for kernel_type in KernelFinder.from_entrypoints().find_kernels()));"
        "print('ipykernel' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "native/python3" in output
    assert output[-1] == "False"


def test_without_ipykernel_there_is_a_word_on_how_to_get_it(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is offered when ipykernel cannot be imported, and the error says what to do."""
    monkeypatch.setitem(sys.modules, "ipykernel", None)  # what makes Python say it is missing
    assert finder.find_kernels() == []
    with pytest.raises(NoSuchKernel) as caught:
        finder.get("native/python3")
    sentence = f"ipykernel is not installed for {sys.executable}: pip install ipykernel."
    assert str(caught.value).endswith(sentence)


# --- launching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [None, "ipc", "tcp"])
async def test_it_runs_over_each_transport(transport: str | None, finder: KernelFinder) -> None:
    """This interpreter runs the code, over Unix sockets unless told otherwise."""
    params = {"transport": transport} if transport else {}
    info, manager = await finder.launch("native/python3", launch_params=params)
    assert manager is not None
    async with manager:
        assert info.transport == (transport or "ipc" if HAVE_IPC else "tcp")
    async with run_kernel("native/python3", finder=finder, launch_params=params) as client:
        code = "import sys; print(sys.executable, sys.prefix)"
        assert await output_of(client, code) == f"{sys.executable} {sys.prefix}\n"


async def test_cwd_and_env_reach_the_kernel(
    finder: KernelFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel starts where it is told, with variables set and removed."""
    monkeypatch.setenv("KM_REMOVED", "still here")
    env = {"KM_SET": "set", "KM_REMOVED": None}
    async with run_kernel("native/python3", finder=finder, cwd=tmp_path, env=env) as client:
        code = "import os; print(os.getcwd(), os.environ['KM_SET'], 'KM_REMOVED' in os.environ)"
        assert await output_of(client, code) == f"{os.path.realpath(tmp_path)} set False\n"


async def test_extra_arguments_reach_ipykernel(finder: KernelFinder) -> None:
    """They are ipykernel's own options, passed on as they are."""
    params = {"extra_arguments": ["--InteractiveShellApp.exec_lines=answer = 6 * 7"]}
    async with run_kernel("native/python3", finder=finder, launch_params=params) as client:
        assert await output_of(client, "print(answer)") == "42\n"


async def test_a_running_cell_can_be_interrupted(finder: KernelFinder) -> None:
    """The signal reaches the cell, and the kernel goes on."""
    async with run_kernel("native/python3", finder=finder) as client:
        # Not flushed: ipykernel does that a moment later, when the cell sleeps. A signal that comes
        # while Python runs a finalizer is lost.
        code = "print('begun')\nimport time\ntime.sleep(60)"
        # Else ipykernel aborts what comes within a moment of the interrupt.
        request = client.execute(code, stop_on_error=False)
        async with asyncio.timeout(30):
            async for message in request:
                if message.msg_type == "stream":
                    break
            await client.interrupt()
            reply = await request
        assert reply.content["ename"] == "KeyboardInterrupt"
        assert await output_of(client, "print('on')") == "on\n"


async def test_a_relaunch_has_the_same_endpoints(finder: KernelFinder) -> None:
    """With given connection info a kernel listens where the one before it did."""
    given, manager = await finder.launch("native/python3")
    assert manager is not None
    async with manager:
        pass
    assert isinstance(given, ConnectionInfo)
    again, manager = await finder.launch("native/python3", connection_info=given)
    assert manager is not None
    async with manager:
        assert again == given


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (
            {"colour": "red"},
            "no launch parameter 'colour'. It knows transport, encryption, extra_arguments.",
        ),
        ({"connection_file": "/tmp/mine"}, "no launch parameter 'connection_file'."),
        ({"transport": "carrier pigeon"}, "'carrier pigeon'. It must be 'ipc' or 'tcp'."),
        ({"transport": None}, "It must be 'ipc' or 'tcp'."),
        ({"extra_arguments": "--quiet"}, "It must be a list of strings."),
        ({"extra_arguments": [1]}, "It must be a list of strings."),
    ],
)
async def test_a_wrong_parameter_is_refused(
    params: dict[str, Any], sentence: str, finder: KernelFinder
) -> None:
    """Before anything is started, and with a word on what would do."""
    with pytest.raises(LaunchError) as caught:
        await finder.launch("native/python3", launch_params=params)
    assert caught.value.phase == "resolve"
    assert sentence in caught.value.summary


async def test_a_kernel_that_cannot_start_says_why(finder: KernelFinder, tmp_path: Path) -> None:
    """The last words of ipykernel are in the error."""
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')")
    with pytest.raises(LaunchError) as caught:
        await finder.launch("native/python3", env={"PYTHONPATH": str(tmp_path)})
    assert caught.value.phase == "start"
    assert caught.value.exit_status is not None
    assert caught.value.exit_status.code == 1
    assert caught.value.log_tail == "no kernel today\n"
