"""`demo.py` as people start it, in a process of its own, with a folder for its temporary files."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.command_line import ROOT

_PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class DemoServer:
    """A page that is served.

    Attributes:
        address: of it.
        files: folder in which all its temporary files lie.
        process: that serves it.
    """

    address: str
    files: Path
    process: psutil.Process

    def left_over(self) -> list[str]:
        """Files of visits and uploads."""
        roots = [
            root for name in ("uploads", "visits") for root in self.files.glob(f"portraitgen-demo-*/{name}")
        ]
        return [str(path) for root in roots for path in root.rglob("*")]


@contextmanager
def serve(folder: Path, *words: str) -> Iterator[DemoServer]:
    """`python demo.py <words>`, ended by SIGTERM; all its files are gone then.

    Args:
        folder: empty.
    """
    files, log = folder / "files", folder / "log"
    files.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(files)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "demo.py"), *words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + _PATIENCE_S
        while not (said := re.search(r"the page is at (\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield DemoServer(said[1], files, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not [*files.glob("portraitgen-demo-*")]
