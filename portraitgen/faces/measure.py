"""Numbers read off landmarks: how far two faces differ, how open the mouth is, where the head turns.

All are ratios to the distance between the outer eye corners, so they do not depend on the size of the face.
"""

import numpy as np

_LEFT_EYE_OUTER, _RIGHT_EYE_OUTER = 36, 45
# Scheme → inner upper lip, inner lower lip, outer eye corners.
_MOUTHS = {
    "ibug68": ((61, 62, 63), (67, 66, 65), (_LEFT_EYE_OUTER, _RIGHT_EYE_OUTER)),
    "mediapipe478": ((82, 13, 312), (87, 14, 317), (33, 263)),
}
NOSE_TIP = 30
UPPER_FACE = (0, 1, 2, 14, 15, 16, *range(17, 27), *range(27, 36), *range(36, 48))
"""37 of the 68 iBUG points that speech hardly moves: upper jaw line, brows, nose, eyes."""
# Scheme → tip of the nose, and the 37 points; of MediaPipe's mesh those at the same places.
_UPPER_FACES = {
    "ibug68": (NOSE_TIP, UPPER_FACE),
    "mediapipe478": (
        4,
        (
            *(162, 234, 93, 323, 454, 389),
            *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
            *(168, 197, 5, 4, 75, 97, 2, 326, 305),
            *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
        ),
    ),
}


def upper_face(scheme: str) -> tuple[int, tuple[int, ...]]:
    """The tip of the nose and the 37 points of the upper face in landmarks of a scheme.

    Raises:
        ValueError: landmarks of a scheme other than `ibug68` and `mediapipe478`.
    """
    if scheme not in _UPPER_FACES:
        raise ValueError(
            f"no upper face known in landmarks of scheme {scheme!r}; known: {', '.join(_UPPER_FACES)}"
        )
    return _UPPER_FACES[scheme]


def interocular_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance [...] in pixels between the outer eye corners of landmarks [..., 68, 2]."""
    return np.asarray(
        np.linalg.norm(landmarks[..., _RIGHT_EYE_OUTER, :] - landmarks[..., _LEFT_EYE_OUTER, :], axis=-1)
    )


def landmark_error(found: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """Normalised mean error [...] of landmarks [..., 68, 2]: mean distance over the driving face's eye
    distance.

    NaN where either face was not found.
    """
    distance = np.linalg.norm(found - driving, axis=-1).mean(axis=-1)
    return np.asarray(distance / interocular_distance(driving))


def mouth_opening(landmarks: np.ndarray, scheme: str = "ibug68") -> np.ndarray:
    """Mean gap [...] between the inner lips of landmarks [..., K, 2], over the eye distance; 0 is closed.

    Raises:
        ValueError: landmarks of a scheme other than `ibug68` and `mediapipe478`.
    """
    if scheme not in _MOUTHS:
        raise ValueError(f"no mouth known in landmarks of scheme {scheme!r}; known: {', '.join(_MOUTHS)}")
    upper, lower, eyes = _MOUTHS[scheme]
    gap = landmarks[..., lower, :] - landmarks[..., upper, :]
    across = landmarks[..., eyes[1], :] - landmarks[..., eyes[0], :]
    return np.asarray(np.linalg.norm(gap, axis=-1).mean(axis=-1) / np.linalg.norm(across, axis=-1))


def mouth_closed_frame(landmarks: np.ndarray, scheme: str = "ibug68") -> int:
    """Of T frames [T, K, 2] the one with the most closed mouth: what stands for a face that says nothing."""
    return int(mouth_opening(landmarks, scheme).argmin())


def head_yaw(keypoints: np.ndarray) -> np.ndarray:
    """Where the nose tip stands along the line of the eyes [...], for key points [..., 5, 2] of any backend.

    0 is a frontal face, positive one that looks to the right of the picture; 0.5 when the nose tip has
    reached the eye, a half profile; 0 where both eyes are in one place. A score, not an angle; unchanged by
    roll.
    """
    left, right, nose = (keypoints[..., point, :] for point in range(3))
    axis = right - left
    along = ((nose - (left + right) / 2) * axis).sum(axis=-1)
    length = (axis**2).sum(axis=-1)
    return np.asarray(np.divide(along, length, out=np.zeros_like(along), where=length > 0))
