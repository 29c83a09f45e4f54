"""A kernel in another language, with a ZeroMQ of its own: Deno's, which runs TypeScript."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kernel_mgmt import KernelFinder, Message, Request, run_kernel
from kernel_mgmt.protocol import JSONObject
from waiting import eventually

deno = pytest.importorskip("deno", reason="the distribution 'deno' brings its program along")


@pytest.fixture
def deno_spec(write_spec: Any, tmp_path: Path) -> str:
    """The id of a kernelspec as `deno jupyter --install` writes it."""
    write_spec(
        "deno",
        [deno.find_deno_bin(), "jupyter", "--kernel", "--conn", "{connection_file}"],
        display_name="Deno",
        language="typescript",
        env={"DENO_DIR": str(tmp_path / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
    )
    return "spec/deno"


@pytest.fixture
def heard() -> list[Message]:
    """The iopub messages that a client heard, where it was told to put them.

    Deno sends some output after the idle status, when iterating the request has ended.
    """
    return []


def output_of(request: Request, heard: list[Message], msg_type: str) -> list[JSONObject]:
    """The contents of one type of message that a request made the kernel send."""
    return [
        message.content
        for message in heard
        if message.parent_header.get("msg_id") == request.msg_id and message.msg_type == msg_type
    ]


async def test_typescript_runs(deno_spec: str, finder: KernelFinder, heard: list[Message]) -> None:
    """A type annotation, printed output and a result come back as from any kernel."""
    async with run_kernel(deno_spec, finder=finder) as client:
        assert client.kernel_info_content["language_info"]["name"] == "typescript"
        client.add_handler(heard.append, {"iopub"})

        request = client.execute("const answer: number = 6 * 7;\nconsole.log('hi');\nanswer")
        assert (await request).content["status"] == "ok"
        (stream,) = await eventually(lambda: output_of(request, heard, "stream"))
        assert stream["text"] == "hi\n"
        (result,) = await eventually(lambda: output_of(request, heard, "execute_result"))
        assert result["data"]["text/plain"] == "42"

        reply = await client.execute("throw new RangeError('no')")
        assert reply.content["status"] == "error"
        assert reply.content["ename"] == "RangeError"


async def test_many_requests_in_flight(deno_spec: str, finder: KernelFinder) -> None:
    """Each of several requests gets the reply that is its own."""
    async with run_kernel(deno_spec, finder=finder) as client:
        requests = [
            client.execute(f"throw new Error('{n}')", stop_on_error=False) for n in range(10)
        ]
        replies = await asyncio.gather(*requests)
        assert [reply.content["evalue"] for reply in replies] == [str(n) for n in range(10)]
