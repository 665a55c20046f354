"""ConsisID's own FaceSim, frame by frame as its script takes it: only to compare with its published table."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from portraitgen.faces.backend import largest_face
from portraitgen.faces.recognition.recognizer import load_recognition, recognition_file
from portraitgen.faces.types import Face
from portraitgen.metrics.consisid import clamped_similarity, pad_grey
from portraitgen.metrics.frame_choice import NUM_FRAMES, spread_frames
from portraitgen.metrics.grader import Fact, GradedClip
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.identity import embed_faces, match_identities
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

CROP_SIDE = {"curricularface": 224}
"""ConsisID cuts CurricularFace's faces out at twice their side and halves them."""


class ConsisIDFaceSimGrader:
    """FaceSim-Arc or FaceSim-Cur as ConsisID computes them, `consisid_compat` in the name of the figure.

    16 frames from the first to the last; the largest face, looked for again in the picture with grey borders
    where there is none; frames without a face are left out; negative cosines count as 0. The one difference:
    a clip without any face is missing, where ConsisID's script says 0. Its figures need insightface's
    detector (faces=insightface).

    Args:
        recognizer: `arcface` or `curricularface`; others work and have no published figure.
        weights: file of the recognizer.

    Raises:
        ValueError: an unknown recognizer, or a file that does not fit.
        MissingWeights: no weights file.
    """

    def __init__(
        self,
        recognizer: Literal["arcface", "curricularface", "dlib", "mobileface"] = "curricularface",
        *,
        weights: str | None = None,
    ) -> None:
        file = require(weights, recognition_file(recognizer), setting="weights")
        self.recognizer = load_recognition(recognizer, file)
        self.crop_side = CROP_SIDE.get(recognizer)
        self.facts: Mapping[str, Fact] = {
            "recognizer": self.recognizer.name,
            "frames": NUM_FRAMES,
            **weights_facts(file),
        }
        self.name = f"consisid_compat_facesim_{recognizer}"
        self.metrics = {
            self.name: MetricInfo(
                f"FaceSim ({recognizer}, ConsisID's)",
                "",
                3,
                True,
                "as ConsisID's script: mean of max(0, cosine) over those of 16 frames that have a face, the "
                "largest, also looked for with grey borders; only to compare with its table",
                "clip",
            )
        }

    def grade(self, clip: GradedClip) -> Grades:
        """The one figure of the clip."""
        count = len(clip.pictures.frames)
        if clip.reference is None:
            return missing_grades(self.metrics, count, "no reference picture")
        reference = self._embed(clip.reference, np.zeros(1, np.int64))[0]
        if not len(reference):
            return missing_grades(self.metrics, count, "no face found in the reference picture")
        faces = self._embed(clip.pictures, spread_frames(count))
        score = clamped_similarity(match_identities(reference, faces).similarity)
        if np.isnan(score):
            return missing_grades(
                self.metrics, count, f"no face found in {NUM_FRAMES} of {NUM_FRAMES} frames"
            )
        return Grades({self.name: np.array(score)}, {})

    def _embed(self, pictures: Pictures, chosen: np.ndarray) -> list[np.ndarray]:
        """Embeddings [0 or 1, D] of the largest face in each of the chosen frames."""
        faces = [self._largest(pictures, int(frame)) for frame in chosen]
        return embed_faces(self.recognizer, pictures.frames[chosen], faces, crop_side=self.crop_side)

    def _largest(self, pictures: Pictures, frame: int) -> list[Face]:
        found = largest_face(pictures.faces[frame])
        if found is not None:
            return [found]
        padded, moved = pad_grey(pictures.frames[frame].permute(1, 2, 0).cpu().numpy())
        backend = pictures.backend
        found = largest_face([face for face in backend.detect(padded) if face.score >= backend.min_score])
        if found is None:
            return []
        back = np.array(moved, np.float32)
        # Only the key points are used from here on.
        return [replace(found, keypoints=found.keypoints - back)]
