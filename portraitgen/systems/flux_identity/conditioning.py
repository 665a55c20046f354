"""How Flux is told whom to draw: three ways, each that of a stock pipeline of diffusers.

A way says what is noised, what of it is learnt, which conditions there are beside text, and where the network
finds them. Batches are those of `PairExamples` (data/batch); without training only what `needs` names is
there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.systems.flux_identity.redux import ReduxEncoder


@dataclass(frozen=True, slots=True)
class NetworkInputs:
    """What the network gets beside latents, time and text; see `FluxIdentityNetwork.forward`.

    Attributes:
        tokens: [B, N, D], read behind the prompt's.
    """

    tokens: Tensor | None = None
    beside: Tensor | None = None
    behind: Tensor | None = None


class Conditioning(nn.Module, ABC):
    """A way to tell; frozen."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of a batch that generation must have."""

    channels_beside: ClassVar[bool] = False
    """Whether the network takes channels beside the latents."""

    reads_text: ClassVar[bool] = True
    """Whether prompts are read."""

    def picture(self, batch: Mapping[str, Any]) -> Tensor:
        """What is noised, [B, 3, H, W]."""
        result: Tensor = batch["result"]
        return result

    @abstractmethod
    def encode(
        self, batch: Mapping[str, Any], codec: LatentCodec, *, generator: Generators | None = None
    ) -> dict[str, Tensor]:
        """Conditions by name, without gradient; `ref` is the reference, where there is one."""

    @abstractmethod
    def inputs(self, conditions: Mapping[str, Tensor]) -> NetworkInputs:
        """What the network gets of these conditions."""

    def loss_mask(self, clean: Tensor) -> Tensor | None:
        """What of latents [B, C, h, w] the loss looks at; None: all of them."""
        return None

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels that are denoised for a result of so many."""
        return height, width

    def result(self, picture: Tensor) -> Tensor:
        """The result, of what was denoised [B, 3, H, W]."""
        return picture


class TextOnly(Conditioning):
    """`none`: the prompt alone (diffusers' `FluxPipeline`); who it is, the adapter learns."""

    def encode(
        self, batch: Mapping[str, Any], codec: LatentCodec, *, generator: Generators | None = None
    ) -> dict[str, Tensor]:
        return {}

    def inputs(self, conditions: Mapping[str, Tensor]) -> NetworkInputs:
        return NetworkInputs()


class Kontext(Conditioning):
    """`kontext`: latents of the reference stand behind those of the picture, at 1 on the axis of pictures
    (diffusers' `FluxKontextPipeline`).
    """

    needs: ClassVar[tuple[str, ...]] = ("ref",)

    def encode(
        self, batch: Mapping[str, Any], codec: LatentCodec, *, generator: Generators | None = None
    ) -> dict[str, Tensor]:
        return {"ref": codec.encode(batch["ref"])}

    def inputs(self, conditions: Mapping[str, Tensor]) -> NetworkInputs:
        return NetworkInputs(behind=conditions["ref"])


class FillDiptych(Conditioning):
    """`fill_diptych`: the reference on the left and the photo with a hole on the right are one picture whose
    hole is filled (diffusers' `FluxFillPipeline`; Insert-Anything, arXiv:2504.15009).

    Beside each latent lie those of the picture with its hole grey, and the hole itself, pixel by pixel. In
    the place of a prompt the network reads the reference's tokens by Redux, behind those of no prompt, which
    are zero (`FluxPriorReduxPipeline` without text encoders). Only the right half is learnt.

    Args:
        redux: reads references.
    """

    needs: ClassVar[tuple[str, ...]] = ("ref", "src", "mask")
    channels_beside: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False

    def __init__(self, redux: ReduxEncoder) -> None:
        super().__init__()
        self.redux = redux

    def picture(self, batch: Mapping[str, Any]) -> Tensor:
        return self._diptych(batch["ref"], batch["result"])

    def encode(
        self, batch: Mapping[str, Any], codec: LatentCodec, *, generator: Generators | None = None
    ) -> dict[str, Tensor]:
        ref, mask = batch["ref"], batch["mask"]
        given = codec.encode(self._diptych(ref, batch["src"]), sample=True, generator=generator)
        hole = torch.cat([torch.zeros_like(mask), mask], dim=-1)
        # [B, factor², h, w]: rows, then columns of the pixels of a latent.
        beside = torch.cat([given, F.pixel_unshuffle(hole, codec.factor).to(given)], dim=1)
        return {"given": beside, "ref": self.redux(ref)}

    def inputs(self, conditions: Mapping[str, Tensor]) -> NetworkInputs:
        return NetworkInputs(tokens=conditions["ref"], beside=conditions["given"])

    def loss_mask(self, clean: Tensor) -> Tensor:
        mask = clean.new_ones(len(clean), 1, 1, clean.shape[-1])
        mask[..., : clean.shape[-1] // 2] = 0
        return mask

    def size(self, height: int, width: int) -> tuple[int, int]:
        return height, 2 * width

    def result(self, picture: Tensor) -> Tensor:
        return picture[..., picture.shape[-1] // 2 :]

    def _diptych(self, ref: Tensor, right: Tensor) -> Tensor:
        if ref.shape != right.shape:
            raise ValueError(
                f"both halves of a diptych are of one size, but the reference is {[*ref.shape[-2:]]} and "
                f"the photo {[*right.shape[-2:]]}: leave data.examples.ref_size at null"
            )
        return torch.cat([ref, right], dim=-1)
