"""Words in CSV files: a spreadsheet takes a cell that begins with =, +, - or @ for a formula and runs it.

Source: OWASP, "CSV Injection". An apostrophe in front makes a cell text, in a spreadsheet too.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARK = "'"


def as_text(word: str) -> str:
    """A cell that is text to a spreadsheet, whatever the word is."""
    return _MARK + word if word.startswith((*_FORMULA, _MARK)) else word


def from_text(cell: str) -> str:
    """The word that `as_text` wrote."""
    return cell[1:] if cell.startswith(_MARK) else cell


def csv_lines(table: Iterable[Sequence[str | float]]) -> str:
    """Lines of a CSV: words as text, numbers to their last digit, nothing for NaN."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for line in table:
        writer.writerow([as_text(cell) if isinstance(cell, str) else _number(cell) for cell in line])
    return buffer.getvalue()


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return repr(float(value)) if math.isfinite(value) else ""
