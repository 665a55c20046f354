"""The routing loss of UniPortrait (arXiv:2408.05939, eq. 4): shares of the picture follow the faces."""

from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from portraitgen.losses.face_regions import Cover, Overlap, face_regions
from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean

Reduction = Literal["masked_mean", "mean", "sum"]
_LEVELS = (1, 2, 4, 8)


class RoutingLoss(Loss):
    """Squared distance of the router's shares ψ = softmax(logits) from the maps M of the faces, in the union
    W of their boxes. The shares are those without the noise of the training.

    Of layers the mean is taken, and of the samples in which there are two people or more.

    Args:
        weight, every, gate: see `Loss`; the paper's weight is 0.1.
        reduction: what is made of W·(ψ − M)² in a sample of N people, in a layer of h x w places:
            "masked_mean": Σ / (N · ΣW), the same for small and large faces and layers; "mean": Σ / (N·h·w);
            "sum": Σ / N, the paper's formula to the letter, which is hundreds of times the diffusion loss.
        cover, overlap: how M is made of boxes, see `face_regions`.

    Figures: `iou`, of the places given to a person and those of the face, within W; and the loss in layers
    of the latents' own grid (`loss_1`), half of it (`loss_2`), and so on.

    Raises:
        ValueError: an unknown setting.
    """

    needs: ClassVar[tuple[str, ...]] = ("router_logits",)
    figures: ClassVar[tuple[str, ...]] = ("iou", *(f"loss_{level}" for level in _LEVELS))

    def __init__(
        self,
        *,
        weight: float = 0.1,
        every: int = 1,
        gate: Callable[[Tensor], Tensor] | None = None,
        reduction: Reduction = "masked_mean",
        cover: Cover = "area",
        overlap: Overlap = "nearest",
    ) -> None:
        super().__init__(weight=weight, every=every, gate=gate)
        for name, value, known in (
            ("reduction", reduction, Reduction),
            ("cover", cover, Cover),
            ("overlap", overlap, Overlap),
        ):
            if value not in get_args(known):
                raise ValueError(f"losses: {name} is {value!r}: use one of {', '.join(get_args(known))}")
        self.reduction = reduction
        self.cover: Cover = cover
        self.overlap: Overlap = overlap

    def forward(self, seen: ForwardPass) -> LossValue:
        """`router_logits`: layer → [B, P, h, w], the smallest number where there is nobody; none where the
        batch has one place for people. Of the batch `image`, `boxes` and `people` are read.
        """
        logits = seen.by_products["router_logits"]
        assert not isinstance(logits, Tensor), "one tensor a layer"
        nothing = Mean.of_nothing(seen.prediction)
        if not logits:
            return LossValue(nothing, dict.fromkeys(self.figures, nothing))
        boxes, people = seen.batch["boxes"], seen.batch["people"]
        several = people.sum(dim=1) > 1
        picture, finest = seen.batch["image"].shape[-2:], seen.noised.noisy.shape[-2]
        regions: dict[tuple[int, int], Tensor] = {}
        losses, overlaps = [], []
        by_level: dict[int, list[Tensor]] = {level: [] for level in _LEVELS}
        for each in logits.values():
            grid = (each.shape[-2], each.shape[-1])
            if grid not in regions:
                regions[grid] = face_regions(
                    boxes, people, picture, grid, cover=self.cover, overlap=self.overlap
                )
            faces = regions[grid]
            losses.append(routing_error(each, faces, people, self.reduction))
            by_level.setdefault(-(-finest // grid[0]), []).append(losses[-1].detach())
            overlaps.append(region_iou(each.detach(), faces, people))
        loss = torch.stack(losses).mean(dim=0)
        weighted = Mean.over(loss * self.row_weights(seen), several)
        figures = {"iou": Mean.over(torch.stack(overlaps).mean(dim=0), several)}
        for level in _LEVELS:
            rows = by_level[level]
            figures[f"loss_{level}"] = Mean.over(torch.stack(rows).mean(dim=0), several) if rows else nothing
        return LossValue(weighted, figures)


def routing_error(logits: Tensor, faces: Tensor, people: Tensor, reduction: Reduction) -> Tensor:
    """[B] for logits [B, P, h, w] of one layer and maps [B, P, h, w] of faces."""
    shares = logits.float().softmax(dim=1)
    union = faces.amax(dim=1, keepdim=True)
    squared = (union * (shares - faces).square()).sum(dim=(1, 2, 3))
    count = people.sum(dim=1).clamp(min=1)
    if reduction == "sum":
        return squared / count
    if reduction == "mean":
        return squared / (count * logits.shape[-2] * logits.shape[-1])
    return squared / (count * union.sum(dim=(1, 2, 3)).clamp(min=1))


def region_iou(logits: Tensor, faces: Tensor, people: Tensor) -> Tensor:
    """[B] mean over the people of a sample, within the union of their faces; 0 without people."""
    given = torch.zeros_like(faces).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
    given = given * faces.amax(dim=1, keepdim=True)
    both = (given * faces).sum(dim=(2, 3))
    either = torch.maximum(given, faces).sum(dim=(2, 3)).clamp(min=1)
    return (both / either * people).sum(dim=1) / people.sum(dim=1).clamp(min=1)
