"""Latents of a batch: those that were stored of its pictures, or what the codec makes of them."""

from typing import Literal

from torch import Tensor

from portraitgen.diffusion.latents import LatentCodec, Posterior
from portraitgen.training.learner import Batch


def latents_of(
    codec: LatentCodec, batch: Batch, pictures: Literal["frames", "reference", "motion"], *, sample: bool
) -> Tensor:
    """Latents of the pictures of that name, without gradient.

    A stored distribution (`latent_distribution`, see docs/data.md) is drawn from as the codec would draw; of
    latents that were stored alone (`latents`) there is nothing to draw, they are the mode. Those of a
    reference or of motion frames have `reference_` or `motion_` before their names.

    Args:
        sample: draw from the posterior instead of taking its mode.

    Raises:
        ValueError: the batch has neither of them nor the pictures.
    """
    prefix = "" if pictures == "frames" else f"{pictures}_"
    distribution, latents = f"{prefix}latent_distribution", f"{prefix}latents"
    if distribution in batch:
        posterior = Posterior.unpacked(batch[distribution])
        return posterior.draw() if sample else posterior.mean
    if latents in batch:
        stored: Tensor = batch[latents]
        return stored
    if pictures not in batch:
        raise ValueError(
            f"the batches hold no {pictures} and no latents of them: read the pictures"
            " (data.examples.pictures), or the feature vae (data.examples.features=[vae])"
        )
    return codec.encode(batch[pictures], sample=sample)
