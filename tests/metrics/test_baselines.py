import numpy as np
import pytest
import torch

from portraitgen.metrics.baselines import copy_nearest, copy_reference, nearest_by_landmarks
from portraitgen.metrics.frames import HeldFrames


@pytest.fixture
def landmarks() -> np.ndarray:
    """Ten poses of five points, float32 [10, 5, 2]."""
    return np.random.default_rng(0).normal(32, 10, (10, 5, 2)).astype(np.float32)


def test_reference_is_shown_as_often_as_asked():
    reference = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 4, 4)
    copies = copy_reference(reference, 5)
    assert copies.shape == (5, 3, 4, 4)
    assert all(torch.equal(copy, reference) for copy in copies)


def test_nearest_finds_each_pose_again(landmarks):
    order = np.array([3, 3, 0, 9, 5])
    shaken = landmarks[order] + np.random.default_rng(1).normal(0, 0.1, (5, 5, 2))
    assert nearest_by_landmarks(landmarks, shaken).tolist() == order.tolist()
    frames = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    copies = copy_nearest(HeldFrames(frames, name="training frames"), landmarks, shaken)
    assert copies.shape == (5, 3, 2, 2)
    assert torch.cat([*copies.chunks()])[:, 0, 0, 0].tolist() == order.tolist()


def test_distance_is_the_mean_over_points_not_the_root_of_squares():
    candidates = np.zeros((2, 2, 2))
    candidates[0, 0, 0] = 3.0  # mean distance 1.5, root mean square 2.12
    candidates[1, :, 0] = 1.6  # mean distance 1.6, root mean square 1.6
    assert nearest_by_landmarks(candidates, np.zeros((1, 2, 2))).tolist() == [0]


def test_frames_without_landmarks_are_never_chosen_and_follow_their_neighbour(landmarks):
    candidates = landmarks.copy()
    candidates[3, 2] = np.nan
    driving = landmarks[[3, 7, 1]].copy()
    driving[2] = np.nan
    chosen = nearest_by_landmarks(candidates, driving)
    assert chosen[0] != 3
    assert chosen[1:].tolist() == [7, 7], "the last frame is driven by nothing and stays with the one before"


def test_landmarks_that_do_not_fit_are_an_error(landmarks):
    with pytest.raises(ValueError, match=r"two kinds: \[5, 2\] a training frame, \[4, 2\] a driving frame"):
        nearest_by_landmarks(landmarks, landmarks[:, :4])
    with pytest.raises(ValueError, match="no driving frame has landmarks"):
        nearest_by_landmarks(landmarks, np.full_like(landmarks, np.nan))
    with pytest.raises(ValueError, match="no training frame has landmarks"):
        nearest_by_landmarks(np.full_like(landmarks, np.nan), landmarks)
    with pytest.raises(ValueError, match="9 training frames, but landmarks for 10"):
        copy_nearest(torch.zeros(9, 3, 2, 2), landmarks, landmarks)
