"""One method per request, the same for the asynchronous and the blocking client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from .protocol import Buffer, Message, requests

__all__ = ["RequestMethods"]

RequestT = TypeVar("RequestT")

#: What a kernel with subshells has among its ``supported_features``.
_SUBSHELLS = "kernel subshells"


class RequestMethods(ABC, Generic[RequestT]):
    """The requests of the messaging protocol as methods; a client adds how to send one.

    Each sends at once and gives the request's handle, which ends with the reply or an error.
    For what the parameters mean see :mod:`kernel_mgmt.protocol.requests`.

    Those with a ``subshell_id`` are handled by that subshell of the kernel (JEP 91), which does not
    wait for what the main shell runs; None is the main shell.  They raise ``UnsupportedFeature``
    when the kernel's kernel_info reply does not say that it has subshells, or has not come yet;
    after ``wait_for_ready`` it has.  A kernel answers with status error when it has no subshell
    of that id.
    """

    @abstractmethod
    def send(self, message: Message, channel: str = "shell") -> RequestT:
        """Send a message on ``shell`` or ``control``."""

    @abstractmethod
    def _require_feature(self, feature: str) -> None:
        """Raise ``UnsupportedFeature`` unless the kernel has said that it supports a feature."""

    def _send_to(self, subshell_id: str | None, message: Message) -> RequestT:
        if subshell_id is not None:
            self._require_feature(_SUBSHELLS)
            message.header["subshell_id"] = subshell_id
        return self.send(message)

    def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool | None = None,
        user_expressions: Mapping[str, str] | None = None,
        allow_stdin: bool = False,
        stop_on_error: bool = True,
        metadata: Mapping[str, Any] | None = None,
        subshell_id: str | None = None,
    ) -> RequestT:
        """Run code; for the parameters see :func:`~kernel_mgmt.protocol.requests.execute_request`.

        With ``allow_stdin`` set ``request.stdin_hook`` or a handler for channel ``stdin`` at once,
        or the kernel waits for an answer that never comes.
        """
        return self._send_to(
            subshell_id,
            requests.execute_request(
                code,
                silent=silent,
                store_history=store_history,
                user_expressions=user_expressions,
                allow_stdin=allow_stdin,
                stop_on_error=stop_on_error,
                metadata=metadata,
            ),
        )

    def complete(
        self, code: str, cursor_pos: int | None = None, *, subshell_id: str | None = None
    ) -> RequestT:
        """Ask for completions at a position, in code points; the end by default."""
        return self._send_to(subshell_id, requests.complete_request(code, cursor_pos))

    def inspect(
        self,
        code: str,
        cursor_pos: int | None = None,
        *,
        detail_level: int = 0,
        subshell_id: str | None = None,
    ) -> RequestT:
        """Ask what the name at a position is."""
        return self._send_to(
            subshell_id, requests.inspect_request(code, cursor_pos, detail_level=detail_level)
        )

    def history(
        self,
        *,
        hist_access_type: str = "range",
        raw: bool = True,
        output: bool = False,
        session: int = 0,
        start: int = 0,
        stop: int | None = None,
        n: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
        subshell_id: str | None = None,
    ) -> RequestT:
        """Ask for inputs of the past; see :func:`~kernel_mgmt.protocol.requests.history_request`."""
        return self._send_to(
            subshell_id,
            requests.history_request(
                hist_access_type=hist_access_type,
                raw=raw,
                output=output,
                session=session,
                start=start,
                stop=stop,
                n=n,
                pattern=pattern,
                unique=unique,
            ),
        )

    def is_complete(self, code: str, *, subshell_id: str | None = None) -> RequestT:
        """Ask whether code can be run as it is."""
        return self._send_to(subshell_id, requests.is_complete_request(code))

    def kernel_info(self, *, channel: str = "shell") -> RequestT:
        """Ask who the kernel is and what it can do."""
        return self.send(requests.kernel_info_request(), channel)

    def comm_info(
        self, target_name: str | None = None, *, subshell_id: str | None = None
    ) -> RequestT:
        """Ask which comms are open, all or those of one target."""
        return self._send_to(subshell_id, requests.comm_info_request(target_name))

    def comm_open(
        self,
        target_name: str,
        comm_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        target_module: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Buffer] = (),
        subshell_id: str | None = None,
    ) -> RequestT:
        """Open a comm; see :func:`~kernel_mgmt.protocol.requests.comm_open`."""
        return self._send_to(
            subshell_id,
            requests.comm_open(
                target_name,
                comm_id,
                data,
                target_module=target_module,
                metadata=metadata,
                buffers=buffers,
            ),
        )

    def comm_msg(
        self,
        comm_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Buffer] = (),
        subshell_id: str | None = None,
    ) -> RequestT:
        """Send data over a comm; large buffers are not copied, so leave them alone afterwards."""
        return self._send_to(
            subshell_id, requests.comm_msg(comm_id, data, metadata=metadata, buffers=buffers)
        )

    def comm_close(
        self,
        comm_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        subshell_id: str | None = None,
    ) -> RequestT:
        """Close a comm."""
        return self._send_to(subshell_id, requests.comm_close(comm_id, data))

    def shutdown(self, *, restart: bool = False) -> RequestT:
        """Ask the kernel to end itself; :meth:`shutdown_or_terminate` sees to it."""
        return self.send(requests.shutdown_request(restart=restart), "control")

    def debug(self, content: Mapping[str, Any]) -> RequestT:
        """Pass on a request of the Debug Adapter Protocol."""
        return self.send(requests.debug_request(content), "control")

    def create_subshell(self) -> RequestT:
        """Ask for a new subshell (JEP 91); its id is ``subshell_id`` in the reply's content.

        Raises:
            UnsupportedFeature: the kernel has no subshells, or was not waited for yet.
        """
        self._require_feature(_SUBSHELLS)
        return self.send(requests.create_subshell_request(), "control")

    def delete_subshell(self, subshell_id: str) -> RequestT:
        """Ask for the end of a subshell (JEP 91), which comes when it has run what it runs.

        Raises:
            UnsupportedFeature: the kernel has no subshells, or was not waited for yet.
        """
        self._require_feature(_SUBSHELLS)
        return self.send(requests.delete_subshell_request(subshell_id), "control")

    def list_subshell(self) -> RequestT:
        """Ask which subshells there are (JEP 91): ids, as ``subshell_id`` in the reply's content.

        Raises:
            UnsupportedFeature: the kernel has no subshells, or was not waited for yet.
        """
        self._require_feature(_SUBSHELLS)
        return self.send(requests.list_subshell_request(), "control")
