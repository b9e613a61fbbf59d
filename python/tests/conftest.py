"""The demo model, and the program that the wheel has installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from cinderblock import Model

MODELS = Path(os.environ["CINDERBLOCK_MODELS"])
MODEL = MODELS / "classics.q4.gguf"
CHECKPOINT = MODELS / "classics"
PROMPT = "The rain had stopped, and the village came out to look."


def program(*words: str | Path, text: str | None = None) -> str:
    """Standard output of the program."""
    command = [str(Path(sys.executable).with_name("cinderblock")), *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout


@pytest.fixture(scope="session")
def model() -> Model:
    """The demo model, opened once."""
    return Model.open(MODEL)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Count as the tests in Rust do."""
    passed, failed, errors, skipped = (
        len(terminalreporter.getreports(outcome)) for outcome in ("passed", "failed", "error", "skipped")
    )
    terminalreporter.write_line(
        f"test result: python. {passed} passed; {failed + errors} failed; {skipped} ignored"
    )
