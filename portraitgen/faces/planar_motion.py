"""Head motion and expression told apart in the picture's plane, for landmarks without depth.

The head's motion from one frame to another is the affine map that fits those points of the face which neither
speech nor expression moves: eye corners, bridge and root of the nose. It holds shift, roll and size exactly,
and turns of the head as far as a flat face shows them. What is left when it is undone is the expression.

All is in the coordinates of a face: the origin between the outer eye corners, x along them to the right of
the picture, y down the face, their distance as unit. So motion can be given to another face of any size.
"""

import torch
from torch import Tensor

POSE_SIZE = 6
"""An affine map less the identity: four numbers of its matrix, row by row, and the shift."""

# Scheme → points that do not move with the mouth, and the outer eye corners.
_STILL_POINTS = {
    "ibug68": ((27, 28, 29, 30, 31, 35, 36, 39, 42, 45), (36, 45)),
    "mediapipe478": ((168, 6, 197, 195, 5, 4, 98, 327, 33, 133, 362, 263), (33, 263)),
}


def planar_motion(landmarks: Tensor, origin: Tensor, *, scheme: str) -> tuple[Tensor, Tensor]:
    """The motion of a face from `origin` on.

    Args:
        landmarks: float [..., T, K, 2] in pixels.
        origin: float [..., K, 2], the same face as it is when nothing moves, in the same picture.
        scheme: order and meaning of the landmarks: `ibug68` or `mediapipe478`.

    Returns:
        offsets: [..., T, K, 2], expression: what the points move by beside the head.
        poses: [..., T, 6], head motion, see `POSE_SIZE`.

    Raises:
        ValueError: landmarks of another scheme.
    """
    still, _ = _points_of(scheme)
    base, scale, centre = _face_axes(origin, scheme)
    at_rest = _into_face(origin, base, scale, centre)
    moved = _into_face(landmarks, base[..., None, :, :], scale[..., None], centre[..., None, :])
    anchors = torch.nn.functional.pad(at_rest[..., still, :], (0, 1), value=1.0)
    gram = anchors.mT @ anchors
    # Not `inv`, which asks the device for its errors: the anchors of a face do not lie on a line.
    fit = torch.linalg.inv_ex(gram).inverse @ anchors.mT
    affine = fit[..., None, :, :] @ moved[..., still, :]  # [..., T, 3, 2]: rows of x, y and the shift
    matrix, shift = affine[..., :2, :].mT, affine[..., 2, :]
    undone = (moved - shift[..., None, :]) @ torch.linalg.inv_ex(matrix).inverse.mT
    change = matrix - torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    return undone - at_rest[..., None, :, :], torch.cat([change.flatten(-2), shift], dim=-1)


def move_planar(origin: Tensor, offsets: Tensor, poses: Tensor, *, scheme: str) -> Tensor:
    """A face with a motion: the inverse of `planar_motion`, for the same or any other face.

    Args:
        origin: float [..., K, 2] in pixels, the face when nothing moves.
        offsets: [..., T, K, 2], or a shape that can be broadcast to it.
        poses: [..., T, 6], likewise.

    Returns:
        float [..., T, K, 2] in the pixels of `origin`.

    Raises:
        ValueError: landmarks of a scheme without known still points.
    """
    base, scale, centre = _face_axes(origin, scheme)
    points = _into_face(origin, base, scale, centre)[..., None, :, :] + offsets
    matrix = poses[..., :4].unflatten(-1, (2, 2)) + torch.eye(2, dtype=poses.dtype, device=poses.device)
    moved = points @ matrix.mT + poses[..., None, 4:]
    return (moved * scale[..., None, None, None]) @ base[..., None, :, :] + centre[..., None, None, :]


def _points_of(scheme: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    if scheme not in _STILL_POINTS:
        known = ", ".join(_STILL_POINTS)
        raise ValueError(f"landmarks of scheme {scheme!r} have no known still points; known: {known}")
    return _STILL_POINTS[scheme]


def _face_axes(face: Tensor, scheme: str) -> tuple[Tensor, Tensor, Tensor]:
    """Axes as rows [..., 2, 2], unit [...] and origin [..., 2] of a face's coordinates, in pixels."""
    _, (left, right) = _points_of(scheme)
    across = face[..., right, :] - face[..., left, :]
    unit = across.norm(dim=-1)
    x_axis = across / unit[..., None]
    y_axis = torch.stack([-x_axis[..., 1], x_axis[..., 0]], dim=-1)
    return (
        torch.stack([x_axis, y_axis], dim=-2),
        unit,
        (face[..., left, :] + face[..., right, :]) / 2,
    )


def _into_face(points: Tensor, base: Tensor, unit: Tensor, centre: Tensor) -> Tensor:
    return (points - centre[..., None, :]) @ base.mT / unit[..., None, None]
