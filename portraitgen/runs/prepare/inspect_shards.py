"""`prepare.py inspect`: say what shards, or one sample, hold, and draw a contact sheet."""

import logging
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from portraitgen.data.catalog import Catalog, find_shards
from portraitgen.data.describe import describe_sample, describe_shards
from portraitgen.data.prepare.contact_sheet import contact_sheet
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.scan import open_index
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.prepare.data_set import draw_samples, save_picture
from portraitgen.runs.prepare.out_folder import out_folder

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class InspectConfig:
    """What `prepare.py inspect` reads."""

    out: str = MISSING
    shards: str = MISSING
    key: str | None = MISSING
    sheet: str | None = MISSING


ConfigStore.instance().store(name="prepare_inspect_schema", node=InspectConfig)


def inspect(config: DictConfig) -> None:
    """Print what `config.shards` of the data set `config.out` hold, or the sample `config.key` of them.

    Raises:
        ValueError: no such shards, or no such sample.
    """
    check_config(config)
    root = out_folder(config)
    if not (root / "shards").is_dir():
        raise DataError(f"out={root} holds no shards: give the folder that prepare.py wrote")
    shards = find_shards(str(root / "shards" / f"{config.shards}.tar"))
    if config.key is not None:
        _inspect_sample(config.key, shards, config.sheet)
        return
    indexes = [open_index(shard) for shard in shards]
    for line in describe_shards(root, shards, indexes):
        log.info(line)
    if config.sheet is not None:
        draw_samples(Path(config.sheet), shards)
        log.info(f"contact sheet: {config.sheet}")


def _inspect_sample(key: str, shards: list[Path], sheet: str | None) -> None:
    keys: list[str] = []
    for shard in shards:
        index = open_index(shard)
        here = [index.key(row) for row in range(len(index))]
        keys += here
        if key in here:
            row = here.index(key)
            sample = ClipReader(Catalog(str(shard))).sample(0, row)
            sizes = {name: member.size for name, member in index.members(row).items()}
            for line in describe_sample(sample, shard=shard, sizes=sizes):
                log.info(line)
            if sheet is not None:
                save_picture(Path(sheet), contact_sheet([sample]))
                log.info(f"contact sheet: {sheet}")
            return
    raise DataError(f"key={key}: none of {len(keys)} samples has it{did_you_mean(key, keys)}")
