"""Draws somebody as the stock pipelines of diffusers do: same schedule, guidance and order of draws."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample
from portraitgen.diffusion.timesteps import FlowShift
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.systems.flux_identity.conditioning import Conditioning, NetworkInputs
from portraitgen.systems.flux_identity.network import FluxIdentityNetwork


class FluxIdentityPipeline:
    """Samples pictures of any size whose sides are multiples of two latents.

    The network computes in the precision of its weights; latents and the scheduler's steps are float32.

    Args:
        network, codec, conditioning: as trained.
        scheduler: a diffusers scheduler of a flow, with dynamic shifting.
        num_steps: denoising steps.
        guidance_scale: of a distilled base, for its embedding: FLUX.1 dev is made for 3.5, Kontext for 2.5,
            Fill for 30. One prediction a step in any case.
        shift: how far noise levels move with the number of tokens; those of a reference do not count.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        network: FluxIdentityNetwork,
        codec: LatentCodec,
        conditioning: Conditioning,
        *,
        scheduler: Scheduler,
        num_steps: int = 28,
        guidance_scale: float = 3.5,
        shift: FlowShift | None = None,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"sampling.num_steps is {num_steps}: it must be 1 or more")
        self.network, self.codec, self.conditioning = network, codec, conditioning
        self.scheduler, self.num_steps, self.guidance_scale = scheduler, num_steps, guidance_scale
        self.shift = shift or FlowShift()

    def predict(
        self, noisy: Tensor, time: Tensor, text: TextEncoding, inputs: NetworkInputs, *, guidance: float
    ) -> Tensor:
        """The network's prediction for latents [B, C, h, w]."""
        assert text.pooled is not None, "Flux reads a pooled vector beside the tokens"
        embeds = text.embeds
        if inputs.tokens is not None:
            embeds = torch.cat([embeds, inputs.tokens.to(embeds)], dim=1)
        return self.network(
            noisy,
            time,
            text=embeds,
            pooled=text.pooled,
            guidance=guidance,
            beside=inputs.beside,
            behind=inputs.behind,
        )

    @torch.no_grad()
    def __call__(
        self,
        batch: Mapping[str, Any],
        text: TextEncoding,
        *,
        size: tuple[int, int],
        generator: Generators | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1].

        Args:
            batch: what `conditioning.needs` names.
            size: (height, width) in pixels of the result.
            generator: of the noise, and then of the latents of what is given.

        Raises:
            ValueError: sides that cannot be packed into tokens.
        """
        factor = self.codec.factor
        if any(side % (2 * factor) for side in size):
            raise ValueError(f"size {size[0]}x{size[1]}: both sides must be multiples of {2 * factor}")
        height, width = self.conditioning.size(*size)
        shape = (len(text.embeds), self.codec.channels, height // factor, width // factor)
        noise = draw_noise(shape, device=text.embeds.device, generator=generator)
        inputs = self.conditioning.inputs(self.conditioning.encode(batch, self.codec, generator=generator))

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            return self.predict(noisy, time, text, inputs, guidance=self.guidance_scale)

        latents = sample(
            predict,
            self.scheduler,
            noise,
            num_steps=self.num_steps,
            set_timesteps=self.shift.schedule(self.num_steps, shape[2] * shape[3] // 4),
            generator=generator,
        )
        return self.conditioning.result(self.codec.decode(latents)).clamp(-1, 1)
