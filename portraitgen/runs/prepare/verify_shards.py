"""`prepare.py verify`: read a data set to its last byte; exit code 1 and one line for each problem."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig

from portraitgen.data.engines.engine import Engine, Report
from portraitgen.data.features.store import feature_index_path
from portraitgen.data.features.verify import feature_problems
from portraitgen.data.manifest import manifest_path
from portraitgen.data.prepare.outcome import count
from portraitgen.data.verify import dataset_problems, shard_problems, shards_of_dataset
from portraitgen.runs.config.check import check_config
from portraitgen.runs.prepare.out_folder import out_folder
from portraitgen.runs.progress import progress

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class VerifyConfig:
    """What `prepare.py verify` reads."""

    out: str = MISSING
    workers: int = MISSING
    redo: bool = MISSING
    engine: Any = MISSING


ConfigStore.instance().store(name="prepare_verify_schema", node=VerifyConfig)


def verify(config: DictConfig) -> None:
    """Check all shards of `config.out`, with their manifests, indexes and features, and dataset.json.

    With `config.redo` a shard that is not sound loses its manifest: it no longer counts as done, and
    preparing again makes it anew, with the same bytes as before. So do its features with their index.

    Raises:
        ValueError: there are no shards.
        SystemExit: there is a problem (code 1).
    """
    check_config(config)
    root = out_folder(config)
    engine: Engine = instantiate(config.engine)
    shards = shards_of_dataset(root)
    sizes = [shard.stat().st_size if shard.is_file() else 0 for shard in shards]
    with progress("bytes") as show:
        found = engine.run(_check, shards, progress=lambda done: show(round(done), sum(sizes)))
    num_problems = 0
    for shard, problems in zip(shards, found, strict=True):
        num_problems += len(problems)
        for problem in problems:
            log.error(f"{shard.stem}: {problem}")
        if problems and config.redo:
            manifest_path(shard).unlink(missing_ok=True)
    for problem in dataset_problems(root):
        num_problems += 1
        log.error(f"{problem}")
    # Shards whose sources gave nothing have a manifest only, and no features.
    for tar, problem in feature_problems(root, [shard for shard in shards if shard.is_file()]):
        num_problems += 1
        log.error(problem)
        if config.redo:
            feature_index_path(tar).unlink(missing_ok=True)
    if not num_problems:
        log.info(f"{root}: {count(len(shards), 'shard')}, all sound")
        return
    again = "prepare (and compute features) again with the same settings: what is damaged is made anew"
    advice = again if config.redo else f"run: python prepare.py verify out={root} redo=true; then {again}"
    log.error(f"{root}: {count(num_problems, 'problem')} in {count(len(shards), 'shard')}. To mend: {advice}")
    sys.exit(1)


def _check(shard: Path, report: Report, skip: Mapping[str, str]) -> list[str]:
    """The work of an engine (see data/engines): one shard, which is one item too."""
    if shard.name in skip:
        return [f"the process that read it {skip[shard.name]}"]
    report(shard.name, 0)
    problems = shard_problems(shard, progress=lambda size: report(shard.name, size))
    report(None, 0)
    return problems
