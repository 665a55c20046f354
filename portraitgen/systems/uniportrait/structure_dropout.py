"""How often a face's structural features are hidden while training, so that results do not copy the photo."""

from typing import Literal

import torch
from torch import Tensor


class StructureDropout:
    """For each face one of three outcomes (arXiv:2408.05939, section 3.4), the same in all layers.

    Args:
        branch: probability that the structural branch is dropped: scaled by 0, not masked, for masked queries
            would still read themselves.
        tokens: probability that the branch stays and tokens are dropped; with the rest nothing is.
        keep: share of the tokens that are then left (of VATT's DropToken; the paper gives none), or "uniform"
            for one drawn from 0 to 1 for each face. One token is always left.

    Raises:
        ValueError: probabilities or a share that make no sense.
    """

    def __init__(
        self, *, branch: float = 0.33, tokens: float = 0.33, keep: float | Literal["uniform"] = 0.5
    ) -> None:
        if branch < 0 or tokens < 0 or branch + tokens > 1:
            raise ValueError(
                f"structure_dropout: branch={branch}, tokens={tokens}: give probabilities, at most 1 in all"
            )
        if keep != "uniform" and not (isinstance(keep, int | float) and 0 < keep <= 1):
            raise ValueError(f"structure_dropout.keep={keep!r}: a share above 0, up to 1, or uniform")
        self.branch, self.tokens, self.keep = branch, tokens, keep

    def draw(self, faces: int, tokens: int, *, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Bool [faces], whose branch is kept, and bool [faces, tokens], which tokens are seen."""
        outcome = torch.rand(faces, device=device)
        branch = outcome >= self.branch
        thinned = branch & (outcome < self.branch + self.tokens)
        share = torch.rand(faces, 1, device=device) if self.keep == "uniform" else self.keep
        chance = torch.rand(faces, tokens, device=device)
        seen = chance < share
        seen |= chance == chance.amin(dim=1, keepdim=True)
        return branch, seen | ~thinned[:, None]
