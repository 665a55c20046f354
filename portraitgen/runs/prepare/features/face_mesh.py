"""The face in 3D, frame by frame, from MediaPipe's mesh: what Audio2Mesh and Audio2Pose learn in 3D."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from portraitgen.data.features.feature import Unit
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.face_geometry import face_geometry
from portraitgen.media.geometry import box_iou
from portraitgen.media.yuv import rgb_to_uint8

_MAX_MISSING = 0.1
"""Share of a clip's frames that may show no face to MediaPipe; these are put between their neighbours."""
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class FaceMeshes:
    """Vertices of the main person's face, float32 [T, 468, 3], in cm and free of the head's pose.

    Attributes:
        model: MediaPipe's `face_landmarker.task`.
    """

    model: str

    name: ClassVar[str] = "mesh"
    batch_key: ClassVar[str] = "mesh"
    unit: ClassVar[Unit] = "frame"

    def depends_on(self) -> Mapping[str, Any]:
        return _identity(self.model)

    def __call__(self, sample: ClipSample) -> np.ndarray:
        return _geometry(sample, self.model)[0]


@dataclass(frozen=True, slots=True)
class HeadPoses:
    """Pose of the main person's head, float32 [T, 4, 4]: takes its vertices before the camera.

    Attributes:
        model: MediaPipe's `face_landmarker.task`.
    """

    model: str

    name: ClassVar[str] = "head_pose"
    batch_key: ClassVar[str] = "head_pose"
    unit: ClassVar[Unit] = "frame"

    def depends_on(self) -> Mapping[str, Any]:
        return _identity(self.model)

    def __call__(self, sample: ClipSample) -> np.ndarray:
        return _geometry(sample, self.model)[1]


def _identity(model: str) -> Mapping[str, Any]:
    _backend(model)  # it says what is missing
    return {"model": hashlib.sha256(Path(model).expanduser().read_bytes()).hexdigest()}


def _geometry(sample: ClipSample, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [T, 468, 3] and poses [T, 4, 4] of the main person of a sample."""
    backend, pictures = _backend(model), SamplePictures(sample)
    size, boxes = (sample.height, sample.width), sample.tracks[0].boxes
    vertices = np.full((sample.num_frames, 468, 3), np.nan)
    poses = np.full((sample.num_frames, 4, 4), np.nan)
    for start in range(0, sample.num_frames, _CHUNK):
        count = min(_CHUNK, sample.num_frames - start)
        frames = rgb_to_uint8(pictures.rgb(start, count)).movedim(1, -1).cpu().numpy()
        for number, frame in enumerate(frames, start):
            overlaps = [(box_iou(face.box, boxes[number]), face.mesh) for face in backend.detect(frame)]
            found = max(overlaps, key=lambda each: each[0], default=(0.0, None))
            if found[0] > 0 and found[1] is not None:
                vertices[number], poses[number] = face_geometry(found[1].points, image_size=size)
    missing = np.isnan(poses[:, 0, 0])
    if missing.mean() > _MAX_MISSING:
        raise DataError(
            f"MediaPipe finds no face in {missing.sum()} of {len(missing)} frames of {sample.key}"
        )
    return _filled(vertices, missing), _filled(poses, missing)


def _filled(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """`values` [T, …] as float32, what is missing interpolated from the nearest frames on both sides."""
    flat = values.reshape(len(values), -1)
    known, wanted = np.flatnonzero(~missing), np.arange(len(values))
    columns = [np.interp(wanted, known, column[known]) for column in flat.T]
    return np.stack(columns, axis=1).reshape(values.shape).astype(np.float32)


@cache
def _backend(model: str) -> FaceBackend:
    from portraitgen.faces.mediapipe import MediaPipeBackend

    return MediaPipeBackend(model_file=model, mesh=True)
