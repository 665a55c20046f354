"""Find the cuts in a video, so that no track or clip runs across one."""

from collections.abc import Iterable
from fractions import Fraction

import cv2
import numpy as np

_THUMBNAIL = 32
_NEIGHBOURS = 4
_STILL = 2e-4


def scene_cuts(
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | float = 25,
    min_change: float = 0.05,
    min_prominence: float = 5.0,
) -> list[int]:
    """First frame of each new shot.

    The change between successive frames is the mean absolute difference of 32x32 RGB thumbnails, as a share
    of the full range. A cut is a change that is large in itself and a multiple of those around it: a
    talking or moving person changes the picture much more gently, and steady fast motion changes it at
    every frame alike. Dissolves are not found.

    Args:
        frames: uint8 [H, W, 3] pictures, streamed.
        min_change: least change of a cut, 0..1.
        min_prominence: least ratio of the change to the median of the four before and the four after it.
    """
    changes: list[float] = []
    last: np.ndarray | None = None
    for image in frames:
        thumbnail = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        current = thumbnail.astype(np.float32) / 255
        if last is not None:
            changes.append(float(np.abs(current - last).mean()))
        last = current
    reach = max(_NEIGHBOURS, round(fps))
    cuts = []
    for place, change in enumerate(changes):
        if change < min_change:
            continue
        before = [each for each in changes[max(place - reach, 0) : place] if each > _STILL]
        after = [each for each in changes[place + 1 : place + 1 + reach] if each > _STILL]
        around = before[-_NEIGHBOURS:] + after[:_NEIGHBOURS]
        if change >= min_prominence * float(np.median(around or [0.0])):
            cuts.append(place + 1)
    return cuts
