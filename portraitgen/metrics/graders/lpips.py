"""LPIPS of each frame against the true frame."""

import torch
from torch import Tensor

from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.networks.lpips import MIN_SIDE, WEIGHTS, frame_lpips, load_lpips
from portraitgen.metrics.scores import TRUTH, Grades, MetricInfo, missing_grades

METRICS = {
    "lpips": MetricInfo(
        "LPIPS",
        "",
        3,
        False,
        "distance of each 8-bit RGB frame from the true frame in AlexNet's features (LPIPS 0.1), mean over "
        "frames",
    )
}


class LpipsGrader:
    """Perceptual distance from the truth; the truth itself has none.

    Args:
        weights: torchvision's AlexNet.

    Raises:
        ValueError: a file that does not fit.
        MissingWeights: no weights file.
    """

    metrics = METRICS

    def __init__(self, weights: str | None = None) -> None:
        path = require(weights, WEIGHTS, setting="weights")
        self.network = load_lpips(path)
        self.facts: dict[str, Fact] = weights_facts(path)

    def grade(self, clip: GradedClip) -> Grades | Watch[Tensor]:
        """`lpips` of every frame."""
        if clip.method == TRUTH:
            return Grades({}, {})
        if clip.truth is None:
            return missing_grades(METRICS, len(clip.pictures), "no true frames are given")
        if min(clip.pictures.frames.shape[-2:]) < MIN_SIDE:
            return missing_grades(
                METRICS, len(clip.pictures), f"frames of fewer than {MIN_SIDE} pixels a side"
            )
        return Watch(self._see, _conclude)

    def _see(self, chunk: Chunk) -> Tensor:
        assert chunk.truth is not None
        return frame_lpips(self.network, chunk.frames, chunk.truth)


def _conclude(seen: list[Tensor]) -> Grades:
    return Grades({"lpips": torch.cat(seen).double().cpu().numpy()}, {})
