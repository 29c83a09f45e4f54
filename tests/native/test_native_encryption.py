"""ipykernel encrypted by CURVE, with our clients and with Jupyter's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import jupyter_client
import kernel_mgmt_native
import pytest
import zmq
from jupyter_core.utils import ensure_event_loop
from kernel_mgmt import (
    ConnectionInfo,
    KernelClient,
    KernelFinder,
    LaunchError,
    Message,
    run_kernel,
    run_kernel_blocking,
)
from waiting import eventually

RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
TCP = {"transport": "tcp"}


@pytest.fixture(scope="session", autouse=True)
def _jupyters_loop() -> None:
    """Make the event loop that jupyter_client keeps for its blocking calls, once."""
    ensure_event_loop()


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `native` alone."""
    return KernelFinder({"native": kernel_mgmt_native})


async def use_each_channel(client: KernelClient) -> None:
    """Talk over all five channels; none may be silent."""
    seen: list[Message] = []
    await client.execute_interactive(  # shell, iopub and stdin
        "print(input('name? '))", output_hook=seen.append, stdin_hook=lambda prompt: "Ada"
    )
    text = "".join(m.content["text"] for m in seen if m.msg_type == "stream")
    assert text == "Ada\n"
    assert (await client.kernel_info(channel="control")).content["status"] == "ok"
    assert client.responsive  # makes the heartbeat
    heartbeat = client._line.heartbeat
    assert heartbeat is not None
    await eventually(lambda: heartbeat._unanswered == 0)


async def test_every_channel_works_encrypted(finder: KernelFinder) -> None:
    """Over TCP ipykernel is encrypted without being asked; a guest without its secret key is let in,
    and a SUB without keys hears nothing of what both do.
    """
    async with run_kernel("native/python3", finder=finder, launch_params=TCP) as client:
        info = client.connection_info
        assert info.curve_publickey
        assert info.curve_secretkey
        context = zmq.Context()
        guest = KernelClient(info.replace(curve_secretkey=None))
        try:
            stranger = context.socket(zmq.SUB)
            stranger.subscribe(b"")
            stranger.connect(info.endpoint("iopub"))
            await use_each_channel(client)
            await guest.wait_for_ready(timeout=30)
            await use_each_channel(guest)
            assert stranger.poll(0) == 0
        finally:
            guest.close()
            context.destroy(linger=0)


@pytest.mark.parametrize(
    ("params", "encrypted"),
    [
        ({}, False),
        ({"encryption": "required"}, True),
        ({"transport": "tcp", "encryption": "off"}, False),
    ],
)
async def test_the_parameter_reaches_the_launch(
    params: dict[str, Any], encrypted: bool, finder: KernelFinder
) -> None:
    """Unix sockets are encrypted when it is required, and TCP is not when it is off."""
    async with run_kernel("native/python3", finder=finder, launch_params=params) as client:
        assert bool(client.connection_info.curve_secretkey) is encrypted
        assert (await client.execute("6 * 7")).content["status"] == "ok"


async def test_an_ipykernel_that_cannot_is_refused(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 7.3 ipykernel does not declare it: `required` is an error, `auto` goes without."""
    monkeypatch.setattr(kernel_mgmt_native, "version", lambda name: "7.2.1")
    required = TCP | {"encryption": "required"}
    with pytest.raises(LaunchError, match="does not declare that it supports 'curve'") as caught:
        await finder.launch("native/python3", launch_params=required)
    assert caught.value.phase == "resolve"
    info, manager = await finder.launch("native/python3", launch_params=TCP)
    assert manager is not None
    async with manager:
        assert info.curve_publickey is None


def test_jupyters_client_uses_our_encrypted_kernel() -> None:
    """Jupyter's client reads the keys from our file, talks, and would write them again unchanged."""
    with run_kernel_blocking("native/python3", launch_params=TCP) as client:
        assert client.manager is not None
        ours = client.connection_info
        file = RUNTIME_DIR / f"kernel-{client.manager.kernel_id}.json"
        # The kernel has seen the file too, and would write what it lacks.
        assert ConnectionInfo.read(file) == ours
        theirs = jupyter_client.BlockingKernelClient()
        theirs.load_connection_file(str(file))
        theirs.start_channels()
        try:
            theirs.wait_for_ready(timeout=30)
            assert theirs.execute_interactive("6 * 7", timeout=30)["content"]["status"] == "ok"
            again = ConnectionInfo.from_dict(theirs.get_connection_info())
            assert again.curve_publickey == ours.curve_publickey
            assert again.curve_secretkey == ours.curve_secretkey
        finally:
            theirs.stop_channels()
            theirs.context.destroy(linger=0)


async def test_we_use_jupyters_encrypted_kernel() -> None:
    """A kernel that jupyter_client launched with keys of its own is reached by its file."""
    manager = jupyter_client.AsyncKernelManager(
        kernel_name="python3", transport_encryption="required"
    )
    await manager.start_kernel()
    try:
        info = ConnectionInfo.read(manager.connection_file)
        assert info.curve_publickey
        client = KernelClient(info)
        try:
            await client.wait_for_ready(timeout=30)
            await asyncio.wait_for(use_each_channel(client), 30)
        finally:
            client.close()
    finally:
        await manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
