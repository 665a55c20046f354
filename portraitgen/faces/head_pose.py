"""Head poses: as matrices and as six numbers, smoothed in time, and the projection of posed faces.

Spaces, units and the camera are those of `face_geometry`.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from portraitgen.faces.face_geometry import NEAR, VERTICAL_FOV

_FAR = 10_000.0
# Exact would be 1. The official projection takes its depth from the wrong row of its float32 matrix, which
# makes pictures smaller by a ten-thousandth; it is kept for equal drawings.
_DEPTH = _FAR * NEAR / (_FAR - NEAR)


def pose_matrices(poses: np.ndarray) -> np.ndarray:
    """Pose matrices [..., 4, 4] of poses [..., 6]: turns about x, y and z in degrees, then x, y, z in cm.

    The turns are about the fixed axes, x first.
    """
    flat = poses.reshape(-1, 6)
    matrices = np.tile(np.eye(4), (len(flat), 1, 1))
    matrices[:, :3, :3] = Rotation.from_euler("xyz", flat[:, :3], degrees=True).as_matrix()
    matrices[:, :3, 3] = flat[:, 3:]
    return matrices.reshape(*poses.shape[:-1], 4, 4)


def pose_vectors(matrices: np.ndarray) -> np.ndarray:
    """Poses [..., 6] (see `pose_matrices`) of pose matrices [..., 4, 4]; a scale in them is left out.

    The turn about y lies in [-90, 90], the others in [-180, 180].
    """
    flat = matrices.reshape(-1, 4, 4).astype(np.float64)
    angles = Rotation.from_matrix(flat[:, :3, :3]).as_euler("xyz", degrees=True)
    return np.concatenate([angles, flat[:, :3, 3]], axis=1).reshape(*matrices.shape[:-2], 6)


def smooth(sequence: np.ndarray, window: int = 5) -> np.ndarray:
    """Centred moving mean, float [T, ...], over `window` frames, an even number counting as the next odd one.

    At the ends only the frames that exist are averaged.
    """
    reach = window // 2
    return np.array([sequence[max(0, t - reach) : t + reach + 1].mean(axis=0) for t in range(len(sequence))])


def smooth_poses(poses: np.ndarray, window: int = 5) -> np.ndarray:
    """`smooth` for poses [T, 6]: a turn past ±180 degrees goes on beyond instead of jumping back."""
    turns = np.unwrap(poses[:, :3], axis=0, period=360)
    return smooth(np.concatenate([turns, poses[:, 3:]], axis=1), window)


def project(vertices: np.ndarray, matrices: np.ndarray, *, image_size: tuple[int, int]) -> np.ndarray:
    """Where faces appear in the picture.

    Args:
        vertices: float [..., K, 3] in cm.
        matrices: float [..., 4, 4] into camera space; the same leading dimensions, or ones to broadcast.
        image_size: (height, width) of the picture.

    Returns:
        float [..., K, 2] in pixels; beyond the picture for points outside it. All lie a ten-thousandth too
        near to its centre, as in the official code.
    """
    height, width = image_size
    in_camera = vertices @ np.swapaxes(matrices[..., :3, :3], -1, -2) + matrices[..., None, :3, 3]
    # In camera space y points up and the face lies at negative z.
    focal = 1 / np.tan(np.radians(VERTICAL_FOV) / 2)
    lens = np.array([focal * height / width, -focal, -_DEPTH], np.float32)
    scaled = in_camera * lens
    return (scaled[..., :2] / scaled[..., 2:] + 1) / 2 * [width, height]
