"""What a loss beside the objective's is given and gives; `losses.<name>` in the configuration of a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from portraitgen.losses.by_products import ByProducts
from portraitgen.losses.mean import Mean


class Noised(Protocol):
    """What `diffusion.objective.Noised` says of the examples of a batch, `time` being [B]."""

    @property
    def noisy(self) -> Tensor: ...

    @property
    def clean(self) -> Tensor: ...

    @property
    def noise(self) -> Tensor: ...

    @property
    def time(self) -> Tensor: ...


class Objective(Protocol):
    """What `diffusion.objective.Objective` can tell a loss."""

    def clean_estimate(self, prediction: Tensor, noised: Any) -> Tensor: ...

    def noise_level(self, time: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of a generator: what a loss may look at. All tensors have the batch first.

    Attributes:
        batch: as it came from the loader, on the device.
        conditions: of the generator's `encode`, by name, as `denoise` got them.
        keep, nonzero: condition → bool [B], False where it was dropped or zeroed; no entry: it was not.
        noised: float32 examples.
        prediction: of the network, with gradient.
        by_products: what else the network gave, as the loss `needs` it: name → tensor, or one a layer.
        objective: what `prediction` means.
        decode: latents → pictures in [-1, 1], differentiable. Give it the rows that matter: pictures are
            what costs memory.
        decode_span: `(latents [B, t, C, h, w] of clips, start, stop, context) → ` the frames that latents
            start to stop stand for; see `diffusion.latents.LatentCodec.decode_span`.
        frames_of: `(start, stop) → ` which frames of the clip these are.
        predict: `(noisy, time [B]) → prediction` for the same conditions, with dropout of conditions as in
            this pass: for losses that look at what a few denoising steps draw (`diffusion.sampling.sample`
            with `gradients`).
    """

    batch: Mapping[str, Any]
    conditions: Mapping[str, Tensor]
    keep: Mapping[str, Tensor]
    nonzero: Mapping[str, Tensor]
    noised: Noised
    prediction: Tensor
    by_products: ByProducts
    objective: Objective
    decode: Callable[[Tensor], Tensor]
    decode_span: Callable[[Tensor, int, int, int | None], Tensor]
    frames_of: Callable[[int, int], slice]
    predict: Callable[[Tensor, Tensor], Tensor]

    @property
    def time(self) -> Tensor:
        """[B], in the objective's own measure."""
        return self.noised.time

    @cached_property
    def noise_level(self) -> Tensor:
        """Float [B]: 0 clean, 1 pure noise."""
        return self.objective.noise_level(self.noised.time)

    @cached_property
    def clean_estimate(self) -> Tensor:
        """The clean sample that the prediction implies, float32, shaped as `noised.clean`."""
        return self.objective.clean_estimate(self.prediction, self.noised)


@dataclass(frozen=True)
class LossValue:
    """What is minimised, as a mean over the rows that count, and what is logged beside it.

    Attributes:
        loss: the mean over all processes is minimised, times the loss's `weight`. The count is 0 where no row
            of this batch counts.
        figures: the loss's `figures`, all of them every time; logged as `<name of the loss>_<figure>`.
    """

    loss: Mean
    figures: Mapping[str, Mean] = field(default_factory=dict)


class Loss(nn.Module, ABC):
    """A loss beside the objective's.

    Networks that it looks with (a recogniser) are submodules. They are frozen, in float32 and in eval mode,
    and in no weights file and no checkpoint: a run builds them anew.

    Args:
        weight: factor of the loss in the sum.
        every: computed at every so many batches only, and in every batch of a validation. A loss of
            few batches weighs less by the same factor; `weight` is not adapted.
        gate: noise levels [B] in [0, 1] → weights [B] ≥ 0 of the rows (`losses.gate`); None weighs all alike.

    Raises:
        ValueError: `every` is below 1.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """By-products of the generator's `denoise` that the loss looks at."""

    figures: ClassVar[tuple[str, ...]] = ()
    """Names of the figures that it gives."""

    def __init__(
        self, *, weight: float, every: int = 1, gate: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"losses: every is {every}, but it must be 1 or more")
        self.weight = weight
        self.every = every
        self.gate = gate

    @property
    def recognizers(self) -> dict[str, str]:
        """SHA-256 → name of the recognition networks that it looks with, which no grader may look with."""
        return {}

    @classmethod
    def find_problems(cls, settings: Mapping[str, Any], examples: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with its settings beside those of the data, before anything is built.

        Args:
            settings: of the loss, as the configuration has them.
            examples: `data.examples` of the configuration.
        """
        return iter(())

    @classmethod
    def missing_files(cls, settings: Mapping[str, Any]) -> Iterator[str]:
        """What is not on this machine of the files that its settings name."""
        return iter(())

    @abstractmethod
    def forward(self, seen: ForwardPass) -> LossValue:
        """The loss of this batch, without `weight`."""

    def row_weights(self, seen: ForwardPass) -> Tensor:
        """Weights [B] of the rows by the gate, without gradient."""
        level = seen.noise_level
        return torch.ones_like(level) if self.gate is None else self.gate(level)
