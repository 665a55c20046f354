"""Draws the people side by side, with a little noise; no training is tested with it."""

from typing import Any

import torch
from torch import Tensor

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator


class ToyPortraits(Generator):
    def encode(self, batch: Batch) -> Encoded:
        return Encoded(self.codec.encode(batch["image"]), {})

    def denoise(self, noisy: Tensor, time: Tensor, conditions: Any, masks: ConditionMasks) -> Denoised:
        return Denoised(self.network(noisy))

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        """[B, 3, H, W]: the photos of the people [B, P, 3, H, W / P]; where there are landmarks, a clip."""
        together = torch.cat(batch["people_photos"].unbind(1), dim=-1) * batch["brightness"]
        if "landmarks" in batch:
            together = together[:, None].expand(-1, batch["landmarks"].shape[1], -1, -1, -1)
        noise = draw_noise(together.shape, device=together.device, generator=generator)
        return (together + self.network(noise)).clamp(-1, 1)

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        photos = batch["people_photos"].unbind(1)
        return {f"person {number}": photo for number, photo in enumerate(photos, start=1)}
