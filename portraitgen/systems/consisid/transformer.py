"""diffusers' `ConsisIDTransformer3DModel`, whose face modules know gradient checkpointing and take tokens."""

from typing import Any

from diffusers.models.transformers.consisid_transformer_3d import ConsisIDTransformer3DModel
from torch import nn

from portraitgen.systems.consisid.identity import FaceAttention, FaceTokens


class ConsisIDTransformer(ConsisIDTransformer3DModel):
    """The same parameters, names and results; `id_cond` may be face tokens, with `id_vit_hidden` empty.

    Raises:
        ValueError: numbers of the face modules that do not fit the transformer.
    """

    # As diffusers has it for other models: what stays whole where parameters are sharded.
    _no_split_modules = ["ConsisIDBlock", "FaceAttention", "FaceTokens"]  # type: ignore[assignment]  # noqa: RUF012

    def _init_face_inputs(self) -> None:
        config: Any = self.config
        dim, interval = self.inner_dim, config.cross_attn_interval
        if config.num_layers % interval:
            raise ValueError(
                f"network.transformer: num_layers ({config.num_layers}) must be a multiple of "
                f"cross_attn_interval ({interval})"
            )
        if config.LFE_output_dim != self.cross_attn_kv_dim:
            raise ValueError(
                f"network.transformer: LFE_output_dim must be {self.cross_attn_kv_dim}, two thirds of "
                f"num_attention_heads · attention_head_dim = {dim}, not {config.LFE_output_dim}"
            )
        if config.LFE_depth % config.LFE_num_scale:
            raise ValueError(
                f"network.transformer: LFE_depth ({config.LFE_depth}) must be a multiple of LFE_num_scale "
                f"({config.LFE_num_scale})"
            )
        self.local_facial_extractor = FaceTokens(
            id_dim=config.LFE_id_dim,
            vit_dim=config.LFE_vit_dim,
            depth=config.LFE_depth,
            dim_head=config.LFE_dim_head,
            heads=config.LFE_num_heads,
            num_id_token=config.LFE_num_id_token,
            num_queries=config.LFE_num_querie,
            output_dim=config.LFE_output_dim,
            ff_mult=config.LFE_ff_mult,
            num_scale=config.LFE_num_scale,
        )
        self.perceiver_cross_attention = nn.ModuleList(
            FaceAttention(
                dim,
                heads=config.cross_attn_num_heads,
                head_dim=config.cross_attn_dim_head,
                face_dim=self.cross_attn_kv_dim,
            )
            for _ in range(self.num_cross_attn)
        )
