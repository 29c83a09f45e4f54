"""The command's parts that differ on Windows, loaded as they would be there; Windows is not."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from kernel_mgmt import Prompt

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a module of the command with the platform's name and signals of Windows."""
    for name in ("SIGHUP", "SIGUSR1", "pthread_kill"):
        monkeypatch.delattr(signal, name)
    monkeypatch.delattr(os, "O_NOCTTY")
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR2, raising=False)

    def load(name: str) -> ModuleType:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return load


def test_the_end_of_the_window_ends_the_command(load: Load, own_signals: None) -> None:
    """SIGBREAK, which Windows sends then, ends the command as SIGTERM does, once."""
    signals = load("kernel_mgmt_cli.signals")
    ended = pytest.raises(signals.EndedBySignal)
    with signals.Signals() as handling, ended as caught, handling.raising():
        signal.raise_signal(signal.SIGBREAK)
    assert caught.value.signum == signal.SIGBREAK
    signal.raise_signal(signal.SIGBREAK)


def test_a_question_that_is_withdrawn_stays_until_it_is_answered(load: Load) -> None:
    """Nothing is raised in the block of the question, and a later one is not begun."""
    signals = load("kernel_mgmt_cli.signals")
    with signals.Signals() as handling:
        with handling.prompting("name"):
            handling.withdraw("name")
        with pytest.raises(signals.QuestionWithdrawn), handling.prompting("name"):
            pass


def test_the_console_is_the_terminal(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider's question goes to CONOUT$ and its answer comes from CONIN$, if there is a console."""
    asking = load("kernel_mgmt_cli.asking")
    monkeypatch.chdir(tmp_path)
    assert not asking.has_terminal()
    Path("CONIN$").write_bytes(b"Ada\r\nmore\r\n")
    assert asking.has_terminal()
    assert asking.answer_provider(Prompt("Name?", secret=False)) == "Ada"
    assert Path("CONOUT$").read_text() == "Name? "
