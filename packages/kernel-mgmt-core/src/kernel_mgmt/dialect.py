"""What a kernel understands: its version of the protocol, and the features that it has told of.

Source: *Messaging in Jupyter*, section "Kernel info".
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import UnsupportedFeature
from .protocol import JSONObject, Message, adapt
from .protocol.adapter import NEW_IN_5, major_version
from .request import Request

__all__ = ["Dialect"]


class Dialect:
    """Learns from a kernel's kernel_info reply how to talk to it, and translates.

    Args:
        request_of: gives the request that a message answers, by its id, where it is known.
    """

    def __init__(self, request_of: Callable[[str], Request | None]) -> None:
        self._request_of = request_of
        #: Content of the kernel's kernel_info reply; empty before.
        self.info: JSONObject = {}
        #: Whether the kernel speaks protocol 4.
        self.is_4 = False
        #: Gives what comes in as protocol 5; None once the kernel is known to speak that.
        self.translate: Callable[[Message], Message] | None = None
        self.unlearn()

    def unlearn(self) -> None:
        """Judge by each message's header again, because another kernel may have come.

        What was learnt counts for what is sent until the new one has answered.
        """
        self.translate = self._to_5

    def require(self, feature: str) -> None:
        """Make sure that the kernel supports a feature.

        Args:
            feature: as ``supported_features`` of the kernel_info reply would name it.

        Raises:
            UnsupportedFeature: it does not, or has not answered yet.
        """
        if not self.info:
            raise UnsupportedFeature(
                f"Whether the kernel supports {feature} is not known before it has answered; call"
                " wait_for_ready first.",
                feature=feature,
            )
        supported = self.info.get("supported_features")
        if not isinstance(supported, list) or feature not in supported:
            raise UnsupportedFeature(
                f"The kernel does not support {feature}: the supported_features of its kernel_info"
                " reply lack it. Do without, or use a kernel that has it.",
                feature=feature,
            )

    def to_4(self, message: Message) -> Message:
        """Translate a request for a kernel that speaks protocol 4.

        Args:
            message: with a complete header.

        Raises:
            UnsupportedFeature: there is no such request in protocol 4; a kernel would be silent.
        """
        adapted = adapt(message, 4)
        since = NEW_IN_5.get(adapted.msg_type)
        if since is not None:
            raise self._too_new(adapted.msg_type, since)
        if message.header.get("subshell_id") is not None:
            raise self._too_new("subshell_id", "5.5")
        return adapted

    def _too_new(self, feature: str, since: str) -> UnsupportedFeature:
        version = self.info.get("protocol_version")
        return UnsupportedFeature(
            f"The kernel speaks version {version} of the protocol, and {feature} came with"
            f" {since}: it would never be answered. Do without.",
            feature=feature,
        )

    def _to_5(self, message: Message) -> Message:
        """Translate what a kernel sends that speaks protocol 4, or has not said what it speaks."""
        is_info = message.msg_type == "kernel_info_reply"
        if is_info and not self._learns_of_4(message):
            return message
        request = self._request_of(message.parent_id)
        adapted = adapt(message, 5, request.message if request is not None else None)
        if adapted is not message and request is not None and _is_last(adapted):
            request.expect_no_idle()
        if is_info:
            self.info = adapted.content
        return adapted

    def _learns_of_4(self, message: Message) -> bool:
        """Take from a kernel_info reply what the kernel speaks; tells whether it is protocol 4.

        The header counts for less: there are kernels of protocol 5 that give no version in it.
        """
        content = message.content
        version = content.get("protocol_version", message.header.get("version", 4))
        self.is_4 = major_version(version) == 4
        if not self.is_4:
            self.translate = None
            self.info = content
        return self.is_4


def _is_last(message: Message) -> bool:
    """Whether nothing follows a message of protocol 4, not even an idle status."""
    return message.channel in ("shell", "control") and (
        message.msg_type != "execute_reply" or message.content["status"] == "aborted"
    )
