"""A kernel inside this process is a kernel like any other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import threading
from typing import Any

import pytest
from inprocess import (
    TYPE,
    beats,
    begun,
    busy_subshell,
    printed,
    run,
    text_of,
)
from kernel_mgmt import (
    KernelClient,
    KernelFinder,
    run_kernel,
    start_kernel,
)


async def test_the_namespace_is_the_application_s_own(
    client: KernelClient, user_ns: dict[str, Any]
) -> None:
    """Cells see the dict that was given, changes go both ways, and at the end IPython's are gone."""
    assert await printed(client, "print(x * 7); y = [x]\n_secret = 1") == "42\n"
    assert user_ns["y"] == [6]
    user_ns["x"] = "changed"
    assert await printed(client, "print(x)") == "changed\n"
    await run(client, "x")
    assert "In" in user_ns
    await client.shutdown_or_terminate()
    assert user_ns.keys() - {"__builtins__", "__name__"} == {"x", "y", "_secret"}


async def test_names_of_the_application_win(finder: KernelFinder) -> None:
    """IPython's own names come over none that the namespace had, and `open` stays Python's."""
    mine = {"exit": "mine", "In": "mine", "display": "mine", "_": "mine"}
    user_ns: dict[str, Any] = dict(mine)
    params = {"user_ns": user_ns}
    async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
        code = "import builtins; print(exit, In, display, _, open is builtins.open)\n1 + 1"
        assert await printed(client, code) == "mine mine mine mine True\n"
    assert {name: user_ns[name] for name in mine} == mine


async def test_rich_display_and_results(client: KernelClient) -> None:
    """Results, display_data and tracebacks come as from any IPython kernel."""
    _, outputs = await run(client, "from IPython.display import HTML\ndisplay(HTML('<b>'))\nx + 1")
    content = {m.msg_type: m.content for m in outputs}
    assert content["display_data"]["data"]["text/html"] == "<b>"
    assert content["execute_result"]["data"] == {"text/plain": "7"}
    reply, outputs = await run(client, "1 / 0")
    assert reply.content["ename"] == "ZeroDivisionError"
    (error,) = [m for m in outputs if m.msg_type == "error"]
    assert "1 / 0" in re.sub("\x1b.*?m", "", "".join(error.content["traceback"]))


async def test_completion_inspection_history_and_magics(client: KernelClient) -> None:
    """What the namespace holds can be looked at, and the history is of this kernel alone."""
    assert (await client.complete("x.bit_le", 8)).content["matches"] == ["bit_length"]
    assert (await client.inspect("x", 1)).content["found"]
    assert "loop" in await printed(client, "%timeit -n1 -r1 x")
    assert (await printed(client, "!echo shell")).split() == ["shell"]
    await run(client, "'kept'", store_history=True)
    (entry,) = (await client.history(hist_access_type="tail", n=1)).content["history"]
    assert entry[2] == "'kept'"
    assert (await client.is_complete("def f():")).content["status"] == "incomplete"


async def test_top_level_await(client: KernelClient) -> None:
    """Cells may await, on a loop of the kernel's own."""
    code = "import asyncio\nawait asyncio.sleep(0)\nprint(id(asyncio.get_running_loop()))"
    assert int(await printed(client, code)) != id(asyncio.get_running_loop())


async def test_input_and_getpass(client: KernelClient) -> None:
    """In a cell they ask the client."""
    prompts = []

    def answer(prompt: Any) -> str:
        prompts.append((prompt.message, prompt.secret))
        return "typed"

    code = "import getpass\na = input('name? ')\nb = getpass.getpass('word? ')\na + b"
    reply, outputs = await run(client, code, stdin_hook=answer)
    assert reply.content["status"] == "ok", reply.content
    assert prompts == [("name? ", False), ("word? ", True)]
    assert "'typedtyped'" in [
        m.content["data"]["text/plain"] for m in outputs if m.msg_type == "execute_result"
    ]


async def test_comms_reach_their_own_kernel(finder: KernelFinder) -> None:
    """A comm that one kernel opens is told to its client, and unknown to another kernel."""
    code = "import comm; c = comm.create_comm(target_name='t', data={'n': 1}); print(c.comm_id)"
    async with run_kernel(TYPE, finder=finder) as one, run_kernel(TYPE, finder=finder) as two:
        reply, outputs = await run(one, code)
        assert reply.content["status"] == "ok", reply.content
        opened = next(m for m in outputs if m.msg_type == "comm_open")
        assert opened.content["data"] == {"n": 1}
        comms = (await one.comm_info()).content["comms"]
        assert list(comms) == [opened.content["comm_id"]]
        assert (await two.comm_info()).content["comms"] == {}


async def test_several_at_once(finder: KernelFinder) -> None:
    """Kernels in one process have their own shells, outputs and namespaces."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(run_kernel(TYPE, finder=finder)) for _ in range(3)
        ]
        code = "import time\nfor _ in range(5): print({n}); time.sleep(0.01)\nid(get_ipython())"
        answers = await asyncio.gather(
            *(run(client, code.format(n=n)) for n, client in enumerate(clients))
        )
    shells = set()
    for n, (_, outputs) in enumerate(answers):
        assert text_of(outputs) == f"{n}\n" * 5
        shells |= {
            m.content["data"]["text/plain"] for m in outputs if m.msg_type == "execute_result"
        }
    assert len(shells) == 3


async def test_subshells(client: KernelClient) -> None:
    """While a cell runs a subshell answers, and its output comes to the client as well."""
    subshell = (await client.create_subshell()).content["subshell_id"]
    busy = client.execute("import time\ndone = False\nprint(1)\nwhile not done: time.sleep(0.01)")
    async with asyncio.timeout(10):
        await begun(busy)
        request = client.execute("done = True; print('sub')", subshell_id=subshell)
        outputs = [m async for m in request]
        assert (await busy).content["status"] == "ok"
    assert text_of(outputs) == "sub\n"
    assert (await client.delete_subshell(subshell)).content["status"] == "ok"


@pytest.mark.parametrize("how", ["terminate", "kill"])
@pytest.mark.parametrize("code", ["while True: pass", "import asyncio\nawait asyncio.sleep(60)"])
async def test_a_busy_subshell_ends_with_its_kernel(
    finder: KernelFinder, how: str, code: str
) -> None:
    """Its cell is told to end as that of the main shell is."""
    manager, client = await start_kernel(TYPE, finder=finder)
    assert manager is not None
    async with manager, client, asyncio.timeout(20):
        await busy_subshell(client, code)
        await getattr(manager, how)()
        await manager.wait()
    assert not [t for t in threading.enumerate() if t.name.startswith("subshell-")]


async def test_an_interrupt_does_not_reach_a_subshell(client: KernelClient) -> None:
    """It is the main shell's, as a signal is; the cell of the subshell runs on."""
    async with asyncio.timeout(20):
        _, request = await busy_subshell(
            client, "import time\nwhile 'go' not in globals(): time.sleep(0.01)"
        )
        main = client.execute("print('main')\nwhile True: pass", stop_on_error=False)
        await begun(main)
        await client.interrupt()
        assert (await main).content["ename"] == "KeyboardInterrupt"
        await run(client, "go = True")
        assert (await request).content["status"] == "ok"


async def test_deleting_a_subshell_waits_for_its_cell(client: KernelClient) -> None:
    """The cell is answered first, and meanwhile the kernel's heart beats."""
    async with asyncio.timeout(20):
        code = "import time\nwhile 'go' not in globals(): time.sleep(0.01)"
        subshell, request = await busy_subshell(client, code)
        deleting = client.delete_subshell(subshell)
        async for _ in deleting:  # the kernel is busy with it
            break
        await beats(client)
        await run(client, "go = True")
        assert (await request).content["status"] == "ok"
        assert (await deleting).content["status"] == "ok"
        assert (await client.delete_subshell(subshell)).content["status"] == "error"


@pytest.mark.parametrize("where", ["main shell", "subshell", "deleted subshell"])
async def test_requests_that_are_under_way_end_in_silence(
    finder: KernelFinder, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel that ends under a flood of requests leaves no task, and no word in the log."""
    for pause in (0, 0.002, 0.01):
        manager, client = await start_kernel(TYPE, finder=finder)
        assert manager is not None
        async with manager, client, asyncio.timeout(20):
            subshell = None
            if where != "main shell":
                subshell = (await client.create_subshell()).content["subshell_id"]
            for n in range(40):
                code = "import asyncio\nawait asyncio.sleep(0.001)" if n % 2 else "1 + 1"
                client.execute(code, subshell_id=subshell)
            await asyncio.sleep(pause)  # the end comes at any point of it
            if subshell is not None and where == "deleted subshell":
                assert (await client.delete_subshell(subshell)).content["status"] == "ok"
            await manager.terminate()
            await manager.terminate()
            await manager.wait()
        gc.collect()  # where Python would complain of tasks that are pending
    assert not [record for record in caplog.records if record.name == "asyncio"], caplog.text
