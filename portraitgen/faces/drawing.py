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
# The curves of a scheme take its landmarks one after the other.
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
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the landmarks of T frames.

    Args:
        landmarks: float [T, K, 2] in pixels of a picture of `image_size`. A curve with a NaN point is left
            out, so frames without a face stay black.
        image_size: (height, width) that the landmarks refer to.
        canvas_size: (height, width) of the drawings.
        scheme: order and meaning of the landmarks: `ibug68`, or `mediapipe478`, drawn as AniPortrait does.
        out: where the drawings go, of the shape and dtype of the result; None: to memory of their own.

    Returns:
        uint8 [T, 3, H, W] RGB on black; lines are 2 px wide at 512 and scale with the canvas, at least 1 px.

    Raises:
        ValueError: unknown scheme, or landmarks of another shape.
    """
    if out is None:
        out = np.empty((len(landmarks), 3, *canvas_size), np.uint8)
    if scheme == "mediapipe478":
        out[:] = draw_face_mesh(landmarks, image_size=image_size, canvas_size=canvas_size)
        return out
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
    positions = landmarks * stretch - 0.5
    lines = [slice(curve.first, curve.last + 1) for curve in curves]
    drawn = np.stack([~np.isnan(positions[:, line]).any(axis=(1, 2)) for line in lines], axis=1)
    used = np.repeat(drawn, [curve.last + 1 - curve.first for curve in curves], axis=1)
    points = np.nan_to_num((positions * 2**_SUBPIXEL_BITS).round()).astype(np.int32)
    out[:] = 0
    canvas = np.zeros((height, width, 3), np.uint8)
    for planes, face, is_drawn, is_used in zip(out, points, drawn, used, strict=True):
        if not is_drawn.any():
            continue
        # A face is drawn by itself and put where it belongs: most of a picture is black.
        left, top, right, bottom = _bounds(face[is_used], canvas_size, thickness)
        part = canvas[top:bottom, left:right]
        face -= np.array([left, top], np.int32) << _SUBPIXEL_BITS
        for curve, line, present in zip(curves, lines, is_drawn, strict=True):
            if present:
                cv2.polylines(
                    part, [face[line]], curve.closed, curve.colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS
                )
        for channel, plane in enumerate(planes):
            cv2.extractChannel(part, channel, plane[top:bottom, left:right])
        part[:] = 0
    return out


def _bounds(points: np.ndarray, canvas_size: tuple[int, int], thickness: int) -> tuple[int, int, int, int]:
    """Pixels that lines through `points`, int32 [K, 2] in parts of a pixel, can touch: x and y of the first,
    and of those after the last. All of the canvas where a line comes near its border, where cv2 cuts it.
    """
    height, width = canvas_size
    margin = thickness + 2
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, top = (left >> _SUBPIXEL_BITS) - margin, (top >> _SUBPIXEL_BITS) - margin
    right, bottom = (right >> _SUBPIXEL_BITS) + margin + 2, (bottom >> _SUBPIXEL_BITS) + margin + 2
    if left < 0 or top < 0 or right > width or bottom > height:
        return 0, 0, width, height
    return left, top, right, bottom
