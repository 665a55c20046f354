"""Numbers that say how good a clip or photo is; training filters on them when it loads.

    min_face      px     smallest face in source pixels (longer side of its box)
    face_share    0..1   median face in the crop, as a share of the crop's side
    coverage      0..1   share of the frames in which the face was found
    detection            mean detection score, on the backend's scale
    head_motion   1/s    mean speed of the face, in face sizes a second
    yaw_max       0..1   largest turn of the head to a side, see faces/measure.head_yaw
    sharpness            variance of the Laplacian of the face's luma (8 bit), median over the frames
    brightness    0..1   mean luma of the face, median over the frames
    speech_share  0..1   share of the time in which somebody speaks (clips with sound; speech.py)
    sound_gaps           gaps in the sound of the source that were filled with silence (clips with sound)
    sync_conf, sync_dist, sync_offset   SyncNet's judgement, where its weights are given (runs/lip_sync.py)

Sharpness and brightness are of the stored pixels, so that clips of one size compare.
"""

from fractions import Fraction

import cv2
import numpy as np

from portraitgen.faces.measure import head_yaw
from portraitgen.faces.types import Track


def track_scores(track: Track, *, num_frames: int, fps: Fraction, side: int) -> dict[str, float]:
    """What the positions of a face along a clip of `num_frames` tell.

    Args:
        track: in pixels of the source.
        side: the shorter one of the crop, in pixels of the source.
    """
    faces = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1)
    # Key points jump less than boxes, which detectors place on a grid.
    centres = track.keypoints.mean(axis=1)
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    seconds = float((track.frames[-1] - track.frames[0]) / fps)
    return {
        "min_face": float(faces.min()),
        "face_share": float(np.median(faces)) / side,
        "coverage": len(track.frames) / num_frames,
        "detection": float(track.scores.mean()),
        "head_motion": float(steps.sum() / np.median(faces)) / seconds if seconds else 0.0,
        "yaw_max": float(np.abs(head_yaw(track.keypoints)).max()),
    }


def picture_scores(image: np.ndarray, box: np.ndarray) -> dict[str, float]:
    """Sharpness and brightness of the face at `box` [4] in uint8 [H, W, 3] RGB; empty where it is outside."""
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(box[:2]).astype(int), 0, (width, height))
    right, bottom = np.clip(np.ceil(box[2:]).astype(int), 0, (width, height))
    if right - left < 3 or bottom - top < 3:
        return {}
    luma = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    return {
        "sharpness": float(cv2.Laplacian(luma, cv2.CV_32F).var()),
        "brightness": float(luma.mean()) / 255,
    }
