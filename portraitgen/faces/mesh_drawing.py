"""Draw MediaPipe's face mesh as AniPortrait does: the pictures that its published weights know.

Bit-equal to the official drawing, with OpenCV alone. For landmarks of other schemes see `drawing`.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from portraitgen.faces.face_geometry import NUM_VERTICES

_CANVAS = 512
_THICKNESS = 2


@dataclass(frozen=True, slots=True)
class _Curve:
    """Mesh vertices joined in order, in one colour."""

    colour: tuple[int, int, int]
    vertices: tuple[int, ...]


# "Left" is the person's left. Colours in the order of the channels that the network sees. Where curves cross
# the later one covers the earlier one, so the order of colours counts.
_JAW_COLOUR = (10, 200, 10)
_FOREHEAD = _Curve(_JAW_COLOUR, (21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251))
_CURVES = (
    # Round the chin, from the left temple to the right one.
    _Curve(
        _JAW_COLOUR,
        (
            *(251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
            *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21),
        ),
    ),
    # Left eye, lower and upper lid; left brow, lower and upper edge.
    _Curve((180, 200, 10), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
    _Curve((180, 200, 10), (263, 466, 388, 387, 386, 385, 384, 398, 362)),
    _Curve((180, 220, 10), (276, 283, 282, 295, 285)),
    _Curve((180, 220, 10), (300, 293, 334, 296, 336)),
    # Right eye and brow.
    _Curve((10, 200, 180), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    _Curve((10, 200, 180), (33, 246, 161, 160, 159, 158, 157, 173, 133)),
    _Curve((10, 220, 180), (46, 53, 52, 65, 55)),
    _Curve((10, 220, 180), (70, 63, 105, 66, 107)),
    # Lower lip: outer edge, right and left half, then inner edge.
    _Curve((10, 180, 20), (61, 146, 91, 181, 84, 17)),
    _Curve((20, 10, 180), (17, 314, 405, 321, 375, 291)),
    _Curve((100, 100, 30), (78, 95, 88, 178, 87, 14)),
    _Curve((100, 150, 50), (14, 317, 402, 318, 324, 308)),
    # Upper lip.
    _Curve((20, 80, 100), (61, 185, 40, 39, 37, 0)),
    _Curve((80, 100, 20), (0, 267, 269, 270, 409, 291)),
    _Curve((120, 100, 200), (78, 191, 80, 81, 82, 13)),
    _Curve((150, 120, 100), (13, 312, 311, 310, 415, 308)),
)


def draw_face_mesh(
    landmarks: np.ndarray,
    *,
    image_size: tuple[int, int],
    canvas_size: tuple[int, int],
    forehead: bool = False,
) -> np.ndarray:
    """Draw the face meshes of T frames.

    Lines are drawn on a square canvas of 512 px, which is then resized. A line with an end outside the
    picture, or NaN, is left out.

    Args:
        landmarks: float [T, K, 2] in pixels of a picture of `image_size`; MediaPipe's 478 points, or the 468
            without the irises, which are not drawn.
        image_size: (height, width) that the landmarks refer to; (1, 1) for MediaPipe's normalised ones.
        canvas_size: (height, width) of the drawings.
        forehead: also draw the hairline. The published weights were trained without.

    Returns:
        uint8 [T, 3, H, W] on black. The channels are in the order that the published weights expect.

    Raises:
        ValueError: landmarks of another shape.
    """
    if landmarks.ndim != 3 or landmarks.shape[1] < NUM_VERTICES or landmarks.shape[2] != 2:
        raise ValueError(f"a face mesh must be [T, {NUM_VERTICES} or more, 2], got {landmarks.shape}")
    # MediaPipe keeps normalised positions in float32, which decides the pixel now and then.
    height, width = image_size
    positions = (landmarks / np.array([width, height], np.float64)).astype(np.float32).astype(np.float64)
    inside = np.all((positions >= 0) & (positions <= 1), axis=-1, keepdims=True)
    pixels = np.minimum(np.where(inside, positions, 0) * _CANVAS, _CANVAS - 1).astype(np.int32)
    curves = (_FOREHEAD, *_CURVES) if forehead else _CURVES
    drawings = np.empty((len(landmarks), *canvas_size, 3), np.uint8)
    for drawing, face, drawable in zip(drawings, pixels.tolist(), inside[..., 0].tolist(), strict=True):
        canvas = np.zeros((_CANVAS, _CANVAS, 3), np.uint8)
        for curve in curves:
            for start, end in itertools.pairwise(curve.vertices):
                if drawable[start] and drawable[end]:
                    cv2.line(canvas, face[start], face[end], curve.colour, _THICKNESS)
        drawing[:] = cv2.resize(canvas, (canvas_size[1], canvas_size[0]))
    return np.ascontiguousarray(drawings.transpose(0, 3, 1, 2))
