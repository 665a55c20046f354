"""What a person sees of the training, on a terminal and in a log."""

import io
import logging
import re
import sys
from pathlib import Path

import pytest

from tests.training import toy


def test_lines_in_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="portraitgen.training.progress"):
        toy.train(tmp_path, every_steps=4)
    lines = [r.getMessage() for r in caplog.records if r.name == "portraitgen.training.progress"]
    pattern = r"step {}/6  loss \d+\.\d{{4}}  \d+\.\d\d it/s  0:00:0\d left"
    assert len(lines) == 2
    assert re.fullmatch(pattern.format(4), lines[0])
    assert re.fullmatch(pattern.format(6), lines[1])


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    toy.train(tmp_path, every_steps=2)
    assert "6/6" in terminal.getvalue().splitlines()[-2]
    assert re.search(r"loss \d\.\d{4}  \d+\.\d\d it/s", terminal.getvalue())
