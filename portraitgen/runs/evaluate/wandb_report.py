"""A report sent to W&B: figures as a table and as the run's summary, videos, and the page itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from portraitgen.metrics.report.media import Media
from portraitgen.training.wandb_patience import patience, said_if_not_sent


def send_report(
    project: str,
    *,
    title: str,
    folder: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, float],
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    media: Sequence[Media],
    page: Path,
) -> None:
    """One run of W&B that holds a report. Without a network set WANDB_MODE=offline, and later `wandb sync`.

    Args:
        project: on W&B.
        title: name of the run.
        folder: for the files of W&B.
        config: the protocol, or what was compared.
        summary: figures that W&B's own tables show.
        header, body: the table of the report.
        media: the videos and pictures of the report, the best first.
        page: the HTML page.
    """
    import wandb

    run = wandb.init(
        project=project,
        name=title,
        dir=folder,
        job_type="evaluate",
        config=dict(config),
        reinit="finish_previous",
        settings=patience(),
    )
    with said_if_not_sent(run, f"wandb={project}"), run:
        shown = {
            "videos": [
                wandb.Video(str(item.path), caption=item.caption, format="mp4")
                for item in media
                if item.path.suffix == ".mp4"
            ],
            "pictures": [
                wandb.Image(str(item.path), caption=item.caption)
                for item in media
                if item.path.suffix != ".mp4"
            ],
        }
        figures = wandb.Table(columns=list(header), data=[list(row) for row in body])
        present = {name: items for name, items in shown.items() if items}
        run.log({"figures": figures, **present, "report": wandb.Html(str(page))})
        run.summary.update(dict(summary))
