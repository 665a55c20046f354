"""From the units of a VAE to those of a diffusion model, whose latents have variance near 1, and back."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Factor = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LatentScale:
    """latents = (z − shift)·scale, with one number for all channels or one for each.

    Latents are `[..., C, h, w]`.
    """

    shift: Factor
    scale: Factor

    @classmethod
    def of_config(cls, config: Mapping[str, Any], channels: int) -> "LatentScale":
        """What the config of a diffusers VAE says: `latents_mean` (or `shift_factor`) is subtracted, the rest
        multiplied by `scaling_factor` and divided by `latents_std`; what is not there changes nothing.

        Raises:
            ValueError: there is not one mean and one standard deviation for each channel.
        """
        mean, std = config.get("latents_mean"), config.get("latents_std")
        factor: float = config.get("scaling_factor") or 1.0
        for name, values in (("latents_mean", mean), ("latents_std", std)):
            if values is not None and len(values) != channels:
                raise ValueError(
                    f"the VAE's config has {len(values)} {name} for {channels} channels of latents: give one"
                    " for each channel"
                )
        shift: Factor = config.get("shift_factor") or 0.0 if mean is None else _floats(mean)
        return cls(shift, factor if std is None else tuple(factor / value for value in _floats(std)))

    def apply(self, z: Tensor) -> Tensor:
        """Latents of what the VAE encodes to."""
        return (z - _column(self.shift, z.device)) * _column(self.scale, z.device)

    def apply_to_std(self, std: Tensor) -> Tensor:
        """The standard deviation in latents of one in the VAE's units."""
        return std * _column(self.scale, std.device)

    def invert(self, latents: Tensor) -> Tensor:
        """What the VAE decodes."""
        return latents / _column(self.scale, latents.device) + _column(self.shift, latents.device)


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _column(factor: Factor, device: torch.device) -> float | Tensor:
    return factor if isinstance(factor, float) else _on_device(factor, device)


@functools.cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`[C, 1, 1]` in float32 whatever the precision of the VAE; copied to a device once."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
