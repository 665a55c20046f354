"""What the templates of both report pages are given."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from portraitgen.metrics.report.paper_tables import RECALLED, WARNING, PaperTable, paper_cells


class Cell(NamedTuple):
    """A cell of a table: its text, and small lines below it, each with a class of the style sheet or none."""

    text: str
    below: tuple[tuple[str, str], ...] = ()


class PageTable(NamedTuple):
    """A table of a page; the first cell of each line is its heading."""

    header: Sequence[str]
    lines: Sequence[Sequence[Cell]]


class ProtocolPart(NamedTuple):
    """A protocol as lists of facts: the whole of it, how each figure is taken, versions of packages."""

    stated: Mapping[str, str]
    taken: Mapping[str, str]
    versions: Mapping[str, str]


class PaperPart(NamedTuple):
    """A table of a paper, as `PaperTable`, in cells."""

    paper: str
    title: str
    source: str
    header: Sequence[str]
    lines: Sequence[Sequence[Cell]]


PAPER_NOTES = (WARNING, f"{RECALLED} recalled, not confirmed by a source at hand.")


def paper_part(table: PaperTable) -> PaperPart:
    header, body = paper_cells(table)
    lines = [[Cell(text) for text, _ in line] for line in body]
    return PaperPart(table.paper, table.title, table.source, header, lines)


def protocol_part(protocol: Mapping[str, Any]) -> ProtocolPart:
    """A protocol in JSON (`saved.protocol_json`) in words."""
    apart = ("metrics", "graders", "videos", "versions", "settings", "source")
    stated = {name: value for name, value in protocol.items() if name not in apart}
    named = {f"{info['label']} ({name})": info["definition"] for name, info in protocol["metrics"].items()}
    taken = {
        f"{grader}: {fact}": value
        for grader, facts in protocol["graders"].items()
        for fact, value in facts.items()
    }
    plain = {name.replace("_", " "): value for name, value in {**stated, **protocol["settings"]}.items()}
    return ProtocolPart(_in_words(plain), _in_words({**named, **taken}), _in_words(protocol["versions"]))


def _in_words(facts: Mapping[str, object]) -> dict[str, str]:
    return {name: _said(value) for name, value in facts.items()}


def _said(value: object) -> str:
    """A fact of the protocol in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list):
        return "×".join(map(str, value)) if all(isinstance(each, int) for each in value) else str(value)
    return "–" if value is None else str(value)
