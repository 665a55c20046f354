"""Flux's transformer with adapters, on plain latents: packing and positions are its own business."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from portraitgen.diffusion.packing import pack_latents, token_positions, unpack_latents
from portraitgen.nn.lora import add_lora
from portraitgen.nn.pretrained import build_model

_SIDE = 2
"""Latents along a side of a token."""


class FluxIdentityNetwork(nn.Module):
    """Predicts the flow ε − x of latents.

    Args:
        transformer: arguments of diffusers' ``FluxTransformer2DModel``; None: those of `base`. It may take
            more channels than it gives (FLUX.1 Fill: 384 and 64): those of `beside`.
        base: where its weights are, see `build_model`; None: random ones.
        lora: adapters by name, see `add_lora`.

    Raises:
        ValueError: an unknown option (named), a base that does not fit, or channels that no tokens have.
    """

    def __init__(
        self,
        *,
        transformer: Mapping[str, Any] | None,
        base: Mapping[str, Any] | None = None,
        lora: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.transformer = build_model(FluxTransformer2DModel, transformer, base, section="network.base")
        taken, given = self.transformer.config["in_channels"], self.transformer.out_channels
        if given % _SIDE**2 or taken % _SIDE**2 or taken < given:
            raise ValueError(
                f"network.transformer: in_channels={taken} and out_channels={given} must be multiples of "
                f"{_SIDE**2}, the latents of a token, and no fewer come in than out"
            )
        self.channels = given // _SIDE**2
        """Of latents."""
        self.channels_beside = (taken - given) // _SIDE**2
        """Of what is laid beside them."""
        add_lora(self, lora, section="network.lora")

    @property
    def text_dim(self) -> int:
        return int(self.transformer.config["joint_attention_dim"])

    @property
    def pooled_dim(self) -> int:
        return int(self.transformer.config["pooled_projection_dim"])

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations for the gradient instead of storing them; outputs and gradients are equal."""
        if enabled:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        *,
        text: Tensor,
        pooled: Tensor,
        guidance: float,
        beside: Tensor | None = None,
        behind: Tensor | None = None,
    ) -> Tensor:
        """Predict the flow [B, C, h, w].

        Args:
            noisy: latents [B, C, h, w], both sides even.
            time: [B] in [0, 1].
            text: embeddings [B, L, D] of a prompt, or whatever the network has learnt to read like one.
            pooled: [B, P].
            guidance: for a network that was distilled from guided sampling, how strong it is to be; others
                have no embedding for it, and it is not used.
            beside: [B, C', h, w], further channels of each latent.
            behind: latents [B, C, h', w'] of a picture to look at, further tokens of the sequence, which lie
                where its own lie but at 1 on the axis of pictures (FLUX.1 Kontext).
        """
        size = (noisy.shape[-2], noisy.shape[-1])
        tokens = pack_latents(noisy if beside is None else torch.cat([noisy, beside.to(noisy)], dim=1))
        positions = token_positions(size, device=noisy.device)
        count = tokens.shape[1]
        if behind is not None:
            further = token_positions((behind.shape[-2], behind.shape[-1]), device=noisy.device)
            further[:, 0] = 1
            tokens = torch.cat([tokens, pack_latents(behind).to(tokens)], dim=1)
            positions = torch.cat([positions, further])
        dtype = self.transformer.dtype
        if torch.is_autocast_enabled(noisy.device.type):
            dtype = noisy.dtype
        distilled = self.transformer.config["guidance_embeds"]
        prediction = self.transformer(
            hidden_states=tokens.to(dtype),
            timestep=time,
            guidance=torch.full_like(time, guidance) if distilled else None,
            pooled_projections=pooled.to(dtype),
            encoder_hidden_states=text.to(dtype),
            txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
            img_ids=positions,
            return_dict=False,
        )[0]
        return unpack_latents(prediction[:, :count], size).to(noisy.dtype)
