"""Does the face do what it was told: its landmarks against the driving ones, and whether there is a face."""

from collections.abc import Mapping

from portraitgen.metrics.grader import Fact, GradedClip
from portraitgen.metrics.landmarks import score_landmarks
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

METRICS = {
    "landmark_error": MetricInfo(
        "Landmark error",
        "",
        3,
        False,
        "landmarks found again on the frame against the driving ones: mean distance over the points divided "
        "by the distance of the driving outer eye corners, mean over the frames in which a face is found",
    ),
    "detection_rate": MetricInfo(
        "Faces found",
        "",
        2,
        True,
        "share of the frames driven by a face in which the backend finds one of at least its minimum score",
    ),
}


class LandmarkGrader:
    """Landmark error and detection rate of every frame, with the face backend of the evaluation."""

    metrics = METRICS
    facts: Mapping[str, Fact] = {}

    def grade(self, clip: GradedClip) -> Grades:
        """Both figures, as `score_landmarks` defines them."""
        if clip.driving is None:
            return missing_grades(METRICS, len(clip.pictures), "no landmarks drive this clip")
        return score_landmarks(clip.pictures.landmarks, clip.driving)
