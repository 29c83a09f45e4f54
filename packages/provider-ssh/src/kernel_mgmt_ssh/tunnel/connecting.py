"""From a route to an authenticated connection, over all its hops."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import paramiko

from ..errors import SshError
from ..routes import Hop, Route
from .authentication import Asker, Authentication, Memory
from .host_keys import KnownHosts
from .transport import ChannelSocket, Transport, tune
from .userauth import Disconnected

__all__ = ["Asker", "Connector", "SshSession"]

#: Connections that one hop may take to log in at: each lets a server with few tries see new keys.
_MOST_CONNECTIONS = 12
#: What paramiko has of ciphers, sums and key exchanges, and most servers, too.
_COMMON = ("aes256-gcm@openssh.com", "hmac-sha2-256", "ecdh-sha2-nistp256")
#: Seconds for a proxy command to end by itself once its streams are closed.
_FAREWELL = 0.5
#: Keepalives that may stay unanswered before the kernel gives a connection up.
_SILENT_INTERVALS = 3


class SshSession:
    """An authenticated connection, with what it goes through.

    Args:
        hop: its end.
        transport: to there.
        before: the connection that it goes through, if any.
        proxy: the command that it goes through, if any.
    """

    def __init__(
        self, hop: Hop, transport: Transport, before: SshSession | None, proxy: _Proxy | None
    ) -> None:
        self.hop = hop
        self.transport = transport
        self._before = before
        self._proxy = proxy

    def close(self) -> None:
        """End it with all that it goes through; idempotent, from any thread."""
        # The first hop first: to say goodbye through one that is stuck would wait for it.
        if self._before is not None:
            self._before.close()
        self.transport.end()
        if self._proxy is not None:
            self._proxy.close()


class Connector:
    """Connects over a route, as often as is wanted.

    What was typed is remembered, in memory alone, so that connecting again asks nothing.

    Args:
        route: the way.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self._memories = [Memory() for _ in route.hops]

    def connect(self, asker: Asker | None) -> SshSession:
        """Connect and log in, hop by hop; blocks.

        Each hop has its ``connect_timeout`` to greet and to prove who it is; then 30 seconds for
        each answer while logging in. The time that a person takes to answer does not count.

        Args:
            asker: who answers questions; None: nobody.

        Returns:
            The session, to be closed by the caller.

        Raises:
            SshError: with its kind; nothing is left behind.
        """
        session: SshSession | None = None
        try:
            for hop, memory in zip(self.route.hops, self._memories, strict=True):
                if asker is not None:
                    asker.tell(f"Connecting to {hop.name}.")
                if session is not None:
                    _settle(session.transport)
                session = _log_in(hop, session, asker, memory)
        except BaseException:
            if session is not None:
                session.close()
            raise
        assert session is not None
        return session


def _log_in(hop: Hop, before: SshSession | None, asker: Asker | None, memory: Memory) -> SshSession:
    """Connect to a hop through the one before and log in there."""
    authentication = Authentication(hop, asker, memory)
    farewell = ""
    for _connection in range(_MOST_CONNECTIONS):
        session = _shake_hands(hop, before)
        try:
            authentication.run(session.transport)
        except Disconnected:
            # Servers count what they refuse (MaxAuthTries); a new connection has new tries.
            _close_alone(session)
            farewell = session.transport.farewell
            if not authentication.progress:
                break
        except BaseException:
            _close_alone(session)
            raise
        else:
            return session
    raise authentication.error(farewell)


def _shake_hands(hop: Hop, before: SshSession | None) -> SshSession:
    """Connect to a hop until it has proved to be the one that is meant."""
    known = KnownHosts(hop)
    deadline = time.monotonic() + hop.connect_timeout
    proxy = None
    if before is not None:
        stream: Any = ChannelSocket(_through(before, hop, deadline))
    elif hop.proxy_command:
        proxy = _Proxy(hop)
        stream = proxy.stream
    else:
        stream = _dial(hop, deadline)
    transport = Transport(stream)
    transport.name = f"ssh {hop.name}"
    session = SshSession(hop, transport, before, proxy)
    try:
        algorithms = _prefer(transport, hop, known)
        _negotiate(transport, hop, deadline, proxy)
        try:
            key = transport.get_remote_server_key()
        except paramiko.SSHException as error:
            # It has ended since.
            raise _handshake_error(transport, hop, error, deadline) from None
        known.check(key.get_name(), key.asbytes(), algorithms)
    except BaseException:
        _close_alone(session)
        raise
    return session


def _close_alone(session: SshSession) -> None:
    """Close a session, but not the one that it goes through."""
    SshSession(session.hop, session.transport, None, session._proxy).close()


def _prefer(transport: Transport, hop: Hop, known: KnownHosts) -> tuple[str, ...]:
    """Have the host key that is known asked for first; gives all that are asked for."""
    options = transport.get_security_options()
    possible = tuple(options.key_types)
    wanted = tuple(name for name in hop.host_key_algorithms if name in possible) or possible
    options.key_types = known.order(wanted)
    return wanted


def _negotiate(transport: Transport, hop: Hop, deadline: float, proxy: _Proxy | None) -> None:
    """Agree on keys, within a deadline."""
    done = threading.Event()
    remaining = max(0.1, deadline - time.monotonic())
    # paramiko's own limits would let a server that speaks slowly take minutes.
    transport.banner_timeout = remaining
    transport.handshake_timeout = remaining
    transport.start_client(event=done)
    done.wait(remaining)
    if transport.is_active() and transport.initial_kex_done:
        return
    error = transport.get_exception()
    transport.end()
    if proxy is not None and not transport.remote_version:
        raise proxy.error()
    raise _handshake_error(transport, hop, error, deadline)


def _handshake_error(
    transport: Transport, hop: Hop, error: Exception | None, deadline: float
) -> SshError:
    """Say why there was no agreement."""
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return SshError(
            f"{hop.address} and this side have no method of encryption in common: {error}.",
            kind="protocol",
            advice="Have its administrator allow what there is here: for example"
            f" {', '.join(_COMMON)}.",
        )
    text = str(error or "")
    if transport.remote_version:
        silent = error is None or "timeout" in text.lower()
        return SshError(
            f"{hop.address} did not finish the handshake within {hop.connect_timeout:g} s."
            if silent
            else f"{hop.address} broke off the handshake"
            f"{': ' + (transport.farewell or text) if transport.farewell or text else ''}.",
            kind="unreachable",
            advice="Its server may be overloaded or stopped: try again later.",
        )
    if transport.greeting or "codec" in text:
        said = f": it says {transport.greeting[:80]!r}" if transport.greeting else ""
        return SshError(
            f"What answers at {hop.address} is no SSH server{said}.",
            kind="protocol",
            advice="Check HostName and Port in your ssh_config.",
        )
    if "protocol banner" in text and time.monotonic() < deadline:
        return SshError(
            f"{hop.address} accepts connections, but ends them without a word.",
            kind="unreachable",
            advice="Its server may refuse this machine (sshd's MaxStartups, a firewall): look in"
            " its log.",
        )
    return SshError(
        f"{hop.address} accepts connections, but did not greet as an SSH server within"
        f" {hop.connect_timeout:g} s.",
        kind="unreachable",
        advice="Check that Port in your ssh_config is that of an SSH server; if it is, its machine"
        " may be overloaded.",
    )


# -- ways to a server --------------------------------------------------------------------------


def _dial(hop: Hop, deadline: float) -> socket.socket:
    """Connect to a server's TCP port: one of its addresses after the other."""
    addresses = _look_up(hop, deadline)
    failure = "no address"
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # A dead address leaves time for the others.
        patience = (deadline - time.monotonic()) / (len(addresses) - index)
        sock = socket.socket(family, kind, protocol)
        try:
            tune(sock, hop.keepalive_interval * _SILENT_INTERVALS)
            sock.settimeout(max(0.1, patience))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = (
                f"no answer within {hop.connect_timeout:g} s"
                if isinstance(error, TimeoutError)
                else (error.strerror or str(error)).lower()
            )
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise SshError(
        f"There is no connection to {hop.hostname}, port {hop.port}: {failure}.",
        kind="unreachable",
        advice="Check that the host is up, and HostName and Port in your ssh_config.",
    )


def _look_up(hop: Hop, deadline: float) -> list[Any]:
    """Resolve a name, within a deadline: on a thread, as the system's function has none."""
    families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
    family = families.get(hop.address_family, socket.AF_UNSPEC)
    found: list[Any] = []
    errors: list[str] = ["the name was not resolved in time"]

    def look() -> None:
        try:
            found.extend(socket.getaddrinfo(hop.hostname, hop.port, family, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            errors.append(getattr(error, "strerror", None) or str(error))

    thread = threading.Thread(target=look, name=f"look up {hop.hostname}", daemon=True)
    thread.start()
    thread.join(max(0.1, deadline - time.monotonic()))
    if found:
        return found
    raise SshError(
        f"There is no host {hop.hostname}: {errors[-1][:1].lower()}{errors[-1][1:]}.",
        kind="unknown-host",
        advice=f"Check the spelling of {hop.alias}, and HostName in your ssh_config.",
    )


def _through(before: SshSession, hop: Hop, deadline: float) -> paramiko.Channel:
    """Have the hop before connect to a server (RFC 4254, 7.2)."""
    remaining = max(0.1, deadline - time.monotonic())
    try:
        return before.transport.open_channel(
            "direct-tcpip",
            (hop.hostname, hop.port),
            ("127.0.0.1", 0),
            timeout=remaining,
        )
    except paramiko.ChannelException as error:
        # RFC 4254, 5.1: 1 is the policy's no, 2 that the server itself got no connection.
        if error.code == 2:
            raise SshError(
                f"The jump host {before.hop.name} has no connection to {hop.address}: it says"
                f" {error.text!r}.",
                kind="unreachable",
                advice="Check HostName and Port of the host, as seen from the jump host.",
            ) from None
        raise SshError(
            f"The jump host {before.hop.name} refuses to forward to {hop.address}: it says"
            f" {error.text!r}.",
            kind="jump",
            advice="Ask who runs it to allow it (AllowTcpForwarding and PermitOpen in its"
            " sshd_config).",
        ) from None
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise SshError(
            f"The jump host {before.hop.name} did not connect to {hop.address} within"
            f" {hop.connect_timeout:g} s{': ' + str(error) if str(error) else ''}.",
            kind="unreachable",
            advice="Check that the host is up, as seen from the jump host.",
        ) from None


def _settle(transport: Transport) -> None:
    """Run a command that does nothing on a jump host.

    sshd switches Nagle's algorithm off when the first session of a connection runs something, and
    a connection that only forwards has none: each small message would wait for 40 ms. A host that
    allows no session is slower, and that is all.
    """
    with (
        contextlib.suppress(paramiko.SSHException, EOFError, OSError),
        transport.open_session(timeout=5) as channel,
    ):
        channel.settimeout(5)
        channel.exec_command("true")


class _Proxy:
    """A ProxyCommand, whose standard input and output are one socket.

    paramiko has one with pipes, which is slow, and waits without end for a command that hangs.
    """

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self._closing = threading.Lock()
        self.stream, theirs = socket.socketpair()
        try:
            # ssh_config(5), ProxyCommand: the user's shell runs it, and `exec` spares a process.
            shell = os.environ.get("SHELL") or "/bin/sh"
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {hop.proxy_command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self.stream.close()
            raise SshError(
                f"The ProxyCommand to {hop.address} could not be started: {error}.",
                kind="proxy-command",
            ) from None
        finally:
            theirs.close()

        self._complaints: collections.deque[bytes] = collections.deque(maxlen=20)
        self._reader = threading.Thread(
            target=self._read_complaints, name=f"proxy command of {hop.address}", daemon=True
        )
        self._reader.start()

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        # Read to its end, so that the command never waits for somebody to read.
        while line := self._process.stderr.readline(4096):
            self._complaints.append(line)

    def error(self) -> SshError:
        """Say why the server could not be reached; also ends the command."""
        self.stream.close()
        # Has it ended by itself, or is it still trying?
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
        status = self._process.poll()
        self.close()
        tail = b"".join(self._complaints).decode(errors="replace").strip()
        if status is None:
            reason = f"gave no answer within {self._hop.connect_timeout:g} s"
        elif status > 0:
            reason = f"ended with exit code {status}"
        elif status < 0:
            reason = f"was ended by signal {-status}"
        else:
            reason = "ended without an answer"
        last = tail.splitlines()[-1].strip().rstrip(".") if tail else ""
        return SshError(
            f"The ProxyCommand to {self._hop.address} {reason}{': ' + last if last else ''}.",
            kind="proxy-command",
            advice=f"Run it by hand: `{self._hop.proxy_command}` has to show a line that begins"
            " with SSH-2.0.",
            log_tail=tail,
        )

    def close(self) -> None:
        """End the command and all that it has started; idempotent, from any thread."""
        with self._closing:
            # It sees the end of its input.
            self.stream.close()
            if not self._is_gone():
                self._signal(signal.SIGTERM)
            if sys.platform != "win32" and not self._is_gone():
                self._signal(signal.SIGKILL)
                self._is_gone()
            if self._process.stderr is not None and not self._reader.is_alive():
                self._process.stderr.close()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its process group."""
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, number)

    def _is_gone(self) -> bool:
        """Wait a moment for its end, and for that of all that has its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
            self._reader.join(_FAREWELL)
        return self._process.returncode is not None and not self._reader.is_alive()
