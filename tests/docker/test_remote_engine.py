"""Kernels of an engine that is reached over a network, in the clear or by TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from container_code import run
from engine_proxy import EngineProxy, make_certificates
from kernel_mgmt import KernelClient, KernelFinder

Config = Callable[..., None]


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_kernel_of_a_remote_engine_is_reached_by_a_relay(
    config: Config,
    finder: KernelFinder,
    engine_host: str,
    image: str,
    nothing_left: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tls: bool,
) -> None:
    """It runs code, sends much, is interrupted, and ends with nothing left."""
    certificates = None
    if tls:
        certificates = make_certificates(tmp_path)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    proxy = EngineProxy(engine_host.removeprefix("unix://"), certificates)
    monkeypatch.setenv("DOCKER_HOST", proxy.host)
    try:
        config("x", image=image)
        info, manager = await finder.launch("docker/x")
        assert manager is not None
        assert info.transport == "ipc"
        async with manager, KernelClient(info, manager=manager) as client:
            await client.wait_for_ready(30)
            assert (await run(client, "print(6 * 7)")).text == "42\n"
            big = await run(client, "print('x' * 3_000_000)")
            assert len(big.text) == 3_000_001
            record = manager.record()
            assert record is not None
            assert record["docker"]["reaching"] == {"how": "relay"}
            sleeping = client.execute("print('now', flush=True); import time; time.sleep(100)")
            async for message in sleeping:
                if message.msg_type == "stream":
                    await manager.interrupt()
            assert (await sleeping).content["ename"] == "KeyboardInterrupt"
            await manager.kill()
    finally:
        proxy.close()
