"""Sync-C and Sync-D: how surely, and how closely, SyncNet's lip features follow the sound's."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, pairwise_distance

from portraitgen.metrics.networks.syncnet import WINDOW, SyncNet, embed_clip, num_windows

MAX_SHIFT = 15
"""Video frames by which the sound is tried earlier and later."""
MIN_WINDOWS = 50
"""Below this the zeros beyond the ends of the clip decide the score: 7 windows have confidence 0."""


@dataclass(frozen=True, slots=True)
class SyncScore:
    """How lips and sound of one clip belong together.

    Attributes:
        confidence: Sync-C (LSE-C), the median over shifts of the mean distance minus the smallest; more is
            better.
        distance: Sync-D (LSE-D), the smallest over shifts of the mean distance; less is better.
        offset: frames by which the sound comes before the lips, so must be delayed to fit; 0 is in sync.
        shift_distances: float32 [2 · max_shift + 1], mean distance at each shift.
        frame_confidence: float32 [N], the confidence of each window at the best shift.
        reason: why there is no score, or None. Then all of the above are NaN or empty.
    """

    confidence: float
    distance: float
    offset: float
    shift_distances: Tensor
    frame_confidence: Tensor
    reason: str | None = None


def compare_shifts(lips: Tensor, sounds: Tensor, *, max_shift: int = MAX_SHIFT) -> SyncScore:
    """Compare lip features with those of the sound, moved by -max_shift to +max_shift windows.

    As joonson/syncnet_python: the sound is continued by features of zeros, and 1e-6 is added to every
    difference before its norm. Any number of windows is compared; `score_sync` refuses short clips.

    Args:
        lips: [N, D], N at least 1.
        sounds: [N, D].

    Raises:
        ValueError: the shapes differ, or there are no windows.
    """
    if lips.shape != sounds.shape or lips.ndim != 2 or not len(lips):
        raise ValueError(
            f"lip and audio features must both be [N, D] with N at least 1, got {list(lips.shape)} and "
            f"{list(sounds.shape)}"
        )
    padded = pad(sounds, (0, 0, max_shift, max_shift))
    count = len(lips)
    shifts = range(2 * max_shift + 1)
    distances = torch.stack([pairwise_distance(lips, padded[shift : shift + count]) for shift in shifts])
    means = distances.mean(dim=1)
    best = int(means.argmin())
    median = means.median()
    return SyncScore(
        confidence=float(median - means[best]),
        distance=float(means[best]),
        offset=float(max_shift - best),
        shift_distances=means,
        frame_confidence=median - distances[best],
    )


def score_sync(network: SyncNet, frames: Tensor, audio: np.ndarray) -> SyncScore:
    """Sync-C and Sync-D of one clip; without a score, and with the reason, when it is too short.

    SyncNet can be pleased by a face that hardly moves: report the motion (`motion_variance`) beside it, and
    the scores of the real videos. Scores of full frames instead of face crops are other numbers.

    Args:
        frames: [T, 3, 224, 224] uint8 RGB at 25 fps, the face cropped as SyncNet's pipeline crops it (track
            box, smoothed over 13 frames, enlarged by 0.4).
        audio: [N] float mono in [-1, 1] at 16 kHz.

    Raises:
        ValueError: as `embed_clip`.
    """
    lacking = too_short(num_windows(len(frames), len(audio)))
    return (
        compare_shifts(*embed_clip(network, frames, audio))
        if lacking is None
        else SyncScore(np.nan, np.nan, np.nan, torch.zeros(0), torch.zeros(0), lacking)
    )


def too_short(count: int) -> str | None:
    """Why so few windows of lips and sound have no score; None of enough."""
    if count >= MIN_WINDOWS:
        return None
    return (
        f"{count} windows of lips and sound, fewer than {MIN_WINDOWS}: a clip of at least "
        f"{MIN_WINDOWS + WINDOW} frames at 25 fps is needed"
    )
