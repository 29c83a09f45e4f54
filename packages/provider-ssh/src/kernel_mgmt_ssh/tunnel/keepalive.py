"""Noticing that the host does not answer any more, long before TCP does.

Each few seconds a global request asks for an answer, as OpenSSH's ``ServerAliveInterval`` does (RFC 4254,
section 4; an unknown request must be answered, too).  paramiko's own keepalive asks for none.
"""

from __future__ import annotations

import threading
import time

import paramiko

__all__ = ["PATIENCE", "KeepAlive"]

#: How long the host may take to answer at most, in seconds.
PATIENCE = 10.0
#: A sleep that took longer than this, in seconds, by the clock on the wall: the machine was suspended.
_SUSPENDED = 5.0
#: How long the host may take then: most likely it has forgotten us.
_PATIENCE_AFTER_SLEEP = 2.0


class KeepAlive:
    """Asks a host for a sign of life, and closes the connection when there is none.

    Args:
        transport: the connection.
        interval: seconds between two questions.
        patience: seconds that the host may take to answer.
    """

    def __init__(self, transport: paramiko.Transport, interval: float, patience: float) -> None:
        self._transport = transport
        self._interval = interval
        self._patience = patience
        self._stopped = threading.Event()
        self._answered = threading.Event()
        #: Why the connection was closed; empty when it was not.
        self.verdict = ""
        threading.Thread(target=self._run, name="keepalive", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        patience = self._patience
        while self._transport.is_active():
            if not self._ask(patience):
                if not self._stopped.is_set() and self._transport.is_active():
                    self.verdict = f"the host did not answer within {patience:g} s"
                    self._transport.close()
                return
            before = time.time(), time.monotonic()
            if self._stopped.wait(self._interval):
                return
            passed, counted = time.time() - before[0], time.monotonic() - before[1]
            slept = max(passed, counted) > self._interval + _SUSPENDED
            patience = min(self._patience, _PATIENCE_AFTER_SLEEP) if slept else self._patience

    def _ask(self, patience: float) -> bool:
        self._answered.clear()
        threading.Thread(target=self._question, name="keepalive-question", daemon=True).start()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self._transport.is_active():
            if self._answered.wait(min(0.5, patience)):
                return True
        return self._answered.is_set()

    def _question(self) -> None:
        try:
            # A denial is an answer.
            self._transport.global_request("keepalive@openssh.com", wait=True)
        except (paramiko.SSHException, OSError, EOFError):
            return
        if self._transport.is_active():
            self._answered.set()
