"""FVD: the Fréchet distance of I3D's features between generated and true clips."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from portraitgen.metrics.frames import CHUNK
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, SetFigure
from portraitgen.metrics.graders.feature_sets import FeatureSets
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.last_seen import LastSeen
from portraitgen.metrics.networks.i3d import NUM_FEATURES, WEIGHTS, load_i3d
from portraitgen.metrics.networks.i3d_program import PROGRAM, I3DProgram
from portraitgen.metrics.scores import TRUTH, MetricInfo

WINDOW = CHUNK
"""Frames of a window: what a clip is read in."""
MIN_WINDOWS = 100
METRICS = {
    "fvd": MetricInfo(
        "FVD",
        "",
        1,
        False,
        f"Fréchet distance of I3D logits (Kinetics-400) of windows of {WINDOW} successive frames, "
        "224x224 bilinear without antialiasing, in [-1, 1]",
        "set",
    )
}


class FvdGrader:
    """Fréchet video distance: I3D's 400 Kinetics logits of windows of 16 successive frames at 224x224.

    The windows of a clip follow each other from its first frame without overlap, so the figure depends on
    the frame rate; clips shorter than a window are left out and counted. Biased upwards at small N (480 at
    100 windows, 39 at 2048, between samples of one distribution of unit variances): compare only one N. Of
    few windows the bias is larger than what the figure should tell, and it is refused.

    Args:
        weights: i3d_pretrained_400.pt.
        program: `weights` is StyleGAN-V's i3d_torchscript.pt instead, with which most published figures are
            taken. It is a program and runs what is written in it: give only a file that you trust.
        windows: at most so many windows of each clip.
        min_windows: of fewer windows in all there is no figure.

    Raises:
        ValueError: a file that does not fit.
        MissingWeights: no weights file.
    """

    metrics = METRICS

    def __init__(
        self,
        weights: str | None = None,
        *,
        program: bool = False,
        windows: int = 1,
        min_windows: int = MIN_WINDOWS,
    ) -> None:
        path = require(weights, PROGRAM if program else WEIGHTS, setting="weights")
        if windows < 1:
            raise ValueError(f"windows must be at least 1, got {windows}")
        self.network = I3DProgram(path) if program else load_i3d(path)
        self.windows, self.min_windows = windows, min_windows
        self.sets = FeatureSets(NUM_FEATURES)
        self._seen: LastSeen[Tensor] = LastSeen()
        self.facts: dict[str, Fact] = {**weights_facts(path), "windows of a clip": windows}

    def add(self, clip: GradedClip, chunk: Chunk) -> None:
        """Take a window of a clip and of its truth, where there is one."""
        if clip.method == TRUTH or clip.truth is None or chunk.truth is None:
            return
        if chunk.first >= self.windows * WINDOW:
            return
        generated, true = (
            self._seen.of(pictures, chunk.first, partial(self._features, frames))
            for pictures, frames in ((clip.pictures, chunk.frames), (clip.truth, chunk.truth))
        )
        self.sets.add(clip.method, generated, true, missing=int(len(clip.pictures) < WINDOW))

    def compute(self, method: str) -> Mapping[str, SetFigure]:
        """`fvd`; the truth has none."""
        if method == TRUTH:
            return {}
        figure = self.sets.compute(method)["frechet"]
        if figure.reason is None and figure.num_samples < self.min_windows:
            reason = (
                f"{figure.num_samples} windows, fewer than {self.min_windows}: two samples of one "
                f"distribution would be about {figure.bias:.3g} or more apart; grade more clips, or more "
                "windows of each"
            )
            figure = replace(figure, value=float("nan"), reason=reason)
        return {"fvd": figure}

    @torch.no_grad()
    def _features(self, window: Tensor) -> Tensor:
        """Features [1, 400] of a window, [0, 400] of a shorter one."""
        device = next(self.network.parameters()).device
        if len(window) < WINDOW:
            return torch.zeros(0, NUM_FEATURES, device=device)
        return self.network(window[None].to(device))
