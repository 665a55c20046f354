"""ConsisID's real classes at the smallest size that has every part, and batches for them."""

from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.systems.consisid.module import ConsisID
from portraitgen.systems.consisid.network import ConsisIDNetwork

FULL: dict[str, Any] = {
    "num_attention_heads": 48,
    "attention_head_dim": 64,
    "in_channels": 32,
    "out_channels": 16,
    "num_layers": 42,
    "time_embed_dim": 512,
    "text_embed_dim": 4096,
    "sample_width": 90,
    "sample_height": 60,
    "sample_frames": 49,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
    "is_train_face": True,
}
TINY: dict[str, Any] = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "in_channels": 8,
    "out_channels": 4,
    "num_layers": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 12,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": 5,
    "use_rotary_positional_embeddings": True,
    "is_train_face": True,
    "cross_attn_dim_head": 8,
    "cross_attn_num_heads": 2,
    "LFE_id_dim": 20,
    "LFE_vit_dim": 16,
    "LFE_dim_head": 8,
    "LFE_num_heads": 2,
    "LFE_num_querie": 4,
    "LFE_output_dim": 32,
    "LFE_ff_mult": 2,
}
TARGETS = [
    "transformer.transformer_blocks.*.attn1.to_[qkv]",
    "transformer.transformer_blocks.*.attn1.to_out.0",
]


def lora(rank: int, alpha: float | None = None) -> dict[str, Any]:
    return {"identity": {"rank": rank, "alpha": alpha or rank, "targets": TARGETS}}


def network(*, rank: int | None = None, seed: int = 0, **options: Any) -> ConsisIDNetwork:
    torch.manual_seed(seed)
    return ConsisIDNetwork(transformer=TINY | options, lora=None if rank is None else lora(rank))


def network_inputs(*, batch: int = 2, frames: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Latents, time, text, the picture's latents, and features of a face."""
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=source)

    return {
        "noisy": draw(frames, 4, 8, 8),
        "time": torch.randint(0, 1000, (batch,), generator=source),
        "text": draw(5, 12),
        "picture": draw(1, 4, 8, 8),
        "embedding": draw(20),
        "hidden": draw(5, 7, 16),
    }


def config(stage: str, *overrides: str, shards: str = "none.tar", runs: str = "runs") -> DictConfig:
    return compose_experiment(
        f"consisid/tiny_{stage}", f"data.shards={shards}", f"paths.runs={runs}", *overrides
    )


def compose_experiment(name: str, *overrides: str) -> DictConfig:
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"experiment={name}", *overrides])


def build(stage: str, *overrides: str) -> ConsisID:
    """The module of a tiny experiment."""
    torch.manual_seed(0)
    made: ConsisID = instantiate(config(stage, *overrides).model, _convert_="all")
    return made


def batch(rows: int = 2, *, seed: int = 0, masks: bool = False) -> dict[str, Any]:
    """Random clips of 5 frames with features of faces, as the loader gives them."""
    source = torch.Generator().manual_seed(seed)

    def pictures(*shape: int) -> Tensor:
        return torch.rand(rows, *shape, generator=source) * 2 - 1

    made = {
        "key": [f"row{row}" for row in range(rows)],
        "frames": pictures(5, 3, 64, 64),
        "face_picture": pictures(3, 96, 96),
        "face_embedding": pictures(280),
        "face_hidden": pictures(5, 17, 32),
    }
    if masks:
        made["masks"] = torch.zeros(rows, 5, 1, 64, 64)
        made["masks"][..., 16:48, 16:48] = 1
    return made
