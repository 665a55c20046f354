"""Five key points of a face drawn as a picture, as ConsisID shows them (`draw_kps` of its pipeline)."""

import math

import cv2
import numpy as np

_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
_NOSE, _LINES = 2, (0, 1, 3, 4)
_HALF_WIDTH, _RADIUS, _DIMMED = 4, 10, 0.6


def draw_key_points(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] RGB on black: discs, and dimmer lines from the nose to the others, of fixed widths.

    Args:
        points: [5, 2] in pixels, in ArcFace's order.
        size: (H, W).
    """
    drawn = np.zeros((*size, 3), np.uint8)
    nose = points[_NOSE]
    for number in _LINES:
        across, down = (points[number] - nose).tolist()
        middle = (points[number] + nose) / 2
        line = cv2.ellipse2Poly(
            (int(middle[0]), int(middle[1])),
            (int(math.hypot(across, down) / 2), _HALF_WIDTH),
            int(math.degrees(math.atan2(down, across))),
            0,
            360,
            1,
        )
        cv2.fillConvexPoly(drawn, np.asarray(line), _COLOURS[number])
    drawn = (drawn * _DIMMED).astype(np.uint8)
    for (x, y), colour in zip(points.tolist(), _COLOURS, strict=True):
        cv2.circle(drawn, (int(x), int(y)), _RADIUS, colour, -1)
    return drawn
