"""What a face is: in one picture (`Face`), along a video (`Track`), and where that is kept (`Trail`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def _check(owner: str, name: str, array: np.ndarray, shape: tuple[int | None, ...], dtype: type) -> None:
    """Raise unless `array` has this dtype and shape; None stands for any length."""
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = [str(length) if length is not None else "*" for length in shape]
        raise ValueError(
            f"{owner}.{name} must be {np.dtype(dtype)} [{', '.join(wanted)}], is {array.dtype} {array.shape}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class FaceMesh:
    """MediaPipe's own answer for one face, as it gives it: nothing is shifted or scaled.

    `face_geometry` takes the points, and what upstream AniPortrait draws and retargets is made of them.

    Attributes:
        points: float32 [478, 3], x and y as shares of the picture's width and height (0 to 1 inside it), z on
            the scale of x, less than 0 in front of the face's middle.
        blendshapes: float32 [52], 0 to 1, in MediaPipe's order, the neutral face first.
        pose: float32 [4, 4], from the canonical face to the camera's space, in cm.
    """

    points: np.ndarray
    blendshapes: np.ndarray
    pose: np.ndarray

    def __post_init__(self) -> None:
        _check("FaceMesh", "points", self.points, (478, 3), np.float32)
        _check("FaceMesh", "blendshapes", self.blendshapes, (52,), np.float32)
        _check("FaceMesh", "pose", self.pose, (4, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face found in one picture. Positions are continuous pixels: pixel i covers i to i + 1.

    Attributes:
        box: float32 [4], xyxy in pixels; may reach beyond the picture.
        score: the backend's confidence, higher is surer; comparable only within one backend.
        landmarks: float32 [K, 2] in pixels, order by the backend's `landmark_scheme`.
        keypoints: float32 [5, 2] in pixels: left eye, right eye, nose tip, left and right mouth corner, as
            they appear in the picture (ArcFace's order).
        embedding: float32 [D], unit length, or None when it was not asked for.
        mesh: what MediaPipe says beyond that, or None when it was not asked for.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray
    keypoints: np.ndarray
    embedding: np.ndarray | None = None
    mesh: FaceMesh | None = None

    def __post_init__(self) -> None:
        _check("Face", "box", self.box, (4,), np.float32)
        _check("Face", "landmarks", self.landmarks, (None, 2), np.float32)
        _check("Face", "keypoints", self.keypoints, (5, 2), np.float32)
        if self.embedding is not None:
            _check("Face", "embedding", self.embedding, (None,), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One face followed along a video; row i belongs to frame `frames[i]`, in which it was found.

    Attributes:
        frames: int64 [N], increasing frame indices.
        boxes: float32 [N, 4].
        scores: float32 [N].
        landmarks: float32 [N, K, 2].
        keypoints: float32 [N, 5, 2].
        embedding: float32 [D], unit length, the mean over the track, or None.
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    keypoints: np.ndarray
    embedding: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.frames)
        _check("Track", "frames", self.frames, (None,), np.int64)
        _check("Track", "boxes", self.boxes, (count, 4), np.float32)
        _check("Track", "scores", self.scores, (count,), np.float32)
        _check("Track", "landmarks", self.landmarks, (count, None, 2), np.float32)
        _check("Track", "keypoints", self.keypoints, (count, 5, 2), np.float32)
        if self.embedding is not None:
            _check("Track", "embedding", self.embedding, (None,), np.float32)
        if count == 0 or np.any(np.diff(self.frames) <= 0) or self.frames[0] < 0:
            raise ValueError("Track.frames must be increasing frame indices, at least one")


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """Where the faces of a track are among those found: row i is number `places[i]` of frame `frames[i]`.

    A few bytes a frame, so that the tracks of a long video can be held while its faces lie elsewhere.

    Attributes:
        frames: int64 [N], increasing frame indices.
        places: int64 [N], which of the faces of that frame.
        embedding: float32 [D], unit length, the mean over the track, or None.
    """

    frames: np.ndarray
    places: np.ndarray
    embedding: np.ndarray | None = None

    def between(self, start: int, stop: int) -> "Trail":
        """The part in the frames start .. stop - 1."""
        rows = slice(*np.searchsorted(self.frames, (start, stop)))
        return Trail(self.frames[rows], self.places[rows], self.embedding)

    def track(self, found: Sequence[list[Face]]) -> Track:
        """The track itself, of the faces found in each frame of the video."""
        faces = [found[frame][place] for frame, place in zip(self.frames, self.places, strict=True)]
        return Track(
            frames=self.frames,
            boxes=np.stack([face.box for face in faces]),
            scores=np.array([face.score for face in faces], np.float32),
            landmarks=np.stack([face.landmarks for face in faces]),
            keypoints=np.stack([face.keypoints for face in faces]),
            embedding=self.embedding,
        )
