"""The latents of the last frames of a chain of clips: latents they stay, so that no colour drifts."""

import numpy as np
import torch
from torch import Tensor


class LatentHistory:
    """A ring of the last `length` latents of each clip; its memory does not grow with the chain.

    Args:
        length: frames that are remembered.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.known = 0
        self._ring: Tensor | None = None
        self._end = 0

    def append(self, latents: Tensor) -> None:
        """Latents [B, n, C, h, w] of the next n frames."""
        latents = latents[:, -self.length :]
        if self._ring is None:
            self._ring = latents.new_zeros(len(latents), self.length, *latents.shape[2:])
        count = latents.shape[1]
        places = (self._end + torch.arange(count, device=latents.device)) % self.length
        self._ring[:, places] = latents
        self._end = (self._end + count) % self.length
        self.known = min(self.known + count, self.length)

    def picked(self, back: np.ndarray) -> tuple[Tensor, Tensor]:
        """Some of the frames.

        Args:
            back: int64 [M], counted back from the last one, which is 0.

        Returns:
            Latents [B, M, C, h, w], zero where there are none, and which there are, bool [M].
        """
        return self.meaned(np.stack([back, back + 1], axis=1))

    def meaned(self, ranges: np.ndarray) -> tuple[Tensor, Tensor]:
        """Means over ranges of frames, of what is known of them.

        Args:
            ranges: int64 [M, 2], start and end of each, counted back from the last frame, which is 0.

        Returns:
            As `picked`.
        """
        assert self._ring is not None, "nothing is remembered yet"
        parts = []
        for start, end in ranges.tolist():
            back = torch.arange(start, max(start + 1, min(end, self.known)), device=self._ring.device)
            part = self._ring[:, (self._end - 1 - back) % self.length].mean(dim=1)
            parts.append(part if start < self.known else torch.zeros_like(part))
        found = torch.from_numpy(ranges[:, 0] < self.known).to(self._ring.device)
        return torch.stack(parts, dim=1), found
