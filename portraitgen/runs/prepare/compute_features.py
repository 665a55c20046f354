"""`prepare.py features`: compute features of all samples of a data set, beside its shards."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig

from portraitgen.data.engines.engine import Engine
from portraitgen.data.features.extract import ExtractFeature
from portraitgen.data.features.feature import CaptionFeature, Feature
from portraitgen.data.features.store import FeatureFacts, has_empty, is_finished, write_empty
from portraitgen.data.manifest import read_manifest, update_dataset
from portraitgen.data.prepare.outcome import count
from portraitgen.data.verify import shards_of_dataset
from portraitgen.media.files import writable_folder
from portraitgen.media.one_writer import one_writer
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.prepare.out_folder import out_folder
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)

_SHOWN = 20


@dataclass(kw_only=True)
class FeaturesConfig:
    """What `prepare.py features` reads."""

    out: str = MISSING
    workers: int = MISSING
    engine: Any = MISSING
    features: Any = field(default_factory=dict)


ConfigStore.instance().store(name="prepare_features_schema", node=FeaturesConfig)


def compute_features(config: DictConfig) -> None:
    """Compute what `config.features` names of all shards of `config.out`; what is finished is kept.

    Raises:
        ValueError: no feature is named, there are no shards, or the weights of a feature are not there.
    """
    check_config(config)
    if not config.features:
        known = ", ".join(sorted(path.stem for path in (CONF / "features").glob("*.yaml")))
        raise ValueError(f"name what to compute, such as 'features=[vae]'; there are {known}")
    root = out_folder(config)
    shards = [shard for shard in shards_of_dataset(root) if shard.is_file() and read_manifest(shard)]
    engine: Engine = instantiate(config.engine)
    features: list[Feature] = [instantiate(node) for node in config.features.values()]
    with one_writer(root):
        _compute(features, shards, engine, root)


def _compute(features: list[Feature], shards: list[Path], engine: Engine, root: Path) -> None:
    # All weights are looked at before the first sample is.
    for feature, facts in [(feature, FeatureFacts.of(feature)) for feature in features]:
        folder = writable_folder(facts.save(root))
        if isinstance(feature, CaptionFeature) and not has_empty(folder):
            write_empty(folder, feature.empty())
        missing = [shard for shard in shards if not is_finished(folder, shard)]
        kept = f", {len(shards) - len(missing)} finished before" if len(missing) < len(shards) else ""
        log.info(f"{folder.name}: {count(len(missing), 'shard')} to do{kept}")
        if not missing:
            continue
        total = sum((read_manifest(shard) or {})["samples"] for shard in missing)
        work = ExtractFeature(feature, folder)
        with progress(folder.name) as show:
            results = engine.run(work, missing, progress=partial(_show, show, total))
        problems = [problem for found in results for problem in found]
        for problem in problems[:_SHOWN]:
            log.warning(f"left out {problem}")
        if len(problems) > _SHOWN:
            log.warning(f"… and {len(problems) - _SHOWN} more")
        log.info(f"{folder.name}: {count(total - len(problems), 'sample')} written")
    update_dataset(root)


def _show(show: Callable[[int, int], None], total: int, done: float) -> None:
    show(round(done), total)
