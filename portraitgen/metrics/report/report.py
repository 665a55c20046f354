"""Write what came of an evaluation or a comparison: JSON, CSV and Markdown, and one HTML page to look at."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from portraitgen.media.files import replace_file
from portraitgen.metrics.comparison import Comparison
from portraitgen.metrics.report.comparison_page import comparison_page
from portraitgen.metrics.report.comparison_tables import comparison_csv, comparison_json, comparison_markdown
from portraitgen.metrics.report.history_page import History, history_page
from portraitgen.metrics.report.history_tables import history_csv
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.page import report_page
from portraitgen.metrics.report.paper_tables import PaperTable, papers_markdown
from portraitgen.metrics.report.tables import frames_csv, results_markdown, rows_csv
from portraitgen.metrics.report.trials_page import Trial, trials_page
from portraitgen.metrics.results import Results
from portraitgen.metrics.saved import FRAMES, RESULTS, results_json
from portraitgen.metrics.scores import MetricInfo


def write_report(
    results: Results,
    folder: Path,
    *,
    title: str,
    media: Sequence[Media] = (),
    media_heading: str = "Pictures",
    papers: Sequence[PaperTable] = (),
) -> dict[str, Path]:
    """Write the whole report into a folder; files of an earlier report are replaced, each at once.

    Args:
        results: from `aggregate`.
        folder: made when it is missing.
        title: heading of the page and the Markdown.
        media: videos and pictures to embed in the page, such as the comparison video and the contact sheet.
        media_heading: what they are.
        papers: tables of papers to print beside the figures.

    Returns:
        Paths by what they are: `json` results.json, `csv` results.csv (a line a video and method), `frames`
        frames.csv (a line a frame), `markdown` results.md, `html` report.html.

    Raises:
        ValueError: a media file cannot be read, or the folder cannot be written.
    """
    try:
        page = report_page(results, title=title, media=media, media_heading=media_heading, papers=papers)
    except OSError as error:
        raise ValueError(f"the report cannot embed {error.filename}: {error.strerror}") from error
    contents = {
        **_data(results),
        "csv": ("results.csv", rows_csv(results)),
        "markdown": ("results.md", results_markdown(results, title=title) + papers_markdown(papers)),
        "html": ("report.html", page),
    }
    return _write(contents, folder)


def write_results(results: Results, folder: Path) -> None:
    """Write what `saved.load_results` reads, results.json and frames.csv, and no page.

    Raises:
        ValueError: the folder cannot be written.
    """
    _write(_data(results), folder)


def write_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    title: str,
    media: Sequence[Media] = (),
    media_heading: str = "Side by side",
    papers: Sequence[PaperTable] = (),
) -> dict[str, Path]:
    """Write a comparison into a folder: comparison.json, .csv, .md and .html; arguments as `write_report`.

    Raises:
        ValueError: a media file cannot be read, or the folder cannot be written.
    """
    try:
        page = comparison_page(
            comparison, title=title, media=media, media_heading=media_heading, papers=papers
        )
    except OSError as error:
        raise ValueError(f"the report cannot embed {error.filename}: {error.strerror}") from error
    contents = {
        "json": (
            "comparison.json",
            json.dumps(comparison_json(comparison), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        ),
        "csv": ("comparison.csv", comparison_csv(comparison)),
        "markdown": ("comparison.md", comparison_markdown(comparison, title=title) + papers_markdown(papers)),
        "html": ("comparison.html", page),
    }
    return _write(contents, folder)


def write_history(
    history: History,
    folder: Path,
    *,
    title: str,
    media: Sequence[Media] = (),
    notes: Sequence[str] = (),
) -> dict[str, Path]:
    """Write history.html and history.csv (a line a round, figure and method); arguments as `history_page`.

    Raises:
        ValueError: a media file cannot be read, or the folder cannot be written.
    """
    try:
        page = history_page(history, title=title, media=media, notes=notes)
    except OSError as error:
        raise ValueError(f"the page cannot embed {error.filename}: {error.strerror}") from error
    return _write({"csv": ("history.csv", history_csv(history)), "html": ("history.html", page)}, folder)


def write_trials(
    trials: Sequence[Trial], metrics: Mapping[str, MetricInfo], folder: Path, *, title: str
) -> Path:
    """Write trials.html into `folder`; arguments as `trials_page`.

    Raises:
        ValueError: the folder cannot be written.
    """
    return _write({"html": ("trials.html", trials_page(trials, metrics, title=title))}, folder)["html"]


def _data(results: Results) -> dict[str, tuple[str, str]]:
    return {
        "json": (RESULTS, json.dumps(results_json(results), indent=2, allow_nan=False) + "\n"),
        "frames": (FRAMES, frames_csv(results)),
    }


def _write(contents: Mapping[str, tuple[str, str]], folder: Path) -> dict[str, Path]:
    paths = {kind: folder / name for kind, (name, _) in contents.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, (_, text) in contents.items():
            replace_file(paths[kind], text.encode())
    except OSError as error:
        raise ValueError(
            f"the report cannot be written into {folder}: {error.strerror}; choose another folder"
        ) from error
    return paths
