"""A process that is killed in the middle: runs code, and writes down what it was told, number by number."""

from __future__ import annotations

import asyncio
import json
import sys

from kernel_mgmt import ConnectionInfo, KernelClient, Message


async def main(connection_file: str, code: str) -> None:
    """Run code, printing each stream message with its number, and first the request's id."""
    async with KernelClient(ConnectionInfo.read(connection_file)) as client:
        await client.wait_for_ready(30)

        def show(message: Message) -> None:
            if message.msg_type == "stream":
                text = message.content["text"]
                print(json.dumps([message.journal_number, text]), flush=True)

        client.add_handler(show)
        request = client.execute(code)
        print(json.dumps(request.msg_id), flush=True)
        await request.wait_until_finished()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
