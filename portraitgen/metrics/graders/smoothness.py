"""How well every other frame is foretold by its neighbours: motion smoothness as VBench computes it."""

import numpy as np
import torch
from torch import Tensor

from portraitgen.media.interpolation import Between
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.metrics.frames import is_still
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.last_seen import LastStill
from portraitgen.metrics.motion import mean_difference, steadiness
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

MIN_FRAMES = 3


class SmoothnessGrader:
    """(255 − mean difference of the odd frames from those made between the even ones) / 255.

    VBench interpolates with AMT-S, so figures of another way are called after it and compare with no table;
    useful differences are small. A still picture has 1: read it beside `glo`.

    Args:
        between: makes the frames between two others; `FlowBetween` needs no weights.
        name: what the figure is called after.
    """

    def __init__(self, between: Between, *, name: str = "flow") -> None:
        self.between = between
        self.figure = f"smoothness_{name}"
        self.facts: dict[str, Fact] = {"interpolation": type(between).__name__}
        self.metrics = {
            self.figure: MetricInfo(
                f"Smoothness ({name})",
                "",
                4,
                True,
                f"(255 − mean absolute difference of the odd frames from frames interpolated by {name} "
                "between the even ones) / 255; a still picture has 1",
                "clip",
            )
        }

    def grade(self, clip: GradedClip) -> Grades | Watch[list[Tensor]]:
        """The figure of a clip of at least 3 frames."""
        count = len(clip.pictures)
        if count < MIN_FRAMES:
            return missing_grades(self.metrics, count, f"fewer than {MIN_FRAMES} frames")
        waiting: list[Tensor] = []
        still: LastStill[Tensor] = LastStill()

        def see(chunk: Chunk) -> list[Tensor]:
            frames = torch.stack([*waiting, *chunk.frames])
            count = (len(frames) - 1) // 2
            triples = [frames[2 * n : 2 * n + MIN_FRAMES] for n in range(count)]
            if triples and is_still(frames):
                found = [still.of(frames[0], lambda: self._difference(*triples[0]))] * count
            else:
                found = [self._difference(*triple) for triple in triples]
            waiting[:] = frames[2 * count :].clone()  # else they would hold the whole chunk
            return found

        def conclude(seen: list[list[Tensor]]) -> Grades:
            differences = torch.stack([difference for found in seen for difference in found])
            return Grades({self.figure: np.array(steadiness(differences))}, {})

        return Watch(see, conclude)

    def _difference(self, one: Tensor, between: Tensor, other: Tensor) -> Tensor:
        """Of the frame between two others from the one that is foretold."""
        made = self.between(one / 127.5 - 1, other / 127.5 - 1, 1)[0]
        return mean_difference(between, rgb_to_uint8(made[None])[0])
