"""Drift of long clips: identity, colour and sharpness at their end against their beginning."""

from typing import Any

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.metrics.drift import SHARE, drift, end_frames, frame_colours, frame_sharpness
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.identity import IdentityGrader
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

_ENDS = f"over the first {SHARE:.0%} of the frames from that over the last {SHARE:.0%}"
METRICS = {
    "drift_identity": MetricInfo(
        "Drift of identity",
        "",
        3,
        False,
        f"distance of the mean similarity to the reference {_ENDS}, frames without a face left out",
        "clip",
    ),
    "drift_colour": MetricInfo(
        "Drift of colour", "", 2, False, f"distance of the mean RGB, in 8-bit steps, {_ENDS}", "clip"
    ),
    "drift_sharpness": MetricInfo(
        "Drift of sharpness",
        "",
        2,
        False,
        f"distance of the standard deviation of the luma's Laplacian, in 8-bit steps, {_ENDS}",
        "clip",
    ),
}
MIN_FRAMES = round(2 / SHARE)


class DriftGrader:
    """Three figures of a clip; true videos have some drift too, so read them beside those.

    Args:
        recognizer, weights: of the identity, see `IdentityGrader`.
    """

    metrics = METRICS

    def __init__(self, recognizer: str = "dlib", *, weights: str | None = None) -> None:
        self._identity = IdentityGrader(recognizer, weights=weights, frames=None)
        self.facts: dict[str, Fact] = {**self._identity.facts, "ends": SHARE}

    def looks_with(self, backend: FaceBackend) -> tuple[str, str | None]:
        """See `RecognizingGrader`."""
        return self._identity.looks_with(backend)

    def grade(self, clip: GradedClip) -> Grades | Watch[tuple[Any, np.ndarray, np.ndarray] | None]:
        """The drift of the clip."""
        count = len(clip.pictures)
        if count < MIN_FRAMES:
            return missing_grades(METRICS, count, f"fewer than {MIN_FRAMES} frames")
        ends = end_frames(count)
        identity = self._identity.grade_frames(clip, ends)

        def see(chunk: Chunk) -> tuple[Any, np.ndarray, np.ndarray] | None:
            here = chunk.of(ends) - chunk.first
            if not len(here):
                return None
            frames = chunk.frames[here]
            who = identity.see(chunk) if isinstance(identity, Watch) else None
            return who, frame_colours(frames).cpu().numpy(), frame_sharpness(frames).cpu().numpy()

        def conclude(seen: list[tuple[Any, np.ndarray, np.ndarray] | None]) -> Grades:
            who, colours, sharpness = zip(*(part for part in seen if part is not None), strict=True)
            known = identity.conclude([*who]) if isinstance(identity, Watch) else identity
            return self._conclude(known, np.concatenate(colours), np.concatenate(sharpness))

        return Watch(see, conclude)

    def _conclude(self, known: Grades, colours: np.ndarray, sharpness: np.ndarray) -> Grades:
        figures = {
            "drift_identity": drift(known.scores[self._identity.name]),
            "drift_colour": drift(colours),
            "drift_sharpness": drift(sharpness),
        }
        reasons = {}
        if np.isnan(figures["drift_identity"]):
            reasons["drift_identity"] = known.reasons.get(self._identity.name, "no face at one of the ends")
        return Grades({name: np.array(value) for name, value in figures.items()}, reasons)
