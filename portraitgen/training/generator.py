"""The LightningModule under every system that denoises: what a training step does."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks, zero_conditions
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Noised, Objective, is_empty
from portraitgen.losses.by_products import ByProducts
from portraitgen.losses.loss import ForwardPass, Loss
from portraitgen.losses.mean import Mean
from portraitgen.training.extra_losses import ExtraLosses
from portraitgen.training.learner import Batch, Learner
from portraitgen.training.optim import MakeOptimizer


@dataclass(frozen=True)
class Encoded:
    """What the frozen parts make of a batch; batch first.

    Attributes:
        clean: gets noised.
        conditions: by name.
        mask: weights ≥ 0 of the elements of the diffusion loss, broadcastable to `clean` (`[B, T, 1, h, w]`
            on the grid of the latents); a system gives one for every batch or for none. See `Objective.loss`.
    """

    clean: Tensor
    conditions: dict[str, Tensor]
    mask: Tensor | None = None


@dataclass(frozen=True)
class Denoised:
    """What the network makes of a noisy batch.

    Attributes:
        prediction: of the noisy batch's shape.
        by_products: what losses need beside it, by name: a tensor, or one a layer.
    """

    prediction: Tensor
    by_products: ByProducts = field(default_factory=dict)


Pipeline = TypeVar("Pipeline")


class Generator(Learner):
    """Trains `network` to denoise what `codec` encodes.

    Systems supply `encode`, `denoise`, `sample` and `shown`.

    Args:
        network, optimizer, lr_scheduler: see `Learner`.
        codec: between images and what is noised; frozen.
        objective: what is noised how, and what the network shall predict.
        condition_dropout: which conditions are dropped how often while training.
    """

    by_products: ClassVar[frozenset[str]] = frozenset()
    """What `denoise` can give beside its prediction."""

    pipeline: Any
    """Draws for `sample` and `stream`, where a system has one by `make_pipeline`."""

    zeroed_inside: ClassVar[frozenset[str]] = frozenset()
    """What condition dropout may zero and `denoise` zeroes itself, in the features that it makes of
    conditions (`ConditionMasks.zeroed`). Of all other names the inputs are zeroed before."""

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
        self._extra_losses = ExtraLosses({})

    def make_pipeline(self, sampling: Callable[..., Pipeline], *parts: Any, **more: Any) -> Pipeline:
        """`sampling(*parts, **more)`, for `pipeline`; `sampled_with` makes it anew with other settings."""
        self._make_pipeline = partial(sampling, *parts, **more)
        return self._make_pipeline()

    @contextmanager
    def sampled_with(self, **settings: Any) -> Iterator[None]:
        """Draw with other settings of the sampling, such as `num_steps`, as long as the context lasts.

        Raises:
            ValueError: one cannot be, or the system has no pipeline by `make_pipeline`.
        """
        if not settings:
            yield
            return
        if not hasattr(self, "_make_pipeline"):
            names = ", ".join(settings)
            raise ValueError(f"{type(self).__name__} has no pipeline with {names}: leave that out")
        usual = self.pipeline
        self.pipeline = self._make_pipeline(**settings)
        try:
            yield
        finally:
            self.pipeline = usual

    @abstractmethod
    def encode(self, batch: Batch) -> Encoded:
        """Clean latents and conditions of a batch, by frozen parts only (called without gradients)."""

    @abstractmethod
    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        """The network's prediction, and those by-products that are in `wanted`.

        Args:
            noisy, time: as `Noised` has them.
            conditions: those of `encode`, zeroed where condition dropout zeroes inputs.
            masks: `keep` is False where the network must not see a condition; `nonzero` where it is zeroed,
                which is for `denoise` to do where the name is in `zeroed_inside`.
        """

    @abstractmethod
    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        """Pictures for the conditions of `batch`: `[B, T, 3, H, W]` or, of one image each, `[B, 3, H, W]`, in
        [-1, 1].
        """

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

    @abstractmethod
    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """What people look at beside the result: label → `[B, T, 3, H, W]` or `[B, 3, H, W]` in [-1, 1].

        In the order in which it is shown; `truth`, if there is one, is shown behind the result.
        """

    def cast(self, dtype: torch.dtype) -> None:
        """Give the weights the precision that clips are to be generated in."""
        self.network.to(dtype)
        self.codec.to(dtype)

    def use_losses(self, losses: Mapping[str, Loss]) -> None:
        """Add losses to the objective's, for a run; they are no part of the system or of its weights.

        Raises:
            ValueError: a loss needs a by-product that `denoise` does not give.
        """
        self._extra_losses = ExtraLosses(losses, by_products=self.by_products, system=type(self).__name__)

    @property
    def recognizers(self) -> dict[str, str]:
        """Those of this run's losses, too."""
        return super().recognizers | self._extra_losses.recognizers

    @property
    def wanted(self) -> frozenset[str]:
        """By-products that a loss looks at; to keep others would only cost memory."""
        return self._extra_losses.needs

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._extra_losses.to(self.trainer.strategy.root_device)

    def losses(self, batch: Batch, *, step: int, training: bool) -> dict[str, Tensor | Mean]:
        """The objective's and the extra ones; no condition is dropped in validation.

        Of masks, the figure `mask_empty` says how many of the samples have an empty one.
        """
        with torch.no_grad():
            encoded = self.encode(batch)
        clean, conditions = encoded.clean, encoded.conditions
        time = self.objective.sample_time(
            len(clean),
            step=step,
            device=clean.device,
            rank=self.global_rank if training else 0,
            world_size=self.trainer.world_size if training else 1,
        )
        noised = self.objective.noise(clean, time)
        masks = ConditionMasks()
        if training and self.condition_dropout is not None:
            masks = self.condition_dropout.draw(len(clean), device=clean.device)
            conditions = zero_conditions(conditions, masks, inside=self.zeroed_inside)
        denoised = self.denoise(noised.noisy, noised.time, conditions, masks)
        loss, figures = self._diffusion_loss(denoised.prediction, noised, encoded.mask, training=training)
        if not self._extra_losses:
            return {"loss": loss, **figures}
        seen = self._forward_pass(batch, conditions, masks, noised, denoised)
        if not training:
            return {"loss": loss, "loss_diffusion": loss, **self._extra_losses.of_clip(seen), **figures}
        extra = self._extra_losses(
            seen, step=step, world_size=self.trainer.world_size, sum_over_ranks=self._sum_over_ranks
        )
        terms = [loss, *(value for value in extra.values() if isinstance(value, Tensor))]
        return {"loss": torch.stack(terms).sum(), "loss_diffusion": loss, **extra, **figures}

    def _diffusion_loss(
        self, prediction: Tensor, noised: Noised, mask: Tensor | None, *, training: bool
    ) -> tuple[Tensor, dict[str, Mean]]:
        if mask is None:
            return self.objective.loss(prediction, noised).mean(), {}
        # What training draws sample by sample, validation takes the expectation of.
        masked: Tensor | float = self.objective.mask_probability
        if training:
            masked = self.objective.draw_masked(len(mask), device=mask.device)
        loss = self.objective.loss(prediction, noised, mask, masked=masked).mean()
        return loss, {"mask_empty": Mean.over(is_empty(mask))}

    def _forward_pass(
        self,
        batch: Batch,
        conditions: dict[str, Tensor],
        masks: ConditionMasks,
        noised: Noised,
        denoised: Denoised,
    ) -> ForwardPass:
        kind = noised.noisy.device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

        def decode(latents: Tensor) -> Tensor:
            with torch.autocast(kind, dtype, enabled):
                return self.codec.decode(latents)

        def decode_span(latents: Tensor, start: int, stop: int, context: int | None) -> Tensor:
            with torch.autocast(kind, dtype, enabled):
                return self.codec.decode_span(latents, start, stop, context=context)

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            with torch.autocast(kind, dtype, enabled):
                return self.denoise(noisy, time, conditions, masks).prediction

        return ForwardPass(
            batch=batch,
            conditions=conditions,
            keep=masks.keep,
            nonzero=masks.nonzero,
            noised=noised,
            prediction=denoised.prediction,
            by_products=denoised.by_products,
            objective=self.objective,
            decode=decode,
            decode_span=decode_span,
            frames_of=self.codec.frames_of,
            predict=predict,
        )

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed = self.trainer.strategy.reduce(values.clone(), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed
