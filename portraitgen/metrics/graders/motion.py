"""How much a face moves and how steadily a video plays, and how far both are from the true video."""

from collections.abc import Mapping

import numpy as np

from portraitgen.metrics.grader import Fact, GradedClip
from portraitgen.metrics.motion import UNIT_SIZE, motion_variance, temporal_flicker
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


class MotionGrader:
    """Glo, Exp (Loopy) and temporal flicker (VBench): the aim is the true video's value, not the largest."""

    metrics = METRICS
    facts: Mapping[str, Fact] = {}

    def grade(self, clip: GradedClip) -> Grades:
        """The three figures of a clip, and their distance from those of the true frames."""
        count = len(clip.pictures.frames)
        if count < 2:
            return missing_grades(METRICS, count, "fewer than 2 frames")
        own, reasons = _measure(clip.pictures)
        scores = {name: np.array(value) for name, value in own.items()}
        if clip.method != TRUTH:
            true, lacking = ({}, {}) if clip.truth is None else _measure(clip.truth)
            for name, error in (
                ("glo", "glo_error"),
                ("exp", "exp_error"),
                ("temporal_flicker", "flicker_error"),
            ):
                scores[error] = np.array(abs(own[name] - true.get(name, np.nan)))
                if clip.truth is None:
                    reasons[error] = "no true frames are given"
                elif name in reasons or name in lacking:
                    reasons[error] = reasons.get(name) or f"true frames: {lacking[name]}"
        return Grades(scores, reasons)


def _measure(pictures: Pictures) -> tuple[dict[str, float], dict[str, str]]:
    """The figures by name, and why some are missing."""
    figures = {"glo": np.nan, "exp": np.nan, "temporal_flicker": temporal_flicker(pictures.frames)}
    if pictures.backend.landmark_scheme != "ibug68":
        why = "the face backend gives no iBUG landmarks"
    else:
        height = pictures.frames.shape[-2]
        figures["glo"], figures["exp"] = motion_variance(pictures.landmarks, frame_size=height)
        why = "a face in fewer than 2 frames"
    return figures, {name: why for name, value in figures.items() if np.isnan(value)}
