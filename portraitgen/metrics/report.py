"""Write what came of an evaluation: JSON, CSV and Markdown for further work, one HTML page to look at."""

import json
from collections.abc import Sequence
from pathlib import Path

from portraitgen.media.files import replace_file
from portraitgen.metrics.page import Media, report_page
from portraitgen.metrics.results import Results
from portraitgen.metrics.saved import FRAMES, RESULTS, results_json
from portraitgen.metrics.tables import frames_csv, results_markdown, rows_csv


def write_report(
    results: Results, folder: Path, *, title: str, media: Sequence[Media] = ()
) -> dict[str, Path]:
    """Write the whole report into a folder; files of an earlier report are replaced, each at once.

    Args:
        results: from `aggregate`.
        folder: made when it is missing.
        title: heading of the page and the Markdown.
        media: videos and pictures to embed in the page, such as the comparison video and the contact sheet.

    Returns:
        Paths by what they are: `json` results.json, `csv` results.csv (a line a video and method), `frames`
        frames.csv (a line a frame), `markdown` results.md, `html` report.html.

    Raises:
        ValueError: a media file cannot be read, or the folder cannot be written.
    """
    try:
        page = report_page(results, title=title, media=media)
    except OSError as error:
        raise ValueError(f"the report cannot embed {error.filename}: {error.strerror}") from error
    contents = {
        "json": (RESULTS, json.dumps(results_json(results), indent=2, allow_nan=False) + "\n"),
        "csv": ("results.csv", rows_csv(results)),
        "frames": (FRAMES, frames_csv(results)),
        "markdown": ("results.md", results_markdown(results, title=title)),
        "html": ("report.html", page),
    }
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
