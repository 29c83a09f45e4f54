"""Somebody who answers the questions of servers and keys, from a list."""

from __future__ import annotations

from kernel_mgmt_ssh.errors import SshError

__all__ = ["Answers"]


class Answers:
    """An asker with a list of answers; afterwards nobody answers any more."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        #: What was asked, and whether the answer was not to be shown.
        self.questions: list[tuple[str, bool]] = []
        self.told: list[str] = []

    def ask(self, message: str, *, secret: bool = True) -> str:
        """Give the next answer."""
        self.questions.append((message, secret))
        if not self._answers:
            raise SshError("Nobody answers.", kind="authentication")
        return self._answers.pop(0)

    def tell(self, message: str) -> None:
        """Note how far it is."""
        self.told.append(message)
