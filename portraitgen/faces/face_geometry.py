"""From MediaPipe's landmarks in a picture to a face in centimetres and its pose before the camera.

Our own NumPy form of MediaPipe's face geometry: the face's size and distance are read off a fit of a
canonical face under a perspective camera, so that heads of different videos can be compared and exchanged.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

NUM_VERTICES = 468
"""Vertices of the face mesh; MediaPipe's landmarks 468 to 477 are the irises."""
VERTICAL_FOV = 63.0
"""The camera's angle of view from top to bottom, in degrees: what MediaPipe assumes of every picture."""
NEAR = 1.0
"""Distance of the picture plane, in cm."""


@dataclass(frozen=True, slots=True, eq=False)
class CanonicalFace:
    """The average face of MediaPipe's geometry module (Apache-2.0), in cm.

    Attributes:
        vertices: float64 [468, 3]; x to the person's left, y up, z towards the camera.
        anchors: int64 [33], the vertices that a fit compares.
        weights: float64 [33], what each of them counts.
    """

    vertices: np.ndarray
    anchors: np.ndarray
    weights: np.ndarray


@cache
def canonical_face() -> CanonicalFace:
    """The packaged canonical face; do not write to it."""
    with (
        resources.files(__package__).joinpath("canonical_face.npz").open("rb") as stream,
        np.load(stream, allow_pickle=False) as file,
    ):
        return CanonicalFace(
            file["vertices"].astype(np.float64),
            file["anchors"].astype(np.int64),
            file["weights"].astype(np.float64),
        )


def face_geometry(landmarks: np.ndarray, *, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The metric face and the head pose of landmarks in one picture.

    Args:
        landmarks: float [K, 3], K at least 468: MediaPipe's normalised landmarks, x and y of the picture's
            width and height, z on the scale of x.
        image_size: (height, width) of the picture.

    Returns:
        vertices: float64 [468, 3] in cm, in the canonical face's position: expression and shape without the
            head's pose.
        pose: float64 [4, 4], takes `vertices` (columns) into the camera's space: x right, y up, the camera
            at 0 looking along -z.

    Raises:
        ValueError: landmarks of another shape.
    """
    if landmarks.ndim != 2 or landmarks.shape[0] < NUM_VERTICES or landmarks.shape[1] != 3:
        raise ValueError(f"a face mesh must be [{NUM_VERTICES} or more, 3], got {landmarks.shape}")
    height, width = image_size
    plane_height = 2 * NEAR * np.tan(np.radians(VERTICAL_FOV) / 2)
    plane_width = plane_height * width / height
    x, y, z = landmarks[:NUM_VERTICES].astype(np.float64).T
    on_plane = np.stack(
        [(x - 0.5) * plane_width, (0.5 - y) * plane_height, z * plane_width],
        axis=1,
    )
    # Two guesses of the size: one as if the camera were far away, one on the face that the first one gives.
    towards_camera = np.array([1.0, 1.0, -1.0])
    scale = _fit(on_plane * towards_camera)[1]
    scale *= _fit(_unproject(on_plane, scale))[1]
    face = _unproject(on_plane, scale)
    pose, _ = _fit(face)
    return (face - pose[:3, 3]) @ np.linalg.inv(pose[:3, :3]).T, pose


def _unproject(on_plane: np.ndarray, scale: float) -> np.ndarray:
    """Vertices [468, 3] in camera space of a face that is `scale` times smaller in cm than on the plane."""
    depth = (on_plane[:, 2:] - on_plane[:, 2].mean() + NEAR) / scale
    return np.concatenate([on_plane[:, :2] * depth / NEAR, -depth], axis=1)


def _fit(face: np.ndarray) -> tuple[np.ndarray, float]:
    """The similarity [4, 4] that takes the canonical face nearest to `face` [468, 3], and its scale.

    Weighted least squares without reflection, by Umeyama, PAMI 1991.
    """
    canonical = canonical_face()
    source, target = canonical.vertices[canonical.anchors], face[canonical.anchors]
    weights = canonical.weights / canonical.weights.sum()
    centred = source - weights @ source
    covariance = (target * weights[:, None]).T @ centred
    left, _, right = np.linalg.svd(covariance)
    left[:, 2] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    rotation = left @ right
    scale = float((rotation * covariance).sum() / (weights @ centred**2).sum())
    similarity = np.eye(4)
    similarity[:3, :3] = scale * rotation
    similarity[:3, 3] = weights @ target - scale * rotation @ (weights @ source)
    return similarity, scale
