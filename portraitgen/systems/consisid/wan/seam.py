"""Where face tokens enter Wan's transformer: blocks of a subclass, and no other change.

The tokens go the way of Wan's image tokens: `encoder_hidden_states_image` of the model, which its own forward
puts before the text's, so that blocks get them as an ordinary input. Recomputed activations, compiled blocks,
sharding and diffusers' caches see plain tensors; nothing is hooked or remembered between calls.
"""

from dataclasses import replace

import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Tensor, nn

from portraitgen.nn.perceiver import PerceiverAttention


class FaceWanBlock(WanTransformerBlock):
    """A block of Wan that keeps face tokens from its text attention and may attend to them itself.

    At a gate of zero the block is Wan's, bit for bit.
    """

    num_tokens: int
    face_scale: float
    face_attention: PerceiverAttention | None
    face_gate: nn.Parameter

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Tensor
    ) -> Tensor:
        """As Wan's, with face tokens before those of the text in `encoder_hidden_states`."""
        faces, text = encoder_hidden_states.split_with_sizes(
            [self.num_tokens, encoder_hidden_states.shape[1] - self.num_tokens], dim=1
        )
        hidden_states = super().forward(hidden_states, text, temb, rotary_emb)
        if self.face_attention is None:
            return hidden_states
        read = self.face_scale * self.face_gate * self.face_attention(faces, hidden_states)
        return hidden_states + read.type_as(hidden_states)


class FaceWan(WanTransformer3DModel):
    """Wan whose blocks are `FaceWanBlock`, made by `add_face_attention`."""

    _repeated_blocks = ["FaceWanBlock"]  # noqa: RUF012 (as diffusers has it)
    _no_split_modules = ["FaceWanBlock"]  # noqa: RUF012


def add_face_attention(
    model: WanTransformer3DModel, *, num_tokens: int, every: int, heads: int, head_dim: int, gate: float
) -> FaceWan:
    """Turn a Wan of text to video into one that is told who somebody is, in place.

    From then on it must be given `encoder_hidden_states_image`: face tokens [B, num_tokens, width].

    Args:
        num_tokens: of a face; known beforehand, since no shape tells them from the text's.
        every: blocks 0, every, 2·every … attend to the tokens.
        heads, head_dim: of that attention.
        gate: what it is multiplied by at first. 0 leaves a pretrained Wan as it is, but tells the attention
            nothing until the gate has moved, which takes long where nothing is pretrained.

    Raises:
        ValueError: the model has an image of its own, or `every` does not fit.
    """
    config = model.config
    if config["image_dim"] is not None or config["added_kv_proj_dim"] is not None:
        raise ValueError("network.base: Wan for image to video keeps its image tokens where faces would go")
    if not 1 <= every <= config["num_layers"]:
        raise ValueError(
            f"network.face.every={every}: give 1 to {config['num_layers']}, the number of blocks"
        )
    width = config["num_attention_heads"] * config["attention_head_dim"]
    model.condition_embedder.image_embedder = nn.Identity()  # type: ignore[assignment]  # it has none
    for number, block in enumerate(model.blocks):
        block.__class__ = FaceWanBlock
        assert isinstance(block, FaceWanBlock)
        block.num_tokens, block.face_scale, block.face_attention = num_tokens, 1.0, None
        if number % every == 0:
            block.face_attention = PerceiverAttention(
                width, heads=heads, head_dim=head_dim, context_dim=width, reads_latents=False
            )
            block.face_gate = nn.Parameter(torch.full((1,), float(gate)))
    model.__class__ = FaceWan
    assert isinstance(model, FaceWan)
    return model


TransformerBlockRegistry.register(FaceWanBlock, replace(TransformerBlockRegistry.get(WanTransformerBlock)))
