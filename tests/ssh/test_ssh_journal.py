"""Kernels on hosts lose no output: neither to cuts, nor to the end of the application."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_mgmt import KernelClient
from kernel_mgmt.records import find_record
from known_work import KnownWork, Seen
from messages import texts
from ssh_kernels import ECHO, FINDER, PATIENCE, echo_type, left_on, let_go, running
from sshds import Sshd
from waiting import eventually

_CUTS = 20


@pytest.fixture
def own_sshd() -> Iterator[Sshd]:
    """A server of the test's own, to be cut."""
    server = Sshd("own")
    yield server
    server.close()


async def test_twenty_kills_under_a_stream(own_sshd: Sshd) -> None:
    """The connection's own sshd is killed twenty times under 20,000 messages and 50 requests: all come once."""
    seen = Seen()
    states: list[str] = []
    chance = random.Random(3)

    async def torment() -> None:
        for number in range(_CUTS):
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            assert own_sshd.cut() >= 1
            await eventually(lambda n=number: states.count("resumed") > n, PATIENCE)

    async with running(echo_type(own_sshd)) as (client, _):
        client.on_connection_change(lambda change: states.append(change.state))
        client.add_handler(seen.take, {"iopub", "shell", "control", "stdin"})
        async with asyncio.TaskGroup() as group:
            group.create_task(torment())
            group.create_task(KnownWork(50, lines=420, pause=0.4).run(client))
    seen.check()
    assert len(seen.numbers) >= 20_000
    assert states == ["lost", "resumed"] * _CUTS


APPLICATION = """
import asyncio, json, sys
sys.path[:0] = json.loads(sys.argv[1])
from ssh_kernels import FINDER, ssh_type
from kernel_mgmt import KernelClient

class Host:
    name, config = sys.argv[2:4]

async def main():
    info, manager = await FINDER.launch(ssh_type(Host, json.loads(sys.argv[4])))
    client = KernelClient(info, manager=manager)
    await client.wait_for_ready(30)
    code = "".join(f"print tick {n}\\nsleep 0.001\\n" for n in range(1000))
    request = client.execute(code)
    async for message in request:
        if message.msg_type == "stream":
            print(manager.kernel_id, request.msg_id, flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_application_killed_under_output(own_sshd: Sshd) -> None:
    """After the application was killed under output, another one has all of it, and the reply."""
    helpers = [str(Path(__file__).parent.parent / "helpers")]
    argv = [sys.executable, "-c", APPLICATION, json.dumps(helpers)]
    argv += [own_sshd.name, str(own_sshd.config), json.dumps(ECHO)]
    process = await asyncio.to_thread(subprocess.Popen, argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    kernel_id, msg_id = line.decode().split()
    info, manager = await FINDER.attach(find_record(kernel_id))
    async with KernelClient(info, manager=manager) as client, asyncio.timeout(PATIENCE):
        await client.wait_for_ready(PATIENCE)
        request = client.request(msg_id)
        printed = texts([message async for message in request])
        assert printed == [f"tick {number}" for number in range(1000)]
        assert (await request).content["status"] == "ok"
        await client.shutdown_or_terminate()
    await let_go()
    assert left_on(own_sshd) == []
