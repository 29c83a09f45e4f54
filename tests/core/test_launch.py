"""What the finder and a provider hand to each other."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import (
    ConnectionInfo,
    KernelRecord,
    KernelType,
    Launched,
    LaunchError,
    LaunchProgress,
    LaunchRequest,
    Prompt,
)


def request(**fields: Any) -> LaunchRequest:
    """A request for a kernel of no matter which type."""
    return LaunchRequest(KernelType("some", provider="any"), kernel_id="1", **fields)


def test_a_request_can_grow() -> None:
    """Every field but type and id has a default, so that older code makes newer requests."""
    parameters = inspect.signature(LaunchRequest).parameters.values()
    assert [p.name for p in parameters if p.default is p.empty] == ["kernel_type", "kernel_id"]


@pytest.mark.parametrize("value", [KernelType("x"), request(), LaunchProgress("start")])
def test_values_are_frozen(value: Any) -> None:
    """What is handed around cannot be changed by whoever gets it."""
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, "other")


def test_ids() -> None:
    """A type's id has its provider, and a record knows the provider by its type's id."""
    assert KernelType("a/b", provider="docker").id == "docker/a/b"
    record = KernelRecord("1", "docker/a/b", ConnectionInfo.for_tcp())
    assert record.provider == "docker"
    assert record.manager == {}


def test_launched_is_a_pair() -> None:
    """The result of a launch can be taken apart."""
    given = ConnectionInfo.for_tcp()
    info, manager = Launched(given, None)
    assert info is given
    assert manager is None


# --- progress ------------------------------------------------------------------------------------


def test_progress_goes_to_who_asked() -> None:
    """A handler gets phase, message and fraction; without one nothing happens."""
    steps: list[LaunchProgress] = []
    request(on_progress=steps.append).progress("pull", "3 of 4 MB", 0.75)
    assert steps == [LaunchProgress("pull", "3 of 4 MB", 0.75)]
    request().progress("pull")


def test_a_progress_handler_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What is only told to somebody does not fail for it."""

    def fail(_: LaunchProgress) -> None:
        raise ZeroDivisionError

    request(on_progress=fail).progress("start")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        ZeroDivisionError
    ]


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_prompt_is_answered(asynchronous: bool) -> None:
    """A plain function and a coroutine function can both answer, and see the whole question."""
    seen: list[Prompt] = []

    def answer(prompt: Prompt) -> str:
        seen.append(prompt)
        return "sesame"

    async def answer_later(prompt: Prompt) -> str:
        return answer(prompt)

    asked = request(on_prompt=answer_later if asynchronous else answer)
    assert await asked.prompt("Password?") == "sesame"
    assert await asked.prompt("Name?", secret=False) == "sesame"
    assert seen == [Prompt("Password?", secret=True), Prompt("Name?", secret=False)]


async def test_without_anybody_to_ask_a_prompt_is_an_error() -> None:
    """The error has the question, the phase and what to do."""
    with pytest.raises(LaunchError) as caught:
        await request().prompt("Password?", phase="connect")
    assert caught.value.phase == "connect"
    assert "'Password?' was asked, and nobody is there to answer" in caught.value.cause
    assert "on_prompt=" in caught.value.advice


async def test_a_prompt_that_raises_tells_no_secret() -> None:
    """What a handler raises is named, without its text, and is there for a debugger."""

    def fail(_: Prompt) -> str:
        raise ValueError("'hunter2' is too short")

    with pytest.raises(LaunchError) as caught:
        await request(on_prompt=fail).prompt("Password?")
    assert "on_prompt raised ValueError." in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_an_error_of_ours_in_a_prompt_handler_passes() -> None:
    """A prompt handler that says why there is no answer, in an error of ours, is quoted as it is."""
    refusal = LaunchError("There is no terminal to ask at.", phase="connect")

    def refuse(_: Prompt) -> str:
        raise refusal

    with pytest.raises(LaunchError) as caught:
        await request(on_prompt=refuse).prompt("Password?")
    assert caught.value is refusal


@pytest.mark.parametrize("answer", [None, b"sesame", 5])
async def test_an_answer_is_a_string(answer: Any) -> None:
    """Anything else is an error here, and not a riddle in the provider."""
    with pytest.raises(LaunchError, match="on_prompt gave no string"):
        await request(on_prompt=lambda _: answer).prompt("Password?")


def test_a_request_shows_no_key() -> None:
    """The repr of a request has the connection info's, which is free of secrets."""
    info = ConnectionInfo.for_tcp()
    assert info.key not in repr(request(connection_info=info, cwd=Path("/")))
