"""What a kernel does not support is refused at once, by both clients, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kernel_mgmt import (
    ClientClosed,
    KernelClient,
    KernelFinder,
    UnsupportedFeature,
    run_kernel_blocking,
)

#: Each needs subshells, which the echo kernel does not have.
ASK: list[Callable[[Any], Any]] = [
    lambda client: client.create_subshell(),
    lambda client: client.delete_subshell("x"),
    lambda client: client.list_subshell(),
    lambda client: client.execute("print a", subshell_id="x"),
    lambda client: client.complete("a", subshell_id="x"),
    lambda client: client.inspect("a", subshell_id="x"),
    lambda client: client.history(subshell_id="x"),
    lambda client: client.is_complete("a", subshell_id="x"),
    lambda client: client.comm_info(subshell_id="x"),
    lambda client: client.comm_open("t", "c", subshell_id="x"),
    lambda client: client.comm_msg("c", subshell_id="x"),
    lambda client: client.comm_close("c", subshell_id="x"),
]


async def test_a_kernel_without_subshells(client: KernelClient) -> None:
    """Each request for a subshell raises, says what is missing, and sends nothing."""
    for ask in ASK:
        with pytest.raises(UnsupportedFeature, match="does not support kernel subshells") as caught:
            ask(client)
        assert caught.value.feature == "kernel subshells"
    with pytest.raises(UnsupportedFeature, match="does not support kernel subshells"):
        await client.execute_interactive("print a", subshell_id="x")
    assert client._pending == {}
    assert (await client.execute("print on")).content["execution_count"] == 1


async def test_a_kernel_that_has_not_said_what_it_supports(client: KernelClient) -> None:
    """Before the kernel_info reply a subshell is refused, since a kernel without would be silent."""
    async with KernelClient(client.connection_info) as other:
        for ask in ASK:
            with pytest.raises(UnsupportedFeature, match="call wait_for_ready first"):
                ask(other)
        await other.kernel_info()
        assert other.kernel_info_content == client.kernel_info_content
        with pytest.raises(UnsupportedFeature, match="does not support kernel subshells"):
            other.create_subshell()
    with pytest.raises(ClientClosed):
        other.create_subshell()


@pytest.mark.parametrize("features", [None, "kernel subshells", {"kernel subshells": 1}])
async def test_nonsense_is_no_support(client: KernelClient, features: Any) -> None:
    """A kernel_info reply whose supported_features are no list supports nothing."""
    client._dialect.info = {**client.kernel_info_content, "supported_features": features}
    with pytest.raises(UnsupportedFeature):
        client.list_subshell()


def test_blocking(finder: KernelFinder) -> None:
    """The blocking client refuses the same."""
    with run_kernel_blocking("echo/echo", finder=finder) as client:
        for ask in ASK:
            with pytest.raises(UnsupportedFeature, match="does not support kernel subshells"):
                ask(client)
        with pytest.raises(UnsupportedFeature, match="does not support kernel subshells"):
            client.execute_interactive("print a", subshell_id="x")
