"""The table of docs/cluster.md: what was done to jobs, what came of it, and how long that took."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "tests/slurm/" in report.nodeid
    ]
    if not reports:
        return
    terminalreporter.write_line("| what | outcome | seconds |")
    terminalreporter.write_line("|---|---|---|")
    for report in sorted(reports, key=lambda report: report.nodeid):
        name = report.nodeid.rpartition("::test_")[2].replace("_", " ").replace("[", ": ").rstrip("]")
        terminalreporter.write_line(f"| {name} | {report.outcome} | {report.duration:.0f} |")
