"""A reader of a nanny's journal that speaks the plain wire, without any help of a client."""

from __future__ import annotations

import time
from typing import Any

import zmq
from kernel_mgmt import Message, Session
from kernel_mgmt.nanny.journal.records import MAGIC, Record, unpack
from nannies import PATIENCE, RunningNanny

__all__ = ["RawReader"]


class RawReader:
    """Reads a journal.

    Args:
        nanny: whose.
    """

    def __init__(self, nanny: RunningNanny) -> None:
        self.session = nanny.new_session()
        self._key = nanny.connection_info.key
        self.socket = nanny.open("nanny_journal", zmq.DEALER)
        #: All records that have come, and the size of each delivery.
        self.records: list[Record] = []
        self.sizes: list[int] = []

    def close(self) -> None:
        """Be gone."""
        self.socket.close()

    # -- what it says ----------------------------------------------------------------------

    def send(self, msg_type: str, **content: Any) -> Message:
        """Say something."""
        message = self.session.message(msg_type, content)
        self.socket.send_multipart(self.session.serialize(message))
        return message

    def subscribe(self, **content: Any) -> dict[str, Any]:
        """Subscribe; gives the content of the reply, before which nothing may come."""
        request = self.send("subscribe_request", **content)
        while True:
            assert self.socket.poll(PATIENCE * 1000), "no reply"
            frames = self.socket.recv_multipart()
            if frames[0] != b"" and not frames[0].startswith(MAGIC):
                break
            self._take(frames)  # of an earlier subscription
        reply = self.session.deserialize(frames)
        assert (reply.msg_type, reply.parent_id) == ("subscribe_reply", request.msg_id)
        return reply.content

    def acknowledge(self) -> None:
        """Be done with all that has come."""
        if self.records:
            self.send("acknowledge", number=self.records[-1].number)

    # -- what it is told -------------------------------------------------------------------

    def take(self, timeout: float = PATIENCE) -> bool:
        """Wait for a delivery; tells whether one came."""
        if not self.socket.poll(timeout * 1000):
            return False
        self._take(self.socket.recv_multipart())
        return True

    def _take(self, frames: list[bytes]) -> None:
        if frames == [b""]:
            return
        assert frames[0].startswith(MAGIC)
        self.sizes.append(sum(map(len, frames)))
        self.records += unpack(b"".join(frames))

    def read_to(self, number: int) -> list[Record]:
        """Wait for the record with a number, acknowledging all; gives all that have come."""
        while not self.records or self.records[-1].number < number:
            assert self.take(), f"no record {number}"
            self.acknowledge()
        return self.records

    def read_until(self, msg_type: str, parent: Message | None = None, state: str = "") -> Message:
        """Wait for a message of a type, to a request, with a state; gives it."""
        seen = 0
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for message in self.messages(seen):
                if (
                    message.msg_type == msg_type
                    and (parent is None or message.parent_id == parent.msg_id)
                    and (not state or message.content.get("execution_state") == state)
                ):
                    return message
            seen = len(self.records)
            if self.take(1):
                self.acknowledge()
        raise AssertionError(f"no {msg_type}")

    def messages(self, begin: int = 0) -> list[Message]:
        """Give the messages of all records that have come, or of those from a place on."""
        # A session would refuse them the second time.
        session = Session(self._key)
        return [
            session.deserialize([b"<IDS|MSG>", *record.frames], record.channel)
            for record in self.records[begin:]
        ]

    def texts(self) -> list[str]:
        """Give the lines that the kernel has printed."""
        return [
            message.content["text"].rstrip("\n")
            for message in self.messages()
            if message.msg_type == "stream"
        ]

    @property
    def numbers(self) -> list[int]:
        """The numbers of all records that have come."""
        return [record.number for record in self.records]
