"""The client and a kernel of protocol 4 that is written by hand, frame by frame.

The echo kernel speaks version 4 through the same adapter as the client does.  Here the test is the
kernel, and its frames are what IPython 2 puts on the wire: one mistake in the adapter cannot hide
another.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from kernel_mgmt import ConnectionInfo, KernelClient, UnsupportedFeature
from messages import outputs, texts
from waiting import eventually

KEY = "a key"
JSON = dict[str, Any]


class HandmadeKernel:
    """Sockets of a kernel, and frames made without any code of kernel-mgmt."""

    def __init__(self, directory: Path) -> None:
        self.info = ConnectionInfo(
            transport="ipc",
            ip=str(directory / "k"),
            shell_port=1,
            iopub_port=2,
            stdin_port=3,
            control_port=4,
            hb_port=5,
            key=KEY,
        )
        self._context = zmq.Context()
        self._sockets = {}
        self._sent = 0
        for channel, kind in [
            ("shell", zmq.ROUTER),
            ("control", zmq.ROUTER),
            ("stdin", zmq.ROUTER),
            ("iopub", zmq.PUB),
        ]:
            self._sockets[channel] = socket = self._context.socket(kind)
            socket.bind(self.info.endpoint(channel))

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)

    async def receive(self, channel: str = "shell") -> list[Any]:
        """Take a message as [identity, header, parent header, metadata, content]."""
        socket = self._sockets[channel]
        await eventually(lambda: socket.poll(0), timeout=20)
        identity, delimiter, signature, *frames = socket.recv_multipart()
        assert delimiter == b"<IDS|MSG>"
        assert signature == self._sign(frames)
        return [identity, *map(json.loads, frames)]

    def send(self, channel: str, msg_type: str, parent: JSON, content: str, *first: bytes) -> None:
        """Send a message with the header of IPython 2 and a content that is given as JSON."""
        self._sent += 1
        header = {
            "msg_id": f"k{self._sent}",
            "username": "old",
            "session": "kernel",
            "msg_type": msg_type,
            "date": "2014-04-01T12:00:00.000000",
        }
        frames = [json.dumps(header).encode(), json.dumps(parent).encode(), b"{}", content.encode()]
        topic = () if first else (f"kernel.u-u-i-d.{msg_type}".encode(),)
        self._sockets[channel].send_multipart(
            [*first, *topic, b"<IDS|MSG>", self._sign(frames), *frames]
        )

    def _sign(self, frames: list[bytes]) -> bytes:
        return hmac.new(KEY.encode(), b"".join(frames), hashlib.sha256).hexdigest().encode()


@pytest.fixture
async def kernel() -> AsyncIterator[HandmadeKernel]:
    """A kernel that is the test."""
    # Not tmp_path: the path of a Unix socket must be short.
    with tempfile.TemporaryDirectory() as directory:
        kernel = HandmadeKernel(Path(directory))
        yield kernel
        kernel.close()


INFO = (
    '{"protocol_version": [4, 1], "ipython_version": [2, 0, 0, ""],'
    ' "language_version": [2, 7, 6], "language": "python"}'
)


@pytest.fixture
async def client(kernel: HandmadeKernel) -> AsyncIterator[KernelClient]:
    """A client that has waited for the kernel, which has done what IPython 2 does."""
    async with KernelClient(kernel.info) as client:
        ready = asyncio.ensure_future(client.wait_for_ready(20))
        identity, header, parent, metadata, content = await kernel.receive()
        assert header["msg_type"] == "kernel_info_request"
        assert (parent, metadata, content) == ({}, {}, {})
        kernel.send("shell", "kernel_info_reply", header, INFO, identity)
        # Only code is followed by output on iopub.
        while not ready.done():
            identity, header, _, _, content = await kernel.receive()
            assert "version" not in header
            assert header["msg_type"] == "execute_request"
            assert (content["code"], content["silent"], content["store_history"]) == (
                "",
                True,
                False,
            )
            kernel.send("iopub", "status", header, '{"execution_state": "busy"}')
            kernel.send("shell", "execute_reply", header, '{"status": "ok"}', identity)
            kernel.send("iopub", "status", header, '{"execution_state": "idle"}')
            await asyncio.wait([ready], timeout=0.2)
        assert (await ready)["implementation_version"] == "2.0.0"
        yield client


async def test_execute(kernel: HandmadeKernel, client: KernelClient) -> None:
    """Code, its input, output, result, question and reply, as IPython 2 sends and reads them."""
    request = client.execute("1; input('?')", allow_stdin=True, user_expressions={"a": "1"})
    request.stdin_hook = lambda prompt: f"{prompt.message} {prompt.secret}"
    identity, header, parent, _, content = await kernel.receive()
    assert sorted(header) == ["date", "msg_id", "msg_type", "session", "username"]
    assert parent == {}
    assert content == {
        "code": "1; input('?')",
        "silent": False,
        "store_history": True,
        "user_variables": [],
        "user_expressions": {"a": "1"},
        "allow_stdin": True,
        "stop_on_error": True,
    }
    for msg_type, text in [
        ("status", '{"execution_state": "busy"}'),
        ("pyin", '{"code": "1", "execution_count": 7}'),
        ("stream", '{"name": "stdout", "data": "hello"}'),
        (
            "pyout",
            '{"execution_count": 7, "data": {"application/json": "[1]"}, "metadata": {}}',
        ),
        ("display_data", '{"source": "IPython", "data": {"text/plain": "d"}, "metadata": {}}'),
        ("clear_output", '{"stdout": true, "stderr": true, "other": true}'),
        ("pyerr", '{"ename": "E", "evalue": "v", "traceback": ["t"]}'),
    ]:
        kernel.send("iopub", msg_type, header, text)
    kernel.send("stdin", "input_request", header, '{"prompt": "?"}', identity)
    _, answer, answered, _, content = await kernel.receive("stdin")
    assert (answer["msg_type"], content) == ("input_reply", {"value": "? False"})
    assert (answered["msg_type"], "version" in answered) == ("input_request", False)
    kernel.send(
        "shell",
        "execute_reply",
        header,
        '{"status": "ok", "execution_count": 7, "payload":'
        ' [{"source": "page", "text": "help", "html": null, "start_line_number": 0}],'
        ' "user_variables": {}, "user_expressions": {"a": {"data": {"text/plain": "1"}}}}',
        identity,
    )
    kernel.send("iopub", "status", header, '{"execution_state": "idle"}')
    reply = await request.wait_until_finished()
    assert reply.content == {
        "status": "ok",
        "execution_count": 7,
        "payload": [{"source": "page", "data": {"text/plain": "help"}, "start": 0}],
        "user_expressions": {"a": {"data": {"text/plain": "1"}}},
    }
    assert [(m.msg_type, m.content) for m in (await outputs(request))[1:-1]] == [
        ("execute_input", {"code": "1", "execution_count": 7}),
        ("stream", {"name": "stdout", "text": "hello"}),
        (
            "execute_result",
            {
                "execution_count": 7,
                "metadata": {},
                "data": {"application/json": [1]},
            },
        ),
        ("display_data", {"data": {"text/plain": "d"}, "metadata": {}, "transient": {}}),
        ("clear_output", {"wait": False}),
        ("error", {"ename": "E", "evalue": "v", "traceback": ["t"]}),
    ]


async def test_questions(kernel: HandmadeKernel, client: KernelClient) -> None:
    """Completion and inspection are asked by line and by name, and end with their reply."""
    request = client.complete("x = 1\nfoo.is", 12)
    identity, header, _, _, content = await kernel.receive()
    assert header["msg_type"] == "complete_request"
    assert content == {"text": "", "line": "foo.is", "block": "x = 1\nfoo.is", "cursor_pos": 6}
    kernel.send(
        "shell",
        "complete_reply",
        header,
        '{"matches": ["foo.isalnum"], "matched_text": "foo.is", "status": "ok"}',
        identity,
    )
    async with asyncio.timeout(10):
        assert (await request.wait_until_finished()).content == {
            "status": "ok",
            "matches": ["foo.isalnum"],
            "cursor_start": 6,
            "cursor_end": 12,
            "metadata": {},
        }

    request = client.inspect("foo.bar(1, ", detail_level=1)
    identity, header, _, _, content = await kernel.receive()
    assert header["msg_type"] == "object_info_request"
    assert content == {"oname": "foo.bar", "detail_level": 1}
    kernel.send(
        "shell",
        "object_info_reply",
        header,
        '{"name": "foo.bar", "found": true, "definition": "foo.bar(x)", "docstring": "Doc."}',
        identity,
    )
    async with asyncio.timeout(10):
        reply = await request.wait_until_finished()
    assert (reply.msg_type, reply.parent_header["msg_type"]) == ("inspect_reply", "inspect_request")
    assert reply.content["data"] == {"text/plain": "foo.bar(x)\n\nDoc."}


async def test_malformed_messages_are_dropped(
    kernel: HandmadeKernel, client: KernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Signed messages that are no messages of version 4 are counted and logged; the rest comes."""
    request = client.execute("1")
    identity, header, *_ = await kernel.receive()
    kernel.send("iopub", "display_data", header, '{"data": 5}')
    kernel.send("iopub", "pyout", header, "[1, 2")
    kernel.send("iopub", "stream", header, '{"name": "stdout", "data": "good"}')
    kernel.send("iopub", "status", header, '{"execution_state": "idle"}')
    kernel.send("shell", "execute_reply", header, '{"user_variables": [1]}', identity)
    kernel.send("shell", "execute_reply", header, '{"status": "ok"}', identity)
    with caplog.at_level(logging.WARNING, "kernel_mgmt"):
        assert (await request.wait_until_finished()).content["status"] == "ok"
    assert texts(await outputs(request)) == ["good"]
    assert client.dropped_messages == 3
    assert "'data' of a message is no object" in caplog.text
    assert "'user_variables' of a message is no object" in caplog.text


async def test_nothing_is_sent_that_it_would_not_answer(
    kernel: HandmadeKernel, client: KernelClient
) -> None:
    """What is newer than version 4 never reaches the kernel, and raises."""
    with pytest.raises(UnsupportedFeature, match="is_complete_request"):
        client.is_complete("1")
    with pytest.raises(UnsupportedFeature, match="kernel subshells"):
        client.execute("1", subshell_id="x")
    request = client.history()
    _, header, *_ = await kernel.receive()
    assert header["msg_id"] == request.msg_id


async def test_version_5_without_a_version_in_its_headers(kernel: HandmadeKernel) -> None:
    """What the kernel_info reply says counts: a kernel of version 5 may forget it in its headers."""
    async with KernelClient(kernel.info) as client:
        asked = client.kernel_info()
        identity, header, *_ = await kernel.receive()
        info = '{"status": "ok", "protocol_version": "5.3", "supported_features": []}'
        kernel.send("shell", "kernel_info_reply", header, info, identity)
        assert (await asked).content == json.loads(info) == client.kernel_info_content
        request = client.complete("a")
        identity, header, _, _, content = await kernel.receive()
        assert (header["version"], content) == ("5.5", {"code": "a", "cursor_pos": 1})
        text = '{"status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 1}'
        kernel.send("shell", "complete_reply", header, text, identity)
        assert (await request).content == json.loads(text)
