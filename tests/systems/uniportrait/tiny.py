"""The tiny experiments on drawn photos, in this process."""

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from portraitgen.data.shards import ShardWriter
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.systems.uniportrait.module import UniPortrait
from tests.data.photos import Person, photo

SIDE = 160


def write_photos(root: Path, *, people: int, count: int = 4) -> str:
    """Photos of four persons, one or two in each; gives the pattern of their shards."""
    with ShardWriter(root) as writer:
        for number in range(count):
            one = Person(6 + number % 5, 30 + number % 7, 64, seed=number % 4, name=f"p{number % 4}")
            two = Person(
                88 + number % 5, 44 + number % 9, 60, seed=(number + 1) % 4, name=f"p{(number + 1) % 4}"
            )
            if number % 2:
                one, two = one._replace(x=two.x), two._replace(x=one.x)
            shown = [one, two][:people]
            writer.write(photo(f"photo{number}", (SIDE, SIDE), shown, seed=number, caption="people"))
    return f"{root}/shards/*.tar"


def config(stage: str, *overrides: str, shards: str = "none.tar", runs: str = "runs") -> DictConfig:
    register_configs()
    given = [f"experiment=uniportrait/tiny_{stage}", f"data.shards={shards}", f"paths.runs={runs}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*given, *overrides])


def build(stage: str, *overrides: str) -> UniPortrait:
    torch.manual_seed(0)
    made: UniPortrait = instantiate(config(stage, *overrides).model, _convert_="all")
    return made


def batch(people: int = 2, rows: int = 2, *, seed: int = 0) -> dict[str, Any]:
    """Random pictures with faces, as the loader gives them."""
    source = torch.Generator().manual_seed(seed)

    def pictures(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=source) * 2 - 1

    boxes = torch.tensor([[4.0, 4.0, 28.0, 44.0], [36.0, 20.0, 60.0, 60.0]])[:people]
    return {
        "key": [f"row{row}" for row in range(rows)],
        "image": pictures(rows, 3, 64, 64),
        "people": torch.ones(rows, people, dtype=torch.bool),
        "boxes": boxes.expand(rows, -1, -1).clone(),
        "faces": pictures(rows, people, 3, 112, 112),
        "other": pictures(rows, people, 3, 112, 112),
        "other_found": torch.zeros(rows, people, dtype=torch.bool),
    }
