"""What clients see of a kernel through its nanny, while it lives and when it does not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import zmq
from kernel_mgmt import ConnectionInfo, KernelClient, Message, RestartPolicy
from kernel_mgmt.curve import new_curve_keys
from kernel_mgmt.launch import NannyOptions
from messages import outputs, second_client, texts
from nannies import PATIENCE, RunningNanny, echo, running_nanny
from waiting import eventually, eventually_sync

QUICK = NannyOptions(restart_policy=RestartPolicy(backoff=0.01))


@pytest.fixture
def nanny() -> Iterator[RunningNanny]:
    """A nanny whose kernel is ready."""
    with running_nanny(options=QUICK) as nanny:
        nanny.ask("wait_ready")
        yield nanny


@pytest.fixture
async def client(nanny: RunningNanny) -> AsyncIterator[KernelClient]:
    """A client of that kernel, through the nanny."""
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        yield client


async def run(client: KernelClient, code: str) -> list[str]:
    """Run code; gives what it printed."""
    async with asyncio.timeout(PATIENCE):
        return texts(await outputs(client.execute(code)))


class Raw:
    """A client without any help: one request at a time, and its own identity.

    Args:
        nanny: stands before the kernel.
        channel: ``shell`` or ``control``.
    """

    def __init__(self, nanny: RunningNanny, channel: str = "shell") -> None:
        self.session = nanny.new_session()
        self.socket = nanny.open(channel, zmq.DEALER)

    def ask(self, msg_type: str, content: dict[str, Any] | None = None) -> Message:
        """Send a request, and give it."""
        request = self.session.message(msg_type, content)
        self.socket.send_multipart(self.session.serialize(request))
        return request

    def reply(self) -> Message:
        """Wait for the next reply."""
        assert self.socket.poll(PATIENCE * 1000)
        return self.session.deserialize(self.socket.recv_multipart())

    def is_answered(self) -> bool:
        """Tell whether a reply is there."""
        return bool(self.socket.poll(0))


class Listener:
    """Hears what comes on iopub.

    Args:
        nanny: stands before the kernel.
        topic: what it subscribes to.
    """

    def __init__(self, nanny: RunningNanny, topic: bytes = b"") -> None:
        self._session = nanny.new_session()
        self._socket = nanny.open("iopub", zmq.SUB)
        self._socket.subscribe(topic)
        self.heard: list[Message] = []

    def until(self, msg_type: str, parent: Message | None = None, state: str = "") -> Message:
        """Wait for a message of a type, to a request, with a state."""
        while True:
            assert self._socket.poll(PATIENCE * 1000), f"no {msg_type}"
            message = self._session.deserialize(self._socket.recv_multipart())
            self.heard.append(message)
            if (
                message.msg_type == msg_type
                and (parent is None or message.parent_id == parent.msg_id)
                and (not state or message.content["execution_state"] == state)
            ):
                return message


# --- messages ------------------------------------------------------------------------------------


async def test_none_is_lost(client: KernelClient) -> None:
    """Of a burst of 20,000 messages each arrives, once and in order."""
    numbers = [int(text.split()[0]) for text in await run(client, "flood 20000 200")]
    assert numbers == list(range(20_000))


async def test_none_is_lost_for_two(client: KernelClient) -> None:
    """Two clients both get all of two bursts, those of the other as well."""
    async with second_client(client) as other:
        heard: dict[KernelClient, list[Message]] = {client: [], other: []}
        for each, messages in heard.items():
            each.add_handler(messages.append)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(client.execute("flood 3000 50"), other.execute("flood 3000 50"))
        for messages in heard.values():
            await eventually(lambda: len(texts(messages)) == 6000, PATIENCE)  # noqa: B023


async def test_large_buffers(client: KernelClient) -> None:
    """Buffers of several megabytes pass in both directions as they are."""
    big = os.urandom(5_000_000)
    buffers = [big, b"", memoryview(b"small"), bytearray(1_000_000)]
    request = client.comm_msg("c1", {"n": 7}, buffers=buffers)
    async with asyncio.timeout(PATIENCE):
        (echoed,) = [m for m in await outputs(request) if m.msg_type == "comm_msg"]
    assert echoed.content["data"] == {"n": 7}
    assert [bytes(buffer) for buffer in echoed.buffers] == [bytes(buffer) for buffer in buffers]


async def test_large_texts(client: KernelClient) -> None:
    """A request and a result of a megabyte pass as they are."""
    text = "ü" * 500_000
    async with asyncio.timeout(PATIENCE):
        assert await run(client, f"print {text}") == [text]


async def test_comms(client: KernelClient) -> None:
    """Comms open, speak and close through a nanny, also when a cell before them has failed."""
    async with asyncio.timeout(PATIENCE):
        await outputs(client.comm_open("target", "c1"))
        assert (await client.comm_info()).content["comms"] == {"c1": {"target_name": "target"}}
        await client.execute("error Oops")
        messages = await outputs(client.comm_msg("c1", {"a": float("inf")}))
        (echoed,) = [m for m in messages if m.msg_type == "comm_msg"]
        assert echoed.content["data"] == {"a": float("inf")}
        await outputs(client.comm_close("c1"))
        assert (await client.comm_info()).content["comms"] == {}


async def test_input(client: KernelClient) -> None:
    """A kernel asks whoever has sent the code, and takes his answer, not another's."""
    async with second_client(client) as other:
        asked: list[tuple[str, str]] = []

        async def ask(who: KernelClient, name: str) -> list[str]:
            def answer(prompt: Any) -> str:
                asked.append((name, prompt.message))
                return f"{name}'s"

            printed: list[Message] = []
            code = "\n".join(f"input {name} {number}" for number in range(3))
            await who.execute_interactive(
                code, stdin_hook=answer, output_hook=printed.append, timeout=PATIENCE
            )
            return texts(printed)

        results = await asyncio.gather(ask(client, "anna"), ask(other, "bert"))
        assert results == [["anna's"] * 3, ["bert's"] * 3]
        assert sorted(asked) == [(n, f"{n} {i}") for n in ("anna", "bert") for i in range(3)]


@pytest.mark.parametrize("way", ["signal", "message"])
async def test_interrupt_during_flood(nanny: RunningNanny, client: KernelClient, way: str) -> None:
    """An interrupt overtakes the output that is on its way."""
    count = 200_000
    # Between its naps the echo kernel takes no message.
    request = client.execute("\n".join((["print x"] * 50 + ["sleep 0.0001"]) * (count // 50)))
    first = asyncio.Event()
    client.add_handler(lambda message: first.set() if message.msg_type == "stream" else None)
    async with asyncio.timeout(PATIENCE):
        await first.wait()
        if way == "signal":
            assert nanny.ask("interrupt") == {"status": "ok"}
        else:
            await client.interrupt()
        assert (await request).content["ename"] == "KeyboardInterrupt"
    printed = len([m async for m in request if m.msg_type == "stream"])
    assert 0 < printed < count


async def test_control_during_cell(client: KernelClient) -> None:
    """While a cell runs, control and the heartbeat answer."""
    request = client.execute("sleep 1000")
    async with asyncio.timeout(PATIENCE):
        await anext(message async for message in request if message.msg_type == "execute_input")
        reply = await client.send(
            Message({"msg_type": "kernel_info_request"}, {}, {}, {}), "control"
        )
        assert reply.msg_type == "kernel_info_reply"
        await client.interrupt()
        await request


def test_heartbeat(nanny: RunningNanny) -> None:
    """The heartbeat is the kernel's: it beats while it lives, whatever bytes it is given."""
    beat = nanny.open("hb", zmq.REQ)
    for ping in (b"ping", b"", os.urandom(100_000)):
        beat.send(ping)
        assert beat.poll(PATIENCE * 1000)
        assert beat.recv() == ping
    os.kill(nanny.kernel_pid, signal.SIGSTOP)
    beat.send(b"ping")
    assert not beat.poll(200)
    os.kill(nanny.kernel_pid, signal.SIGCONT)
    assert beat.poll(PATIENCE * 1000)


def test_dealer_heartbeat_of_dead_kernel(nanny: RunningNanny) -> None:
    """What is sent to a dead kernel's heart is not given to the next one's."""
    beat = nanny.open("hb", zmq.DEALER)
    nanny.ask("kill")
    beat.send(b"to the dead")
    # Behind it, on another socket of the same nanny; the order of two sockets is not certain.
    eventually_sync(lambda: nanny.ask("is_alive")["alive"] is False)
    assert not beat.poll(100)
    nanny.ask("restart")
    beat.send(b"to the living")
    assert beat.poll(PATIENCE * 1000)
    assert beat.recv() == b"to the living"


# --- subscribers ---------------------------------------------------------------------------------


def test_welcome(nanny: RunningNanny) -> None:
    """Each subscriber is welcomed, with what it has subscribed to, and is counted until it leaves."""
    assert nanny.ask("nanny_info")["clients"] == 0
    listeners = [Listener(nanny, topic) for topic in (b"", b"", b"stream", b"\xff")]
    shown = [listener.until("iopub_welcome").content["subscription"] for listener in listeners]
    assert shown[2:] == ["stream", "\ufffd"]
    assert set(shown[:2]) <= {"", "stream", "\ufffd"}  # who hears all hears those of others
    eventually_sync(lambda: nanny.ask("nanny_info")["clients"] == 4, PATIENCE)
    nanny.close()
    eventually_sync(lambda: nanny.ask("nanny_info")["clients"] == 0, PATIENCE)


async def test_clients_are_counted(nanny: RunningNanny) -> None:
    """Clients are counted while they are connected."""
    async with KernelClient(nanny.connection_info) as client:
        await client.wait_for_ready(PATIENCE)
        async with second_client(client):
            assert nanny.ask("nanny_info")["clients"] == 2
            nanny.ask("restart")
            assert nanny.ask("nanny_info")["clients"] == 2
        await eventually(lambda: nanny.ask("nanny_info")["clients"] == 1, PATIENCE)
    await eventually(lambda: nanny.ask("nanny_info")["clients"] == 0, PATIENCE)


async def test_activity(nanny: RunningNanny, client: KernelClient) -> None:
    """State and last activity are those of the kernel's clients, not of its managers."""
    before = nanny.ask("nanny_info")["last_activity"]
    assert abs(before - time.time()) < PATIENCE
    assert abs(nanny.ask("nanny_info")["last_activity"] - before) < 0.01
    request = client.execute("sleep 1000")
    await anext(message async for message in request if message.msg_type == "execute_input")
    assert nanny.state == "busy"
    after = nanny.ask("nanny_info")["last_activity"]
    assert after > before
    await client.interrupt()
    await request
    await eventually(lambda: nanny.state == "idle", PATIENCE)
    assert nanny.ask("nanny_info")["last_activity"] > after


# --- kernels of all sorts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--no-welcome"], {}),
        (["--no-welcome"], {"transport": "tcp"}),
        (["--answer-delay", 0.5], {}),
        (["--protocol", "4.1"], {}),
        ([], {"transport": "tcp", "handshake": True, "encryption": "off"}),
        ([], {"handshake": True}),
        ([], {"transport": "tcp", "encryption": "required"}),
        ([], {"connection_info": "tcp"}),
        ([], {"connection_info": "curve"}),
        ([], {"connection_info": "curve", "transport": "tcp", "encryption": "required"}),
        ([], {"connection_info": "sha512"}),
        ([], {"connection_info": "unsigned"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
async def test_any_kernel_at_any_address(options: list[object], fields: dict[str, Any]) -> None:
    """Kernels that say little, or speak otherwise, and all kinds of addresses: all of it works."""
    fields = {**fields, **given(fields.get("connection_info"))}
    with running_nanny(echo(*options), options=QUICK, **fields) as nanny:
        async with KernelClient(nanny.connection_info) as client:
            await client.wait_for_ready(PATIENCE)
            assert await run(client, "print hello") == ["hello"]
            assert nanny.ask("restart") == {"status": "ok", "kernel": 2}
            assert await run(client, "print again") == ["again"]
            assert nanny.ask("nanny_info")["clients"] == 1


def given(kind: str | None) -> dict[str, Any]:
    """Give a connection info of a kind."""
    if kind is None:
        return {}
    info = ConnectionInfo.for_tcp(**(new_curve_keys() if kind == "curve" else {}))
    if kind == "sha512":
        info = info.replace(signature_scheme="hmac-sha512")
    elif kind == "unsigned":
        info = info.replace(key="")
    return {"connection_info": info}


def test_stranger_to_encryption() -> None:
    """At encrypted sockets nobody gets in who does not know the nanny's public key."""
    with running_nanny(**given("curve")) as nanny:
        nanny.ask("wait_ready")
        plain = nanny.connection_info.replace(curve_publickey=None, curve_secretkey=None)
        real, nanny.connection_info = nanny.connection_info, plain
        stranger = Raw(nanny)
        stranger.ask("kernel_info_request")
        assert not stranger.socket.poll(300)
        nanny.connection_info = real
        assert nanny.ask("is_alive")["alive"] is True


# --- without a kernel ----------------------------------------------------------------------------


def from_nanny(reply: Message, request: Message, ename: str) -> None:
    """Assert that a reply is the nanny's, in place of the kernel."""
    assert reply.msg_type == request.msg_type.replace("_request", "_reply")
    assert reply.parent_header == request.header
    assert reply.header["nanny"] is True
    content = reply.content
    assert (content["status"], content["ename"], content["traceback"]) == ("error", ename, [])
    assert content["evalue"].endswith(".")


def have_arrived(nanny: RunningNanny) -> None:
    """Let a nanny take what was sent to it before; nothing tells of that."""
    for _ in range(20):
        nanny.ask("is_alive")


def test_pending_requests_end(nanny: RunningNanny) -> None:
    """What a kernel owes its clients when it dies gets an error reply and an idle, each in its turn."""
    listener = Listener(nanny)
    clients = [Raw(nanny), Raw(nanny), Raw(nanny, "control")]
    requests = [clients[0].ask("execute_request", {"code": "hang"})]
    listener.until("status", requests[0], "busy")
    requests.append(clients[1].ask("complete_request", {"code": "pr", "cursor_pos": 2}))
    requests.append(clients[2].ask("comm_info_request"))
    have_arrived(nanny)
    os.kill(nanny.kernel_pid, signal.SIGKILL)
    for client, request in zip(clients, requests, strict=True):
        reply = client.reply()
        from_nanny(reply, request, "KernelDied")
        assert "killed by SIGKILL" in reply.content["evalue"]
    while len(idles := [m for m in listener.heard if m.header.get("nanny")]) < len(requests):
        listener.until("status", state="idle")
    assert sorted(m.parent_id for m in idles) == sorted(request.msg_id for request in requests)
    nanny.ask("wait_ready", after=1)
    assert not any(client.is_answered() for client in clients)


def test_answered_requests_do_not_end_again(nanny: RunningNanny) -> None:
    """What a kernel has answered before it dies is not answered a second time."""
    client = Raw(nanny)
    client.ask("execute_request", {"code": "print x"})
    client.ask("complete_request", {"code": "x"})
    for _ in range(2):
        assert client.reply().content["status"] == "ok"
    nanny.ask("kill")
    last = client.ask("execute_request", {"code": ""})
    from_nanny(client.reply(), last, "KernelDied")
    assert not client.is_answered()


def test_last_words_come_first(nanny: RunningNanny) -> None:
    """What a kernel has said before it died comes before the nanny says that it is dead."""
    listener, client = Listener(nanny), Raw(nanny)
    request = client.ask("execute_request", {"code": "flood 2000 100\nexit 1"})
    listener.until("status", request, "idle")
    assert len(texts(listener.heard)) == 2000
    assert listener.heard[-1].header["nanny"] is True
    from_nanny(client.reply(), request, "KernelDied")


def test_restart_ends_requests(nanny: RunningNanny) -> None:
    """What a restart cuts short is told that it was a restart."""
    listener, client = Listener(nanny), Raw(nanny)
    request = client.ask("execute_request", {"code": "sleep 1000"})
    listener.until("status", request, "busy")
    nanny.ask("restart")
    from_nanny(client.reply(), request, "KernelRestarted")


def test_requests_to_the_dead(nanny: RunningNanny) -> None:
    """With a dead kernel requests are refused at once; who asks who it is waits for the next one."""
    nanny.ask("kill")
    client, control = Raw(nanny), Raw(nanny, "control")
    who = [client.ask("kernel_info_request"), control.ask("kernel_info_request")]
    for asker in (client, control):
        for msg_type in ("execute_request", "comm_info_request", "made_up_request"):
            request = asker.ask(msg_type, {"code": ""})
            from_nanny(asker.reply(), request, "KernelDied")
    client.ask("comm_msg", {"comm_id": "x"})
    assert not client.is_answered()
    nanny.ask("restart")
    for asker, request in zip((client, control), who, strict=True):
        reply = asker.reply()
        assert (reply.msg_type, reply.parent_id) == ("kernel_info_reply", request.msg_id)
        assert "nanny" not in reply.header


def test_requests_before_first_kernel() -> None:
    """What is sent before the first kernel answers is answered by it."""
    with running_nanny(echo("--answer-delay", 0.5)) as nanny:
        client = Raw(nanny)
        request = client.ask("execute_request", {"code": "print x"})
        assert nanny.state == "starting"
        reply = client.reply()
        assert (reply.parent_id, reply.content["status"]) == (request.msg_id, "ok")
        assert "nanny" not in reply.header


async def test_same_clients_after_restart(nanny: RunningNanny, client: KernelClient) -> None:
    """Two clients work on with the next kernel, over the same connections."""
    async with second_client(client) as other:
        for number in (2, 3):
            request = other.execute("sleep 1000")
            await eventually(lambda: nanny.state == "busy", PATIENCE)
            nanny.ask("restart")
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait({asyncio.ensure_future(consume(request))})
            assert await run(client, "print hello") == ["hello"]
            assert await run(other, "print hello") == ["hello"]
            assert nanny.ask("nanny_info")["kernel"] == number


async def consume(request: Any) -> None:
    """Let a request end in whatever way."""
    await request


def test_header_that_nothing_can_hold(nanny: RunningNanny) -> None:
    """A request whose header cannot be part of an answer costs no other request its own."""
    listener = Listener(nanny)
    bad, good = Raw(nanny), Raw(nanny)
    blocking = good.ask("execute_request", {"code": "hang"})
    listener.until("status", blocking, "busy")
    frames = bad.session.serialize(bad.session.message("comm_info_request"))
    deep = b"[" * 1010 + b"]" * 1010
    frames[2] = b'{"msg_id": "m", "msg_type": "comm_info_request", "deep": ' + deep + b"}"
    frames[1] = bad.session.sign(frames[2:6])  # type: ignore[arg-type]
    bad.socket.send_multipart(frames)
    last = bad.ask("comm_info_request")
    have_arrived(nanny)
    nanny.ask("kill")
    from_nanny(good.reply(), blocking, "KernelDied")
    reply = bad.reply()
    if reply.parent_id == "m":  # this Python can hold it
        reply = bad.reply()
    from_nanny(reply, last, "KernelDied")
