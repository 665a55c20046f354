"""Draw landmarks as coloured curves: the pose pictures that drive a generator.

As AniPortrait draws its mesh (2 px lines on a black canvas of 512), but with every part in a colour of its
own, so that left and right and open and closed can be told apart, and with sub-pixel positions, so that a
small canvas still shows a small movement.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from portraitgen.faces.mesh_drawing import draw_face_mesh

_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class _Curve:
    """One part of a face: the landmarks first..last joined in order, in one RGB colour."""

    first: int
    last: int
    closed: bool
    colour: tuple[int, int, int]


# "Left" is left in the picture.
_CURVES = {
    "ibug68": (
        _Curve(0, 16, False, (160, 160, 160)),  # jaw, ear to ear
        _Curve(17, 21, False, (255, 128, 0)),  # left brow
        _Curve(22, 26, False, (0, 128, 255)),  # right brow
        _Curve(27, 30, False, (255, 255, 0)),  # nose bridge
        _Curve(31, 35, False, (128, 255, 0)),  # nostrils
        _Curve(36, 41, True, (255, 0, 0)),  # left eye
        _Curve(42, 47, True, (0, 0, 255)),  # right eye
        _Curve(48, 59, True, (255, 0, 255)),  # outer lips
        _Curve(60, 67, True, (0, 255, 255)),  # inner lips
    ),
}

DRAWN = frozenset({*_CURVES, "mediapipe478"})
"""Schemes that `draw_landmarks` knows."""


def draw_landmarks(
    landmarks: np.ndarray,
    *,
    image_size: tuple[int, int],
    canvas_size: tuple[int, int],
    scheme: str = "ibug68",
) -> np.ndarray:
    """Draw the landmarks of T frames.

    Args:
        landmarks: float [T, K, 2] in pixels of a picture of `image_size`. A curve with a NaN point is left
            out, so frames without a face stay black.
        image_size: (height, width) that the landmarks refer to.
        canvas_size: (height, width) of the drawings.
        scheme: order and meaning of the landmarks: `ibug68`, or `mediapipe478`, drawn as AniPortrait does.

    Returns:
        uint8 [T, 3, H, W] RGB on black; lines are 2 px wide at 512 and scale with the canvas, at least 1 px.

    Raises:
        ValueError: unknown scheme, or landmarks of another shape.
    """
    if scheme == "mediapipe478":
        return draw_face_mesh(landmarks, image_size=image_size, canvas_size=canvas_size)
    if scheme not in _CURVES:
        known = ", ".join(sorted(DRAWN))
        raise ValueError(f"cannot draw landmarks of scheme {scheme!r}; known: {known}")
    curves = _CURVES[scheme]
    count = max(curve.last for curve in curves) + 1
    if landmarks.ndim != 3 or landmarks.shape[1:] != (count, 2):
        raise ValueError(f"{scheme} landmarks must be [T, {count}, 2], got {landmarks.shape}")
    height, width = canvas_size
    thickness = max(round(2 * min(height, width) / 512), 1)
    stretch = np.array([width / image_size[1], height / image_size[0]])
    # cv2 puts whole numbers on pixel centres; landmarks have centres at .5.
    points = (landmarks * stretch - 0.5) * 2**_SUBPIXEL_BITS
    canvas = np.zeros((len(landmarks), height, width, 3), np.uint8)
    for picture, face in zip(canvas, points, strict=True):
        for curve in curves:
            line = face[curve.first : curve.last + 1]
            if np.isnan(line).any():
                continue
            cv2.polylines(
                picture,
                [line.round().astype(np.int32)],
                curve.closed,
                curve.colour,
                thickness,
                cv2.LINE_AA,
                _SUBPIXEL_BITS,
            )
    return np.ascontiguousarray(canvas.transpose(0, 3, 1, 2))
