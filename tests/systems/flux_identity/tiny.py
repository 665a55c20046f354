"""The tiny experiments on drawn pairs of photos, in this process."""

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from portraitgen.data.shards import ShardWriter
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.systems.flux_identity.module import FluxIdentity
from tests.data.photos import Person, photo

WAYS = ("fill_diptych", "kontext", "klein", "none")
SIDE = 160


def write_pairs(root: Path, *, people: int = 4) -> str:
    """Two photos of each of some persons, one after the other; gives the pattern of their shards."""
    with ShardWriter(root) as writer:
        for number in range(2 * people):
            person = number // 2
            shown = Person(20 + 7 * (number % 5), 24 + 5 * (number % 7), 100, seed=person, name=f"p{person}")
            writer.write(photo(f"photo{number}", (SIDE, SIDE), [shown], seed=number, caption=f"p{person}"))
    return f"{root}/shards/*.tar"


def config(way: str, *overrides: str, shards: str = "none.tar", runs: str = "runs") -> DictConfig:
    register_configs()
    given = [f"experiment=flux_identity/tiny_{way}", f"data.shards={shards}", f"paths.runs={runs}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*given, *overrides])


def build(way: str, *overrides: str) -> FluxIdentity:
    torch.manual_seed(0)
    made: FluxIdentity = instantiate(config(way, *overrides).model, _convert_="all")
    return made


def full_size(way: str) -> torch.nn.Module:
    """The network of the experiment at full size, without memory for its weights."""
    settings = config("kontext", f"model=flux_identity/{way}").model.network
    with torch.device("meta"):
        made: torch.nn.Module = instantiate(settings, _convert_="all")
    return made


def train_adapters(network: torch.nn.Module, *, seed: int = 3) -> None:
    """As if trained: adapters that have a say."""
    source = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=source)


def batch(rows: int = 2, *, seed: int = 0, size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    """Random pairs, as systems see them."""
    source = torch.Generator().manual_seed(seed)

    def pictures() -> torch.Tensor:
        return torch.rand(rows, 3, *size, generator=source) * 2 - 1

    mask = torch.zeros(rows, 1, *size)
    mask[..., size[0] // 4 : 3 * size[0] // 4, size[1] // 3 : 2 * size[1] // 3] = 1
    result, ref = pictures(), pictures()
    return {
        "key": [f"row{row}" for row in range(rows)],
        "result": result,
        "src": result * (1 - mask),
        "mask": mask,
        "ref": ref,
        "data_type": ["person_head"] * rows,
        "people": torch.ones(rows, 1, dtype=torch.bool),
    }
