"""Finding kernel types, telling what is wrong with providers, and handing launches to them."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import (
    ConnectionInfo,
    KernelDied,
    KernelFinder,
    KernelProblem,
    KernelRecord,
    KernelType,
    Launched,
    LaunchError,
    LaunchProgress,
    LaunchRequest,
    NannyError,
    NannyOptions,
    NoSuchKernel,
    NoSuchProvider,
    Prompt,
    ProviderError,
    hookimpl,
    run_kernel,
)
from kernel_mgmt.machine import this_machine
from kernel_mgmt.nanny_client.manager import RemoteKernelManager
from kernel_mgmt.testing import EchoProvider
from waiting import eventually_sync


class Finds:
    """A provider whose find hook gives what it is told.

    Args:
        *items: names of kernel types, or anything to give as it is.
    """

    def __init__(self, *items: object) -> None:
        self.items = items

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> Any:
        """Give the items."""
        return [KernelType(item) if isinstance(item, str) else item for item in self.items]


class Calls:
    """A provider whose find hook is a function.

    Args:
        find: the function.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self.find = find
        self.calls = 0

    @hookimpl
    def kernel_mgmt_find_kernels(self) -> Any:
        """Call the function."""
        self.calls += 1
        return self.find()


class Launches(Finds):
    """A provider of one type ``x`` whose launch hook is a function, and its attach hook as well."""

    def __init__(self, launch: Callable[[Any], Any]) -> None:
        super().__init__("x")
        self.launch = launch

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Any:
        """Call the function."""
        return self.launch(request)

    @hookimpl
    def kernel_mgmt_attach_kernel(self, record: KernelRecord) -> Any:
        """Call the function."""
        return self.launch(record)


def ids(types: Iterable[KernelType]) -> list[str]:
    """The ids of kernel types."""
    return [kernel_type.id for kernel_type in types]


# --- find and get --------------------------------------------------------------------------------


def test_all_types_are_found_in_order() -> None:
    """By provider in the order given, then as the provider gave them, with its id filled in."""
    finder = KernelFinder({"b": Finds("2", "1"), "a": Finds("3"), "none": Finds()})
    assert ids(finder.find_kernels()) == ["b/2", "b/1", "a/3"]
    assert finder.problems == []
    assert repr(finder) == "<KernelFinder b a none, 0 problems>"
    assert list(finder.providers) == ["b", "a", "none"]


def test_what_a_type_says_is_kept() -> None:
    """A subclass of KernelType stays one, with all its fields; only the provider is filled in."""

    @dataclass(frozen=True)
    class Richer(KernelType):
        colour: str = ""

    finder = KernelFinder({"a": Finds(Richer("x", metadata={"m": 1}, colour="red", provider="z"))})
    found = finder.get("a/x")
    assert isinstance(found, Richer)
    assert found == Richer("x", metadata={"m": 1}, colour="red", provider="a")


def test_nothing_found_is_nothing() -> None:
    """Providers that give None, or have no find hook, find nothing, and that is no problem."""

    class OnlyLaunches:
        @hookimpl
        def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> None:
            return None

    finder = KernelFinder({"none": Calls(lambda: None), "launches": OnlyLaunches()})
    assert finder.find_kernels() == []
    assert finder.problems == []


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("a/Python", "a/Python"),
        ("a/python", "a/python"),
        ("a/JULIA", "a/julia"),
        ("julia", "a/julia"),
        ("Julia", "a/julia"),
        ("R", "b/R"),
        ("r", "b/R"),
        ("b/some/image", "b/some/image"),
        ("Python", "a/Python"),
    ],
)
def test_get(asked: str, found: str) -> None:
    """The exact name first, then any case; a bare name when one provider alone has it."""
    finder = KernelFinder({"a": Finds("Python", "python", "julia"), "b": Finds("R", "some/image")})
    assert finder.get(asked).id == found


def test_only_the_provider_that_an_id_names_is_asked() -> None:
    """A slow or broken neighbour costs nothing."""
    neighbour = Calls(list)
    KernelFinder({"a": Finds("x"), "b": neighbour}).get("a/x")
    assert neighbour.calls == 0


@pytest.mark.parametrize(
    ("asked", "sentence", "candidates"),
    [
        ("a/pyton3", "did you mean a/python3?", ["a/python3"]),
        ("a/PYTON3", "did you mean a/python3?", ["a/python3"]),
        ("pyton3", "did you mean a/python3 or b/python3?", ["a/python3", "b/python3"]),
        ("b/pyton3", "did you mean b/python3?", ["b/python3"]),
        ("a/zzz", "there are a/python3, a/julia.", []),
        ("zzz", "there are a/python3, a/julia, b/python3.", []),
        ("a/", "there are a/python3, a/julia.", []),
        ("", "there are a/python3, a/julia, b/python3.", []),
        ("empty/x", "the provider 'empty' has none; see how it is told of some.", []),
    ],
)
def test_an_unknown_type_names_what_is_near(
    asked: str, sentence: str, candidates: list[str]
) -> None:
    """Else it names what there is; and the same is there for programs."""
    finder = KernelFinder({"a": Finds("python3", "julia"), "b": Finds("python3"), "empty": Finds()})
    with pytest.raises(NoSuchKernel) as caught:
        finder.get(asked)
    assert str(caught.value).startswith(f"There is no kernel type {asked!r}; {sentence}")
    assert type(caught.value) is NoSuchKernel
    assert caught.value.type_id == asked
    assert list(caught.value.candidates) == candidates


def test_an_ambiguous_name_gives_all_ids() -> None:
    """A bare name of two providers is an error that lists every one of them."""
    finder = KernelFinder({"a": Finds("Py"), "b": Finds("py", "r"), "c": Finds("PY")})
    with pytest.raises(NoSuchKernel, match="named 'pY': a/Py, b/py, c/PY; say which") as caught:
        finder.get("pY")
    assert caught.value.candidates == ("a/Py", "b/py", "c/PY")
    assert finder.get("py").id == "b/py"


@pytest.mark.parametrize(
    ("asked", "sentence", "candidates"),
    [
        ("SPEC/x", "There is no provider 'SPEC' for 'SPEC/x'; did you mean spec?", ["spec"]),
        ("nativ/x", "There is no provider 'nativ' for 'nativ/x'; did you mean native?", ["native"]),
        ("moon/x", "pip install kernel-mgmt-moon, if there is such a distribution", []),
        ("moon/x", "(installed are: native, spec).", []),
        ("/x", "There is no provider '' for '/x'; the id of a kernel type is provider/name", []),
    ],
)
def test_an_unknown_provider_is_told(asked: str, sentence: str, candidates: list[str]) -> None:
    """The error names what is near, or what might be installed, and is a NoSuchKernel too."""
    finder = KernelFinder({"native": Finds("x"), "spec": Finds("x")})
    with pytest.raises(NoSuchProvider) as caught:
        finder.get(asked)
    assert sentence in str(caught.value)
    assert list(caught.value.candidates) == candidates


# --- problems ------------------------------------------------------------------------------------


def half() -> Iterator[KernelType]:
    """Give one type and fail."""
    yield KernelType("first")
    raise OSError("no such\n  planet.")


async def coroutine() -> list[KernelType]:
    """Be no plain function."""
    return []


def exits() -> None:
    """Raise what no ``except Exception`` catches."""
    raise SystemExit(3)


async def generator() -> AsyncIterator[KernelType]:
    """Be no plain generator."""
    yield KernelType("x")


#: What a find hook does, the names of the types that are left of it, and what the problem says.
WRONG: dict[str, tuple[Callable[[], Any], list[str], str]] = {
    "raises": (
        lambda: 1 / 0,
        [],
        "Listing its kernels failed: ZeroDivisionError: division by zero.",
    ),
    "raises in the middle": (half, ["first"], "failed: OSError: no such planet."),
    "exits": (exits, [], "Listing its kernels failed: SystemExit: 3."),
    "is a coroutine": (coroutine, [], "find hook is 'async def', and hooks are plain functions."),
    "is an async generator": (
        generator,
        [],
        "TypeError: 'async_generator' object is not iterable.",
    ),
    "gives a number": (lambda: 5, [], "TypeError: 'int' object is not iterable."),
    "gives a string": (lambda: "x", [], "It found 'x', which is no KernelType with a name."),
    "a wrong item": (lambda: [KernelType("a"), 5, KernelType("b")], ["a", "b"], "It found 5, "),
    "no name": (lambda: [KernelType(""), KernelType("b")], ["b"], "no KernelType with a name."),
    "a name that is none": (
        lambda: [KernelType(5), KernelType("b")],  # type: ignore[arg-type]
        ["b"],
        "no KernelType with a name.",
    ),
    "a name twice": (
        lambda: [KernelType("a", display_name="1"), KernelType("a"), KernelType("b")],
        ["a", "b"],
        "It gave two kernel types of this name; the first counts.",
    ),
    "a problem": (lambda: [KernelProblem("c", "Mend it."), KernelType("b")], ["b"], "Mend it."),
}


@pytest.mark.parametrize(("find", "left", "sentence"), WRONG.values(), ids=WRONG)
def test_a_broken_provider_costs_only_itself(
    find: Callable[[], Any], left: list[str], sentence: str
) -> None:
    """The others' types are found, and one problem says what is wrong, until it is mended."""
    provider = Calls(find)
    finder = KernelFinder({"bad": provider, "good": Finds("x")})
    for _ in range(2):
        assert ids(finder.find_kernels()) == [*(f"bad/{name}" for name in left), "good/x"]
        (problem,) = finder.problems
        assert problem.provider == "bad"
        assert sentence in problem.message
        assert "\n" not in problem.message
    provider.find = list
    assert ids(finder.find_kernels()) == ["good/x"]
    assert finder.problems == []


def test_a_misspelt_hook_is_a_problem() -> None:
    """Neither silence nor an exception, but a problem that names the hook."""

    class Misspelt:
        @hookimpl
        def kernel_mgmt_find_kernel(self) -> list[KernelType]:
            return []

    finder = KernelFinder({"bad": Misspelt(), "good": Finds("x")})
    assert ids(finder.find_kernels()) == ["good/x"]
    assert ["kernel_mgmt_find_kernel'" in problem.message for problem in finder.problems] == [True]
    with pytest.raises(ProviderError, match="kernel_mgmt_find_kernel'"):
        finder.get("bad/x")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds up who waits for it, at most until the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_slow_provider_costs_its_time_and_its_own_types(gate: threading.Event) -> None:
    """The others' types come when the time is over, and the slow one's when it has answered."""

    def slow() -> list[KernelType]:
        gate.wait(60)
        return [KernelType("late")]

    provider = Calls(slow)
    finder = KernelFinder({"slow": provider, "good": Finds("x")}, find_timeout=0.1)
    for _ in range(3):
        started = time.monotonic()
        assert ids(finder.find_kernels()) == ["good/x"]
        assert time.monotonic() - started < 5
        assert [str(problem) for problem in finder.problems] == [
            "slow: It did not list its kernels within 0.1 s; finding must be local and quick."
        ]
    assert provider.calls == 1  # and so only one thread
    with pytest.raises(NoSuchKernel, match=r"within 0\.1 s"):
        finder.get("slow/late")
    gate.set()
    eventually_sync(lambda: ids(finder.find_kernels()) == ["slow/late", "good/x"])
    assert finder.problems == []


def test_several_slow_providers_share_the_time(gate: threading.Event) -> None:
    """The limit is for all together, not for one after the other."""
    plugins = {f"slow{n}": Calls(lambda: gate.wait(60) and ()) for n in range(20)}
    finder = KernelFinder(plugins, find_timeout=0.2)
    started = time.monotonic()
    assert finder.find_kernels() == []
    assert time.monotonic() - started < 2
    assert len(finder.problems) == 20


@pytest.mark.parametrize("asked", ["a/broken", "a/BROKEN", "broken"])
def test_asking_for_a_type_with_a_problem_quotes_it(asked: str) -> None:
    """Who asks for what cannot be offered learns why, rather than what is near."""
    problem = KernelProblem("broken", "'/x/kernel.json' is empty; mend or remove it.")
    finder = KernelFinder({"a": Finds("broken2", problem), "b": Finds("x")})
    with pytest.raises(NoSuchKernel) as caught:
        finder.get(asked)
    assert str(caught.value) == f"There is no kernel type {asked!r}; {problem.message}"


def test_asking_a_provider_that_found_nothing_quotes_why() -> None:
    """A problem of the whole provider is told where nothing is near."""
    finder = KernelFinder({"a": Calls(lambda: 1 / 0), "b": Finds("x")})
    with pytest.raises(NoSuchKernel, match="'a/y'; Listing its kernels failed: ZeroDivisionError"):
        finder.get("a/y")


def test_a_bare_name_that_is_nowhere_quotes_problems_with_their_providers() -> None:
    """Beside what there is stands what could not be listed; with nothing at all, every problem."""
    broken = Calls(lambda: 1 / 0)
    lacks = Finds(KernelProblem("z", "Mend it."))
    with pytest.raises(NoSuchKernel) as caught:
        KernelFinder({"a": broken, "b": Finds("x"), "c": lacks}).get("something")
    assert str(caught.value) == (
        "There is no kernel type 'something'; there are b/x. "
        "a: Listing its kernels failed: ZeroDivisionError: division by zero."
    )
    not_loaded: Any = object()
    with pytest.raises(
        NoSuchKernel, match=r"all\. d: The provider 'd' cannot be used: it implements"
    ):
        KernelFinder({"d": not_loaded}).get("something")
    with pytest.raises(NoSuchKernel) as caught:
        KernelFinder({"a": broken, "c": lacks}).get("something")
    assert str(caught.value) == (
        "There is no kernel type 'something'; no kernel was found at all. "
        "a: Listing its kernels failed: ZeroDivisionError: division by zero. c/z: Mend it."
    )


def test_finding_from_many_threads() -> None:
    """Several threads may use one finder at once."""
    finder = KernelFinder({str(n): Finds("x", 5) for n in range(5)})
    results: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: results.append(ids(finder.find_kernels())))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[f"{n}/x" for n in range(5)]] * 10
    assert len(finder.problems) == 5


# --- launch --------------------------------------------------------------------------------------


async def test_launch_hands_everything_to_the_one_provider() -> None:
    """All that the caller said is in the request, and no other provider hears of it."""
    requests: list[LaunchRequest] = []
    given = ConnectionInfo.for_tcp()

    async def launch(request: LaunchRequest) -> Launched:
        requests.append(request)
        return Launched(given, None)

    def unwanted(_: object) -> None:
        raise AssertionError

    def on_prompt(_: Prompt) -> str:
        return ""

    steps: list[LaunchProgress] = []
    finder = KernelFinder({"other": Launches(unwanted), "it": Launches(launch)})
    launched = await finder.launch(
        "it/x",
        cwd="~/there",
        env={"A": "1", "B": None},
        launch_params={"p": 1},
        kernel_id="my-id_1.0",
        connection_info=given,
        on_progress=steps.append,
        on_prompt=on_prompt,
    )
    assert launched == (given, None)
    assert requests == [
        LaunchRequest(
            kernel_type=finder.get("it/x"),
            kernel_id="my-id_1.0",
            cwd=Path.home() / "there",
            env={"A": "1", "B": None},
            launch_params={"p": 1},
            connection_info=given,
            on_progress=requests[0].on_progress,
            on_prompt=on_prompt,
        )
    ]
    assert steps == [LaunchProgress("resolve", "Found it/x")]


async def test_launch_needs_no_more_than_an_id() -> None:
    """What is left out has its default, and each kernel an id of its own."""
    requests: list[LaunchRequest] = []

    async def launch(request: LaunchRequest) -> Launched:
        requests.append(request)
        return Launched(ConnectionInfo.for_tcp(), None)

    finder = KernelFinder({"it": Launches(launch)})
    for what in ("it/x", "x", finder.get("it/x"), replace(finder.get("x"), display_name="mine")):
        await finder.launch(what)
    assert len({request.kernel_id for request in requests}) == 4
    assert all(request.cwd is None and request.env == {} for request in requests)
    assert requests[-1].kernel_type.display_name == "mine"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_provider_can_ask(asynchronous: bool) -> None:
    """on_prompt answers, plain or as a coroutine."""
    answers: list[str] = []

    async def launch(request: LaunchRequest) -> Launched:
        answers.append(await request.prompt("Password?"))
        return Launched(ConnectionInfo.for_tcp(), None)

    async def later(prompt: Prompt) -> str:
        await asyncio.sleep(0)
        return prompt.message[::-1]

    finder = KernelFinder({"it": Launches(launch)})
    on_prompt = later if asynchronous else (lambda prompt: prompt.message[::-1])
    await finder.launch("it/x", on_prompt=on_prompt)
    assert answers == ["?drowssaP"]
    with pytest.raises(LaunchError, match="nobody is there to answer"):
        await finder.launch("it/x")


async def test_cwd_env_and_parameters_reach_a_real_kernel(
    finder: KernelFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable can be set and removed, and the directory be any path."""
    monkeypatch.setenv("KM_REMOVED", "x")
    directory = tmp_path / "with space and ü"
    directory.mkdir()
    async with run_kernel(
        "echo", finder=finder, cwd=str(directory), env={"KM_SET": "ü x", "KM_REMOVED": None}
    ) as client:
        request = client.execute("cwd\nenv KM_SET\nenv KM_REMOVED")
        reply = await request
        texts = [m.content["text"] async for m in request if m.msg_type == "stream"]
    assert texts == [f"{directory}\n", "ü x\n"]
    assert reply.content["ename"] == "KeyError"


@pytest.mark.parametrize("kernel_id", ["", "a/b", "../x", "a\0b", "a b", "ä", "x" * 129])
async def test_a_kernel_id_that_cannot_name_a_file_is_refused(
    finder: KernelFinder, kernel_id: str
) -> None:
    """It is refused before anything runs, since it becomes part of paths."""
    with pytest.raises(LaunchError, match="cannot be used") as caught:
        await finder.launch("echo/echo", kernel_id=kernel_id)
    assert caught.value.phase == "resolve"


async def test_several_tasks_launch_at_once(finder: KernelFinder) -> None:
    """Kernels that start together have their own ids, keys and processes."""
    launched = await asyncio.gather(*(finder.launch("echo") for _ in range(6)))
    managers = [manager for _, manager in launched if manager is not None]
    try:
        assert len({info.key for info, _ in launched}) == 6
        assert len({info.ip for info, _ in launched}) == 6
        assert len({manager.kernel_id for manager in managers}) == 6
        assert all([await manager.is_alive() for manager in managers])
    finally:
        await asyncio.gather(*(manager.cleanup() for manager in managers))


async def test_a_slow_provider_does_not_block_the_loop(gate: threading.Event) -> None:
    """While a find hook takes its time the loop goes on, and the launch can be cancelled."""
    finder = KernelFinder({"slow": Calls(lambda: gate.wait(60) and ())}, find_timeout=30)
    task = asyncio.create_task(finder.launch("slow/x"))
    async with asyncio.timeout(5):
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- providers that break the contract -----------------------------------------------------------


async def raises(_: object) -> Launched:
    """Raise when awaited."""
    raise OSError("no such\n planet.")


def raises_at_once(_: object) -> Launched:
    """Raise when called."""
    raise OSError("no such\n planet.")


async def times_out(_: object) -> Launched:
    """Raise what might be taken for the caller's own time limit."""
    raise TimeoutError


@pytest.mark.parametrize(
    ("launch", "cause"),
    [
        (raises, "the provider 'it' raised OSError: no such planet."),
        (raises_at_once, "the provider 'it' raised OSError: no such planet."),
        (times_out, "the provider 'it' raised TimeoutError."),
    ],
)
async def test_a_provider_that_raises(launch: Callable[[Any], Any], cause: str) -> None:
    """A stranger's exception becomes a LaunchError that names the provider, one line long."""
    finder = KernelFinder({"it": Launches(launch)})
    for call in (finder.launch("it/x"), finder.attach(_record("it/x"))):
        with pytest.raises(LaunchError) as caught:
            await call
        assert caught.value.cause == cause
        assert caught.value.advice == "This is a defect of the provider."
        assert isinstance(caught.value.__cause__, (OSError, TimeoutError))


async def _gives(value: object) -> Any:
    return value


@pytest.mark.parametrize(
    ("launch", "sentence"),
    [
        (lambda _: None, "hook gave None instead of an awaitable."),
        (lambda _: 5, "hook gave 5 instead of an awaitable."),
        (lambda _: Launched(ConnectionInfo.for_tcp(), None), "instead of an awaitable."),
        (lambda _: _gives(None), "hook gave None instead of a Launched."),
        (lambda _: _gives((1, 2)), "hook gave (1, 2) instead of a Launched."),
        (lambda _: _gives(Launched("x", None)), "instead of a Launched."),  # type: ignore[arg-type]
        (lambda _: _gives(Launched(ConnectionInfo.for_tcp(), 5)), "instead of a Launched."),  # type: ignore[arg-type]
    ],
)
async def test_a_provider_that_gives_rubbish(launch: Callable[[Any], Any], sentence: str) -> None:
    """What is no Launched never reaches the caller; the error names the provider and the hook."""
    finder = KernelFinder({"it": Launches(launch)})
    for hook, call in {
        "launch": finder.launch("it/x"),
        "attach": finder.attach(_record("it/x")),
    }.items():
        with pytest.raises(ProviderError) as caught:
            await call
        assert str(caught.value).startswith(f"The provider 'it' cannot do this: its {hook} hook")
        assert sentence in str(caught.value)
        assert caught.value.provider == "it"


@pytest.mark.parametrize(
    "error",
    [
        LaunchError("it is full.", phase="queue", advice="Wait."),
        ProviderError("It is not set up.", provider="it"),
        KernelDied(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_providers_own_errors_pass_through(error: Exception) -> None:
    """What a provider raises of ours comes out as it is."""

    async def launch(_: object) -> Launched:
        raise error

    with pytest.raises(type(error)) as caught:
        await KernelFinder({"it": Launches(launch)}).launch("it/x")
    assert caught.value is error


async def test_a_cancelled_launch_cancels_the_provider() -> None:
    """The provider's coroutine is told, may clean up, and the caller gets the cancellation."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def launch(_: object) -> Launched:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.set()
        raise AssertionError

    task = asyncio.create_task(KernelFinder({"it": Launches(launch)}).launch("it/x"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()


async def test_a_provider_that_cannot_launch() -> None:
    """A provider without the hook is told apart from one that fails."""
    with pytest.raises(ProviderError, match="'it' cannot do this: it has no launch hook"):
        await KernelFinder({"it": Finds("x")}).launch("it/x")


async def test_a_type_of_a_provider_that_is_not_there() -> None:
    """A type that was made by hand, or by another finder, is no way around the check."""
    finder = KernelFinder({"it": Finds("x")})
    with pytest.raises(NoSuchProvider, match="no provider 'other' for 'other/x'"):
        await finder.launch(KernelType("x", provider="other"))
    with pytest.raises(NoSuchProvider, match="the id of a kernel type is provider/name"):
        await finder.launch(KernelType("x"))


# --- attach --------------------------------------------------------------------------------------


def _record(type_id: str) -> KernelRecord:
    return KernelRecord("1", type_id, ConnectionInfo.for_tcp(), {"pid": 5})


async def test_attach_asks_the_provider_of_the_record() -> None:
    """The provider gets the record as it is, and need not offer the type any more."""
    records: list[KernelRecord] = []

    async def attach(record: KernelRecord) -> Launched:
        records.append(record)
        return Launched(record.connection_info, None)

    record = _record("it/gone")
    info, manager = await KernelFinder({"it": Launches(attach)}).attach(record)
    assert records == [record]
    assert (info, manager) == (record.connection_info, None)


async def test_attach_without_the_provider() -> None:
    """A record of a provider that is not installed says which one to install."""
    with pytest.raises(NoSuchProvider, match="pip install kernel-mgmt-moon"):
        await KernelFinder({}).attach(_record("moon/x"))


async def test_attach_where_the_provider_cannot() -> None:
    """A provider whose kernels end with their launcher says so."""
    finder = KernelFinder({"echo": EchoProvider()})
    with pytest.raises(ProviderError, match="end with the process that launched them"):
        await finder.attach(_record("echo/echo"))


async def test_attach_to_a_nanny_without_the_provider() -> None:
    """A kernel that has a nanny is found without its provider, and also when that cannot attach."""
    info = ConnectionInfo.for_ipc("/nowhere", nanny_control_port=6, nanny_events_port=7)
    for finder in (KernelFinder({}), KernelFinder({"echo": EchoProvider()})):
        record = KernelRecord("1", "echo/echo", info, {"nanny": {"pid": 5}}, machine=this_machine())
        attached, manager = await finder.attach(record)
        assert attached == info
        assert isinstance(manager, RemoteKernelManager)
        assert manager.kernel_id == "1"


async def test_attach_prefers_the_provider() -> None:
    """A provider that can attach is asked, also for kernels with a nanny."""
    info = ConnectionInfo.for_ipc("/nowhere", nanny_control_port=6, nanny_events_port=7)
    mine = RemoteKernelManager(info)
    finder = KernelFinder({"it": Launches(lambda _: _gives(Launched(info, mine)))})
    _, manager = await finder.attach(KernelRecord("1", "it/x", info, {"nanny": {"pid": 5}}))
    assert manager is mine


async def test_attach_to_a_nanny_that_listens_nowhere() -> None:
    """A record that names a nanny and not where it listens is an error that says so."""
    with pytest.raises(NannyError, match="no ports of a nanny"):
        await KernelFinder({}).attach(
            KernelRecord(
                "1", "it/x", ConnectionInfo.for_tcp(), {"nanny": {}}, machine=this_machine()
            )
        )


async def test_attach_to_a_kernel_of_no_machine() -> None:
    """A kernel that is reached over a network is its provider's, also if there is a nanny."""
    info = ConnectionInfo.for_ipc("/nowhere", nanny_control_port=6, nanny_events_port=7)
    record = KernelRecord("1", "moon/x", info, {"nanny": {"pid": 5}})
    with pytest.raises(NoSuchProvider, match="pip install kernel-mgmt-moon"):
        await KernelFinder({}).attach(record)


# --- kernels that outlive this process -----------------------------------------------------------


async def test_manager_of_a_nanny_is_filled_in() -> None:
    """A provider that gives a nanny's ports and no manager need not know how to make one."""
    info = ConnectionInfo.for_ipc("/nowhere", nanny_control_port=6, nanny_events_port=7)
    finder = KernelFinder({"it": Launches(lambda _: _gives(Launched(info, None)))})
    for call in (
        finder.launch("it/x"),
        finder.launch("it/x", nanny=NannyOptions()),
        finder.attach(_record("it/x")),
    ):
        _, manager = await call
        assert isinstance(manager, RemoteKernelManager)


async def test_nanny_options_reach_the_provider() -> None:
    """The provider gets the options as they are."""
    requests = []

    async def launch(request: LaunchRequest) -> Launched:
        requests.append(request)
        return Launched(
            ConnectionInfo.for_ipc("/nowhere", nanny_control_port=6, nanny_events_port=7), None
        )

    options = NannyOptions("mine", lease=5)
    await KernelFinder({"it": Launches(launch)}).launch("it/x", nanny=options)
    assert requests[0].nanny is options


class Ignorant(EchoProvider):
    """A provider of before there were nannies.

    Args:
        managed: whether it gives a manager.
    """

    def __init__(self, *, managed: bool) -> None:
        super().__init__()
        self.managed = managed
        self.launched: list[Launched] = []

    @hookimpl
    def kernel_mgmt_launch_kernel(self, request: LaunchRequest) -> Awaitable[Launched]:
        """Launch without a nanny."""
        return self._launch(replace(request, nanny=None))

    async def _launch(self, request: LaunchRequest) -> Launched:
        info, manager = await super().kernel_mgmt_launch_kernel(request)
        self.launched.append(Launched(info, manager))
        return Launched(info, manager if self.managed else None)


@pytest.mark.parametrize("managed", [True, False])
async def test_provider_that_ignores_the_nanny(managed: bool) -> None:
    """A kernel that would end with this process is ended at once, and the error says why."""
    provider = Ignorant(managed=managed)
    finder = KernelFinder({"echo": provider})
    with pytest.raises(LaunchError, match="echo/echo end with the process that launches them"):
        await finder.launch("echo/echo", nanny=NannyOptions())
    ((_, manager),) = provider.launched
    assert manager is not None
    status = await asyncio.wait_for(manager.wait(), 5)
    assert status.signal == (signal.SIGKILL if managed else None)
    await manager.cleanup()


async def test_provider_whose_kernels_need_no_nanny() -> None:
    """A manager with a record is as good: its kernel can be found again."""
    provider = Ignorant(managed=True)
    launched = await KernelFinder({"echo": provider}).launch("echo/echo")
    assert launched.manager is not None
    launched.manager.record = lambda: {"id": 5}  # type: ignore[method-assign]
    finder = KernelFinder({"it": Launches(lambda _: _gives(launched))})
    async with launched.manager:
        assert await finder.launch("it/x", nanny=NannyOptions()) == launched
        assert await launched.manager.is_alive()
