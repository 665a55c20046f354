"""LPIPS of each frame against the true frame."""

import torch
from torch import Tensor

from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.last_seen import LastSeen, LastStill
from portraitgen.metrics.networks.lpips import MIN_SIDE, WEIGHTS, compare_maps, frame_maps, load_lpips
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
        self._seen: LastSeen[list[list[Tensor]]] = LastSeen()
        self._still: LastStill[list[Tensor]] = LastStill()

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
        truth = clip.truth
        self._seen.expect(truth)  # 40 MB of maps at 256x256

        def see(chunk: Chunk) -> Tensor:
            assert chunk.truth is not None
            true_frames = chunk.truth
            true_maps = self._seen.of(truth, chunk.first, lambda: [*frame_maps(self.network, true_frames)])
            maps = frame_maps(self.network, chunk.frames, still=self._still)
            return compare_maps(self.network, maps, true_maps)

        return Watch(see, _conclude)


def _conclude(seen: list[Tensor]) -> Grades:
    return Grades({"lpips": torch.cat(seen).double().cpu().numpy()}, {})
