"""`evaluate.py selftest`: every metric against the goldens of its reference implementation."""

import sys
import time
from typing import Any

from omegaconf import DictConfig

from portraitgen.runs.config.schema import CONF

PLACES = ("tests/metrics", "tests/faces/recognition")
"""Where the tests marked `golden` are, below the checkout."""


class _Lines:
    """A pytest plugin that prints one line for each comparison."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        # A skip may come while a fixture is set up; everything else counts when the test itself has run.
        if report.when != "call" and report.passed:
            return
        self.counts[report.outcome] += 1
        file, _, name = report.nodeid.partition("::")
        what = f"{file.rpartition('/')[2].removeprefix('test_').removesuffix('.py')}: {name}"
        why = ""
        if report.skipped:
            why = f"  ({report.longrepr[2].removeprefix('Skipped: ')})"
        elif report.failed:
            why = "\n" + report.longreprtext
        print(f"{report.outcome:>7}  {what.replace('test_', '').replace('_', ' ')}{why}", flush=True)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.counts["failed"] += 1
            print(f" failed  {report.nodeid}\n{report.longreprtext}")


def selftest(config: DictConfig) -> None:
    """Print passed, failed or skipped for each comparison; exit with 1 when one failed.

    Raises:
        ValueError: no checkout with its tests, or no pytest.
    """
    root = CONF.parent
    places = [root / place for place in PLACES]
    if not all(place.is_dir() for place in places):
        raise ValueError(f"the goldens are part of the checkout, and there is no {places[0]}: clone it anew")
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise ValueError("the self-test needs pytest: pip install -e '.[dev]'") from error
    begin = time.monotonic()
    lines = _Lines()
    options = [
        "-m",
        "golden and not slow",
        "-p",
        "no:terminal",
        "-p",
        "no:cacheprovider",
        f"--rootdir={root}",
    ]
    code = pytest.main([*options, *map(str, places)], plugins=[lines])
    counted = ", ".join(f"{count} {outcome}" for outcome, count in lines.counts.items())
    print(f"{counted} in {time.monotonic() - begin:.0f} s")
    if code != 0 or lines.counts["failed"] or not lines.counts["passed"]:
        sys.exit(1)
