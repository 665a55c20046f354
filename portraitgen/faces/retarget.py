"""Carry the motion of one face over to another: expression and head pose, as AniPortrait does.

Spaces, units and poses are those of `face_geometry` and `head_pose`.
"""

from fractions import Fraction

import numpy as np

from portraitgen.faces.face_geometry import canonical_face
from portraitgen.faces.head_pose import pose_matrices, pose_vectors, smooth, smooth_poses


def neutral_frame(blendshapes: np.ndarray) -> int:
    """The frame with the least expression, of blendshape scores [T, N] without MediaPipe's "_neutral"."""
    return int(blendshapes.sum(axis=1).argmin())


def retarget_expression(driving: np.ndarray, reference: np.ndarray, *, neutral: int) -> np.ndarray:
    """The reference face with the driving face's expressions.

    Args:
        driving: float [T, 468, 3], metric vertices of the driving face.
        reference: float [468, 3], those of the reference face; its expression should be neutral too.
        neutral: the frame of `driving` whose expression counts as none, see `neutral_frame`.

    Returns:
        float64 [T, 468, 3].
    """
    return driving - driving[neutral].astype(np.float64) + reference


def fit_expression(driving: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The reference face with the expression of a single picture, in which no frame is neutral.

    The driving face is brought to the proportions of the reference by the affine map that fits best the
    points that hardly move in a face, those by which MediaPipe fits its canonical face. What is left of the
    driving face are mouth, lids and brows.

    Args:
        driving, reference: float [468, 3], metric vertices.

    Returns:
        float64 [468, 3].
    """
    canonical = canonical_face()
    weights = np.sqrt(canonical.weights)[:, None]
    known = np.pad(driving, ((0, 0), (0, 1)), constant_values=1.0)
    anchors = canonical.anchors
    affine = np.linalg.lstsq(weights * known[anchors], weights * reference[anchors], rcond=None)[0]
    return np.asarray(known @ affine)


def retarget_pose(
    driving: np.ndarray, reference: np.ndarray, *, window: int = 3, origin: int = 0
) -> np.ndarray:
    """The reference head, moved as the driving head.

    It turns to where the driving head is turned, and from its own place it moves as far as the driving head
    does. The result is smoothed over `window` frames.

    Args:
        driving: float [T, 4, 4], poses of the driving head.
        reference: float [4, 4], pose of the reference head.
        origin: the frame in which the head is at its own place; with AniPortrait the first.

    Returns:
        float64 [T, 4, 4], with rotations free of scale.
    """
    poses = pose_vectors(driving)
    poses[:, 3:] += reference[:3, 3] - poses[origin, 3:]
    return pose_matrices(smooth_poses(poses, window))


def nearest_turn(driving: np.ndarray, reference: np.ndarray) -> int:
    """The frame in which a head is turned most as another one.

    Args:
        driving: float [T, 4, 4], poses.
        reference: float [4, 4].
    """
    turns = driving[:, :3, :3] / np.cbrt(np.linalg.det(driving[:, :3, :3]))[:, None, None]
    return int((turns * reference[:3, :3]).sum(axis=(1, 2)).argmax())  # the cosine of the angle between


def pose_template(driving: np.ndarray, *, fps: float, target_fps: float = 30, window: int = 5) -> np.ndarray:
    """A head motion that can be given to any face: poses relative to the first frame.

    Apply it as ``reference_pose @ pose_matrices(template)``.

    Args:
        driving: float [T, 4, 4], poses of a head in frames at `fps`.

    Returns:
        float64 [int(T * target_fps / fps), 6], interpolated from the first to the last pose and
        smoothed over `window` frames.
    """
    poses = pose_vectors(np.linalg.inv(driving[0]) @ driving)
    poses[:, :3] = np.unwrap(poses[:, :3], axis=0, period=360)
    known = np.arange(len(poses))
    # Fractions: 43 * 23.976 / 23.976 is below 43 in floating point.
    length = int(len(poses) * Fraction(target_fps) / Fraction(fps))
    wanted = np.linspace(0, len(poses) - 1, length)
    resampled = np.stack([np.interp(wanted, known, column) for column in poses.T], axis=1)
    return smooth(resampled, window)


def cycle_template(template: np.ndarray, num_frames: int) -> np.ndarray:
    """A motion [num_frames, ...] out of a short one [N, ...], run forth and back as often as needed."""
    there_and_back = np.concatenate([template, template[-2:0:-1]])
    return there_and_back[np.arange(num_frames) % len(there_and_back)]
