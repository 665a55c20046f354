"""ConsisID's own FaceSim and "FID", frame by frame as its script takes them: for its table alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.recognition.recognizer import load_recognition, recognition_file
from portraitgen.faces.types import Face
from portraitgen.metrics.consisid import clamped_similarity, face_inception_l2, pad_grey
from portraitgen.metrics.face_crops import FACE_SIDE, upright_faces
from portraitgen.metrics.frame_choice import NUM_FRAMES, spread_frames
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.identity import Embeddings, in_order
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.identity import embed_faces, match_identities
from portraitgen.metrics.networks.inception_blocks import NUM_FEATURES
from portraitgen.metrics.networks.inception_torchvision import WEIGHTS, load_torchvision_inception
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

    def looks_with(self, backend: FaceBackend) -> tuple[str, str | None]:
        """See `RecognizingGrader`."""
        return self.recognizer.name, self.recognizer.digest

    def grade(self, clip: GradedClip) -> Grades | Watch[Embeddings]:
        """The one figure of the clip."""
        count = len(clip.pictures)
        if clip.reference is None:
            return missing_grades(self.metrics, count, "no reference picture")
        reference = self._embed(clip.reference, clip.reference.first, np.zeros(1, np.int64))[0]
        if not len(reference):
            return missing_grades(self.metrics, count, "no face found in the reference picture")
        chosen = spread_frames(count)

        def see(chunk: Chunk) -> Embeddings:
            places = chunk.of(chosen)
            if not len(places):
                return {}
            found = self._embed(clip.pictures, chunk.frames[places - chunk.first], places)
            return dict(zip(places.tolist(), found, strict=True))

        def conclude(seen: list[Embeddings]) -> Grades:
            match = match_identities(reference, in_order(seen, chosen))
            score = clamped_similarity(match.similarity)
            if np.isnan(score):
                return missing_grades(
                    self.metrics, count, f"no face found in {NUM_FRAMES} of {NUM_FRAMES} frames"
                )
            return Grades({self.name: np.array(score)}, {})

        return Watch(see, conclude)

    def _embed(self, pictures: Pictures, frames: Tensor, places: np.ndarray) -> list[np.ndarray]:
        """Embeddings [0 or 1, D] of the largest face in each of these frames [N, 3, H, W] of a clip."""
        largest = _find_largest(pictures, frames, places)
        faces = [[] if face is None else [face] for face in largest]
        return embed_faces(self.recognizer, frames, faces, crop_side=self.crop_side)


class ConsisIDFaceDistanceGrader:
    """What ConsisID's table calls FID: the squared distance of the Inception features of two faces.

    It takes one frame and the reference picture at a time and is no Fréchet distance (`face_inception_l2`).
    Frames, faces and missing ones as for FaceSim; each face upright at 224x224, then 299x299.

    Args:
        weights: inception_v3_google-0cc3c7bd.pth, torchvision's network.

    Raises:
        ValueError: a file that does not fit.
        MissingWeights: no weights file.
    """

    def __init__(self, weights: str | None = None) -> None:
        path = require(weights, WEIGHTS, setting="weights")
        self.network = load_torchvision_inception(path)
        self.facts: Mapping[str, Fact] = {"frames": NUM_FRAMES, **weights_facts(path)}
        self.name = "consisid_compat_face_inception_l2"
        self.metrics = {
            self.name: MetricInfo(
                'Face distance (ConsisID\'s "FID")',
                "",
                2,
                False,
                "as ConsisID's script: squared distance of torchvision's InceptionV3 features of the largest "
                f"face, upright at {FACE_SIDE}x{FACE_SIDE}, and of that in the reference picture, mean over "
                "those of 16 frames that have a face; no FID, only to compare with its table",
                "clip",
            )
        }

    def grade(self, clip: GradedClip) -> Grades | Watch[Tensor]:
        """The one figure of the clip."""
        count = len(clip.pictures)
        if clip.reference is None:
            return missing_grades(self.metrics, count, "no reference picture")
        reference = self._features(clip.reference, clip.reference.first, np.zeros(1, np.int64))
        if not len(reference):
            return missing_grades(self.metrics, count, "no face found in the reference picture")
        chosen = spread_frames(count)

        def see(chunk: Chunk) -> Tensor:
            # A short clip shows some frames again, which then count again.
            places = chosen[np.isin(chosen, chunk.of(chosen))]
            return self._features(clip.pictures, chunk.frames[places - chunk.first], places)

        def conclude(seen: list[Tensor]) -> Grades:
            features = torch.cat(seen)
            if not len(features):
                return missing_grades(
                    self.metrics, count, f"no face found in {NUM_FRAMES} of {NUM_FRAMES} frames"
                )
            distance = face_inception_l2(features, reference[0]).mean()
            return Grades({self.name: np.array(float(distance))}, {})

        return Watch(see, conclude)

    @torch.no_grad()
    def _features(self, pictures: Pictures, frames: Tensor, places: np.ndarray) -> Tensor:
        """Features [M, 2048] of the largest face in those of the frames [N, 3, H, W] that have one."""
        if not len(places):
            return torch.zeros(0, NUM_FEATURES, device=next(self.network.parameters()).device)
        faces = _find_largest(pictures, frames, places)
        images = frames.to(next(self.network.parameters()).device)
        crops = upright_faces(images, faces)
        return self.network(crops) if len(crops) else images.new_zeros(0, NUM_FEATURES).float()


def _find_largest(pictures: Pictures, frames: Tensor, places: np.ndarray) -> list[Face | None]:
    """The largest face of each of these frames [N, 3, H, W] of a clip; where there is none, of the frame
    with grey borders.
    """
    largest = [largest_face(pictures.faces[place]) for place in places]
    return [
        _find_in_grey(pictures, frame) if face is None else face
        for frame, face in zip(frames, largest, strict=True)
    ]


def _find_in_grey(pictures: Pictures, frame: Tensor) -> Face | None:
    padded, moved = pad_grey(frame.permute(1, 2, 0).cpu().numpy())
    backend = pictures.backend
    found = largest_face([face for face in backend.detect(padded) if face.score >= backend.min_score])
    if found is None:
        return None
    back = np.array(moved, np.float32)
    # Only the key points are used from here on.
    return replace(found, keypoints=found.keypoints - back)
