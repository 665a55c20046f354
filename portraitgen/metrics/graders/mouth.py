"""Does the mouth do what it should, by its landmarks alone: no weights but the face backend's."""

from collections.abc import Mapping

import numpy as np

from portraitgen.metrics.grader import Fact, GradedClip
from portraitgen.metrics.mouth import mouth_audio_correlation, mouth_opening_error
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

METRICS = {
    "mouth_error": MetricInfo(
        "Mouth opening error",
        "",
        3,
        False,
        "difference of the gap between the inner lips from that of the driving face, each over the distance "
        "of the outer eye corners, mean over frames with a face",
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
    """Mouth opening against the driving one, and its correlation with the loudness."""

    metrics = METRICS
    facts: Mapping[str, Fact] = {}

    def grade(self, clip: GradedClip) -> Grades:
        """Both figures; the first of every frame, the second of the clip."""
        count, found = len(clip.pictures.frames), clip.pictures.landmarks
        if clip.pictures.backend.landmark_scheme != "ibug68":
            return missing_grades(METRICS, count, "the face backend gives no iBUG landmarks")
        error, reasons = np.full(count, np.nan), {"mouth_error": "no landmarks drive this clip"}
        if clip.driving is not None:
            error = mouth_opening_error(found, clip.driving)
            missing = int(np.isnan(error).sum())
            reasons = {"mouth_error": f"no face in {missing} of {count} frames"} if missing else {}
        if clip.audio is None:
            correlation, why = np.nan, "no sound"
        else:
            correlation, why = mouth_audio_correlation(found, clip.audio, fps=clip.fps)
        if why:
            reasons["mouth_audio_correlation"] = why
        return Grades({"mouth_error": error, "mouth_audio_correlation": np.array(correlation)}, reasons)
