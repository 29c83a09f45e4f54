"""Work for an echo kernel whose whole outcome is known: so that what is lost, doubled or late shows."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kernel_mgmt import BlockingKernelClient, KernelClient, Message

__all__ = ["KnownWork", "Seen"]

#: How many requests are under way at a time.
_AT_ONCE = 8
#: The longest that a request may take, cuts and all, in seconds.
_PATIENCE = 120.0
_BUFFER = 10_000_000


@dataclass(frozen=True)
class KnownWork:
    """Requests that print lines, ask for input, or send a large buffer and have it back.

    Attributes:
        requests: how many there are.
        lines: how many lines each prints that does nothing else.
        questions: how many of them ask for input.
        buffers: how many of them send a buffer.
        pause: how long each takes between two halves of its lines, in seconds.
    """

    requests: int
    lines: int = 100
    questions: int = 0
    buffers: int = 0
    pause: float = 0.0

    async def run(self, client: KernelClient) -> None:
        """Do all of it with a client, some at a time; what comes of each is checked."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def run_one(number: int) -> None:
            async with gate, asyncio.timeout(_PATIENCE):
                await self._run_one(client, number)

        async with asyncio.TaskGroup() as group:
            for number in range(self.requests):
                group.create_task(run_one(number))

    async def _run_one(self, client: KernelClient, number: int) -> None:
        kind = self._kind(number)
        if kind == "buffer":
            sent = _buffer(number)
            request = client.comm_msg("echo", buffers=[sent])
            self._check_buffer([message async for message in request], sent)
            return
        code, expected = self._code(number, kind)
        prompts: list[str] = []
        outputs: list[Message] = []

        def answer(prompt: object) -> str:
            prompts.append(getattr(prompt, "text", "") or str(prompt))
            return f"answer {number}"

        reply = await client.execute_interactive(
            code, output_hook=outputs.append, stdin_hook=answer if kind == "question" else None
        )
        self._check(number, kind, reply, outputs, expected, prompts)

    def run_blocking(self, client: BlockingKernelClient) -> None:
        """Do all of it with a blocking client, from some threads."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(
                threads.map(
                    lambda number: self._run_one_blocking(client, number), range(self.requests)
                )
            )

    def _run_one_blocking(self, client: BlockingKernelClient, number: int) -> None:
        kind = self._kind(number)
        if kind == "buffer":
            sent = _buffer(number)
            request = client.comm_msg("echo", buffers=[sent])
            self._check_buffer(request.outputs(_PATIENCE), sent)
            return
        code, expected = self._code(number, kind)
        prompts: list[str] = []
        outputs: list[Message] = []

        def answer(prompt: object) -> str:
            prompts.append(str(prompt))
            return f"answer {number}"

        reply = client.execute_interactive(
            code,
            output_hook=outputs.append,
            stdin_hook=answer if kind == "question" else None,
            timeout=_PATIENCE,
        )
        self._check(number, kind, reply, outputs, expected, prompts)

    # -- what is asked, and what must come of it -------------------------------------------

    def _kind(self, number: int) -> str:
        """Say what a request does; each kind is spread over all of them."""
        if self.questions and number % (self.requests // self.questions) == 1:
            return "question"
        if self.buffers and number % (self.requests // self.buffers) == 2:
            return "buffer"
        return "lines"

    def _code(self, number: int, kind: str) -> tuple[str, list[str]]:
        """Give the code of a request, and what it prints."""
        if kind == "question":
            code = f"print before {number}\ninput name {number}\nprint after {number}"
            return code, [f"before {number}\n", f"answer {number}\n", f"after {number}\n"]
        half = self.lines // 2
        lines = [f"{line} ".ljust(60, "x") for line in range(half)]
        code = f"flood {half} 60\nsleep {self.pause}\nflood {half} 60\nprint done {number}"
        return code, [*lines, *lines, f"done {number}\n"]

    @staticmethod
    def _check(
        number: int,
        kind: str,
        reply: Message,
        outputs: Iterable[Message],
        expected: list[str],
        prompts: list[str],
    ) -> None:
        assert reply.content["status"] == "ok", (number, reply.content)
        printed = [message.content["text"] for message in outputs if message.msg_type == "stream"]
        assert printed == expected, f"of request {number} {len(printed)} texts came: {printed[:5]}"
        assert len(prompts) == (kind == "question"), (number, prompts)

    @staticmethod
    def _check_buffer(outputs: Iterable[Message], sent: bytes) -> None:
        (message,) = [message for message in outputs if message.msg_type == "comm_msg"]
        (buffer,) = message.buffers
        assert bytes(buffer) == sent


def _buffer(number: int) -> bytes:
    return number.to_bytes(4, "big") * (_BUFFER // 4)


@dataclass
class Seen:
    """What reached a client's handlers: each message once, in the order of their numbers."""

    numbers: list[int] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, message: Message) -> None:
        """Take a message; a handler of all channels."""
        with self._lock:
            if message.journal_number or message.channel != "control":
                self.numbers.append(message.journal_number)  # on control some come ahead of it
            if message.channel == "shell":
                self.replies[message.parent_id] += 1

    def check(self) -> None:
        """See that none came twice, or before one with a lower number."""
        pairs = zip(self.numbers, self.numbers[1:], strict=False)
        wrong = [(one, other) for one, other in pairs if one >= other]
        assert not wrong, f"one number and what came after it: {wrong[:5]}"
        assert set(self.replies.values()) <= {1}
