"""Make one face follow another: the driving landmarks, as the reference face would show them."""

from typing import Literal

import numpy as np

from portraitgen.faces.face_geometry import face_geometry
from portraitgen.faces.head_pose import project
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.faces.retarget import (
    fit_expression,
    nearest_turn,
    neutral_frame,
    retarget_expression,
    retarget_pose,
)
from portraitgen.media.geometry import apply_affine, similarity_transform

Transfer = Literal["auto", "3d", "2d"]


def transfer_motion(
    driving: LandmarkSequence,
    reference: LandmarkSequence,
    *,
    how: Transfer = "auto",
    raw: bool = False,
    smooth_frames: int = 3,
) -> np.ndarray:
    """Landmarks of the reference face that moves as the driving face does.

    In 3D (AniPortrait's video to video) the reference keeps its own shape, and takes the expression and the
    turns of the driving head. It is at its own place in the frame that is turned most as it is (AniPortrait:
    in the first), and the whole clip is shifted where the head would leave the picture. In 2D, for landmarks
    without depth, the driving landmarks are laid over the reference's by the similarity that fits the frame
    whose pose is nearest to the reference's: place and size of the head are the reference's, shape, turns and
    expression the driving face's.

    Args:
        driving: T frames.
        reference: one frame.
        how: "3d" needs meshes of both; "auto" is 3D where there are, else 2D.
        raw: of MediaPipe's own points, not of the corrected ones (see `LandmarkSequence.positions`).
        smooth_frames: frames over which the head's motion is smoothed, in 3D.

    Returns:
        float32 [T, K, 2] in pixels of the reference's picture; in 3D K = 468.

    Raises:
        ValueError: the two faces' landmarks are of different kinds, or there is no mesh for 3D.
    """
    if driving.scheme != reference.scheme:
        raise ValueError(
            f"the driving landmarks are {driving.scheme}, those of the reference {reference.scheme}: "
            "find both with one face backend (faces=…)"
        )
    points, wanted = driving.points.shape[1], reference.points.shape[1]
    if points != wanted:
        raise ValueError(f"{driving.scheme}: the driving face has {points} points, the reference's {wanted}")
    meshes = driving.mesh is not None and reference.mesh is not None
    if how == "2d" or (how == "auto" and not meshes):
        moving, still = driving.positions(raw=raw), reference.positions(raw=raw)[0]
        to_reference = similarity_transform(moving[nearest_in_pose(moving, still)], still)
        return apply_affine(moving, to_reference).astype(np.float32)
    if not meshes:
        raise ValueError("retarget=3d needs depth, which only faces=mediapipe finds; or take retarget=2d")
    return _transfer_in_3d(driving, reference, raw=raw, smooth_frames=smooth_frames)


def nearest_in_pose(moving: np.ndarray, still: np.ndarray) -> int:
    """The frame in which a face is held most as in another picture.

    It is the one whose landmarks, brought to the same centre and size but not turned, are nearest.

    Args:
        moving: [T, K, 2].
        still: [K, 2].
    """

    def shape(points: np.ndarray) -> np.ndarray:
        centred = points - points.mean(axis=-2, keepdims=True)
        return centred / np.sqrt(np.square(centred).sum(axis=(-2, -1), keepdims=True))

    return int(np.square(shape(moving) - shape(still)).sum(axis=(-2, -1)).argmin())


def _transfer_in_3d(
    driving: LandmarkSequence, reference: LandmarkSequence, *, raw: bool, smooth_frames: int
) -> np.ndarray:
    assert driving.blendshapes is not None
    faces, poses = zip(
        *(face_geometry(mesh, image_size=driving.image_size) for mesh in driving.meshes(raw=raw)),
        strict=True,
    )
    vertices = np.stack(faces)
    face, pose = face_geometry(reference.meshes(raw=raw)[0], image_size=reference.image_size)
    if len(vertices) == 1:
        vertices = fit_expression(vertices[0], face)[None]
    else:
        # Without MediaPipe's first blendshape, "_neutral".
        neutral = neutral_frame(driving.blendshapes[:, 1:])
        vertices = retarget_expression(vertices, face, neutral=neutral)
    heads = np.stack(poses)
    moved = retarget_pose(heads, pose, window=smooth_frames, origin=nearest_turn(heads, pose))
    landmarks = project(vertices, moved, image_size=reference.image_size)
    return shifted_inside(landmarks, reference.image_size).astype(np.float32)


def shifted_inside(landmarks: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Landmarks of a clip, all shifted alike and as little as possible, so that none is out of the picture.

    Of motion that is wider than the picture, equally much leaves it on both sides.

    Args:
        landmarks: [T, K, 2] in pixels.
        image_size: (height, width).
    """
    size = np.array(image_size[::-1])
    low, high = landmarks.min(axis=(0, 1)), landmarks.max(axis=(0, 1))
    inside = np.clip(0.0, -low, size - high)
    return landmarks + np.where(high - low > size, (size - low - high) / 2, inside)
