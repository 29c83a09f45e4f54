"""The application around a kernel inside it is left alone."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import threading

import psutil
import pytest
from inprocess import (
    ROOT,
    RUNTIME_DIR,
    TYPE,
    process_state,
    run_python,
    text_of,
)
from kernel_mgmt import (
    KernelFinder,
    Message,
    run_kernel_blocking,
)
from waiting import eventually_sync

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
