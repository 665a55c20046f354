"""What becomes of points when a picture is mirrored: they move, and those of left and right change places."""

from functools import cache

import numpy as np

from portraitgen.faces.face_geometry import NUM_VERTICES, canonical_face

KEY_POINTS = np.array([1, 0, 2, 4, 3])
"""Of the mirrored five key points, which they were: "left" is left in the picture."""


@cache
def mirror_order(scheme: str) -> np.ndarray:
    """Of the landmarks of a mirrored picture, which they were: int64 [K].

    Raises:
        ValueError: landmarks of this scheme cannot be mirrored.
    """
    if scheme == "ibug68":
        return _ibug68()
    if scheme == "mediapipe478":
        return _mediapipe478()
    raise ValueError(f"landmarks of scheme {scheme!r} cannot be mirrored; known: ibug68, mediapipe478")


def mirror_points(points: np.ndarray, *, width: int) -> np.ndarray:
    """Points [..., 2] of a picture of this width where its mirrored form has them; their order stays."""
    return np.asarray(np.stack([width - points[..., 0], points[..., 1]], axis=-1))


def mirror_boxes(boxes: np.ndarray, *, width: int) -> np.ndarray:
    """Boxes [..., 4] xyxy of a picture of this width where its mirrored form has them."""
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    return np.stack([width - right, top, width - left, bottom], axis=-1)


def _ibug68() -> np.ndarray:
    parts = (
        *([*range(16, -1, -1)], [*range(26, 16, -1)]),  # jaw, brows
        *([*range(27, 31)], [*range(35, 30, -1)]),  # bridge of the nose, nostrils
        [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],  # eyes: upper lid from the outer corner, lower lid
        [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55],  # lips, outer edge, then inner edge
        [64, 63, 62, 61, 60, 67, 66, 65],
    )
    return np.concatenate([np.array(part) for part in parts])


def _mediapipe478() -> np.ndarray:
    """The canonical face is symmetric to the bit; the rings of both irises run the same way round."""
    vertices = canonical_face().vertices
    places = {tuple(vertex): number for number, vertex in enumerate(vertices.tolist())}
    mesh = [places[-x, y, z] for x, y, z in vertices.tolist()]
    assert len(mesh) == NUM_VERTICES
    irises = [473, 476, 475, 474, 477, 468, 471, 470, 469, 472]
    return np.array([*mesh, *irises])
