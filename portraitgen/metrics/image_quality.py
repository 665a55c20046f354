"""Q-Align's scale of image quality, from the logits of its five words."""

import torch
from torch import Tensor

WORDS = ("excellent", "good", "fair", "poor", "bad")
_VALUES = (5.0, 4.0, 3.0, 2.0, 1.0)


def quality_score(logits: Tensor) -> Tensor:
    """Opinion score from 1 to 5 of pictures: the mean of 5, 4, … 1 under the softmax of the words' logits.

    Wu et al., "Q-Align", ICML 2024. Its repository prints the same from 0 to 1: (score - 1) / 4; papers of
    talking heads (Loopy: 3 to 4.5) use 1 to 5.

    Args:
        logits: [..., 5] of `WORDS` in this order, as the model gives them for its next word.

    Returns:
        float64 [...].

    Raises:
        ValueError: not 5 logits each, or values that are not finite.
    """
    if logits.shape[-1] != len(WORDS) or not logits.isfinite().all():
        raise ValueError(f"expected finite logits [..., 5] of {', '.join(WORDS)}, got {list(logits.shape)}")
    return logits.double().softmax(dim=-1) @ torch.tensor(_VALUES, dtype=torch.float64, device=logits.device)
