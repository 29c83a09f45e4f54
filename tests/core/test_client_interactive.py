"""Code that asks and shows: execute_interactive, prompts, passwords."""

from __future__ import annotations

import asyncio

import pytest
from kernel_mgmt import (
    KernelClient,
    Message,
    Prompt,
)
from messages import outputs, second_client, texts

# -- stdin ---------------------------------------------------------------------------------


async def test_prompts_and_passwords(client: KernelClient) -> None:
    """The stdin hook gets the prompt and whether it is secret, plain or as a coroutine."""
    prompts: list[Prompt] = []

    def plain(prompt: Prompt) -> str:
        prompts.append(prompt)
        return "plain"

    async def later(prompt: Prompt) -> str:
        prompts.append(prompt)
        await asyncio.sleep(0)
        return "später"

    seen: list[Message] = []
    await client.execute_interactive("input name?", output_hook=seen.append, stdin_hook=plain)
    await client.execute_interactive("password pin?", output_hook=seen.append, stdin_hook=later)
    assert [(p.message.strip(), p.secret) for p in prompts] == [("name?", False), ("pin?", True)]
    assert texts(seen) == ["plain", "später"]


async def test_without_a_hook_there_is_no_input(client: KernelClient) -> None:
    """Code that asks for input where there is none gets an error instead of waiting for ever."""
    reply = await client.execute_interactive("input x", output_hook=lambda message: None)
    assert reply.content["ename"] == "StdinNotImplementedError"


@pytest.mark.parametrize(
    ("raised", "ename"), [(KeyboardInterrupt, "KeyboardInterrupt"), (EOFError, "EOFError")]
)
async def test_leaving_a_prompt_keeps_the_kernel_usable(
    client: KernelClient, raised: type[BaseException], ename: str
) -> None:
    """Ctrl-C at a prompt interrupts the code, Ctrl-D ends its input, and the kernel goes on."""

    def hook(prompt: Prompt) -> str:
        raise raised

    quiet = {"output_hook": lambda message: None, "stdin_hook": hook}
    reply = await client.execute_interactive("input x", timeout=5, **quiet)
    assert reply.content["ename"] == ename
    assert texts(await outputs(client.execute("print usable"))) == ["usable"]


async def test_a_failing_stdin_hook_is_told_and_the_kernel_goes_on(client: KernelClient) -> None:
    """What a stdin hook raises comes out of execute_interactive, after the code was interrupted."""

    def hook(prompt: Prompt) -> str:
        raise OSError("no terminal")

    with pytest.raises(OSError, match="no terminal"):
        await client.execute_interactive(
            "input x", output_hook=lambda message: None, stdin_hook=hook, timeout=5
        )
    assert texts(await outputs(client.execute("print usable"))) == ["usable"]


async def test_a_handler_can_answer_prompts(client: KernelClient) -> None:
    """Without a hook, a handler of the stdin channel sees the question and may answer it."""
    client.add_handler(lambda question: client.send_input("hand", question), {"stdin"})
    request = client.execute("input x", allow_stdin=True)
    assert texts(await outputs(request)) == ["hand"]


# -- execute_interactive -------------------------------------------------------------------


async def test_interactive_shows_only_this_cell(client: KernelClient) -> None:
    """The output hook gets the output of this code and not of another client's."""
    async with second_client(client) as other:
        noise = [other.execute("print noise") for _ in range(20)]
        seen: list[Message] = []
        reply = await client.execute_interactive("print mine", output_hook=seen.append)
        await asyncio.gather(*noise)
    assert reply.content["status"] == "ok"
    assert texts(seen) == ["mine"]


async def test_interactive_prints_by_default(
    client: KernelClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a hook streams, results and tracebacks are printed where they belong."""
    await client.execute_interactive("print out\nstderr err\nresult 42")
    await client.execute_interactive("error ValueError broken")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["out", "42"]
    assert captured.err.splitlines()[0] == "err"
    assert "ValueError" in captured.err


async def test_what_an_output_hook_raises_comes_out(client: KernelClient) -> None:
    """An output hook that raises ends execute_interactive with what it raised."""

    async def hook(message: Message) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.execute_interactive("print x", output_hook=hook)
    assert texts(await outputs(client.execute("print usable"))) == ["usable"]
