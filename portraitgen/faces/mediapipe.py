"""Face analysis with MediaPipe's face landmarker: a mesh of 478 points with irises, in a few milliseconds.

Library and model are Apache-2.0. It is made for few and large faces, and has no identity embedding.
"""

import importlib.util
import math
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.faces.types import Face, FaceMesh
from portraitgen.media.geometry import box_iou

MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
    "face_landmarker.task"
)
_DETECTOR_FILE = "face_detector.tflite"
_MAX_FACES = 32

# The cut-out that the landmark network sees: its side against the mesh's, and in pixels.
_CROP_FACTOR = 1.5
_CROP_SIDE = 256

# ArcFace's five points as means of mesh points; "left" is left in the picture. The nose tip of ArcFace's
# detectors lies midway between two points of the mesh.
_KEYPOINTS = (
    (33, 160, 158, 133, 153, 144),
    (362, 385, 387, 263, 373, 380),
    (1, 4),
    (61,),
    (291,),
)


# Kept per process, not per backend: a backend is only settings and travels to worker processes as such.
@cache
def _load_models(model_file: Path, weak_score: float, mesh: bool) -> tuple[Any, Any]:
    """The landmarker, and its own detector once more by itself: the landmarker keeps the scores to itself."""
    from mediapipe.tasks.python import BaseOptions, vision

    try:
        with zipfile.ZipFile(model_file) as task:
            detector_model = task.read(_DETECTOR_FILE)
        landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=model_file.read_bytes()),
                num_faces=_MAX_FACES,
                min_face_detection_confidence=weak_score,
                output_face_blendshapes=mesh,
                output_facial_transformation_matrixes=mesh,
            )
        )
    except (zipfile.BadZipFile, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{model_file} is no face landmarker of MediaPipe: get {MODEL_URL}") from error
    detector = vision.FaceDetector.create_from_options(
        vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_buffer=detector_model),
            min_detection_confidence=weak_score / 2,  # what the landmarker just keeps must be here too
        )
    )
    return landmarker, detector


@dataclass(frozen=True, slots=True)
class MediaPipeBackend:
    """Face analysis with MediaPipe (see `FaceBackend`).

    Boxes are drawn around the mesh: top of the forehead to chin, ear to ear. Landmarks are continuous pixels.
    The detector sees the whole picture at 128 pixels, so a face smaller than about an eighth of its longer
    side is missed: for groups take another backend.

    Attributes:
        model_file: the model, `face_landmarker.task`.
        min_score: a face in a photo, or a new track, needs this.
        weak_score: detections are returned down to this score, for tracks to continue on. A mesh that does
            not look like a face is never returned.
        mesh: also give each face's `mesh`: the uncorrected points with their depth, 52 blendshapes and the
            head's pose (see `FaceMesh`).

    Raises:
        ValueError: the package or the model file is missing.
    """

    model_file: str
    min_score: float = 0.5
    weak_score: float = 0.3
    mesh: bool = False

    def __post_init__(self) -> None:
        if importlib.util.find_spec("mediapipe") is None:
            raise ValueError("faces=mediapipe needs the package: run `pip install 'portraitgen[mediapipe]'`")
        if not Path(self.model_file).expanduser().is_file():
            raise ValueError(
                f"no MediaPipe model {self.model_file}: download {MODEL_URL} and set faces.model_file to it"
            )

    @property
    def name(self) -> str:
        return "mediapipe"

    @property
    def landmark_scheme(self) -> str:
        return "mediapipe478"

    @property
    def num_landmarks(self) -> int:
        return 478

    @property
    def embedding_dim(self) -> int:
        """There is no embedding."""
        return 0

    @property
    def identity_threshold(self) -> float:
        """No two faces can be said to be of one person."""
        return math.inf

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        """Faces in a picture (uint8 [H, W, 3] RGB), surest first, weak ones included.

        Raises:
            ValueError: not such a picture, or an embedding is asked for.
        """
        if embed:
            raise ValueError("mediapipe has no identity embedding: take faces=dlib or faces=insightface")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"picture must be uint8 [H, W, 3] RGB, got {image.dtype} {image.shape}")
        import mediapipe

        landmarker, detector = _load_models(Path(self.model_file).expanduser(), self.weak_score, self.mesh)
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        found = landmarker.detect(picture)
        detections = [
            (_detection_box(detection), detection.categories[0].score)
            for detection in (detector.detect(picture).detections if found.face_landmarks else ())
        ]
        size = np.array(image.shape[1::-1])
        faces = []
        for number, mesh in enumerate(found.face_landmarks):
            points = np.array([(point.x, point.y, point.z) for point in mesh], np.float32)
            landmarks = _continuous(points[:, :2] * size)
            box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
            keypoints = np.stack([landmarks[list(indices)].mean(axis=0) for indices in _KEYPOINTS])
            extra = None
            if self.mesh:
                shapes = [shape.score for shape in found.face_blendshapes[number]]
                pose = np.asarray(found.facial_transformation_matrixes[number], np.float32)
                extra = FaceMesh(points, np.array(shapes, np.float32), pose)
            faces.append(Face(box, _score(box, detections), landmarks, keypoints, mesh=extra))
        return sorted(faces, key=lambda face: -face.score)


def _continuous(landmarks: np.ndarray) -> np.ndarray:
    """Continuous pixels, float32 [478, 2], from what MediaPipe gives: pixel centres, but shifted.

    The face is cut out, level and 1.5 times as large as its mesh, into 256 x 256 pixels for the network. The
    answers lie half a pixel of that small picture too far to its right and bottom, and count from pixel
    centres in the large one. Measured on faces and their mirror images, at sizes from 60 to 315 pixels.
    """
    side = _CROP_FACTOR * (landmarks.max(axis=0) - landmarks.min(axis=0)).max() / _CROP_SIDE
    right, left = landmarks[list(_KEYPOINTS[1])].mean(axis=0), landmarks[list(_KEYPOINTS[0])].mean(axis=0)
    across = (right - left) / np.linalg.norm(right - left)
    down = across[::-1] * (-1, 1)
    return np.asarray(landmarks + 0.5 - (across + down) * (side / 2), np.float32)


def _detection_box(detection: Any) -> np.ndarray:
    """Box, float32 [4] xyxy, of a detection of MediaPipe."""
    box = detection.bounding_box
    return np.array(
        [box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height], np.float32
    )


def _score(box: np.ndarray, detections: list[tuple[np.ndarray, float]]) -> float:
    """Score of the detection that a face grew out of: the one that shares most with the face's box."""
    return max(detections, key=lambda found: box_iou(box, found[0]))[1]
