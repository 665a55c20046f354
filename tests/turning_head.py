"""A stand-in for MediaPipe, which is an extra: its mesh of a head that turns, frame by frame."""

from collections.abc import Collection

import numpy as np

from portraitgen.faces.face_geometry import NEAR, VERTICAL_FOV, canonical_face
from portraitgen.faces.head_pose import pose_matrices
from portraitgen.faces.types import Face, FaceMesh


def mesh_points(pose: np.ndarray) -> np.ndarray:
    """Landmarks as MediaPipe gives them, [478, 3], of the canonical face in a pose, in a square picture."""
    x, y, z = (canonical_face().vertices @ pose[:3, :3].T + pose[:3, 3]).T
    side = 2 * NEAR * np.tan(np.radians(VERTICAL_FOV) / 2)
    depth = -z / -z.mean()
    points = np.stack([NEAR * x / -z / side + 0.5, 0.5 - NEAR * y / -z / side, NEAR * (depth - 1) / side])
    return np.pad(points.T, ((0, 10), (0, 0))).astype(np.float32)


class TurningHead:
    """Finds in its t-th picture a head at pose t, and a bystander's; nobody in the pictures `blind`.

    Args:
        boxes: of the head, one a picture.
    """

    def __init__(self, boxes: np.ndarray, blind: Collection[int] = ()) -> None:
        turns = np.zeros((len(boxes), 6))
        turns[:, 1], turns[:, 5] = np.linspace(-20, 20, len(boxes)), -40
        self.poses = pose_matrices(turns)
        self._boxes, self._blind, self._frame = boxes, blind, -1

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        self._frame = (self._frame + 1) % len(self._boxes)
        if self._frame in self._blind:
            return []
        mesh = FaceMesh(
            mesh_points(self.poses[self._frame]), np.zeros(52, np.float32), np.eye(4, dtype=np.float32)
        )
        points = np.zeros((478, 2), np.float32)
        bystander = Face(np.array([0, 0, 4, 4], np.float32), 0.9, points, points[:5])
        return [bystander, Face(self._boxes[self._frame], 0.8, points, points[:5], mesh=mesh)]
