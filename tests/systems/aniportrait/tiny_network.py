"""Settings of the smallest AniPortrait network that has all its parts."""

from typing import Any

UNET: dict[str, Any] = {
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
GUIDER: dict[str, Any] = {
    "base_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "norm": "group",
    "norm_num_groups": 4,
}
MOTION = {"motion_num_attention_heads": 2, "motion_max_seq_length": 8}
