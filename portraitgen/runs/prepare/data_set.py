"""A data set from its plan: make the shards that are missing, say what came of it, draw a contact sheet."""

import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from portraitgen.data.catalog import Catalog
from portraitgen.data.engines.engine import Engine
from portraitgen.data.manifest import manifest_path, update_dataset
from portraitgen.data.prepare.contact_sheet import contact_sheet
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.ledger import ledger_path
from portraitgen.data.prepare.outcome import Outcome, count
from portraitgen.data.prepare.plan import (
    ShardJob,
    clear_superfluous,
    discard_shard,
    discard_unfinished,
    write_plan,
)
from portraitgen.data.reader import ClipReader
from portraitgen.media.files import replace_file
from portraitgen.media.one_writer import one_writer
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)

_SHEET_ROWS = 16


def check_split(split: str) -> None:
    """Raise unless the names of shards may begin with it."""
    if not re.fullmatch(r"\w+", split, re.ASCII):
        raise ValueError(f"split={split}: use letters, digits and _ only; the shards' names begin with it")


def make_data_set(
    jobs: Sequence[ShardJob],
    maker: Callable[[], ShardMaker],
    engine: Engine,
    *,
    out: Path,
    split: str,
    source: str,
    config: Mapping[str, Any],
) -> None:
    """Make the shards that are not finished; remove those of the same split that no job makes any more.

    Args:
        maker: called when there is something to make.
        source: as the user gave it, for messages.
        config: everything that shapes the samples.

    Raises:
        ValueError: the folder cannot be used, or no source gives a sample.
    """
    with _output_folder(out):
        for name in clear_superfluous(jobs, out, split, config=config):
            log.info(f"removed {name}: its sources are gone (prune=true)")
        for line in _kept(jobs):
            log.info(line)
        missing = [job for job in jobs if not job.is_finished()]
        with _planned(jobs, out, split):
            if missing:
                _make(maker(), missing, engine, kept=len(jobs) - len(missing))
            else:
                log.info(f"{out} is prepared already: {count(len(jobs), 'shard')}, nothing to do")
            outcome = Outcome.of(jobs)
            if not outcome.samples:
                for job in jobs:
                    discard_shard(job.path)
        if not outcome.samples:
            raise ValueError("\n".join([f"source={source} gives nothing to train on", *outcome.lines()[1:]]))
        sheet = out / "contact_sheet.png"
        discard_unfinished(sheet)
        discard_unfinished(out / "dataset.json")
        update_dataset(out)
        if missing or not sheet.is_file():
            draw_samples(sheet, [job.path for job in jobs if job.path.is_file()])
    for line in outcome.lines():
        log.info(line)
    log.info(f"contact sheet: {sheet}")


def _make(maker: ShardMaker, missing: list[ShardJob], engine: Engine, *, kept: int) -> None:
    num_sources = sum(len(job.sources) for job in missing)
    finished = f"; {count(kept, 'shard')} finished before" if kept else ""
    log.info(f"preparing {count(num_sources, 'file')} into {count(len(missing), 'shard')}{finished}")
    jobs = [job.weighed() for job in missing]
    total = round(sum(sum(job.weights) for job in jobs))
    with progress("MB of sources") as show:
        engine.run(maker, jobs, progress=lambda done: show(round(done), total))


def _kept(jobs: Sequence[ShardJob]) -> Iterator[str]:
    """A line for each shard of which sources are gone, or have other names."""
    for job in jobs:
        if job.renamed:
            (old, new), more = job.renamed[0], len(job.renamed) - 1
            others = f", and {count(more, 'other')} likewise" if more else ""
            yield f"{job.path.stem}: {new} is what {old} was{others}; it stays, under its first name"
        if job.gone:
            shown = ", ".join(job.gone[:3]) + (f" and {len(job.gone) - 3} more" if len(job.gone) > 3 else "")
            yield (
                f"{job.path.stem} is kept as it is, though {shown} is no longer there; prune=true prepares "
                "it again without"
            )


@contextmanager
def _planned(jobs: Sequence[ShardJob], out: Path, split: str) -> Iterator[None]:
    """Write down which source belongs to which shard; forget it when nothing came of it."""
    write_plan(jobs, out, split)
    try:
        yield
    finally:
        if not any(manifest_path(job.path).is_file() for job in jobs):
            for name in (split, f"{split}_photos"):
                ledger_path(out, name).unlink(missing_ok=True)


@contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Make the folder and see that it can be written to; leave no empty folders behind."""
    inside = [out / "shards", out / "index", out / "manifests", out / "plan"]
    above = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ValueError(
            f"out={out} cannot be written to ({error.strerror}): choose another folder"
        ) from error
    try:
        with one_writer(out):
            made = [folder for folder in inside if not folder.exists()]
            try:
                yield
            finally:  # while it is held: of a folder that another process writes nothing is removed
                _remove_empty(made)
    finally:
        _remove_empty(above)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove those that are there and empty, in this order."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def draw_samples(path: Path, shards: Sequence[Path]) -> None:
    """Draw samples from all over the shards, read back as training will read them."""
    catalog = Catalog([str(shard) for shard in shards])
    places = [(shard, row) for shard, index in enumerate(catalog.indexes) for row in range(len(index))]
    chosen = np.linspace(0, len(places) - 1, min(_SHEET_ROWS, len(places))).round().astype(int)
    reader = ClipReader(catalog)
    save_picture(path, contact_sheet(reader.sample(*places[place]) for place in chosen))


def save_picture(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB as a PNG, all of it or nothing."""
    encoded, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert encoded
    replace_file(path, png.tobytes())
