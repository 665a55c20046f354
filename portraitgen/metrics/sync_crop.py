"""Face crops at 25 fps as SyncNet's pipeline cuts them, from the faces that our tracker follows."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from scipy.signal import medfilt
from torch import Tensor

from portraitgen.faces.tracking import track_faces
from portraitgen.faces.types import Face, Track
from portraitgen.metrics.networks.syncnet import FPS, SIZE

CROP_SCALE = 0.4
SMOOTHING = 13
"""Frames over which centre and size of the box are median filtered."""
BORDER = 110
"""Grey beyond the edges of the picture."""


def frames_at_syncnet_rate(num_frames: int, fps: float) -> np.ndarray:
    """For each frame at 25 fps the nearest frame of a clip: int64 [round(25 · T / fps)]."""
    times = np.arange(round(num_frames * FPS / fps)) / FPS
    return np.minimum(np.floor(times * fps + 0.5).astype(np.int64), num_frames - 1)


def longest_track(faces: Sequence[Sequence[Face]], *, min_score: float) -> Track | None:
    """The face that is followed for longest, or None where no face is followed at all."""
    tracks = track_faces([list(found) for found in faces], min_score=min_score)
    return max(tracks, key=lambda track: len(track.frames), default=None)


class FaceCrops:
    """Where a track is cut out in each frame from its first to its last, for SyncNet.

    As joonson/syncnet_python: centre and half the longer side of the box, median filtered over 13 frames, and
    a square of 1.4 times the box that reaches down further than up; boxes are interpolated where the tracker
    has a gap. There the boxes are those of the S3FD detector; other detectors cut more or less tightly, so
    scores compare among results of one face backend.

    Args:
        track: of frames at 25 a second, in their pixels.
    """

    def __init__(self, track: Track) -> None:
        self.places = np.arange(track.frames[0], track.frames[-1] + 1)
        """int64 [N], the frames that are cut, at 25 a second."""
        boxes = np.stack([np.interp(self.places, track.frames, side) for side in track.boxes.T], axis=1)
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        smooth = [medfilt(values, SMOOTHING) for values in (centres[:, 0], centres[:, 1], sizes)]
        self._squares = np.stack(smooth, axis=1)

    def cut(self, frames: Tensor, numbers: np.ndarray) -> Tensor:
        """Faces uint8 [M, 3, 224, 224] of frames uint8 [M, 3, H, W].

        Args:
            numbers: int64 [M], which of `places` each frame is.
        """
        if not len(numbers):
            return torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8)
        images = frames.permute(0, 2, 3, 1).cpu().numpy()
        squares = self._squares[numbers]
        crops = [_cut(image, *square) for image, square in zip(images, squares, strict=True)]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def crop_for_syncnet(frames: Tensor, track: Track) -> Tensor:
    """The frames of a track, from its first to its last, cut out around the face (`FaceCrops`).

    Args:
        frames: uint8 [T, 3, H, W] at 25 fps.
        track: in pixels of the frames.

    Returns:
        uint8 [N, 3, 224, 224].
    """
    crops = FaceCrops(track)
    return crops.cut(frames[crops.places], np.arange(len(crops.places)))


def _cut(image: np.ndarray, x: float, y: float, size: float) -> np.ndarray:
    """The square around (x, y) for a box of half side `size`, resized: uint8 [224, 224, 3]."""
    border = int(size * (1 + 2 * CROP_SCALE))
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), constant_values=BORDER)
    x, y = x + border, y + border
    top, bottom = int(y - size), int(y + size * (1 + 2 * CROP_SCALE))
    left, right = int(x - size * (1 + CROP_SCALE)), int(x + size * (1 + CROP_SCALE))
    return cv2.resize(padded[top:bottom, left:right], (SIZE, SIZE))
