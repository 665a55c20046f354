"""Draws somebody as the stock pipelines of diffusers do: same schedule, guidance and order of draws."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample
from portraitgen.diffusion.timesteps import FlowShift, Shift
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
            Fill for 30.
        cfg_scale: of guidance away from the empty prompt, for bases that were not distilled (FLUX.2 klein
            base: 4); 1 is none, and one prediction a step instead of two.
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
        cfg_scale: float = 1.0,
        shift: Shift | None = None,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"sampling.num_steps is {num_steps}: it must be 1 or more")
        self.network, self.codec, self.conditioning = network, codec, conditioning
        self.scheduler, self.num_steps, self.guidance_scale = scheduler, num_steps, guidance_scale
        self.cfg_scale = cfg_scale
        self.shift = shift or FlowShift()

    def predict(
        self, noisy: Tensor, time: Tensor, text: TextEncoding, inputs: NetworkInputs, *, guidance: float
    ) -> Tensor:
        """The network's prediction for latents [B, C, h, w]."""
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
        negative: TextEncoding | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1].

        Args:
            batch: what `conditioning.needs` names.
            negative: the empty prompt, where `cfg_scale` is not 1.
            size: (height, width) in pixels of the result.
            generator: of the noise, and then of the latents of what is given.

        Raises:
            ValueError: sides that cannot be packed into tokens.
        """
        factor, unit = self.codec.factor, self.network.side * self.codec.factor
        if any(side % unit for side in size):
            raise ValueError(f"size {size[0]}x{size[1]}: both sides must be multiples of {unit}")
        height, width = self.conditioning.size(*size)
        shape = (len(text.embeds), self.codec.channels, height // factor, width // factor)
        noise = draw_noise(shape, device=text.embeds.device, generator=generator)
        inputs = self.conditioning.inputs(self.conditioning.encode(batch, self.codec, generator=generator))

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            wanted = self.predict(noisy, time, text, inputs, guidance=self.guidance_scale)
            if self.cfg_scale == 1:
                return wanted
            assert negative is not None, "guidance needs the empty prompt"
            without = self.predict(noisy, time, negative, inputs, guidance=self.guidance_scale)
            return without + self.cfg_scale * (wanted - without)

        latents = sample(
            predict,
            self.scheduler,
            noise,
            num_steps=self.num_steps,
            set_timesteps=self.shift.schedule(self.num_steps, shape[2] * shape[3] // self.network.side**2),
            generator=generator,
        )
        return self.conditioning.result(self.codec.decode(latents)).clamp(-1, 1)
