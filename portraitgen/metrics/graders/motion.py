"""How much a face moves and how steadily a video plays, and how far both are from the true video."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.last_seen import LastSeen
from portraitgen.metrics.motion import UNIT_SIZE, frame_differences, motion_variance, steadiness
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import TRUTH, Grades, MetricInfo, missing_grades

_GLO = f"variance over the clip of the nose tip, in pixels² of a frame of {UNIT_SIZE}; grows with the clip"
_EXP = "the same of 37 upper-face points about the nose tip"
_FLICKER = "(255 − mean absolute difference of successive frames) / 255 (VBench); a still picture has 1"
METRICS = {
    "glo": MetricInfo("Glo", " px²", 2, None, _GLO, "clip"),
    "exp": MetricInfo("Exp", " px²", 3, None, _EXP, "clip"),
    "temporal_flicker": MetricInfo("Steadiness", "", 4, None, _FLICKER, "clip"),
    "glo_error": MetricInfo("ΔGlo", " px²", 2, False, "distance of Glo from that of the true frames", "clip"),
    "exp_error": MetricInfo("ΔExp", " px²", 3, False, "distance of Exp from that of the true frames", "clip"),
    "flicker_error": MetricInfo(
        "ΔSteadiness", "", 4, False, "distance of the steadiness from that of the true frames", "clip"
    ),
}

_ERRORS = {"glo": "glo_error", "exp": "exp_error", "temporal_flicker": "flicker_error"}


class MotionGrader:
    """Glo, Exp (Loopy) and temporal flicker (VBench): the aim is the true video's value, not the largest."""

    metrics = METRICS
    facts: Mapping[str, Fact] = {}

    def __init__(self) -> None:
        self._differences = _Differences()

    def grade(self, clip: GradedClip) -> Grades | Watch[tuple[Tensor, Tensor]]:
        """The three figures of a clip, and their distance from those of the true frames."""
        count = len(clip.pictures)
        if count < 2:
            return missing_grades(METRICS, count, "fewer than 2 frames")
        against = None if clip.method == TRUTH else clip.truth

        def see(chunk: Chunk) -> tuple[Tensor, Tensor]:
            own = self._differences.of(clip.pictures, chunk.first, chunk.frames)
            if against is None:
                return own, own[:0]
            assert chunk.truth is not None
            return own, self._differences.of(against, chunk.first, chunk.truth)

        def conclude(seen: list[tuple[Tensor, Tensor]]) -> Grades:
            differences, true_differences = (torch.cat(each) for each in zip(*seen, strict=True))
            own, reasons = _measure(clip.pictures, differences)
            scores = {name: np.array(value) for name, value in own.items()}
            if clip.method == TRUTH:
                return Grades(scores, reasons)
            wanted, lacking = ({}, {}) if against is None else _measure(against, true_differences)
            for name, error in _ERRORS.items():
                scores[error] = np.array(abs(own[name] - wanted.get(name, np.nan)))
                if against is None:
                    reasons[error] = "no true frames are given"
                elif name in reasons or name in lacking:
                    reasons[error] = reasons.get(name) or f"true frames: {lacking[name]}"
            return Grades(scores, reasons)

        return Watch(see, conclude)


class _Differences:
    """`frame_differences` of clips that come in chunks; those of the true frames once for all methods."""

    def __init__(self) -> None:
        self._last: WeakKeyDictionary[Pictures, Tensor] = WeakKeyDictionary()
        self._seen: LastSeen[Tensor] = LastSeen()

    def of(self, pictures: Pictures, first: int, frames: Tensor) -> Tensor:
        """Of the next frames of a clip, the first of them from the last one of the chunk before."""

        def look() -> Tensor:
            together = torch.cat([self._last[pictures], frames]) if first else frames
            self._last[pictures] = together[-1:].clone()
            return frame_differences(together) if len(together) > 1 else torch.zeros(0, dtype=torch.float64)

        return self._seen.of(pictures, first, look)


def _measure(pictures: Pictures, differences: Tensor) -> tuple[dict[str, float], dict[str, str]]:
    """The figures by name, and why some are missing."""
    figures = {"glo": np.nan, "exp": np.nan, "temporal_flicker": steadiness(differences)}
    if pictures.backend.landmark_scheme != "ibug68":
        why = "the face backend gives no iBUG landmarks"
    else:
        height = pictures.frames.shape[-2]
        figures["glo"], figures["exp"] = motion_variance(pictures.landmarks, frame_size=height)
        why = "a face in fewer than 2 frames"
    return figures, {name: why for name, value in figures.items() if np.isnan(value)}
