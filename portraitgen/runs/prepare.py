"""Prepare a folder of videos or photos: plan the shards, make those that are missing, say what came of it."""

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from portraitgen.data.catalog import Catalog
from portraitgen.data.engines.engine import Engine
from portraitgen.data.manifest import update_dataset
from portraitgen.data.prepare.contact_sheet import contact_sheet
from portraitgen.data.prepare.gallery import find_people, people_digest, read_gallery
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.labels import label_sources
from portraitgen.data.prepare.outcome import Outcome, count
from portraitgen.data.prepare.plan import (
    ShardJob,
    clear_superfluous,
    discard_shard,
    discard_unfinished,
    plan_shards,
)
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import Source, find_sources
from portraitgen.data.reader import ClipReader
from portraitgen.media.files import replace_file
from portraitgen.runs.check import check_config
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)

_SHEET_ROWS = 16
_STEPS = ("masks", "sync")
"""Groups that name a SampleStep or nothing, in the order in which samples go through them."""


@dataclass(kw_only=True)
class PrepareConfig(PrepareSettings):
    """What `prepare.py` reads: the settings that shape the samples; of what, where and how they are made."""

    source: str = MISSING
    out: str = MISSING
    split: str = MISSING
    workers: int = MISSING
    engine: Any = MISSING
    faces: Any = MISSING
    masks: Any = None
    sync: Any = None
    labels: str | None = None
    folder_identities: bool = False
    identities: str | None = None


ConfigStore.instance().store(name="prepare_schema", node=PrepareConfig)


def prepare(config: DictConfig) -> None:
    """Make the shards of `config.source` in `config.out`; those that are finished already are kept.

    Raises:
        ValueError: a setting, the source or the folder cannot be used, or no source gives a sample.
    """
    check_config(config)
    settings = PrepareSettings(**{field.name: config[field.name] for field in fields(PrepareSettings)})
    if not re.fullmatch(r"\w+", config.split, re.ASCII):
        raise ValueError(
            f"split={config.split}: use letters, digits and _ only; the shards' names begin with it"
        )
    engine: Engine = instantiate(config.engine)
    out = Path(config.out)
    if config.identities and not settings.embed_every:
        raise ValueError("identities looks for people by embedding, which embed_every=0 turns off")
    people = find_people(config.identities) if config.identities else []
    described = {**asdict(settings), **_described(config), "identities": people_digest(people)}
    sources = _labelled(find_sources(config.source, exclude=out), config)
    jobs = plan_shards(sources, out, config.split, settings=settings, config=described)
    with _output_folder(out):
        for name in clear_superfluous(jobs, out, config.split, config=described):
            log.info(f"removed {name}: the sources no longer make it")
        missing = [job for job in jobs if not job.is_finished()]
        if missing:
            backend = instantiate(config.faces)
            named = [read_gallery(people, backend)] if people else []
            steps = (*named, *(instantiate(config[name]) for name in _STEPS if config[name]))
            maker = ShardMaker(str(out), backend, settings, described, steps)
            _make(maker, missing, engine, kept=len(jobs) - len(missing))
        else:
            log.info(f"{out} is prepared already: {count(len(jobs), 'shard')}, nothing to do")
        outcome = Outcome.of(jobs)
        if not outcome.samples:
            for job in jobs:
                discard_shard(job.path)
            raise ValueError(
                "\n".join([f"source={config.source} gives nothing to train on", *outcome.lines()[1:]])
            )
        sheet = out / "contact_sheet.png"
        discard_unfinished(sheet)
        discard_unfinished(out / "dataset.json")
        update_dataset(out)
        if missing or not sheet.is_file():
            _draw(sheet, [job.path for job in jobs if job.path.is_file()])
    for line in outcome.lines():
        log.info(line)
    log.info(f"contact sheet: {sheet}")


def _labelled(sources: list[Source], config: DictConfig) -> list[Source]:
    labels = Path(config.labels).expanduser() if config.labels else None
    labelled, missing = label_sources(sources, labels=labels, folder_identities=config.folder_identities)
    if missing:
        log.warning(f"labels={labels}: {count(missing, 'file')} of it are not in source={config.source}")
    return labelled


def _described(config: DictConfig) -> dict[str, Any]:
    """What shapes the samples beside the settings, for the manifests."""
    packaged = config.source.startswith("pip:")
    return {
        "source": config.source if packaged else str(Path(config.source).expanduser().resolve()),
        "faces": OmegaConf.to_container(config.faces, resolve=True),
        **{name: OmegaConf.to_container(config[name], resolve=True) for name in _STEPS if config[name]},
    }


def _make(maker: ShardMaker, missing: list[ShardJob], engine: Engine, *, kept: int) -> None:
    num_sources = sum(len(job.sources) for job in missing)
    finished = f"; {count(kept, 'shard')} finished before" if kept else ""
    log.info(f"preparing {count(num_sources, 'file')} into {count(len(missing), 'shard')}{finished}")
    jobs = [job.with_lengths(maker.settings.exact_fps) for job in missing]
    total = round(sum(sum(job.frames) for job in jobs))
    with progress("frames") as show:
        engine.run(maker, jobs, progress=lambda done: show(round(done), total))


@contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Make the folder and see that it can be written to; leave no empty folders behind."""
    folders = [out / "shards", out / "index", out / "manifests", out, *out.parents]
    made = [folder for folder in folders if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ValueError(
            f"out={out} cannot be written to ({error.strerror}): choose another folder"
        ) from error
    try:
        yield
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _draw(path: Path, shards: list[Path]) -> None:
    """Draw samples from all over the shards, read back as training will read them."""
    catalog = Catalog([str(shard) for shard in shards])
    places = [(shard, row) for shard, index in enumerate(catalog.indexes) for row in range(len(index))]
    chosen = np.linspace(0, len(places) - 1, min(_SHEET_ROWS, len(places))).round().astype(int)
    reader = ClipReader(catalog)
    sheet = contact_sheet(reader.sample(*places[place]) for place in chosen)
    encoded, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert encoded
    replace_file(path, png.tobytes())
