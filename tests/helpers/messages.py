"""What the tests of clients look at: the messages of a request, and a second client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Collection

import pytest
from kernel_mgmt import (
    ClientClosed,
    KernelClient,
    KernelDied,
    KernelRestarted,
    Message,
    Request,
)

__all__ = ["failure", "outputs", "run_long", "second_client", "states", "texts"]


def texts(messages: list[Message]) -> list[str]:
    """Give the text of the stream messages, without the ends of lines.

    ``print`` writes those by themselves, and a kernel may flush in between.
    """
    found = [m.content["text"].rstrip("\n") for m in messages if m.msg_type == "stream"]
    return [text for text in found if text]


def states(messages: list[Message], request_ids: Collection[str]) -> list[str]:
    """Give the states that the kernel went through for some requests."""
    return [
        m.content["execution_state"]
        for m in messages
        if m.msg_type == "status" and m.parent_id in request_ids
    ]


async def outputs(request: Request) -> list[Message]:
    """Give all output of a request."""
    return [message async for message in request]


@contextlib.asynccontextmanager
async def second_client(client: KernelClient) -> AsyncIterator[KernelClient]:
    """Give another client of the same kernel."""
    async with KernelClient(client.connection_info, manager=client.manager) as other:
        await other.wait_for_ready(10)
        yield other


async def run_long(client: KernelClient) -> Request:
    """Have an echo kernel run what does not end; returns when it has begun."""
    request = client.execute("print started\nsleep 60")
    async for message in request:
        if texts([message]):
            break
    return request


async def failure(request: Awaitable[object], timeout: float = 20) -> BaseException:
    """Wait for what ends a request in place of a reply."""
    with pytest.raises((KernelDied, KernelRestarted, ClientClosed)) as raised:
        async with asyncio.timeout(timeout):
            await request
    return raised.value
