"""What a kernelspec says about encryption and the startup handshake, and what comes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import ConnectionInfo, KernelClient, KernelFinder, LaunchError, run_kernel

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
ECHO = ["python", "-m", "kernel_mgmt.testing.echo_kernel", "-f", "{connection_file}"]
CURVE = {"metadata": {"supported_encryption": ["curve"]}}

# Copies the file that it is given, and ends.
COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


# --- encryption ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "params", "encrypted"),
    [
        (CURVE, {}, True),
        ({"metadata": {"supported_encryption": "curve"}}, {}, True),
        ({}, {}, False),
        (CURVE, {"encryption": "off"}, False),
        (CURVE, {"transport": "ipc"}, False),
        (CURVE, {"transport": "ipc", "encryption": "required"}, True),
    ],
)
async def test_who_is_encrypted(
    fields: dict[str, Any],
    params: dict[str, Any],
    encrypted: bool,
    finder: KernelFinder,
    write_spec: Any,
) -> None:
    """A kernelspec that declares CURVE over TCP, unless the launch asks for more or less."""
    write_spec("echo", ECHO, **fields)
    async with run_kernel("spec/echo", finder=finder, launch_params=params) as client:
        assert bool(client.connection_info.curve_secretkey) is encrypted
        assert (await client.execute("print hello")).content["status"] == "ok"


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"encryption": "required"}, "'spec/some' does not declare that it supports 'curve'"),
        ({"encryption": "maybe"}, "It must be 'auto', 'required' or 'off'."),
        ({"encryption": None}, "It must be 'auto', 'required' or 'off'."),
    ],
)
async def test_what_cannot_be_is_refused(
    params: dict[str, Any], sentence: str, finder: KernelFinder, write_spec: Any, tmp_path: Path
) -> None:
    """Before anything is started."""
    ran = tmp_path / "ran"
    write_spec("some", ["python", "-c", f"open({str(ran)!r}, 'w')", "{connection_file}"])
    with pytest.raises(LaunchError) as caught:
        await finder.launch("spec/some", launch_params=params)
    assert caught.value.phase == "resolve"
    assert sentence in caught.value.summary
    assert not ran.exists()


async def test_encryption_is_no_placeholder(
    finder: KernelFinder, write_spec: Any, tmp_path: Path
) -> None:
    """The parameter is ours: braces of that name in a command stay as they are."""
    told = tmp_path / "told"
    code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    write_spec("some", ["python", "-c", code, str(told), "{encryption}", "{size}"])
    params = {"encryption": "off", "size": 3}
    with pytest.raises(LaunchError, match="exit code 0"):
        await finder.launch("spec/some", launch_params=params)
    assert told.read_text() == "{encryption}"
    with pytest.raises(LaunchError, match="It knows transport, encryption, size"):
        await finder.launch("spec/some", launch_params=params | {"colour": "red"})


# --- the startup handshake -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "params", "registers"),
    [
        ({"kernel_protocol_version": "5.6"}, {}, True),
        ({"kernel_protocol_version": "6.0"}, {}, True),
        ({"kernel_protocol_version": "5.6"}, {"transport": "ipc"}, False),
        ({"kernel_protocol_version": "5.6", **CURVE}, {}, False),
        ({"kernel_protocol_version": "5.6", **CURVE}, {"encryption": "off"}, True),
        ({"kernel_protocol_version": "5.5"}, {}, False),
        ({"kernel_protocol_version": "new"}, {}, False),
        ({}, {}, False),
    ],
)
async def test_who_registers(
    fields: dict[str, Any],
    params: dict[str, Any],
    registers: bool,
    finder: KernelFinder,
    write_spec: Any,
    tmp_path: Path,
) -> None:
    """Kernels of protocol 5.6 and later over plain TCP get a registration file."""
    copied = tmp_path / "copied"
    write_spec("some", ["python", "-c", COPY, "{connection_file}", str(copied)], **fields)
    with pytest.raises(LaunchError, match="exit code 0") as caught:
        await finder.launch("spec/some", launch_params=params)
    assert ("before it registered" in caught.value.cause) is registers
    content = json.loads(copied.read_text())
    assert ("registration_port" in content) is registers
    assert ("shell_port" in content) is not registers


async def test_a_kernel_of_5_6_is_launched(finder: KernelFinder, write_spec: Any) -> None:
    """It registers, answers, and is ended like any other; with given endpoints it takes those."""
    write_spec("echo", ECHO, kernel_protocol_version="5.6")
    async with run_kernel("spec/echo", finder=finder) as client:
        assert (await client.execute("print hello")).content["status"] == "ok"
        info = client.connection_info
    again, manager = await finder.launch("spec/echo", connection_info=info)
    assert manager is not None
    async with manager:
        assert again == info


@pytest.fixture
def xeus_spec(write_spec: Any) -> str:
    """The id of a kernelspec of xeus-python that says what the kernel can do."""
    if importlib.util.find_spec("xpython_launcher") is None:
        pytest.skip("the distribution 'xeus-python' is not installed")
    write_spec(
        "xpython",
        ["python", "-m", "xpython_launcher", "-f", "{connection_file}"],
        kernel_protocol_version="5.6",
    )
    return "spec/xpython"


async def test_xeus_python_registers(
    xeus_spec: str, finder: KernelFinder, caplog: pytest.LogCaptureFixture
) -> None:
    """A real kernel of others is launched by the handshake; its file then serves other clients."""
    caplog.set_level("INFO", "kernel_mgmt")
    async with run_kernel(xeus_spec, finder=finder, startup_timeout=60) as client:
        # What it wants would not matter to a kernel that is given its ports.
        assert "wants the registration port as a string" in caplog.text
        assert client.kernel_info_content["implementation"] == "xeus-python"
        assert client.manager is not None
        code = "import sys\nprint(sys.executable)"
        request = client.execute(code)
        assert (await request).content["status"] == "ok"
        text = "".join([m.content["text"] async for m in request if m.msg_type == "stream"])
        assert text.strip() == sys.executable
        file = RUNTIME_DIR / f"kernel-{client.manager.kernel_id}.json"
        assert ConnectionInfo.read(file) == client.connection_info
        other = KernelClient(ConnectionInfo.read(file))
        try:
            await other.wait_for_ready(timeout=30)
        finally:
            other.close()
