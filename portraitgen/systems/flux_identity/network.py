"""Flux's transformers with adapters, on plain latents: packing and positions are their own business."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from torch import Tensor, nn

from portraitgen.diffusion.packing import pack_latents, token_positions, unpack_latents
from portraitgen.nn.lora import add_lora
from portraitgen.nn.pretrained import build_model
from portraitgen.training.cost import StepSizes


class FluxIdentityNetwork(nn.Module):
    """FLUX.1: predicts the flow ε − x of latents.

    Args:
        transformer: arguments of diffusers' class; None: those of `base`. It may take more channels than it
            gives (FLUX.1 Fill: 384 and 64): those of `beside`.
        base: where its weights are, see `build_model`; None: random ones.
        lora: adapters by name, see `add_lora`.

    Raises:
        ValueError: an unknown option (named), a base that does not fit, or channels that no tokens have.
    """

    kind: ClassVar[Any] = FluxTransformer2DModel
    side: ClassVar[int] = 2
    """Latents along a side of a token."""

    def __init__(
        self,
        *,
        transformer: Mapping[str, Any] | None,
        base: Mapping[str, Any] | None = None,
        lora: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.transformer = build_model(self.kind, transformer, base, section="network.base")
        taken, given = self.transformer.config["in_channels"], self.transformer.out_channels
        latents = self.side**2
        if given % latents or taken % latents or taken < given:
            raise ValueError(
                f"network.transformer: in_channels={taken} and out_channels={given} must be multiples of "
                f"{latents}, the latents of a token, and no fewer come in than out"
            )
        self.channels = given // latents
        """Of latents."""
        self.channels_beside = (taken - given) // latents
        """Of what is laid beside them."""
        add_lora(self, lora, section="network.lora")

    @property
    def text_dim(self) -> int:
        return int(self.transformer.config["joint_attention_dim"])

    @property
    def pooled_dim(self) -> int | None:
        """Of the vector that is read beside the prompt's tokens; None: there is none."""
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
        pooled: Tensor | None,
        guidance: float,
        beside: Tensor | None = None,
        behind: Tensor | None = None,
    ) -> Tensor:
        """Predict the flow [B, C, h, w].

        Args:
            noisy: latents [B, C, h, w], both sides multiples of `side`.
            time: [B] in [0, 1].
            text: embeddings [B, L, D] of a prompt, or whatever the network has learnt to read like one.
            pooled: [B, P], where there is a `pooled_dim`.
            guidance: for a network that was distilled from guided sampling, how strong it is to be; others
                have no embedding for it, and it is not used.
            beside: [B, C', h, w], further channels of each latent.
            behind: latents [B, C, h', w'] of a picture to look at, further tokens of the sequence, which lie
                where its own lie but elsewhere on the axis of pictures (FLUX.1 Kontext).
        """
        size = (noisy.shape[-2], noisy.shape[-1])
        tokens = self._pack(noisy if beside is None else torch.cat([noisy, beside.to(noisy)], dim=1))
        positions = self._positions(size, noisy.device)
        count = tokens.shape[1]
        if behind is not None:
            further = self._positions((behind.shape[-2], behind.shape[-1]), noisy.device, behind=True)
            tokens = torch.cat([tokens, self._pack(behind).to(tokens)], dim=1)
            positions = torch.cat([positions, further])
        dtype = self.transformer.dtype
        if torch.is_autocast_enabled(noisy.device.type):
            dtype = noisy.dtype
        distilled = self.transformer.config["guidance_embeds"]
        more = {} if pooled is None else {"pooled_projections": pooled.to(dtype)}
        prediction = self.transformer(
            hidden_states=tokens.to(dtype),
            timestep=time,
            guidance=torch.full_like(time, guidance) if distilled else None,
            encoder_hidden_states=text.to(dtype),
            txt_ids=self._text_positions(text.shape[1], noisy.device),
            img_ids=positions,
            return_dict=False,
            **more,
        )[0]
        return self._unpack(prediction[:, :count], size).to(noisy.dtype)

    def rehearse(self, sizes: StepSizes) -> Tensor:
        """One pass as training makes it, over zeros of these sizes, to find out what it costs.

        With channels beside the latents the picture is a diptych, twice as wide; without, a reference of its
        size is looked at, the most that a way of conditioning asks for.
        """
        wide = bool(self.channels_beside)
        size = (sizes.height, sizes.width * (1 + wide))
        beside = torch.zeros(sizes.batch, self.channels_beside, *size) if wide else None
        behind = None if wide else torch.zeros(sizes.batch, self.channels, *size)
        pooled = None if self.pooled_dim is None else torch.zeros(sizes.batch, self.pooled_dim)
        return self(
            torch.zeros(sizes.batch, self.channels, *size),
            torch.zeros(sizes.batch),
            text=torch.zeros(sizes.batch, sizes.words or 512, self.text_dim),
            pooled=pooled,
            guidance=1.0,
            beside=beside,
            behind=behind,
        )

    def _pack(self, latents: Tensor) -> Tensor:
        return pack_latents(latents)

    def _unpack(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return unpack_latents(tokens, size)

    def _positions(self, size: tuple[int, int], device: torch.device, *, behind: bool = False) -> Tensor:
        """Picture, row and column of each token."""
        positions = token_positions(size, device=device)
        positions[:, 0] = float(behind)
        return positions

    def _text_positions(self, count: int, device: torch.device) -> Tensor:
        return torch.zeros(count, 3, device=device)


class Flux2IdentityNetwork(FluxIdentityNetwork):
    """FLUX.2 (klein): a latent is a token, positions have four axes, and there is no pooled vector.

    Arguments and errors as `FluxIdentityNetwork`; the class is diffusers' ``Flux2Transformer2DModel``.
    """

    kind: ClassVar[Any] = Flux2Transformer2DModel
    side: ClassVar[int] = 1

    @property
    def pooled_dim(self) -> None:
        return None

    def _pack(self, latents: Tensor) -> Tensor:
        return latents.flatten(2).mT

    def _unpack(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return tokens.mT.unflatten(-1, size)

    def _positions(self, size: tuple[int, int], device: torch.device, *, behind: bool = False) -> Tensor:
        """Picture (the first reference is at 10), row, column, and 0."""
        axes = [torch.tensor([10 * behind]), torch.arange(size[0]), torch.arange(size[1]), torch.arange(1)]
        return torch.cartesian_prod(*axes).float().to(device)

    def _text_positions(self, count: int, device: torch.device) -> Tensor:
        """Words lie on the fourth axis."""
        positions = torch.zeros(count, 4, device=device)
        positions[:, 3] = torch.arange(count, device=device)
        return positions
