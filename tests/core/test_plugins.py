"""Loading providers: from distributions that are really installed, each good or bad by itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from kernel_mgmt import KernelFinder, KernelType, ProviderError, hookimpl
from kernel_mgmt.plugins import Problem, Provider, load_providers, wrap_plugins

Install = Callable[..., None]

GOOD = """
    from kernel_mgmt import KernelType, hookimpl

    @hookimpl
    def kernel_mgmt_find_kernels():
        return [KernelType("base")]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts distributions with a module each into a site directory that is on sys.path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(
        distribution: str,
        source: str = GOOD,
        *,
        provider: str = "moon",
        attribute: str = "",
        metadata: bool = True,
    ) -> None:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(dedent(source))
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        target = f"{module}:{attribute}" if attribute else module
        (info / "entry_points.txt").write_text(f"[kernel_mgmt]\n{provider} = {target}\n")
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
            (info / "METADATA").write_text(text)
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def only_problem(provider: str = "moon") -> Problem:
    """The problem of a provider that could not be loaded."""
    providers, problems = load_providers()
    assert provider not in providers
    (problem,) = [problem for problem in problems if problem.provider == provider]
    return problem


# --- good ones -----------------------------------------------------------------------------------


def test_an_installed_provider_is_loaded(install: Install) -> None:
    """Its id is the name of its entry point, and it knows the distribution that it is of."""
    install("kernel-mgmt-moon")
    providers, problems = load_providers()
    provider = providers["moon"]
    assert (provider.id, provider.distribution) == ("moon", "kernel-mgmt-moon 1.2")
    assert repr(provider) == "<Provider moon kernel-mgmt-moon 1.2>"
    assert "moon" not in [problem.provider for problem in problems]
    assert "moon/base" in [t.id for t in KernelFinder.from_entrypoints().find_kernels()]


def test_an_object_can_be_the_plugin(install: Install) -> None:
    """The entry point may name an attribute of its module."""
    source = """
        from kernel_mgmt import KernelType, hookimpl

        class Moon:
            @hookimpl
            def kernel_mgmt_find_kernels(self):
                return [KernelType("base")]

        moon = Moon()
    """
    install("kernel-mgmt-moon", source, attribute="moon")
    assert [t.id for t in KernelFinder.from_entrypoints().find_kernels()].count("moon/base") == 1


def test_a_provider_knows_which_hooks_it_has(install: Install) -> None:
    """A hook that is not implemented is known not to be."""
    install("kernel-mgmt-moon")
    provider = load_providers()[0]["moon"]
    assert (provider.can_find, provider.can_launch, provider.can_attach) == (True, False, False)


def test_one_plugin_can_have_several_ids() -> None:
    """The same object may stand behind two ids, and each call reaches it once."""

    class Moon:
        calls = 0

        @hookimpl
        def kernel_mgmt_find_kernels(self) -> list[KernelType]:
            self.calls += 1
            return [KernelType("base")]

    moon = Moon()
    finder = KernelFinder({"moon": moon, "luna": moon})
    assert [t.id for t in finder.find_kernels()] == ["moon/base", "luna/base"]
    assert moon.calls == 2


# --- bad ones ------------------------------------------------------------------------------------

#: What is in a module, the attribute that the entry point names, and what the problem says.
BROKEN: dict[str, tuple[str, str, str]] = {
    "missing dependency": (
        "import no_such_module",
        "",
        (
            "It cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'. "
            "Install it again, with what it depends on."
        ),
    ),
    "missing attribute": (
        GOOD,
        "plugin",
        (
            "It cannot be loaded: AttributeError: module 'kernel_mgmt_moon' has no attribute 'plugin'. "
            "Install it again, with what it depends on."
        ),
    ),
    "syntax": ("def (", "", "It cannot be loaded: SyntaxError: invalid syntax"),
    "raises": ("1 / 0", "", "It cannot be loaded: ZeroDivisionError: division by zero. "),
    "raises nothing to read": ("raise OSError", "", "It cannot be loaded: OSError. Install"),
    "raises several lines": ("raise OSError('a\\n  b.\\n')", "", "OSError: a b. Install"),
    "exits": ("raise SystemExit(3)", "", "It cannot be loaded: SystemExit: 3. "),
    "exits by sys.exit": ("import sys; sys.exit('bye')", "", "SystemExit: bye. "),
    "generator exit": ("raise GeneratorExit", "", "It cannot be loaded: GeneratorExit. "),
    "cancelled": ("import asyncio; raise asyncio.CancelledError", "", "CancelledError. "),
    "own kind": ("class Skipped(BaseException): pass\nraise Skipped('x')", "", "Skipped: x. "),
    "no hook": (
        "def kernel_mgmt_find_kernels(): return []",
        "",
        (
            "The provider 'moon' cannot be used: it implements no hook; "
            "decorate its functions with kernel_mgmt.hookimpl."
        ),
    ),
    "empty": ("", "", "it implements no hook"),
    "misspelt": (
        "import kernel_mgmt\n@kernel_mgmt.hookimpl\ndef kernel_mgmt_find_kernel(): return []",
        "",
        "its hooks do not fit: unknown hook 'kernel_mgmt_find_kernel'",
    ),
    "unknown parameter": (
        "import kernel_mgmt\n@kernel_mgmt.hookimpl\ndef kernel_mgmt_find_kernels(where): return []",
        "",
        "its hooks do not fit: Plugin 'moon' for hook 'kernel_mgmt_find_kernels'",
    ),
    "a class": (
        (
            "import kernel_mgmt\nclass Moon:\n    @kernel_mgmt.hookimpl\n"
            "    def kernel_mgmt_find_kernels(self): return []"
        ),
        "Moon",
        "its entry point names a class, and must name a module or an object",
    ),
    "no plugin at all": ("plugin = 5", "plugin", "it implements no hook"),
    "an attribute that raises": (
        (
            "class Moon:\n    @property\n    def kernel_mgmt_find_kernels(self): return 1 / 0\n"
            "moon = Moon()"
        ),
        "moon",
        "it implements no hook",
    ),
}


@pytest.mark.parametrize(("source", "attribute", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_provider_is_one_problem(
    install: Install, source: str, attribute: str, sentence: str
) -> None:
    """It costs nothing but itself, and the problem is one line that says what and whose it is."""
    install("kernel-mgmt-moon", source, attribute=attribute)
    install("kernel-mgmt-sun", provider="sun")
    problem = only_problem()
    assert sentence in problem.message
    assert problem.message.endswith(".")
    assert "\n" not in problem.message
    assert "Traceback" not in problem.message
    assert problem.distribution == "kernel-mgmt-moon 1.2"
    assert str(problem) == f"moon (kernel-mgmt-moon 1.2): {problem.message}"
    finder = KernelFinder.from_entrypoints()
    assert "sun/base" in [t.id for t in finder.find_kernels()]
    with pytest.raises(ProviderError, match="The provider 'moon' of 'moon/base' cannot") as caught:
        finder.get("moon/base")
    assert caught.value.provider == "moon"
    assert caught.value.distributions == ("kernel-mgmt-moon 1.2",)


def test_ctrl_c_while_a_provider_is_imported_is_the_users(install: Install) -> None:
    """A KeyboardInterrupt goes to whoever loads providers."""
    install("kernel-mgmt-moon", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_providers()


def test_two_distributions_with_one_id(install: Install) -> None:
    """Neither wins: the problem names both, and so does the error of whoever asks for one."""
    install("kernel-mgmt-moon")
    install("kernel-mgmt-luna")
    problem = only_problem()
    assert sorted(problem.distribution.split(", ")) == [
        "kernel-mgmt-luna 1.2",
        "kernel-mgmt-moon 1.2",
    ]
    finder = KernelFinder.from_entrypoints()
    assert "moon/base" not in [t.id for t in finder.find_kernels()]
    with pytest.raises(ProviderError) as caught:
        finder.get("moon/base")
    for name in ("kernel-mgmt-luna 1.2", "kernel-mgmt-moon 1.2", "uninstall all but one"):
        assert name in str(caught.value)
    assert sorted(caught.value.distributions) == ["kernel-mgmt-luna 1.2", "kernel-mgmt-moon 1.2"]


def test_a_distribution_without_metadata_is_named_by_its_module(install: Install) -> None:
    """A half-removed installation is named by what its entry point says."""
    install("kernel-mgmt-moon", "1 / 0", metadata=False)
    assert only_problem().distribution == "kernel_mgmt_moon"


@pytest.mark.parametrize("provider", ["the moon", "moon/far", "mönd"])
def test_an_id_that_nobody_could_write(install: Install, provider: str) -> None:
    """An id must fit in front of a slash."""
    install("kernel-mgmt-moon", provider=provider)
    assert "letters, digits, '.', '_' and '-' only" in only_problem(provider).message


def test_plugins_that_are_passed_are_checked_alike() -> None:
    """Given objects that are no plugins are problems as well."""
    bad: Any = object()
    providers, problems = wrap_plugins({"bad": bad})
    assert providers == {}
    assert [str(problem).startswith("bad: The provider 'bad' cannot") for problem in problems] == [
        True
    ]
    with pytest.raises(ProviderError, match="implements no hook"):
        Provider("bad", bad)
