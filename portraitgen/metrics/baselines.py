"""What a network has to beat: copying the reference, or the training frame with the nearest face."""

import numpy as np
import torch
from torch import Tensor

from portraitgen.metrics.frames import ChosenFrames, Frames
from portraitgen.metrics.rgb import Clip


def copy_reference(reference: Clip, num_frames: int) -> Tensor:
    """The reference frame [3, H, W] shown `num_frames` times: [num_frames, 3, H, W], no memory copied."""
    return torch.as_tensor(reference).expand(num_frames, -1, -1, -1)


def copy_nearest(
    train_frames: Frames, train_landmarks: np.ndarray, driving_landmarks: np.ndarray
) -> ChosenFrames:
    """For every driving frame the training frame whose landmarks lie nearest: the stronger control.

    It shows a sharp, real picture of the right person in about the right pose, and knows nothing else.

    Args:
        train_frames: N of them.
        train_landmarks: [N, K, 2] in pixels; frames with a NaN in them are never chosen.
        driving_landmarks: [T, K, 2] in the same pixels.

    Returns:
        T of `train_frames`, which are fetched when they are looked at.

    Raises:
        ValueError: see `nearest_by_landmarks`, or frames and landmarks differ in number.
    """
    count, channels, height, width = train_frames.shape
    if count != len(train_landmarks):
        raise ValueError(f"{count} training frames, but landmarks for {len(train_landmarks)}")
    chosen = nearest_by_landmarks(train_landmarks, driving_landmarks)
    shape = (len(chosen), channels, height, width)
    return ChosenFrames(shape, lambda places: train_frames.at(chosen[places]))


def nearest_by_landmarks(candidates: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """Index of the candidate nearest to each driving frame by mean L2 distance over the points.

    A driving frame without landmarks (NaN) takes the choice of the frame nearest in time that has them.

    Args:
        candidates: [N, K, 2] in pixels.
        driving: [T, K, 2] in pixels.

    Returns:
        int64 [T] in 0..N-1; the first of several equally near ones.

    Raises:
        ValueError: the numbers of points differ, or no candidate or no driving frame has landmarks.
    """
    if candidates.shape[1:] != driving.shape[1:]:
        raise ValueError(
            f"landmarks of two kinds: {list(candidates.shape[1:])} a training frame, "
            f"{list(driving.shape[1:])} a driving frame; use one face backend for both"
        )
    usable = np.flatnonzero(np.isfinite(candidates).all(axis=(1, 2)))
    driven = np.flatnonzero(np.isfinite(driving).all(axis=(1, 2)))
    for name, found in (("training", usable), ("driving", driven)):
        if not len(found):
            raise ValueError(f"no {name} frame has landmarks, so that none can be chosen by them")
    chosen = np.empty(len(driving), dtype=np.int64)
    for frame in driven:
        distances = np.linalg.norm(candidates[usable] - driving[frame], axis=-1).mean(axis=-1)
        chosen[frame] = usable[np.argmin(distances)]
    everywhere = np.arange(len(driving))
    return chosen[driven[np.abs(everywhere[:, None] - driven).argmin(axis=1)]]
