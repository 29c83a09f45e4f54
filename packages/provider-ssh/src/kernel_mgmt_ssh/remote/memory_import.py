"""Programs that are sent: their modules are imported from memory, and nothing of them is on a disk.

:func:`make_program` gives one source text with all modules in it. The text of this module comes first
in it, so it imports nothing of ours.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

__all__ = ["MemoryImporter", "make_program"]


class MemoryImporter:
    """Finds modules by their names in memory, before any that the machine has.

    Args:
        sources: their texts; the name of a package ends with a dot.
    """

    def __init__(self, sources: dict[str, str]) -> None:
        #: Each module's text, and whether it is a package.
        self._modules = {
            name.rstrip("."): (name[-1] == ".", text) for name, text in sources.items()
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module (importlib.abc.MetaPathFinder)."""
        if name not in self._modules:
            return None
        loader: Any = self  # it has what importlib.abc.Loader has, whose import takes time
        return ModuleSpec(name, loader, origin=_origin(name), is_package=self._modules[name][0])

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave that to the import system (importlib.abc.Loader)."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's text (importlib.abc.Loader)."""
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 - it came with us

    def get_code(self, name: str) -> CodeType:
        """Give a module compiled (importlib.abc.InspectLoader)."""
        return compile(self.get_source(name), _origin(name), "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        """Give a module's text, which tracebacks quote (importlib.abc.InspectLoader)."""
        return self._modules[name][1]


def _origin(name: str) -> str:
    return f"<sent {name}>"


def make_program(importer: str, sources: dict[str, str], main: str) -> bytes:
    """Give one text that runs a function of a module, with the modules in it.

    Args:
        importer: the text of this module.
        sources: what :class:`MemoryImporter` takes.
        main: the module that has the function ``main``.
    """
    text = (
        f"{importer}\n"
        f"import sys\n"
        f"sys.meta_path.insert(0, MemoryImporter({sources!r}))\n"
        f"from {main} import main\n"
        "main()\n"
    )
    return text.encode()
