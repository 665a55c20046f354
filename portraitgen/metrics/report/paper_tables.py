"""Figures that papers state, beside ours: `loopy/hdtf` is the table `hdtf` of papers/loopy.yaml."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from portraitgen.metrics.report.tables import markdown_table, markdown_text

WARNING = (
    "Figures of papers were taken by other protocols (data, crops, frames, networks), so that they show a "
    "magnitude and do not compare with ours."
)
RECALLED = "*"


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One table of a paper.

    Attributes:
        name: as it is asked for, "loopy/hdtf".
        paper: its name and number.
        title: what was measured on what.
        source: where the numbers are known from.
        columns: key -> heading.
        rows: method -> key of the column -> (number or range as stated, whether it is confirmed).
    """

    name: str
    paper: str
    title: str
    source: str
    columns: dict[str, str]
    rows: dict[str, dict[str, tuple[str, bool]]]


def load_table(name: str) -> PaperTable:
    """A table by its name.

    Raises:
        ValueError: there is none; all are listed.
    """
    paper, _, table_name = name.partition("/")
    if name not in (known := table_names()):
        close = difflib.get_close_matches(name, known, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"papers: there is no table {name!r}{guess}; known are {', '.join(known)}")
    content = _read(paper)
    found = content["tables"][table_name]
    rows: dict[str, dict[str, tuple[str, bool]]] = {}
    for confirmed, part in ((True, found["confirmed"]), (False, found["recalled"])):
        for method, numbers in part.items():
            row = rows.setdefault(str(method), {})
            row.update({key: (str(number), confirmed) for key, number in numbers.items()})
    return PaperTable(name, content["paper"], found["title"], content["source"], found["columns"], rows)


def table_names() -> list[str]:
    """All tables that there are, as paper/table."""
    folder = resources.files("portraitgen.metrics.report.papers")
    papers = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))
    return [f"{paper}/{name}" for paper in papers for name in _read(paper)["tables"]]


def _read(paper: str) -> dict[str, Any]:
    text = resources.files("portraitgen.metrics.report.papers").joinpath(f"{paper}.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def papers_markdown(tables: Sequence[PaperTable]) -> str:
    """The tables in Markdown, to follow a report; nothing without any."""
    if not tables:
        return ""
    lines = ["", "## Figures of papers", "", f"{WARNING} {RECALLED} recalled, not confirmed."]
    for each in tables:
        lines += [
            "",
            markdown_text(f"{each.paper}: {each.title}. Source: {each.source}."),
            "",
            *markdown_table(*paper_cells(each)),
        ]
    return "\n".join(lines) + "\n"


def paper_cells(paper: PaperTable) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Header and lines as `tables.figure_table` gives them, what is recalled marked."""
    body = []
    for method, numbers in paper.rows.items():
        cells = [(method, "")]
        for key in paper.columns:
            number, confirmed = numbers.get(key, ("–", True))
            cells.append((number if confirmed else number + RECALLED, ""))
        body.append(cells)
    return ["Method", *paper.columns.values()], body
