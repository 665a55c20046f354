"""Prepare a folder of videos or photos: plan the shards, make those that are missing, say what came of it."""

import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from portraitgen.data.engines.engine import Engine
from portraitgen.data.prepare.gallery import find_people, people_digest, read_gallery
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.labels import label_sources
from portraitgen.data.prepare.outcome import count
from portraitgen.data.prepare.plan import plan_shards
from portraitgen.data.prepare.preparation import Preparation
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import Source, find_sources
from portraitgen.runs.config.check import check_config
from portraitgen.runs.prepare.data_set import check_split, make_data_set
from portraitgen.runs.prepare.out_folder import out_folder

log = logging.getLogger(__name__)

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
    prune: bool = False


ConfigStore.instance().store(name="prepare_schema", node=PrepareConfig)


def prepare(config: DictConfig) -> None:
    """Make the shards of `config.source` in `config.out`; those that are finished already are kept.

    Raises:
        ValueError: a setting, the source or the folder cannot be used, or no source gives a sample.
    """
    check_config(config)
    settings = PrepareSettings(**{field.name: config[field.name] for field in fields(PrepareSettings)})
    check_split(config.split)
    engine: Engine = instantiate(config.engine)
    out = out_folder(config)
    if config.identities and not settings.embed_every:
        raise ValueError("identities looks for people by embedding, which embed_every=0 turns off")
    people = find_people(config.identities) if config.identities else []
    described = {**asdict(settings), **_described(config), "identities": people_digest(people)}
    sources = _labelled(find_sources(config.source, exclude=out), config)
    jobs = plan_shards(
        sources,
        out,
        config.split,
        videos_per_shard=settings.videos_per_shard,
        photos_per_shard=settings.photos_per_shard,
        config=described,
        prune=config.prune,
    )

    def maker() -> ShardMaker:
        backend = instantiate(config.faces)
        named = [read_gallery(people, backend)] if people else []
        steps = (*named, *(instantiate(config[name]) for name in _STEPS if config[name]))
        return ShardMaker(str(out), Preparation(backend, settings), described, steps, settings.exact_fps)

    make_data_set(
        jobs,
        maker,
        engine,
        out=out,
        split=config.split,
        source=config.source,
        config=described,
    )


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
