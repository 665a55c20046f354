"""The rounds of a run as a table: one line for each step, method and figure."""

from portraitgen.metrics.csv_text import csv_lines
from portraitgen.metrics.report.history_page import History
from portraitgen.metrics.scores import METHODS

HEADER = ("step", "method", "figure", "mean", "low", "high")


def history_csv(history: History) -> str:
    """CSV; a cell is empty where a figure is missing."""
    lines = (
        (step, method, name, *values)
        for step, results in history.rounds.items()
        for method in METHODS
        for name, values in results.figures.get(method, {}).items()
    )
    return csv_lines([HEADER, *lines])
