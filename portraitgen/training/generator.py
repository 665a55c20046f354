"""The LightningModule under every system that denoises: what a training step does."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, zero_conditions
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Noised, Objective
from portraitgen.training.learner import Batch, Learner
from portraitgen.training.optim import MakeOptimizer


@dataclass(frozen=True)
class Encoded:
    """What the frozen parts make of a batch: `clean` gets noised, `conditions` go by name; batch first."""

    clean: Tensor
    conditions: dict[str, Tensor]


@dataclass(frozen=True)
class Denoised:
    """One forward pass, as extra losses see it."""

    batch: Batch
    encoded: Encoded
    noised: Noised
    prediction: Tensor
    objective: Objective

    @cached_property
    def clean_estimate(self) -> Tensor:
        """The clean sample that the prediction implies, shaped as `encoded.clean`; made when asked for."""
        return self.objective.clean_estimate(self.prediction, self.noised)


class Generator(Learner):
    """Trains `network` to denoise what `codec` encodes; systems supply `encode`, `denoise` and `sample`.

    Args:
        network, optimizer, lr_scheduler: see `Learner`.
        codec: between images and what is noised; frozen.
        objective: what is noised how, and what the network shall predict.
        condition_dropout: which conditions are dropped how often while training.
    """

    def __init__(
        self,
        network: nn.Module,
        codec: LatentCodec,
        objective: Objective,
        *,
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        condition_dropout: ConditionDropout | None = None,
    ) -> None:
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.codec = codec
        self.objective = objective
        self.condition_dropout = condition_dropout

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Clean latents and conditions of a batch, by frozen parts only (called without gradients)."""

    @abstractmethod
    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], keep: Mapping[str, Tensor]
    ) -> Tensor:
        """The network's prediction, of `noisy`'s shape.

        Args:
            noisy, time: as `Noised` has them.
            conditions: those of `encode`, zeroed where condition dropout zeroes.
            keep: name → bool `[B]`, False where the network must not see a condition; a name that is not
                there is kept by all samples.
        """

    @abstractmethod
    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        """Pictures for the conditions of `batch`: `[B, T, 3, H, W]` in [-1, 1], as its `frames`."""

    def stream(
        self,
        batch: Batch,
        *,
        generator: Generators | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """What `sample` gives, in chunks `[B, n, 3, H, W]` of frames, for clips of any length.

        Systems for long clips decode a chunk when it is asked for; here it is all one chunk.

        Args:
            on_step: called after each denoising step, where there are several, with how many are done and how
                many there are.
        """
        yield self.sample(batch, generator=generator)

    def cast(self, dtype: torch.dtype) -> None:
        """Give the weights the precision that clips are to be generated in."""
        self.network.to(dtype)
        self.codec.to(dtype)

    def extra_losses(self, denoised: Denoised) -> dict[str, Tensor]:
        """Scalar losses, weighted, to be added to the objective's; the same names at every step."""
        return {}

    def losses(self, batch: Batch, *, step: int, training: bool) -> dict[str, Tensor]:
        """Those of the objective and `extra_losses`; no condition is dropped in validation."""
        with torch.no_grad():
            encoded = self.encode(batch)
        clean, conditions = encoded.clean, encoded.conditions
        time = self.objective.sample_time(
            len(clean),
            step=step,
            device=clean.device,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
        )
        noised = self.objective.noise(clean, time)
        keep: Mapping[str, Tensor] = {}
        if training and self.condition_dropout is not None:
            masks = self.condition_dropout.draw(len(clean), device=clean.device)
            conditions, keep = zero_conditions(conditions, masks), masks.keep
        prediction = self.denoise(noised.noisy, noised.time, conditions, keep)
        loss = self.objective.loss(prediction, noised).mean()
        extra = self.extra_losses(Denoised(batch, encoded, noised, prediction, self.objective))
        if not extra:
            return {"loss": loss}
        named = {f"loss_{name}": value for name, value in {"diffusion": loss, **extra}.items()}
        return {"loss": torch.stack([*named.values()]).sum(), **named}
