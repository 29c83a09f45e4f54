"""One tunnel: the connection to a host held and made again, its agent, and its forwards.

The application speaks with it in lines of JSON.  It asks ``{"id": 1, "op": …}`` and is answered
``{"id": 1, "ok": true, "result": {…}}`` or ``{"id": 1, "ok": false, "error": {…}}``:

``connect`` (``route``, ``pythons``)
    Connect; once, and first.  Gives ``forwarding``: ``streamlocal``, ``tcp`` or ``relay``.
``agent`` (``name``, ``args``)
    Ask the agent on the host; gives its result.
``forward`` (``name``, ``sockets``, ``far``)
    Listen at local sockets in the name of sockets on the host; ``far`` is what the agent's ``alive`` is
    asked with when one refuses.
``unforward`` (``name``)
    Undo that.
``cancel`` (``of``)
    Give a request to the agent up; that one still is answered.

Unasked, the tunnel tells ``{"event": …}``: ``progress``, ``prompt`` (to be answered with
``{"answer": …, "text": …}``, or without a text), ``lost``, ``restored`` and ``closed``.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from ..errors import SshError
from ..routes import Route
from .agent_channel import AgentChannel
from .channels import ChannelEnd, streams_are_forwarded, tcp_is_forwarded
from .connecting import Connector, SshSession
from .forwarding import Forwarder, Target
from .keepalive import PATIENCE, KeepAlive
from .pump import FarEnd
from .transport import Transport

__all__ = ["Tunnel"]

logger = logging.getLogger("kernel_mgmt.ssh")

#: How long to wait before connecting again, in seconds: first, and then each time longer.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
#: A host that has not been there for so long, in seconds, is asked more rarely.
_PATIENT_FOR = 600.0
_RARE_PAUSE = 10.0
#: What will not be otherwise when it is tried again: whoever is there is not who was.
_FINAL = frozenset({"changed-host-key", "revoked-host-key", "unknown-host-key"})
#: An agent that holds the keys may be locked for a while; a server that keeps count must not be asked
#: for ever.
_MOST_REFUSALS = 10
_REFUSED_PAUSE = 10.0
#: How long a channel may take to open, in seconds.
_OPEN_PATIENCE = 10.0
#: How long the agent may take to say whether a process is there, in seconds.
_ALIVE_PATIENCE = 10.0


class _Connection:
    """One connection to the host, from its making to its loss."""

    def __init__(self, session: SshSession, agent: AgentChannel) -> None:
        self.session = session
        self.agent = agent
        interval = session.hop.keepalive_interval
        self.keepalive = KeepAlive(session.transport, interval, min(PATIENCE, 3 * interval))

    @property
    def transport(self) -> Transport:
        return self.session.transport

    def why_lost(self) -> str:
        """Give the reason why it was lost, for people."""
        verdict = self.keepalive.verdict or self.agent.verdict
        if verdict:
            return verdict
        error = self.transport.get_exception()
        if error is None or isinstance(error, EOFError) or not str(error):
            return "the host closed it"
        return getattr(error, "strerror", None) or str(error)

    def close(self) -> None:
        self.keepalive.stop()
        self.agent.close()
        self.session.close()


class Tunnel:
    """Holds one connection to a host.

    Args:
        say: sends a line to the application; called on any thread.
    """

    def __init__(self, say: Callable[[Mapping[str, Any]], object]) -> None:
        self._say = say
        self._connector: Connector | None = None
        self._pythons: list[str] = []
        self._forwarding = ""
        self._connection: _Connection | None = None
        self._closing = threading.Event()
        self._forwarder = Forwarder(self._open_far)
        self._prompts: dict[int, queue.SimpleQueue[str | None]] = {}
        #: Requests to the agent that can be given up: the agent and its number, by our own.
        self._cancellable: dict[int, tuple[AgentChannel, int]] = {}
        #: Those that were given up before they had been made.
        self._given_up: set[int] = set()
        #: Taken by who looks at these two.
        self._lock = threading.Lock()

    # -- what the application says ----------------------------------------------------------

    def take(self, message: Mapping[str, Any]) -> None:
        """Take a line of the application; returns at once."""
        if "answer" in message:
            waiting = self._prompts.pop(message["answer"], None)
            if waiting is not None:
                waiting.put(message.get("text"))
            return
        name = f"_{message['op']}"
        threading.Thread(
            target=self._answer, args=(message, getattr(self, name)), name=name, daemon=True
        ).start()

    def _answer(self, message: Mapping[str, Any], handler: Callable[..., Any]) -> None:
        number = message["id"]
        args = {key: value for key, value in message.items() if key not in ("id", "op")}
        try:
            result = handler(number, **args) or {}
        except SshError as error:
            self._say({"id": number, "ok": False, "error": error.to_dict()})
        except Exception as error:
            logger.exception("A request failed")
            told = SshError(f"The tunnel has a defect: {error!r}.", kind="protocol")
            self._say({"id": number, "ok": False, "error": told.to_dict()})
        else:
            self._say({"id": number, "ok": True, "result": result})

    def _connect(self, _: int, route: dict[str, Any], pythons: list[str]) -> dict[str, Any]:
        self._connector = Connector(Route.from_dict(route))
        self._pythons = pythons
        connection = self._make(_Asker(self))
        self._forwarding = self._find_out_forwarding(connection)
        self._connection = connection
        self._forwarder.restore()
        threading.Thread(target=self._keep, args=(connection,), name="keep", daemon=True).start()
        return {"forwarding": self._forwarding}

    def _agent(self, number: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
        connection = self._connection
        if connection is None:
            raise SshError("The connection to the host is lost at present.", kind="lost")
        asked, future = connection.agent.ask(name, args)
        with self._lock:
            self._cancellable[number] = connection.agent, asked
            is_given_up = number in self._given_up
        if is_given_up:
            connection.agent.cancel(asked)
        try:
            return future.result()
        finally:
            with self._lock:
                del self._cancellable[number]
                self._given_up.discard(number)

    def _cancel(self, _: int, of: int) -> None:
        # Each of the application's lines has a thread of its own: this may come first.
        with self._lock:
            agent, asked = self._cancellable.get(of, (None, 0))
            if agent is None:
                self._given_up.add(of)
        if agent is not None:
            agent.cancel(asked)

    def _forward(self, _: int, name: str, sockets: dict[str, Target], far: dict[str, Any]) -> None:
        try:
            self._forwarder.add(name, sockets, is_gone=lambda: self._is_gone(far))
        except OSError as error:
            raise SshError(
                f"A local socket for the kernel cannot be made: {error}.",
                kind="local",
                advice="Check the room and the rights of TMPDIR on this machine.",
            ) from error

    def _unforward(self, _: int, name: str) -> None:
        self._forwarder.remove(name)

    def close(self) -> None:
        """Let go of the host, and remove all local sockets."""
        self._closing.set()
        self._forwarder.close()
        connection = self._connection
        if connection is not None:
            connection.close()

    def ask_user(self, message: str, secret: bool) -> str | None:
        """Have the application ask its user; gives None when nobody answers."""
        waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        number = id(waiting)
        self._prompts[number] = waiting
        self._say({"event": "prompt", "prompt": number, "message": message, "secret": secret})
        return waiting.get()

    def tell(self, message: str) -> None:
        """Tell the application how far it is."""
        self._say({"event": "progress", "message": message})

    # -- the connection -----------------------------------------------------------------------

    def _make(self, asker: _Asker | None) -> _Connection:
        assert self._connector is not None
        session = self._connector.connect(asker)
        try:
            if asker is not None:
                asker.tell("Starting a program on the host")
            return _Connection(session, AgentChannel(session.transport, self._pythons))
        except BaseException:
            session.close()
            raise

    def _find_out_forwarding(self, connection: _Connection) -> str:
        try:
            path = connection.agent.ask("probe", {})[1].result(_ALIVE_PATIENCE)["path"]
        except TimeoutError:
            raise SshError(
                f"The host runs our program, which did not answer within {_ALIVE_PATIENCE:g} s.",
                kind="unreachable",
                advice="Its machine may be overloaded: try again later.",
            ) from None
        if streams_are_forwarded(connection.transport, path, _OPEN_PATIENCE):
            return "streamlocal"
        return "tcp" if tcp_is_forwarded(connection.transport, _OPEN_PATIENCE) else "relay"

    def _keep(self, connection: _Connection) -> None:
        """Wait for the loss of the connection, and make it again; on a thread of its own."""
        while True:
            connection.transport.join()
            if self._closing.is_set():
                return
            reason = connection.why_lost()
            self._connection = None
            self._say({"event": "lost", "reason": reason})
            self._forwarder.lose()
            connection.close()
            again = self._make_again()
            if again is None:
                return
            self._connection = connection = again
            self._forwarder.restore()
            self._say({"event": "restored"})

    def _make_again(self) -> _Connection | None:
        """Connect until it succeeds; gives None when it is to be given up."""
        began, pause, refusals = time.monotonic(), _FIRST_PAUSE, 0
        while not self._closing.is_set():
            try:
                return self._make(None)
            except SshError as error:
                logger.info("%s", error)
                refusals += error.kind == "authentication"
                if error.kind in _FINAL or refusals >= _MOST_REFUSALS:
                    self._say({"event": "closed", "reason": error.cause})
                    return None
                if error.kind == "authentication":
                    pause = _REFUSED_PAUSE
            except Exception:
                logger.exception("Connecting failed")
            self._closing.wait(pause)
            longest = _LONGEST_PAUSE if time.monotonic() - began < _PATIENT_FOR else _RARE_PAUSE
            pause = min(pause * 2, longest)
        return None

    # -- the far ends of forwards -------------------------------------------------------------

    def _open_far(self, target: Target) -> FarEnd:
        connection = self._connection
        if connection is None:
            raise ConnectionResetError
        relayed = self._forwarding == "relay" or (
            "path" in target and self._forwarding != "streamlocal"
        )
        if relayed:
            return connection.agent.open_stream(target)
        return ChannelEnd.open(connection.transport, target, _OPEN_PATIENCE)

    def _is_gone(self, far: Mapping[str, Any]) -> bool:
        """Ask whether what listened at a forward's targets has ended."""
        connection = self._connection
        if connection is None or not far:
            return False
        future: Future[dict[str, Any]] = connection.agent.ask("alive", far)[1]
        try:
            return future.result(_ALIVE_PATIENCE).get("alive") is False
        except (SshError, TimeoutError):
            return False


class _Asker:
    """Asks the user of the application."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def ask(self, message: str, *, secret: bool = True) -> str:
        """See :class:`.connecting.Asker`."""
        answer = self._tunnel.ask_user(message, secret)
        if answer is None:
            raise SshError(
                f"{message!r} was asked, and nobody is there to answer.",
                kind="authentication",
                advice="Pass on_prompt=, or use an agent that holds the key.",
            )
        return answer

    def tell(self, message: str) -> None:
        """See :class:`.connecting.Asker`."""
        self._tunnel.tell(message)
