"""`evaluate.py compare`: results of several runs side by side, if they were taken by one protocol."""

import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from rich.console import Console

from portraitgen.media.files import writable_folder
from portraitgen.metrics.comparison import Comparison, compare, label_runs
from portraitgen.metrics.grading import Material
from portraitgen.metrics.report.comparison_tables import LOUD, comparison_notes, comparison_table
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.paper_tables import load_table
from portraitgen.metrics.report.ranking import most_different
from portraitgen.metrics.report.report import write_comparison
from portraitgen.metrics.report.tables import terminal_table
from portraitgen.metrics.saved import RESULTS, SavedResults, load_results
from portraitgen.runs.config.check import check_config
from portraitgen.runs.evaluate.side_by_side import side_by_side
from portraitgen.runs.evaluate.sources.choose import source_of_results
from portraitgen.runs.evaluate.wandb_report import send_report

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CompareConfig:
    """What `evaluate.py compare` reads."""

    results: Any = MISSING
    """results.json files, folders that hold one, or patterns; the others are held against the first."""
    labels: list[str] | None = None
    """A name for each; null: what differs in their settings."""
    out: str = MISSING
    """Folder for comparison.json, tables and the page."""
    title: str = MISSING
    """Heading of the page."""
    allow_other_protocols: bool = False
    """Put results side by side that do not compare; the page then says so in large letters."""
    show_by: str | None = None
    """Figure by which videos are chosen to be shown; null: the first that is taken of frames or clips."""
    show_videos: int = MISSING
    """At most so many videos are shown."""
    papers: list[str] = field(default_factory=list)
    """Tables of papers to print beside the figures, such as loopy/hdtf."""
    wandb: str | None = None
    """Project on W&B that gets the report too; null: none."""


ConfigStore.instance().store(name="evaluate_compare_schema", node=CompareConfig)


def compare_results(config: DictConfig) -> None:
    """Write the comparison into `config.out` and print its table.

    Raises:
        ValueError: results that cannot be read or do not compare.
    """
    check_config(config)
    runs = [load_results(path) for path in find_results(config.results)]
    if config.labels is None:
        labelled = label_runs(runs)
    elif len(set(config.labels)) != len(runs):
        raise ValueError(f"labels={list(config.labels)}: give {len(runs)} different names, one a result")
    else:
        labelled = dict(zip(config.labels, runs, strict=True))
    report_comparison(labelled, config, allow_other_protocols=config.allow_other_protocols)


def find_results(patterns: str | Sequence[str]) -> list[Path]:
    """The results.json that paths, folders and patterns name, in their order, each once.

    Raises:
        ValueError: one of them names nothing.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = sorted(map(Path, glob.glob(pattern, recursive=True)))
        named = [path / RESULTS if path.is_dir() else path for path in matches]
        named = [path for path in named if path.is_file()]
        if not named:
            raise ValueError(f"results: {pattern} names no {RESULTS}; evaluate.py writes it into its out=…")
        found += [path for path in named if path not in found]
    return found


def report_comparison(
    runs: Mapping[str, SavedResults], config: DictConfig, *, allow_other_protocols: bool
) -> Comparison:
    """Compare, write all files of the report, and print the table.

    Args:
        runs: label -> results.
        config: `out`, `title`, `show_by`, `show_videos`, `papers` and `wandb` as `CompareConfig` has them.
        allow_other_protocols: as `compare`.

    Raises:
        ValueError: as `compare`, or an unknown figure `show_by`, or an unknown table of a paper.
    """
    papers = [load_table(name) for name in config.papers]
    comparison = compare(runs, allow_other_protocols=allow_other_protocols)
    name, videos = most_different(comparison, by=config.show_by, count=config.show_videos)
    out = writable_folder(Path(config.out))
    media: list[Media] = []
    for video in videos:
        materials = {label: _material(run, label, video) for label, run in comparison.runs.items()}
        media += side_by_side(materials, video, out / "media")
    heading = "Side by side"
    if name is not None and len(videos) < len(comparison.videos):
        heading += f": the videos whose {comparison.metrics[name].label} differs most"
    paths = write_comparison(
        comparison, out, title=config.title, media=media, media_heading=heading, papers=papers
    )
    header, body = comparison_table(comparison)
    cells = [[(mean, "\n".join(filter(None, rest))) for mean, *rest in line] for line in body]
    console = Console()
    if comparison.clashes:
        console.print(f"[bold red]{LOUD}: see the report[/bold red]")
    console.print(terminal_table(header, cells, title=config.title))
    for note in comparison_notes(comparison):
        console.print(note, highlight=False, markup=False)
    for path in paths.values():
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    if config.wandb is not None:
        send_report(
            config.wandb,
            title=config.title,
            folder=out,
            config={label: dict(run.protocol) for label, run in runs.items()},
            summary={
                f"{label}/{figure}": estimate.mean
                for label, figures in comparison.estimates.items()
                for figure, estimate in figures.items()
            },
            header=header,
            body=[[" ".join(filter(None, cell)) for cell in line] for line in body],
            media=media,
            page=paths["html"],
        )
    return comparison


def _material(run: SavedResults, label: str, video: str) -> Material | None:
    """What a run made of a video; None where it is no longer there, which the log says."""
    try:
        return source_of_results(run.protocol["source"]).read(video).material
    except ValueError as error:
        log.warning("%s of %s is not shown: %s", video, label, error)
        return None
