"""The kernel type `native/inprocess`: an IPython kernel inside this process."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import getpass
import io
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import kernel_mgmt_native
import psutil
import pytest
from kernel_mgmt import (
    ConnectionInfo,
    ExitStatus,
    KernelClient,
    KernelFinder,
    KernelManager,
    KernelMgmtError,
    LaunchError,
    Message,
    NoSuchKernel,
    run_kernel,
    run_kernel_blocking,
    start_kernel,
)
from kernel_mgmt.protocol import requests
from kernel_mgmt_native import inprocess
from waiting import eventually, eventually_sync

ROOT = Path(os.environ["TMPDIR"])
RUNTIME_DIR = Path(os.environ["JUPYTER_RUNTIME_DIR"])
TYPE = "native/inprocess"


@pytest.fixture
def finder() -> KernelFinder:
    """A finder that has the provider `native` alone."""
    return KernelFinder({"native": kernel_mgmt_native})


@pytest.fixture
def user_ns() -> dict[str, Any]:
    """The namespace of the client's cells."""
    return {"x": 6}


@pytest.fixture
async def client(finder: KernelFinder, user_ns: dict[str, Any]) -> AsyncIterator[KernelClient]:
    """A client of a kernel in this process, with `user_ns`."""
    params = {"user_ns": user_ns}
    async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
        yield client


async def run(client: Any, code: str, **options: Any) -> tuple[Message, list[Message]]:
    """Run some code; give its reply and all that it put out."""
    outputs: list[Message] = []
    reply = await client.execute_interactive(code, output_hook=outputs.append, **options)
    return reply, outputs


def text_of(outputs: Iterable[Message]) -> str:
    """What was printed; it may come in any number of messages."""
    return "".join(m.content["text"] for m in outputs if m.msg_type == "stream")


async def printed(client: Any, code: str) -> str:
    """What some code prints; it must succeed."""
    reply, outputs = await run(client, code)
    assert reply.content["status"] == "ok", reply.content
    return text_of(outputs)


async def begun(request: Any) -> None:
    """Wait until a cell has printed something."""
    async for message in request:
        if message.msg_type == "stream":
            return
    raise AssertionError("the cell ended without a word")


# --- a kernel like any other ---------------------------------------------------------------------


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
        message = requests.execute_request("done = True; print('sub')")
        message.header["subshell_id"] = subshell
        request = client.send(message)
        outputs = [m async for m in request]
        assert (await busy).content["status"] == "ok"
    assert text_of(outputs) == "sub\n"
    assert (await client.delete_subshell(subshell)).content["status"] == "ok"


async def busy_subshell(client: KernelClient, code: str) -> tuple[str, Any]:
    """Have a new subshell run some code that does not end; it gives its id and the request."""
    subshell: str = (await client.create_subshell()).content["subshell_id"]
    message = requests.execute_request(f"print('begun')\n{code}")
    message.header["subshell_id"] = subshell
    request = client.send(message)
    await begun(request)
    return subshell, request


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
        deleting = asyncio.ensure_future(client.delete_subshell(subshell))
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
                message = requests.execute_request(code)
                if subshell is not None:
                    message.header["subshell_id"] = subshell
                client.send(message)
            await asyncio.sleep(pause)  # the end comes at any point of it
            if subshell is not None and where == "deleted subshell":
                assert (await client.delete_subshell(subshell)).content["status"] == "ok"
            await manager.terminate()
            await manager.terminate()
            await manager.wait()
        gc.collect()  # where Python would complain of tasks that are pending
    assert not [record for record in caplog.records if record.name == "asyncio"], caplog.text


# --- the application is left alone ---------------------------------------------------------------


def process_state() -> dict[str, Any]:
    """What of the process a kernel might change."""
    sys_names = "displayhook excepthook ps1 ps2 last_value breakpointhook __stdout__ __stderr__"
    return {
        **{name: getattr(sys, name, None) for name in sys_names.split()},
        # pytest replaces these for each phase of a test, so by what they are.
        "stdout": id(sys.stdout),
        "stderr": id(sys.stderr),
        "threading.excepthook": threading.excepthook,
        "builtins": dict(vars(builtins)),
        "getpass": getpass.getpass,
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "filters": list(warnings.filters),
        "environ": dict(os.environ),
        "path": list(sys.path),
        "main": sys.modules["__main__"],
        "cwd": os.getcwd(),
    }


TROUBLE = """
import sys, warnings
print("out"); print("err", file=sys.stderr); warnings.warn("warned")
def exit(): pass
1 / 0
"""


@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_all_is_as_found_after_a_stop(finder: KernelFinder, where: str) -> None:
    """After a kernel with output, warnings and errors the process is as it was before."""

    def once() -> None:
        with run_kernel_blocking(TYPE, finder=finder) as client:
            client.execute_interactive(TROUBLE, output_hook=lambda _: None)
            client.execute_interactive("input()", output_hook=lambda _: None)

    def twice() -> None:
        once()
        once()

    before = process_state()
    if where == "main thread":
        twice()
    else:
        thread = threading.Thread(target=twice)
        thread.start()
        thread.join()
    assert process_state() == before


APPLICATION = """
import builtins, getpass, signal, sys, threading, warnings
from kernel_mgmt import run_kernel_blocking

def state():
    return [
        *(getattr(sys, n, None) for n in "stdout stderr displayhook excepthook last_value ps1".split()),
        dict(vars(builtins)), getpass.getpass, warnings.filters[:], threading.excepthook,
        [signal.getsignal(n) for n in signal.valid_signals()],
        [thread for thread in threading.enumerate() if "background" not in thread.name],
    ]

before = state()
for n in range(2):
    ready = threading.Event()
    namespace = {"ready": ready, "done": threading.Event()}
    with run_kernel_blocking("native/inprocess", launch_params={"user_ns": namespace}) as client:
        outputs = []
        request = client.execute("print('from the cell'); ready.set(); print(done.wait(20))")
        assert ready.wait(20)
        print("from the application", n)
        print("its error", n, file=sys.stderr)
        sys.displayhook(n)
        del builtins._
        namespace["done"].set()
        texts = [m.content["text"] for m in request if m.msg_type == "stream"]
        assert "".join(texts) == "from the cell\\nTrue\\n", texts
        client.execute_interactive("1 / 0", output_hook=outputs.append)
    assert state() == before, [pair for pair in zip(before, state()) if pair[0] != pair[1]]
assert "debugpy" not in sys.modules
print("as before")
"""


def test_an_application_s_own_output_is_its_own() -> None:
    """What the main thread prints during a cell goes to its stdout, and all is as before."""
    done = run_python(APPLICATION)
    assert done.returncode == 0, done.stderr
    lines = [line for n in (0, 1) for line in (f"from the application {n}", str(n))]
    assert done.stdout.splitlines() == [*lines, "as before"]
    assert done.stderr.splitlines() == ["its error 0", "its error 1"]


def test_an_application_may_redirect_its_output_meanwhile(finder: KernelFinder) -> None:
    """It gets its own output in its own place, the client that of the cells, also afterwards."""
    found = sys.stdout
    with run_kernel_blocking(TYPE, finder=finder) as client:
        for n in range(3):
            with contextlib.redirect_stdout(io.StringIO()) as redirected:
                outputs: list[Message] = []
                client.execute_interactive(f"print('cell {n}')", output_hook=outputs.append)
                print("application", n)
            assert redirected.getvalue() == f"application {n}\n"
            client.execute_interactive("print('after')", output_hook=outputs.append)
            assert text_of(outputs) == f"cell {n}\nafter\n"
    assert sys.stdout is found


def test_an_application_may_end_with_its_kernel_running() -> None:
    """The kernel keeps no process from ending, not even in a cell, and leaves no files."""
    code = """
        from kernel_mgmt import start_kernel_blocking
        manager, client = start_kernel_blocking("native/inprocess")
        client.execute("import time\\nprint(1)\\nwhile True: time.sleep(0.01)")
        print("ending")
        """
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ending\n", "")
    assert list(RUNTIME_DIR.iterdir()) == []


def test_an_exception_of_the_application_is_its_own() -> None:
    """A program that dies while a cell runs says so on its stderr."""
    code = """
        import threading
        from kernel_mgmt import start_kernel_blocking
        ready = threading.Event()
        params = {"user_ns": {"ready": ready}}
        manager, client = start_kernel_blocking("native/inprocess", launch_params=params)
        client.execute("ready.set()\\nimport time\\nwhile True: time.sleep(0.01)")
        assert ready.wait(20)
        raise RuntimeError("the application's own")
        """
    done = run_python(code)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: the application's own\n")


def test_a_forked_child_of_a_cell_prints_to_the_application() -> None:
    """A copy of the kernel's thread in another process is no kernel."""
    code = """
        from kernel_mgmt import run_kernel_blocking
        cell = "import os\\npid = os.fork()\\nif not pid: print('child', flush=True); os._exit(0)"
        with run_kernel_blocking("native/inprocess") as client:
            client.execute_interactive(cell + "\\nprint(os.waitpid(pid, 0)[1])")
        """
    done = run_python(code)
    assert sorted(done.stdout.split()) == ["0", "child"], done.stderr


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_starts_and_stops_leave_nothing(finder: KernelFinder) -> None:
    """Twenty kernels, one after another, leave no descriptor, thread, file or object."""

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    def some(count: int) -> tuple[int, int]:
        for _ in range(count):
            with run_kernel_blocking(TYPE, finder=finder) as client:
                client.execute_interactive("x = [0] * 100\nprint(x)", output_hook=lambda _: None)
        gc.collect()
        process = psutil.Process()
        return process.num_fds(), process.num_threads()

    before, objects_before = some(2), objects()
    assert some(20) == before
    # The background loop may hold the last clients a moment longer.
    eventually_sync(lambda: objects() < objects_before + 500, interval=0.1)
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []


# --- interrupting and ending ---------------------------------------------------------------------

BUSY = [
    "while True: pass",
    "import time\nwhile True: time.sleep(0.01)",
    "import asyncio\nawait asyncio.sleep(60)",
    "async def busy():\n    while True: pass\nawait busy()",
    "import threading\nwhile True: threading.Event().wait(0.01)",
    "get_ipython().run_cell('while True: pass').raise_error()",
]


@pytest.mark.parametrize("code", BUSY)
async def test_a_cell_can_be_interrupted(client: KernelClient, code: str) -> None:
    """By message as by the manager, and the next cell is not hit."""
    assert client.manager is not None
    for interrupt in (client.interrupt, client.manager.interrupt):
        request = client.execute(f"print('begun')\n{code}", stop_on_error=False)
        async with asyncio.timeout(20):
            await begun(request)
            await interrupt()
            assert (await request).content["ename"] == "KeyboardInterrupt"
        assert await printed(client, "print('on')") == "on\n"


async def test_an_interrupt_is_neither_lost_nor_leaked(client: KernelClient) -> None:
    """It stops a cell that just begins, and one that comes between cells hits none."""
    assert client.manager is not None
    async with asyncio.timeout(30):
        for _ in range(15):
            request = client.execute("while True: pass", stop_on_error=False)
            async for _ in request:  # its status busy: the cell's code may not have begun
                break
            await client.manager.interrupt()
            assert (await request).content["ename"] == "KeyboardInterrupt"
        for n in range(30):
            short = client.execute("1 + 1", stop_on_error=False)
            await asyncio.sleep(n % 10 * 0.0005)  # before, in and after the cell
            await client.manager.interrupt()
            reply = await short
            assert reply.content.get("ename", "KeyboardInterrupt") == "KeyboardInterrupt"
            assert await printed(client, "print('on')") == "on\n"


async def test_an_interrupted_input_ends(client: KernelClient) -> None:
    """A cell that waits for its user's answer can be interrupted."""
    asked = asyncio.Event()

    async def never(prompt: Any) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    task = asyncio.create_task(run(client, "input('? ')", stdin_hook=never))
    async with asyncio.timeout(10):
        await asked.wait()
        await client.interrupt()
        reply, _ = await task
    assert reply.content["ename"] == "KeyboardInterrupt"


async def end_by_exit(client: KernelClient, manager: KernelManager) -> None:
    """Call `exit()` in a cell."""
    await run(client, "exit()")


async def end_by_message(client: KernelClient, manager: KernelManager) -> None:
    """Send a shutdown_request."""
    await client.shutdown()


async def end_by_terminate(client: KernelClient, manager: KernelManager) -> None:
    """Terminate it in a cell that would never end."""
    client.execute("while True: pass")
    await manager.terminate()


async def end_by_signal(client: KernelClient, manager: KernelManager) -> None:
    """Send what stands for SIGTERM."""
    client.execute("while True: pass")
    await manager.signal(signal.SIGTERM)


async def end_by_kill(client: KernelClient, manager: KernelManager) -> None:
    """Kill it in a cell that catches what is raised in it, and goes on."""
    stubborn = "try:\n    while True: pass\nexcept BaseException: pass\nwhile True: pass"
    request = client.execute(f"print('begun')\n{stubborn}")
    await begun(request)
    await manager.kill()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (end_by_exit, "exit() was called in it"),
        (end_by_message, "it was shut down"),
        (end_by_terminate, "it was terminated"),
        (end_by_signal, "it was terminated"),
        (end_by_kill, "it was killed"),
    ],
)
async def test_the_end_of_a_kernel(finder: KernelFinder, end: Any, reason: str) -> None:
    """Each way to end it ends the thread and not the process, and the status says which it was."""
    manager, client = await start_kernel(TYPE, finder=finder)
    assert manager is not None
    async with manager, client, asyncio.timeout(20):
        await end(client, manager)
        assert await manager.wait() == ExitStatus(code=0, reason=reason)
        assert not await manager.is_alive()
        for method in (manager.interrupt, manager.terminate, manager.kill, manager.cleanup):
            await method()
        await manager.signal(signal.SIGHUP)
        assert await manager.log_tail() == ""
        assert manager.record() is None


@pytest.mark.parametrize("shell", ["main shell", "subshell"])
async def test_a_thread_that_does_not_listen_cannot_be_killed(
    finder: KernelFinder, shell: str
) -> None:
    """The error says so, nobody can come in any more, and the thread ends when it can."""
    release = threading.Lock()
    release.acquire()
    params = {"user_ns": {"release": release}}
    manager, client = await start_kernel(TYPE, finder=finder, launch_params=params)
    assert manager is not None
    async with client:
        async with asyncio.timeout(20):
            if shell == "subshell":
                await busy_subshell(client, "release.acquire()")
            else:
                await begun(client.execute("print('begun')\nrelease.acquire()"))
            with pytest.raises(KernelMgmtError, match="a thread can only be asked to end"):
                await client.shutdown_or_terminate(timeout=0)
        assert await manager.is_alive()
        assert list(RUNTIME_DIR.iterdir()) == []
        assert list(ROOT.glob("km-*")) == []
        release.release()
        async with asyncio.timeout(20):
            await manager.wait()
        await manager.cleanup()


async def test_other_signals_are_refused(client: KernelClient) -> None:
    """They would be the whole application's."""
    assert client.manager is not None
    with pytest.raises(KernelMgmtError, match="it would reach the whole application"):
        await client.manager.signal(signal.SIGHUP)
    assert await client.manager.is_alive()


async def test_waiting_can_be_given_up(client: KernelClient) -> None:
    """A wait that is cancelled leaves the kernel alone, and can be begun again."""
    assert client.manager is not None
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.manager.wait()
    assert await printed(client, "print('on')") == "on\n"


async def test_tasks_of_cells_end_with_the_kernel(
    finder: KernelFinder, user_ns: dict[str, Any]
) -> None:
    """A task that a cell left behind is cancelled, and may clean up."""
    code = """
import asyncio
async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)
task = asyncio.create_task(forever())
await asyncio.sleep(0)
"""
    user_ns["ended"] = []
    params = {"user_ns": user_ns}
    async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
        assert await printed(client, code) == ""
        assert user_ns["ended"] == []
    assert user_ns["ended"] == [True]


async def test_a_thread_of_a_cell_does_not_hold_up_the_end(finder: KernelFinder) -> None:
    """What a cell runs in a thread is not waited for."""
    release = threading.Event()
    user_ns = {"release": release}
    params = {"user_ns": user_ns}
    try:
        async with run_kernel(TYPE, finder=finder, launch_params=params) as client:
            code = "import asyncio\ntask = asyncio.create_task(asyncio.to_thread(release.wait, 60))\nawait asyncio.sleep(0.01)"
            assert await printed(client, code) == ""
            assert client.manager is not None
            async with asyncio.timeout(20):
                await client.shutdown()
                await client.manager.wait()
        assert not release.is_set()
    finally:
        release.set()


async def test_a_task_that_exits_ends_nothing(client: KernelClient) -> None:
    """SystemExit in a task of a cell neither ends the kernel nor the process."""
    code = (
        "import asyncio\nasync def leave(): raise SystemExit\ntask = asyncio.create_task(leave())"
    )
    assert await printed(client, code) == ""
    assert await printed(client, "print(repr(task.exception()))") == "SystemExit()\n"


async def test_heartbeat(client: KernelClient) -> None:
    """It is answered while a cell runs."""
    assert client.responsive
    request = client.execute("print(1)\nwhile True: pass", stop_on_error=False)
    async with asyncio.timeout(20):
        await begun(request)
        await eventually(lambda: client.responsive)
        await client.interrupt()
        await request


# --- launching -----------------------------------------------------------------------------------


async def test_the_connection_file_is_private_and_goes(finder: KernelFinder) -> None:
    """It is where Jupyter's tools look, with the sockets in a directory that is this user's alone."""
    manager, client = await start_kernel(TYPE, finder=finder)
    assert manager is not None
    async with client, manager:
        (path,) = RUNTIME_DIR.iterdir()
        assert path.name == f"kernel-{manager.kernel_id}.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ConnectionInfo.read(path) == client.connection_info
        assert client.connection_info.interrupt_mode == "message"
        if os.name == "posix":
            directory = Path(client.connection_info.ip).parent
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(RUNTIME_DIR.iterdir()) == []


async def test_a_relaunch_has_the_same_endpoints(finder: KernelFinder) -> None:
    """Given endpoints are used again, and refused while they are in use."""
    given, manager = await finder.launch(TYPE)
    assert manager is not None
    async with manager:
        with pytest.raises(LaunchError, match="accepts connections"):
            await finder.launch(TYPE, connection_info=given)
    again, manager = await finder.launch(TYPE, connection_info=given)
    assert manager is not None
    async with manager:
        assert again == given


def test_finding_imports_neither_ipykernel_nor_ipython() -> None:
    """Both kernel types are found without what they need when they run."""
    code = """
        import sys
        from kernel_mgmt import KernelFinder
        types = KernelFinder.from_entrypoints().find_kernels()
        print(*sorted(t.id for t in types if t.provider == "native"))
        print({"ipykernel", "IPython", "zmq.eventloop"} & set(sys.modules))
        """
    assert run_python(code).stdout.splitlines() == ["native/inprocess native/python3", "set()"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"launch_params": {"colour": 1}}, "no launch parameter 'colour'. It knows user_ns."),
        ({"launch_params": {"user_ns": [1]}}, "'user_ns' is of type list. It must be a dict"),
        ({"cwd": "/"}, "cannot have the working directory '/'"),
        ({"env": {"KM_X": "1"}}, "cannot have the environment variables KM_X"),
    ],
)
async def test_what_cannot_be_had_is_refused(
    finder: KernelFinder, options: dict[str, Any], sentence: str
) -> None:
    """Before anything is started, and with a word on what would do."""
    with pytest.raises(LaunchError) as caught:
        await finder.launch(TYPE, **options)
    assert caught.value.phase == "resolve"
    assert sentence in caught.value.summary


@pytest.mark.parametrize(("installed", "offered"), [("6.29.5", False), ("7.4.0", True)])
def test_an_older_ipykernel_is_named(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, installed: str, offered: bool
) -> None:
    """Its parts fit together in another way, so the type is not offered and a problem says why."""
    monkeypatch.setattr(inprocess, "version", lambda _: installed)
    if offered:
        assert finder.get(TYPE).interrupt_mode == "message"
    else:
        with pytest.raises(NoSuchKernel, match=r"ipykernel 6\.29\.5 cannot .* 'ipykernel>=7\.4'"):
            finder.get(TYPE)


def failing(*args: Any, **kwargs: Any) -> Any:
    """Stand in for something that fails."""
    raise RuntimeError("no more of those")


@pytest.mark.parametrize(
    "broken",
    [
        "threading.Thread.start",
        "ipykernel.iostream.IOPubThread",
        "ipykernel.zmqshell.ZMQInteractiveShell.__init__",
    ],
)
async def test_a_kernel_that_cannot_start_leaves_nothing(
    finder: KernelFinder, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Wherever its start fails, the error says why, and all is as before."""
    before = process_state()
    kernel_type = finder.get(TYPE)
    monkeypatch.setattr(broken, failing)
    with pytest.raises(LaunchError, match="RuntimeError: no more of those") as caught:
        await finder.launch(kernel_type)
    assert caught.value.phase == "start"
    assert list(RUNTIME_DIR.iterdir()) == []
    assert list(ROOT.glob("km-*")) == []
    assert process_state() == before


@pytest.mark.parametrize("phase", ["start", "ready"])
async def test_a_cancelled_start_leaves_nothing(finder: KernelFinder, phase: str) -> None:
    """A start that is given up ends its thread."""
    reached = asyncio.Event()

    def told(progress: Any) -> None:
        if progress.phase == phase:
            reached.set()

    task = asyncio.create_task(start_kernel(TYPE, finder=finder, on_progress=told))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(RUNTIME_DIR.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name in ("IOPub", "Control")]
