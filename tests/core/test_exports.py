"""The public names, what importing them costs, and what the part that travels may use."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import kernel_mgmt
import pytest
from interpreters import pythons_3_9
from kernel_mgmt.nanny_client.archive import TRAVELS

SOURCE = Path(kernel_mgmt.__file__).parent

PUBLIC = [
    "BlockingKernelClient",
    "BlockingKernelManager",
    "BlockingKernelRestarter",
    "BlockingRemoteKernelManager",
    "BlockingRequest",
    "ClientClosed",
    "ConnectionChange",
    "ConnectionFileError",
    "ConnectionInfo",
    "ConnectionLost",
    "ExitStatus",
    "InvalidSignature",
    "KernelClient",
    "KernelDied",
    "KernelEvent",
    "KernelFinder",
    "KernelManager",
    "KernelMgmtError",
    "KernelProblem",
    "KernelRecord",
    "KernelRestarted",
    "KernelRestarter",
    "KernelType",
    "LaunchError",
    "LaunchProgress",
    "LaunchRequest",
    "Launched",
    "MalformedMessage",
    "Message",
    "NannyError",
    "NannyOptions",
    "NoSuchKernel",
    "NoSuchProvider",
    "NoSuchRunningKernel",
    "Prompt",
    "ProtocolError",
    "ProviderError",
    "RemoteKernelManager",
    "ReplyLost",
    "Request",
    "RequestTimeout",
    "RestartPolicy",
    "Session",
    "UnsupportedFeature",
    "__version__",
    "attach_kernel",
    "attach_kernel_blocking",
    "hookimpl",
    "hookspec",
    "manager_for",
    "run_kernel",
    "run_kernel_blocking",
    "running_kernels",
    "start_detached",
    "start_detached_blocking",
    "start_kernel",
    "start_kernel_blocking",
]


def run(*arguments: str, python: str = sys.executable) -> str:
    """What an interpreter of its own prints, with our source but nothing else installed by us."""
    process = subprocess.run(
        [python, *arguments], capture_output=True, text=True, check=False, cwd=SOURCE.parent
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


# --- public names --------------------------------------------------------------------------------


def test_public_names() -> None:
    """These are the public names; whoever changes the list changes the promise."""
    assert sorted(kernel_mgmt.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(kernel_mgmt))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_resolves(name: str) -> None:
    """Every public name is there, and is the very object that its module has."""
    value = getattr(kernel_mgmt, name)
    if name != "__version__":
        module = importlib.import_module(f"kernel_mgmt.{kernel_mgmt._MODULE_OF[name]}")
        assert getattr(module, name) is value
        assert name in module.__all__


def test_unknown_name() -> None:
    """A name that does not exist is an AttributeError that says so."""
    with pytest.raises(AttributeError, match="module 'kernel_mgmt' has no attribute 'spam'"):
        _ = kernel_mgmt.spam


def test_type_checkers_see_the_same() -> None:
    """The imports for type checkers are those that happen lazily, name by name."""
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    static: dict[str, list[str]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert [alias.asname for alias in node.names] == [alias.name for alias in node.names]
        static.setdefault(node.module or "", []).extend(alias.name for alias in node.names)
    assert {module: sorted(names) for module, names in static.items()} == {
        module: sorted(names) for module, names in kernel_mgmt._MODULES.items()
    }


def test_version_is_the_distributions() -> None:
    """The version in the source is the one that is installed."""
    assert kernel_mgmt.__version__ == importlib.metadata.version("kernel-mgmt-core")


# --- what importing costs ------------------------------------------------------------------------


def test_import_is_cheap() -> None:
    """Importing the package imports none of what takes its time."""
    code = "import sys, kernel_mgmt; print(*sys.modules, sep='\\n')"
    modules = run("-c", code).split()
    assert not {"zmq", "tornado", "pluggy", "asyncio", "orjson", "jupyter_core"} & set(modules)
    assert [name for name in modules if name.startswith("kernel_mgmt")] == ["kernel_mgmt"]


FOREIGN = """
import sys
before = set(sys.modules)  # what the environment's own .pth files import
for name in sys.argv[1:]:
    __import__(name)
added = {name: sys.modules[name] for name in set(sys.modules) - before}
# Without a spec are those that Cython's modules make for themselves.
names = {name.partition(".")[0] for name, module in added.items() if getattr(module, "__spec__", None)}
print(*sorted(names - set(sys.stdlib_module_names) - {"kernel_mgmt"}))
"""


def test_what_travels_imports_nothing() -> None:
    """The part that the nanny takes along needs the standard library alone, and orjson if any."""
    paths = [path.relative_to(SOURCE.parent).with_suffix("") for path in travelling_files()]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    names.remove("kernel_mgmt.process.windows")  # where there is another system
    assert set(run("-c", FOREIGN, *names).split()) == {"orjson", "zmq"}


def travelling_files() -> list[Path]:
    """The source files of the part that travels."""
    paths = [SOURCE / "__init__.py"]
    for name in TRAVELS:
        path = SOURCE / name
        paths += path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return paths


@pytest.mark.parametrize("path", travelling_files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_what_travels_is_python_3_9(path: Path) -> None:
    """What travels has no syntax that Python 3.9 does not know."""
    ast.parse(path.read_text(), feature_version=(3, 9))


LAUNCH = """
import asyncio, sys, tempfile
from pathlib import Path
from kernel_mgmt.connection import CHANNELS, ConnectionInfo
from kernel_mgmt.launch import KernelType, LaunchRequest
from kernel_mgmt.local import launch_local
from kernel_mgmt.protocol import Session

KERNEL = '''
import json, socket, sys, time
info = json.load(open(sys.argv[1]))
listening = []
for channel in ("shell", "iopub", "stdin", "control", "hb"):
    listening.append(socket.socket(socket.AF_UNIX))
    listening[-1].bind(f"{info['ip']}-{info[channel + '_port']}")
    listening[-1].listen()
time.sleep(60)
'''

async def main(directory):
    request = LaunchRequest(KernelType("x"), kernel_id="1")
    info, manager = await launch_local(
        request,
        lambda path: [sys.executable, "-c", KERNEL, str(path)],
        runtime_dir=Path(directory),
        transport="ipc",
    )
    assert await manager.is_alive()
    session = Session(info.key)
    message = session.message("status", {"a": float("nan")})
    assert str(Session(info.key).deserialize(session.serialize(message)).content["a"]) == "nan"
    assert message.date.tzinfo is not None
    await manager.kill()
    await manager.cleanup()
    print(await manager.wait())

with tempfile.TemporaryDirectory() as directory:
    asyncio.run(main(directory))
"""


@pytest.mark.parametrize("python", [sys.executable, *pythons_3_9()])
def test_what_travels_runs(python: str) -> None:
    """What travels launches and stops a kernel with a bare interpreter, also Python 3.9."""
    # -S: no site-packages, and so neither orjson nor anything else that is installed.
    assert run("-S", "-c", LAUNCH, python=python) == "killed by SIGKILL\n"
