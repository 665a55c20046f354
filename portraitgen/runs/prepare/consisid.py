"""`prepare.py import_consisid` and `export_consisid`: ConsisID's training folders into shards and back."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from portraitgen.data.catalog import Catalog
from portraitgen.data.engines.engine import Engine
from portraitgen.data.formats.consisid.export import LIST, ConsisIDFolder
from portraitgen.data.formats.consisid.sources import ConsisIDReader, find_clips
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.masks import HullMasks
from portraitgen.data.prepare.outcome import count
from portraitgen.data.prepare.plan import plan_shards
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import ClipSample
from portraitgen.media.one_writer import one_writer
from portraitgen.runs.config.check import check_config
from portraitgen.runs.prepare.data_set import check_split, make_data_set
from portraitgen.runs.prepare.out_folder import out_folder
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ImportConsisIDConfig:
    """What `prepare.py import_consisid` reads."""

    source: str = MISSING
    out: str = MISSING
    root: str = MISSING
    split: str = MISSING
    workers: int = MISSING
    engine: Any = MISSING
    min_frames: int = MISSING
    size: Any = None
    landmarks: bool = MISSING
    faces: Any = MISSING
    masks: Any = None
    clips_per_shard: int = MISSING
    licence: str | None = None


@dataclass(kw_only=True)
class ExportConsisIDConfig:
    """What `prepare.py export_consisid` reads."""

    shards: Any = MISSING
    out: str = MISSING
    videos: str | None = None
    keyed_by: str | None = None


ConfigStore.instance().store(name="prepare_import_consisid_schema", node=ImportConsisIDConfig)
ConfigStore.instance().store(name="prepare_export_consisid_schema", node=ExportConsisIDConfig)


def import_consisid(config: DictConfig) -> None:
    """Make shards of the clips of `config.source`; those that are finished already are kept.

    Raises:
        ValueError: a setting, the source or the folder cannot be used, or no clip gives a sample.
    """
    check_config(config)
    check_split(config.split)
    if config.clips_per_shard < 1 or config.min_frames < 1:
        raise ValueError("clips_per_shard and min_frames: give whole numbers, at least 1")
    size = None if config.size is None else _size_of(config.size)
    masks = None if config.masks is None else MasksWhereNone(instantiate(config.masks))
    if masks is not None and isinstance(masks.make, HullMasks) and not config.landmarks:
        raise ValueError("masks=hull: hulls are of landmarks; set landmarks=true, or masks=ellipse")
    engine: Engine = instantiate(config.engine)
    out = out_folder(config)
    clips = find_clips(config.source, root=config.root, min_frames=config.min_frames)
    described = {
        "layout": "consisid",
        "source": str(Path(config.source).expanduser().resolve()),
        "faces": OmegaConf.to_container(config.faces, resolve=True) if config.landmarks else None,
        "licence": config.licence,
        # Absent where nothing is asked for, so that shards made before these settings are still finished.
        **({} if size is None else {"size": list(size)}),
        **({} if config.masks is None else {"masks": OmegaConf.to_container(config.masks, resolve=True)}),
        "clips_per_shard": config.clips_per_shard,
    }
    jobs = plan_shards(
        clips,
        out,
        config.split,
        videos_per_shard=config.clips_per_shard,
        photos_per_shard=config.clips_per_shard,
        config=described,
    )

    def maker() -> ShardMaker:
        backend = instantiate(config.faces) if config.landmarks else None
        reader = ConsisIDReader(config.licence, backend, size)
        return ShardMaker(str(out), reader, described, steps=() if masks is None else (masks,))

    make_data_set(jobs, maker, engine, out=out, split=config.split, source=config.source, config=described)


@dataclass(frozen=True, slots=True)
class MasksWhereNone:
    """Masks for the clips that came without: of ConsisID's 54,239 public ones 31,947 have some."""

    make: Callable[[ClipSample], ClipSample]

    def __call__(self, sample: ClipSample) -> ClipSample:
        return sample if sample.masks is not None else self.make(sample)


def _size_of(given: Any) -> tuple[int, int]:
    """(height, width) of a setting; ValueError unless it is that, in multiples of 4."""
    if (
        not OmegaConf.is_list(given)
        or len(given) != 2
        or any(not isinstance(side, int) or side < 4 or side % 4 for side in given)
    ):
        raise ValueError(f"size={given}: give [height,width], multiples of 4, such as [480,720]; or null")
    return int(given[0]), int(given[1])


def export_consisid(config: DictConfig) -> None:
    """Write the clips of `config.shards` in ConsisID's layout, with its list and captions.

    Raises:
        ValueError: a setting or a shard cannot be used, or a sample is a photo.
    """
    check_config(config)
    if config.keyed_by not in (None, "frame", "track"):
        raise ValueError(f"keyed_by={config.keyed_by}: give frame, track, or null for as it was")
    videos = None if config.videos is None else Path(config.videos).expanduser()
    if videos is not None and not videos.is_dir():
        raise ValueError(f"videos={config.videos}: no such folder")
    patterns = (
        [str(pattern) for pattern in config.shards] if OmegaConf.is_list(config.shards) else config.shards
    )
    catalog = Catalog(patterns)
    reader = ClipReader(catalog)
    places = [(shard, row) for shard, index in enumerate(catalog.indexes) for row in range(len(index))]
    folder = ConsisIDFolder(out_folder(config), originals=videos, keyed_by=config.keyed_by)
    with one_writer(out_folder(config)), progress("exporting") as show:
        for number, (shard, row) in enumerate(places, start=1):
            folder.add(reader.sample(shard, row))
            show(number, len(places))
        total = folder.finish()
    log.info(
        f"{count(total, 'clip')} written, {folder.copied} with the original video; "
        f"the list is {out_folder(config) / LIST}"
    )
