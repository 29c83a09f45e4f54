"""Being told of what arrives on a channel, by the thread that received it.

paramiko has a condition to wait for, and a pipe to select on: either wakes a thread for each packet,
which :mod:`.pump` does without.  This leans on one private name of paramiko, the
table by which packets find their channels; a test guards it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import paramiko
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_DATA, MSG_CHANNEL_EOF

__all__ = ["ArrivalTransport"]

Watchers = WeakKeyDictionary[paramiko.Channel, Callable[[], None]]


def _then_tell(handle: Callable[..., None]) -> Callable[[paramiko.Channel, Any], None]:
    """Make a packet's handler that tells afterwards who watches the channel."""

    def handler(channel: paramiko.Channel, message: Any) -> None:
        handle(channel, message)
        transport: Any = channel.get_transport()
        tell = transport.watchers.get(channel)
        if tell is None:
            return
        if transport.clear_to_send.is_set():
            tell()
        else:
            # While keys are exchanged anew nobody may send, and this is the thread which ends that:
            # who reads from a channel may have to tell the server so.
            threading.Thread(target=tell, name="arrival", daemon=True).start()

    return handler


class ArrivalTransport(paramiko.Transport):
    """A transport whose channels can be watched."""

    _channel_handler_table = {  # noqa: RUF012 - it is the base class that has it so
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        **{
            number: _then_tell(paramiko.Transport._channel_handler_table[number])  # type: ignore[attr-defined]
            for number in (MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE)
        },
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Who is told of what arrives, by channel.
        self.watchers: Watchers = WeakKeyDictionary()
        super().__init__(*args, **kwargs)

    def watch(self, channel: paramiko.Channel, tell: Callable[[], None]) -> None:
        """Call a function whenever something has arrived on a channel, or its end; and now.

        It is called on the transport's thread, and must not block.
        """
        self.watchers[channel] = tell
        tell()
