"""Does the mouth do what it should, by its landmarks alone: no weights but the face backend's."""

from collections.abc import Mapping

import numpy as np

from portraitgen.faces.measure import mouth_opening
from portraitgen.metrics.grader import Fact, GradedClip
from portraitgen.metrics.mouth import (
    mouth_audio_correlation,
    mouth_opening_error,
    mouth_truth_correlation,
)
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

METRICS = {
    "mouth_opening": MetricInfo(
        "Mouth opening",
        "",
        3,
        None,
        "gap between the inner lips over the distance of the outer eye corners, mean over frames with a face",
    ),
    "mouth_error": MetricInfo(
        "Mouth opening error",
        "",
        3,
        False,
        "difference of the gap between the inner lips from that of the driving face, each over the distance "
        "of the outer eye corners, mean over frames with a face",
    ),
    "mouth_truth_correlation": MetricInfo(
        "Mouth with truth",
        "",
        2,
        True,
        "Pearson correlation over frames of the gap between the inner lips with that of the true face",
        "clip",
    ),
    "mouth_audio_correlation": MetricInfo(
        "Mouth with sound",
        "",
        2,
        True,
        "Pearson correlation over frames of the gap between the inner lips with the root mean square of the "
        "sound; weak in real videos too, so read it beside the row of the true frames",
        "clip",
    ),
}


class MouthGrader:
    """Mouth opening, how far it is from the true one, and its correlation with that and the loudness."""

    metrics = METRICS
    facts: Mapping[str, Fact] = {}

    def grade(self, clip: GradedClip) -> Grades:
        """All figures; the error of every frame, the correlations of the clip."""
        count, found = len(clip.pictures), clip.pictures.landmarks
        if clip.pictures.backend.landmark_scheme != "ibug68":
            return missing_grades(METRICS, count, "the face backend gives no iBUG landmarks")
        opening = mouth_opening(found).astype(np.float64)
        faceless = int(np.isnan(opening).sum())
        error, why = np.full(count, np.nan), "no landmarks drive this clip"
        with_truth, why_truth = np.nan, why
        if clip.driving is not None:
            error = mouth_opening_error(found, clip.driving)
            missing = int(np.isnan(error).sum())
            why = f"no face in {missing} of {count} frames" if missing else ""
            with_truth, why_truth = mouth_truth_correlation(found, clip.driving)
        with_sound, why_sound = np.nan, "no sound"
        if clip.audio is not None:
            with_sound, why_sound = mouth_audio_correlation(found, clip.audio, fps=clip.fps)
        reasons = {
            "mouth_opening": f"no face in {faceless} of {count} frames" if faceless else "",
            "mouth_error": why,
            "mouth_truth_correlation": why_truth,
            "mouth_audio_correlation": why_sound,
        }
        return Grades(
            {
                "mouth_opening": opening,
                "mouth_error": error,
                "mouth_truth_correlation": np.array(with_truth),
                "mouth_audio_correlation": np.array(with_sound),
            },
            {name: reason for name, reason in reasons.items() if reason},
        )
