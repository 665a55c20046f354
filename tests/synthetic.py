"""Drawn talking faces with known landmarks: shards without any file and without a detector."""

from fractions import Fraction

import cv2
import numpy as np

from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.measure import mouth_opening
from portraitgen.media.audio import SAMPLE_RATE, encode_wav
from portraitgen.media.encode import encode_clip

_UPPER_FIRST = np.radians([180, 120, 60, 0, 300, 240])


def synthetic_landmarks(num_frames: int, size: int, *, seed: int = 0) -> np.ndarray:
    """Landmarks of a face that sways, nods and talks: float32 [num_frames, 68, 2] pixels."""
    rng = np.random.default_rng(seed)
    speed, phase = rng.uniform(0.1, 0.4, 3), rng.uniform(0, 2 * np.pi, 3)
    sway, nod, talk = np.sin(np.arange(num_frames)[:, None] * speed + phase).T
    faces = np.stack([_face(mouth_opening=0.06 + 0.05 * opening) for opening in talk])
    scale = size * rng.uniform(0.28, 0.36)
    centre = size * np.stack([0.5 + 0.06 * sway, 0.47 + 0.04 * nod], axis=1)
    return (faces * scale + centre[:, None]).astype(np.float32)


def synthetic_frames(landmarks: np.ndarray, size: int, *, seed: int = 0) -> np.ndarray:
    """Pictures of these faces on a textured ground: uint8 [T, size, size, 3] RGB."""
    rng = np.random.default_rng(seed)
    skin, lips, ground = rng.integers((170, 130, 40), (240, 200, 160), (3, 3))
    texture = cv2.resize(rng.integers(-25, 25, (8, 8, 3)).astype(np.float32), (size, size))
    background = np.clip(ground + texture, 0, 255).astype(np.uint8)
    frames = np.repeat(background[None], len(landmarks), axis=0)
    for frame, points in zip(frames, landmarks.round().astype(np.int32), strict=True):
        cv2.fillConvexPoly(frame, cv2.convexHull(points), skin.tolist(), cv2.LINE_AA)
        for eye in (points[36:42], points[42:48]):
            cv2.fillConvexPoly(frame, eye, (250, 250, 250), cv2.LINE_AA)
            cv2.circle(frame, eye.mean(axis=0).astype(int).tolist(), max(size // 64, 1), (20, 20, 20), -1)
        cv2.polylines(
            frame, [points[17:22], points[22:27], points[27:36]], False, (60, 40, 30), max(size // 64, 1)
        )
        cv2.fillPoly(frame, [points[48:60]], (lips // 2).tolist(), cv2.LINE_AA)
        cv2.fillPoly(frame, [points[60:68]], (40, 10, 10), cv2.LINE_AA)
    return frames


def synthetic_sound(landmarks: np.ndarray, *, fps: int = 25) -> np.ndarray:
    """A hum that is as loud as the mouth of landmarks [T, 68, 2] is open: float32 [T * 16000 / fps]."""
    loudness = mouth_opening(landmarks)
    time = (np.arange(len(landmarks) * SAMPLE_RATE // fps) + 0.5) / SAMPLE_RATE
    envelope = np.interp(time * fps - 0.5, np.arange(len(landmarks)), loudness)
    return (envelope * np.sin(2 * np.pi * 180 * time)).astype(np.float32)


def synthetic_clip(
    source_id: str,
    *,
    num_frames: int = 36,
    size: int = 64,
    seed: int = 0,
    valid: np.ndarray | None = None,
    sound: bool = False,
) -> ClipSample:
    """One clip of a drawn face, ready for ShardWriter.

    Args:
        source_id: first part of the key.
        num_frames, size: of the clip; size a multiple of 4.
        seed: of the face and its motion.
        valid: bool [num_frames], frames in which the face counts as found; default all.
        sound: whether the clip has one, see `synthetic_sound`.
    """
    landmarks = synthetic_landmarks(num_frames, size, seed=seed)
    video = encode_clip(synthetic_frames(landmarks, size, seed=seed), fps=25)
    heard = encode_wav(synthetic_sound(landmarks)) if sound else None
    found = np.ones(num_frames, bool) if valid is None else valid
    landmarks[~found] = np.nan
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    track = ClipTrack(
        boxes=boxes,
        scores=np.where(found, 1, np.nan).astype(np.float32),
        keypoints=np.stack([keypoints_from_ibug68(points) for points in landmarks]),
        landmarks=landmarks,
        valid=found,
    )
    return ClipSample(
        key=make_key(source_id),
        num_frames=num_frames,
        fps=Fraction(25),
        width=size,
        height=size,
        tracks=(track,),
        landmark_scheme="ibug68",
        affine=np.eye(2, 3, dtype=np.float32),
        source={"uri": source_id, "licence": "CC0-1.0"},
        video=video,
        audio=heard,
        scores={"min_face": float(np.nanmin(boxes[:, 3] - boxes[:, 1]))},
    )


def _face(mouth_opening: float) -> np.ndarray:
    """The 68 points of a frontal face in units of its half height: float [68, 2]."""

    def ellipse(x: float, y: float, width: float, height: float, angles: np.ndarray) -> np.ndarray:
        return np.stack([x + width * np.cos(angles), y - height * np.sin(angles)], axis=1)

    brow = np.stack([np.linspace(-0.65, -0.2, 5), [-0.42, -0.5, -0.53, -0.5, -0.45]], axis=1)
    return np.concatenate(
        [
            ellipse(0, 0, 0.8, 0.95, np.linspace(np.pi, 2 * np.pi, 17)),
            brow,
            (brow * (-1, 1))[::-1],
            np.stack([np.zeros(4), np.linspace(-0.25, 0.1, 4)], axis=1),
            np.stack([np.linspace(-0.16, 0.16, 5), [0.18, 0.21, 0.23, 0.21, 0.18]], axis=1),
            ellipse(-0.38, -0.2, 0.16, 0.07, _UPPER_FIRST),
            ellipse(0.38, -0.2, 0.16, 0.07, _UPPER_FIRST),
            ellipse(0, 0.5, 0.32, 0.06 + mouth_opening, np.pi - np.arange(12) * np.pi / 6),
            ellipse(0, 0.5, 0.24, mouth_opening, np.pi - np.arange(8) * np.pi / 4),
        ]
    )
