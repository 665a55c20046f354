"""A picture that a video is made from: at the video's size, and with noise while a network trains."""

import torch.nn.functional as F
from torch import Tensor

from portraitgen.diffusion.noise import Generators, draw_noise


class ReferenceNoise:
    """Noise on the picture, in pixels, before the VAE (as CogVideoX's, arXiv:2408.06072).

    Each picture in [-1, 1] gets a standard deviation of its own, whose logarithm is normal.

    Args:
        mean, std: of the logarithm; ConsisID's are −3 and 0.5, so 0.05 is what half of the pictures exceed.

    Raises:
        ValueError: `std` is negative.
    """

    def __init__(self, *, mean: float = -3.0, std: float = 0.5) -> None:
        if std < 0:
            raise ValueError(f"reference_noise.std is {std}: it must be 0 or more")
        self.mean, self.std = mean, std

    def __call__(self, pictures: Tensor, *, generator: Generators | None = None) -> Tensor:
        """Noised pictures [B, 3, H, W]."""
        device, shape = pictures.device, (len(pictures), 1, 1, 1)
        sigma = (self.mean + self.std * draw_noise(shape, device=device, generator=generator)).exp()
        noise = draw_noise(pictures.shape, device=device, generator=generator, dtype=pictures.dtype)
        return pictures + sigma.to(pictures.dtype) * noise


def stretched(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [B, 3, S, S] at the size (height, width) of the video, whatever its proportion, as ConsisID
    shows faces.
    """
    resized = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return resized.clamp(-1, 1).to(pictures.dtype)
